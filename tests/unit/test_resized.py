"""A trained model for inputs of another size: positions between the old ones, all else as it was."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import perceivers
from perceivers.elements import Batch, Elements
from perceivers.errors import DataError, ModelError, SpecError
from perceivers.models.build import build
from perceivers.models.presets import PRESETS
from perceivers.models.resize import resize_folder, resized, size_of
from perceivers.models.weights import save
from perceivers.training.recipe import read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

KNOWN = {"mean": [120.0] * 3, "std": [60.0] * 3}
LEARNED = {"kind": "learned", "channels": 6, "project": 5}
IMAGE = {"kind": "image", "size": [6, 8], **KNOWN, "lift": {"kind": "conv1x1", "channels": 4}, "position": LEARNED}
SOUND = {
    "kind": "audio",
    "samples": 64,
    "rate": 100,
    "mean": [0.0],
    "std": [1.0],
    "lift": {"kind": "patches", "size": [4]},
}
SERIES = {"kind": "series", "rate": 10, "seconds": 1.2, "mean": [0.0], "std": [1.0]}
CLIP = {"kind": "video", "size": [2, 4, 6], **KNOWN}
TEXT = {"kind": "text", "length": 12, "channels": 8}


def model(**inputs) -> perceivers.models.model.Model:
    spec = {
        "inputs": inputs,
        "latents": {"count": 3, "channels": 8},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"label": {"kind": "category", "classes": ["a", "b", "c"]}},
    }
    return build(spec, seed=0).eval()


def keys(x: float) -> float:
    """torch's cubic: a = −0.75."""
    x = abs(x)
    if x <= 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def cubic(old: int, new: int) -> np.ndarray:
    """(new, old), half-pixel centres, the edge repeated."""
    weights = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * old / new - 0.5
        for cell in range(math.floor(place) - 1, math.floor(place) + 3):
            weights[i, min(max(cell, 0), old - 1)] += keys(place - cell)
    return weights


def table(of) -> np.ndarray:
    return next(tensor for name, tensor in of.state_dict().items() if name.endswith("table")).double().numpy()


@pytest.mark.parametrize("size", [(9, 5), (6, 12), (3, 4)])
def test_two_axes(size):
    before = model(image=IMAGE)
    after = resized(before, {"image": size})
    assert after.spec.inputs["image"].size == size
    wanted = np.einsum("ia,jb,abp->ijp", cubic(6, size[0]), cubic(8, size[1]), table(before).reshape(6, 8, 6))
    np.testing.assert_allclose(table(after), wanted.reshape(-1, 6), atol=1e-6)
    for name, tensor in before.state_dict().items():
        if not name.endswith("table"):
            assert torch.equal(after.state_dict()[name], tensor)
            assert after.state_dict()[name].data_ptr() != tensor.data_ptr()
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert after([{"image": image}])["label"].isfinite().all()


@pytest.mark.parametrize(
    ("kind", "size", "cells", "value"),
    [
        ({**SOUND, "position": LEARNED}, 96, (16, 24), np.zeros(96, np.float32)),
        ({**SERIES, "position": LEARNED}, (7,), (12, 7), np.zeros(7, np.float32)),
        (
            {**TEXT, "position": {"kind": "learned", "channels": 8, "join": "add"}},
            20,
            (12, 20),
            "some twenty byte text"[:20],
        ),
    ],
)
def test_one_axis(kind, size, cells, value):
    before = model(it=kind)
    after = resized(before, {"it": size})
    np.testing.assert_allclose(table(after), cubic(*cells) @ table(before), atol=1e-6)
    assert after([{"it": value}])["label"].isfinite().all()


def test_three_axes():
    before = model(clip={**CLIP, "position": LEARNED})
    after = resized(before, {"clip": (4, 6, 3)})
    old = table(before).reshape(2, 4, 6, 6)
    wanted = np.einsum("ta,ib,jc,abcp->tijp", cubic(2, 4), cubic(4, 6), cubic(6, 3), old)
    np.testing.assert_allclose(table(after), wanted.reshape(-1, 6), atol=1e-6)


def test_the_same_size_changes_nothing():
    before = model(image=IMAGE)
    sample = [{"image": np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)}]
    assert torch.equal(resized(before, {"image": (6, 8)})(sample)["label"], before(sample)["label"])


@pytest.mark.parametrize("lift", [{"kind": "pixels"}, {"kind": "patches", "size": [2, 2]}])
def test_a_fourier_position_keeps_its_frequencies(lift):
    before = model(image={**IMAGE, "lift": lift, "position": {"kind": "fourier", "bands": 3}})
    after = resized(before, {"image": (12, 4)})
    grid = (6, 8) if lift["kind"] == "pixels" else (3, 4)
    assert after.spec.inputs["image"].position.resolution == grid
    assert after.inputs["image"].position.resolution == grid
    again = resized(after, {"image": (6, 8)})
    sample = [{"image": np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)}]
    assert torch.equal(again(sample)["label"], before(sample)["label"])


