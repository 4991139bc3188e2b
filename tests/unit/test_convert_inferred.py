"""Specs of DeepMind's models from shapes alone; pickles of weights, compared with what a model gives back."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import foreign_pickles
import numpy as np
import pytest

from perceivers.errors import ModelError
from perceivers.models.convert import mapping
from perceivers.models.convert.families import PUBLISHED, haiku_family
from perceivers.models.convert.inferred_specs import inferred_data
from perceivers.models.convert.mapping import Entry, undone
from perceivers.models.convert.stored import Stored, StoredArray
from perceivers.models.convert.verify import verification
from perceivers.models.presets import preset, spec_of

DATA = Path(__file__).resolve().parents[1] / "golden" / "data"
LAYOUTS = json.loads((DATA / "official_checkpoint_layouts.json").read_text())
PRESETS = {
    "imagenet_fourier": "perceiver-io-imagenet-fourier",
    "imagenet_learned": "perceiver-io-imagenet-learned",
    "imagenet_conv": "perceiver-io-imagenet-conv",
    "language": "perceiver-io-language",
    "flow": "perceiver-io-flow",
    "multimodal": "perceiver-io-multimodal",
}
# What is on the axes of small models of the same layouts; numbers that are not here stay.
IMAGENET = {1024: 32, 512: 8, 1000: 10}
SMALL: Mapping[str, Mapping[int, int]] = {
    "imagenet_fourier": {**IMAGENET, 261: 3 + 2 + 4 * 3},
    # Learned positions of 4 × 5 pixels; 6 channels of each are read.
    "imagenet_learned": {**IMAGENET, 50176: 20, 256: 6, 512: 12},
    "imagenet_conv": {**IMAGENET, 322: 64 + 2 + 4 * 5},
    "language": {1280: 40, 768: 24, 256: 16, 2048: 32},
    "flow": {512: 32, 2048: 12, 64: 8, 322: 8 + 2 + 4 * 3},
    # Sounds have 8 + 7 channels, frames 48 + 15, labels 70 and 4 of padding; queries 7, 15 and 32, and 2.
    "multimodal": {
        **{512: 24, 784: 10, 16: 8, 700: 70, 704: 74, 303: 59, 461: 11},
        **{1024: 32, 1026: 34, 641: 27, 831: 19},
    },
}


def shapes_alone(name: str) -> Stored:
    """The arrays of a full-size layout, none of which can be read."""

    def no_values() -> np.ndarray:
        raise AssertionError("only shapes are there")

    arrays = {}
    for section, layout in LAYOUTS[name].items():
        for full, shape in layout.items():
            module, _, last = full.rpartition("/")
            trained = section == "params"
            arrays[f"{section}/{full}"] = StoredArray(
                f"{section}/{module}", last, tuple(shape), "float32", trained, no_values
            )
    return Stored(Path(name), "haiku pickle", haiku_family(LAYOUTS[name]["params"]), arrays, {})


@pytest.mark.parametrize("name", PRESETS)
def test_the_spec_of_a_full_size_layout_is_the_released_one(name):
    stored = shapes_alone(name)
    assert PUBLISHED[stored.family] == PRESETS[name]
    assert spec_of(inferred_data(stored)) == preset(PRESETS[name]).build_spec()
    assert stored.parameters == preset(PRESETS[name]).parameters


def small(name: str, seed: int = 0) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """{"params": {module: {array: numbers}}, "state": …} of two self-attends, in the layout of that checkpoint."""
    draw = np.random.default_rng(seed)
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for section, layout in LAYOUTS[name].items():
        modules = found.setdefault(section, {})
        for full, shape in layout.items():
            module, _, last = full.rpartition("/")
            if any(part.startswith("self_attention_") and part != "self_attention_1" for part in module.split("/")):
                continue
            array = np.abs(draw.standard_normal([SMALL[name].get(n, n) for n in shape])).astype(np.float32) / 4
            modules.setdefault(module, {})[last] = np.array(7, np.int32) if last == "counter" else array
    return found


def as_dict(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], Any]:
    return dict


def as_flat_mapping(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], Any]:
    kind = foreign_pickles.foreign(monkeypatch, "haiku._src.data_structures", "FlatMapping")

    def flat(tree: dict) -> foreign_pickles.Reduced:
        inner = {module: foreign_pickles.Reduced(kind, (arrays,)) for module, arrays in tree.items()}
        return foreign_pickles.Reduced(kind, (inner,))

    return flat


def as_jax(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], Any]:
    make = foreign_pickles.foreign(monkeypatch, "jax._src.array", "_reconstruct_array")

    def leaves(tree: dict) -> dict:
        return {
            module: {name: foreign_pickles.jax_array(make, array) for name, array in arrays.items()}
            for module, arrays in tree.items()
        }

    return leaves


def pickled(folder: Path, tree: Mapping[str, Any], change: Callable[[dict], Any]) -> Path:
    """Parameters alone, or with the state where there is one, as the released files are."""
    params, state = change(tree["params"]), change(tree["state"])
    path = folder / "weights.pystate"
    path.write_bytes(pickle.dumps({"params": params, "state": state} if tree["state"] else params))
    return path


@pytest.mark.parametrize("change", [as_dict, as_flat_mapping, as_jax])
@pytest.mark.parametrize("name", PRESETS)
def test_every_array_comes_back(name, change, tmp_path, monkeypatch):
    tree = small(name)
    done = verification(pickled(tmp_path, tree, change(monkeypatch)))
    assert done.weights_only
    assert all(c.within and c.absolute == 0 for c in done.found.values())
    assert all(any(f"weights/{module}".startswith(line) for line in done.found) for module in tree["params"])
    assert len(done.said) == 2


@pytest.mark.parametrize("file", ["language_like_flatmapping.pickle", "imagenet_conv_like.pystate"])
def test_the_official_layouts(file):
    done = verification(DATA / file)
    assert {c.absolute for c in done.found.values()} == {0.0}
    assert any(name.endswith("/~/self_attention_1") for name in done.found)


class TestRefusals:
    def refused(self, tmp_path, said: str, name: str, change: Callable[[dict], None]) -> None:
        tree = small(name)
        change(tree["params"])
        with pytest.raises(ModelError, match=said):
            verification(pickled(tmp_path, tree, dict))

    def test_another_family(self, tmp_path):
        def renamed(params: dict) -> None:
            params["perceiver_ar/~/embed"] = params.pop("embed")

        self.refused(tmp_path, r"\(Perceiver AR\)\. Without a config a spec", "language", renamed)

    def test_an_array_that_is_missing_and_one_too_many(self, tmp_path):
        block = "perceiver_encoder/~/self_attention_1/attention/linear_3"
        self.refused(tmp_path, f"missing, the first .*{block}", "flow", lambda p: p.pop(block))
        more = {"w": np.ones((3, 3), np.float32)}
        self.refused(tmp_path, "too many, the first 'params/more/w'", "flow", lambda p: p.update(more=more))

    def test_numbers_that_are_none(self, tmp_path):
        def broken(params: dict) -> None:
            params["perceiver_encoder/~/self_attention/mlp/linear"]["b"][3] = np.nan

        self.refused(tmp_path, "mlp/linear/b' holds NaN or infinity", "language", broken)

    @pytest.mark.parametrize(
        ("name", "array", "shape", "said"),
        [
            ("imagenet_fourier", "attention/linear_1", (18, 17), "15 channels of the image are no Fourier features"),
            ("flow", "image_preprocessor/patches_linear", (53, 8), "53 numbers are no windows around a pixel"),
            ("multimodal", "projection_postprocessor/linear", (24, 0), "too many|of another shape"),
        ],
    )
    def test_shapes(self, name, array, shape, said, tmp_path):
        def reshaped(params: dict) -> None:
            known = f"perceiver_encoder/~/cross_attention/{array}"
            params[known if known in params else array]["w"] = np.ones(shape, np.float32)

        self.refused(tmp_path, said, name, reshaped)


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ("same", (3, 4)),
        ("transposed", (3, 4)),
        ("flat", (1, 1, 1, 5)),
        ("flat", ()),
        ("channels_last_kernel", (7, 5, 3, 4)),
        ("transposed_kernel", (4, 3, 2, 5)),
        ("one_by_one", (1, 1, 3, 4)),
    ],
)
def test_a_change_is_undone(change, shape):
    array = np.random.default_rng(0).standard_normal(shape)
    entry = Entry("ours", "theirs", getattr(mapping, change))
    np.testing.assert_array_equal(undone(entry, np.array(entry.change(array)), shape), array)
