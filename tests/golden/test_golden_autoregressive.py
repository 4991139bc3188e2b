"""Perceiver AR equals the official code: logits, masks, caches, losses; and its parameters go both ways."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from perceivers.errors import ModelError
from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.build import build
from perceivers.models.convert import compare, official, read_weights
from perceivers.models.convert.autoregressive import spec_of_config, to_official
from perceivers.models.presets import preset

DATA = Path(__file__).parent / "data"
# What is recorded in each.
RECORDED = {
    "ar_rotary": 4,
    "ar_absolute_fourier": 4,
    "ar_extra_cross_attends": 4,
    "ar_kv_cache_rotary": 8,
    "ar_functional": 11,
}
MODELS = [name for name in RECORDED if name != "ar_functional"]


def config(name: str) -> dict:
    return dict(read_weights(DATA / f"{name}.npz").extra["config"])


def recorded_model(name: str) -> AutoregressiveModel:
    made = official(DATA / f"{name}.npz", spec_of_config(config(name)))
    assert isinstance(made, AutoregressiveModel)
    return made


@pytest.mark.parametrize("name", RECORDED)
def test_every_output_is_the_official_one(name):
    found = compare(DATA / f"{name}.npz")
    assert len(found) == RECORDED[name], "every recorded output is computed"
    assert {key: c for key, c in found.items() if not c.within} == {}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_go_both_ways(name):
    stored = read_weights(DATA / f"{name}.npz").arrays
    again = to_official(recorded_model(name))
    assert set(again) == {key for key, array in stored.items() if array.trained}
    for key, array in again.items():
        np.testing.assert_array_equal(array, stored[key].read())


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    model = recorded_model(name).train()
    stored = read_weights(DATA / f"{name}.npz").arrays
    events, positions = (torch.from_numpy(np.array(stored[f"input/{n}"].read())) for n in ("events", "event_idxs"))
    logits = model.core(events.long(), positions.long() if config(name)["use_positions_from_data"] else None)
    (logits * torch.linspace(-1, 1, logits.shape[-1])).square().sum().backward()
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(learned) >= len(dict(model.named_parameters())) - 1, "the table of fixed positions alone is not learned"
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The softmax does not see what is the same for all keys, unless keys are turned before it.
        if not name.endswith("attention.key.bias"):
            assert parameter.grad.any(), name


def altered(tmp_path: Path, arrays: dict[str, np.ndarray | None]) -> Path:
    """A recording with some parameters replaced, or left out where None."""
    with np.load(DATA / "ar_rotary.npz", allow_pickle=False) as stored:
        held = {key: stored[key] for key in stored.files} | arrays
    np.savez(tmp_path / "altered.npz", **{key: array for key, array in held.items() if array is not None})
    return tmp_path / "altered.npz"


class TestWhatDoesNotFit:
    NAME = "params/perceiver_ar/~/self_attention/dense/linear/w"

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({NAME: None}, f"1 array is missing, the first '{NAME}'"),
            ({NAME: np.zeros((128, 32), np.float32)}, rf"1 array is of another shape, the first '{NAME}'.*\(128, 32\)"),
            ({"params/perceiver_ar/~/x/w": np.zeros(3)}, "1 array is too many, the first 'params/perceiver_ar/~/x/w'"),
            ({"input/events": None}, "'input/events' is missing"),
        ],
    )
    def test_arrays(self, tmp_path, arrays, said):
        with pytest.raises(ModelError, match=said):
            compare(altered(tmp_path, arrays))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"mask_style": "spread"}, "mask_style is 'spread'; what can be expressed is final_block"),
            ({"num_layer": 3}, "the configuration has 'num_layer', which Perceiver AR has not"),
            ({"vocab": None}, "the configuration lacks 'vocab'"),
            ({"train_input_positions": 8}, "train_input_positions is 8; what can be expressed is 0"),
        ],
    )
    def test_a_configuration(self, change, said):
        with pytest.raises(ModelError, match=said):
            spec_of_config({**config("ar_rotary"), **change})


def test_another_weight_is_found_out(tmp_path):
    bias = "params/perceiver_ar/~/logits/b"
    stored = read_weights(DATA / "ar_rotary.npz").arrays[bias].read()
    found = compare(altered(tmp_path, {bias: stored + 1}))
    assert found["logits"].absolute == pytest.approx(1, rel=1e-3)
    assert found["encoder_mask"].within


def test_the_full_size_layout_of_the_official_checkpoint():
    layout = json.loads((DATA / "ar_layout_random_mirrored_32.json").read_text())
    ours = to_official(build(preset("perceiver-ar-copy-32").build_spec()))
    assert {name.removeprefix("params/"): list(array.shape) for name, array in ours.items()} == layout