def test_some_inputs_of_several():
    before = model(image=IMAGE, sound={**SOUND, "position": LEARNED})
    after = resized(before, {"sound": 128})
    assert torch.equal(after.inputs["image"].position.encoding.table, before.inputs["image"].position.encoding.table)
    assert after.spec.inputs["sound"].samples == 128
    assert after.trained is before.trained


def test_of_the_published_model():
    """Of 288 × 288 pixels the learned-position preset has 32,768 more positions of 256 channels."""
    spec = {**PRESETS["perceiver-io-imagenet-learned"].spec, "latents": {"count": 2, "channels": 8}}
    spec["encoder"] = {"layers": 1, "self_attend": {"heads": 2}}
    before = build(spec, seed=0)
    after = resized(before, {"image": (288, 288)})
    counts = [sum(p.numel() for p in m.parameters()) for m in (before, after)]
    assert counts[1] - counts[0] == (288**2 - 224**2) * 256


def test_another_grid_says_how_to_interpolate():
    wrong = Batch({"image": Elements(torch.zeros(1, 30, 3), grid=(5, 6))}, 1)
    with pytest.raises(
        DataError, match=r"made for a grid of \(6, 8\), but the input has a grid of \(5, 6\).*perceivers.resized"
    ):
        model(image=IMAGE)(wrong)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"imag": (5, 5)}, SpecError, "Did you mean 'image'"),
        ({"image": 5}, SpecError, r"input 'image' has 2 axes \(6 × 8 now\); got \(5,\)"),
        ({"image": (0, 5)}, SpecError, "one whole number above 0 an axis"),
        ({"image": 4.5}, SpecError, "the size of input 'image' is 4.5; wanted one whole number, or"),
        ({"image": (4.5, 4)}, SpecError, r"is \(4.5, 4\); wanted"),
        ({"image": True}, SpecError, "is True; wanted"),
        ({"image": (True, 8)}, SpecError, r"is \(True, 8\); wanted"),
        ({"image": "ab"}, SpecError, "is 'ab'; wanted"),
        ({"image": None}, SpecError, "is None; wanted"),
        ({"image": (10**13, 8)}, SpecError, "80,000,000,000,000 cells, and 1,000,000,000,000 are the most"),
        ({"image": (10**5, 10**5)}, SpecError, "learned positions, would have 60,000,000,000 numbers"),
        ({"age": 2}, SpecError, "input 'age' is of kind number, which has no size to change"),
    ],
)
def test_sizes_that_are_none(sizes, error, message):
    age = {"kind": "number", "columns": ["age"], "mean": [0.0], "std": [1.0]}
    with pytest.raises(error, match=message):
        resized(model(image=IMAGE, age=age), sizes)


def test_what_else_depends_on_the_size_is_refused():
    hierarchy = read_recipe(RECIPES / "digits-hierarchical.yaml").model.model_dump(mode="json")
    hierarchy["inputs"]["image"] |= {"mean": [8.0], "std": [6.0]}
    hierarchy["outputs"]["label"] |= {"classes": ["a", "b"]}
    with pytest.raises(ModelError, match=r"cannot be resized: encoder\S* is \(64, \d+\) and would be \(144, \d+\)"):
        resized(build(hierarchy, seed=0), {"image": (12, 12)})


def test_queries_that_are_learned_by_position_come_along():
    spec = {
        "inputs": {"text": {**TEXT, "position": {"kind": "learned", "channels": 8, "join": "add"}}},
        "latents": {"count": 3, "channels": 8},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"text": {"kind": "text"}},
    }
    before = build(spec, seed=0)
    after = resized(before, {"text": 20})
    old, new = (dict(m.named_parameters()) for m in (before, after))
    (name,) = [name for name, p in new.items() if name.startswith("outputs") and len(p) == 20 and p.ndim == 2]
    np.testing.assert_allclose(new[name].detach(), cubic(12, 20) @ old[name].detach().double().numpy(), atol=1e-6)


@pytest.mark.parametrize("text", ["image=9,5", "image=9x5", "image= 9, 5"])
def test_a_size_as_it_is_written(text):
    assert size_of(text) == ("image", (9, 5))


@pytest.mark.parametrize("text", ["image", "=3", "image=", "image=9,,5", "image=a", "image=-3"])
def test_what_is_written_and_no_size(text):
    with pytest.raises(SpecError, match="is no size; write input=height,width"):
        size_of(text)


def test_a_folder(tmp_path):
    save(model(image=IMAGE), tmp_path / "small", "# A card\n", "data: {columns: {image: photo}}\n")
    made = resize_folder(tmp_path / "small", {"image": (9, 5)}, tmp_path / "large")
    card = (made / "card.md").read_text()
    assert card.startswith("# A card\n\n## Resized\n")
    assert "- `image` from 6 × 8 to 9 × 5" in card
    predictor = perceivers.Predictor(made)
    assert predictor.reader.columns == {"image": "photo"}
    assert predictor({"image": np.zeros((9, 5, 3), np.uint8)})["label"] in "abc"
