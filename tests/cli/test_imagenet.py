"""DeepMind's ImageNet models end to end: weights imported, a photograph answered by names that people know."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import perceivers
from perceivers.errors import DataError
from perceivers.models.build import build
from perceivers.models.convert import imagenet, import_weights
from perceivers.models.convert.deepmind import entries
from perceivers.models.convert.mapping import transposed
from perceivers.models.presets import IMAGENET_CLASSES, PRESETS
from perceivers.models.spec import as_spec

NAME = "perceiver-io-imagenet-fourier"


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Random weights under official names, of the preset with few latents; the preset is as small meanwhile."""
    whole = PRESETS[NAME]
    latents, encoder = {"count": 4, "channels": 8}, {**whole.spec["encoder"], "layers": 1, "blocks": 2}
    spec = {**whole.spec, "latents": latents, "encoder": {**encoder, "self_attend": {"heads": 2}}}
    monkeypatch.setitem(PRESETS, NAME, replace(whole, spec=spec))
    model = build(spec, seed=0)
    state = model.state_dict()
    arrays = {e.theirs: state[e.ours].numpy().T if e.change is transposed else state[e.ours] for e in entries(model)}
    np.savez(tmp_path / "weights.npz", **arrays)
    return model


def test_a_photograph_is_answered_by_name(call, official, tmp_path):
    done = call("weights", "import", "weights.npz", "--preset", NAME, "--out", "classifier")
    assert (done.code, done.err) == (0, "")
    labels = json.loads((tmp_path / "classifier" / "labels.json").read_text())["label"]
    assert (len(set(labels)), labels[0], labels[1], labels[999]) == (1000, "tench", "goldfish", "toilet tissue")
    photo = np.random.default_rng(0).integers(0, 256, (180, 240, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    done = call("predict", "classifier", "photo.jpg", "--top", "5", "--quiet")
    assert done.code == 0
    (answer,) = [json.loads(line) for line in done.out.splitlines()]
    assert answer["file"] == "photo.jpg"
    five = answer["label_probabilities"]
    assert list(five.values()) == sorted(five.values(), reverse=True)
    assert (len(five), next(iter(five))) == (5, answer["label"])
    # The same as the model says itself, of pixels read as the notebook reads them.
    model = perceivers.load("classifier")
    sample = model.spec.inputs["image"].parse("photo.jpg")
    assert sample.values.shape == (224, 224, 3)
    chances = official.eval()([{"image": tmp_path / "photo.jpg"}])["label"].softmax(-1)[0]
    best = chances.argsort(descending=True)[:5].tolist()
    assert list(five) == [labels[n] for n in best]
    np.testing.assert_allclose(list(five.values()), chances[best].tolist(), rtol=1e-5)
    everything = call("predict", "classifier", "photo.jpg", "--quiet")
    assert len(json.loads(everything.out)["label_probabilities"]) == 1000


def test_a_top_that_is_none(call, official):
    done = call("predict", "classifier", "photo.jpg", "--top", "0")
    assert done.code == 2
    assert "top" in done.err
    with pytest.raises(DataError, match="top is 0; wanted the number of classes"):
        perceivers.Predictor(official, top=0)


def test_outputs_without_classes_have_no_top():
    spec = {
        "inputs": {"facts": {"kind": "number", "columns": ["a"], "mean": [0.0], "std": [1.0]}},
        "latents": {"count": 2, "channels": 8},
        "outputs": {"size": {"kind": "number", "mean": [0.0], "std": [1.0]}},
    }
    assert set(perceivers.Predictor(build(spec), top=3)({"facts": {"a": 1}})) == {"size"}


def test_without_torchvision_classes_keep_their_numbers(official, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models", None)
    with pytest.warns(UserWarning, match=r"torchvision.*pip install 'perceivers\[data\]'; until weights are imported"):
        import_weights(tmp_path / "weights.npz", tmp_path / "made", preset=NAME)
    assert perceivers.load(tmp_path / "made").spec.outputs["label"].labels() == IMAGENET_CLASSES


def test_other_specs_are_left_alone():
    spec = as_spec({**PRESETS[NAME].spec, "outputs": {"label": {"kind": "category", "classes": ["class_000", "b"]}}})
    assert imagenet.with_class_names(spec) is spec


def test_names_that_stand_there_twice():
    assert imagenet.unique_names(["crane", "maillot", "crane"]) == ("crane (0)", "maillot", "crane (2)")
