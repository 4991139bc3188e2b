"""The multimodal autoencoder at a small size: a label that is always hidden, queries on grids, any of them alone."""

import copy

import numpy as np
import pytest
import torch

import perceivers
from perceivers.errors import DataError, SpecError
from perceivers.models.presets import preset


@pytest.fixture(scope="module")
def spec():
    data = copy.deepcopy(dict(preset("perceiver-io-multimodal").spec))
    sound = {"kind": "fourier", "bands": 3, "resolution": [64]}
    video = {"kind": "fourier", "bands": 2, "resolution": [4, 2, 2]}
    data["inputs"]["audio"] |= {"samples": 64, "position": sound}
    data["inputs"]["image"] |= {"size": [4, 8, 8], "position": video}
    data["inputs"]["label"] |= {"classes": {"label": ["a", "b", "c"]}}
    data["outputs"]["audio"] |= {"size": [64], "query": {**sound, "end": False}}
    data["outputs"]["image"] |= {"size": [4, 8, 8], "query": {**video, "end": False}}
    data["outputs"]["label"] |= {"classes": ["a", "b", "c"], "query": {"channels": 20}}
    data["latents"] = {"count": 6, "channels": 16}
    data["encoder"] = {**data["encoder"], "layers": 2, "self_attend": {"heads": 2}}
    data["decoder"] = {**data["decoder"], "output_channels": 12}
    return data


@pytest.fixture
def model(spec):
    return perceivers.build(spec, seed=0).eval()


def clip() -> dict[str, object]:
    generator = np.random.default_rng(0)
    return {
        "audio": generator.uniform(-1, 1, (64, 1)).astype(np.float32),
        "image": generator.integers(0, 256, (4, 8, 8, 3), np.uint8),
    }


@torch.no_grad()
def test_a_hidden_label_is_never_read(model):
    latents = model.encode(clip())
    assert latents.shape == (1, 6, 16)
    for label in ("a", "b", None):
        assert torch.equal(model.encode({**clip(), "label": label}), latents)
    model.fusion.mask_tokens["label"].add_(1.0)
    assert not torch.equal(model.encode(clip()), latents), "its learned stand-in is"


@torch.no_grad()
def test_answers_chunks_and_points(model):
    latents = model.encode(clip())
    whole = model.decode(latents)
    assert {name: tuple(found.shape) for name, found in whole.items()} == {
        "audio": (1, 64, 1),
        "image": (1, 4, 8, 8, 3),
        "label": (1, 3),
    }
    for chunk in (1, 7, 100):
        for name, found in model.decode(latents, chunk=chunk).items():
            torch.testing.assert_close(found, whole[name], rtol=1e-5, atol=1e-6)
    points = {"image": [0, 255, 17, 17], "audio": torch.tensor([3])}
    some = model.decode(latents, outputs=["audio", "image"], points=points)
    torch.testing.assert_close(some["image"], whole["image"].flatten(1, 3)[:, points["image"]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(some["audio"][0, 0], whole["audio"][0, 48:64, 0], rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="points are numbers of cells from 0 to 255; got 256"):
        model.decode(latents, points={"image": [256]})
    for wrong in ([0.5], ["1"], [[0], [1, 2]], [True], None):
        with pytest.raises(DataError, match="points of output 'image' are numbers of cells, such as"):
            model.decode(latents, points={"image": wrong})
    with pytest.raises(DataError, match="unknown output whose points can be asked for 'label'"):
        model.decode(latents, points={"label": [0]})


def test_elements_are_replaced_by_chance_in_training_only(spec):
    encoder = {**spec["encoder"], "masking": {"image": 0.5, "label": 1.0}}
    model = perceivers.build({**spec, "encoder": encoder}, seed=0)
    with torch.no_grad():
        assert not torch.equal(model.encode(clip()), model.encode(clip()))
        model.eval()
        assert torch.equal(model.encode(clip()), model.encode(clip()))


def test_saved_loaded_and_answered(model, tmp_path):
    answer = perceivers.Predictor(model.save(tmp_path / "model"))(clip())
    assert answer["label"] in "abc"
    assert answer["image"].shape == (4, 8, 8, 3)
    assert answer["audio"].shape == (64, 1)


def test_every_gradient_is_finite_and_only_what_is_hidden_has_none(model):
    model.train()
    sum(found.square().sum() for found in model({**clip(), "label": "a"}).values()).backward()
    unread = {
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    unread = {name for name in unread if not name.endswith("attention.key.bias")}
    assert unread == {"fusion.embeddings.label", "fusion.mask_tokens.audio", "fusion.mask_tokens.image"}


def test_masking_needs_inputs(spec):
    with pytest.raises(SpecError, match=r"encoder.masking names 'lable', which is no input. Did you mean 'label'"):
        perceivers.build({**spec, "encoder": {"masking": {"lable": 1.0}}})
