"""Perceiver AR equals the official code: logits, masks, caches, generation, losses; and its parameters go both ways."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from haiku_names import DATA, OTHER_FRAMEWORK

from perceivers.errors import ModelError
from perceivers.models.build import build
from perceivers.models.convert import read_weights
from perceivers.models.convert.autoregressive import from_official, official_model, spec_of_config, to_official
from perceivers.models.convert.verify_autoregressive import verify_autoregressive
from perceivers.models.presets import preset

FILES = sorted(DATA.glob("ar_*.npz"))
MODELS = [path for path in FILES if path.stem != "ar_functional"]
every_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)


def parameters(path: Path) -> dict[str, np.ndarray]:
    stored = read_weights(path)
    return {name.partition("/")[2]: array.read() for name, array in stored.arrays.items() if array.trained}


def config(path: Path) -> dict:
    return dict(read_weights(path).extra["config"])


def test_the_recordings_are_there():
    assert len(FILES) == 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_output_is_the_official_one(path):
    stored = read_weights(path)
    wanted = {name: array.read() for name, array in stored.arrays.items() if name.startswith("output/")}
    found = verify_autoregressive(stored)
    assert set(found) == set(wanted)
    assert wanted
    for name, official in wanted.items():
        assert found[name].dtype == official.dtype, name
        np.testing.assert_allclose(found[name], official, **OTHER_FRAMEWORK, err_msg=name)


@every_model
def test_parameters_go_both_ways(path):
    spec, official = spec_of_config(config(path)), parameters(path)
    again = to_official(spec, from_official(spec, official))
    assert set(again) == set(official)
    for name, array in official.items():
        np.testing.assert_array_equal(again[name], array)


@every_model
def test_every_parameter_gets_a_gradient(path):
    model = official_model(config(path), parameters(path), "the recording").train()
    events = torch.from_numpy(np.load(path)["input/events"]).long()
    positions = torch.from_numpy(np.load(path)["input/event_idxs"]).long()
    positions = positions if config(path)["use_positions_from_data"] else None
    logits = model.core(events, positions)
    (logits * torch.linspace(-1, 1, logits.shape[-1])).square().sum().backward()
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(learned) >= len(dict(model.named_parameters())) - 1, "the table of fixed positions alone is not learned"
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The softmax does not see what is the same for all keys, unless keys are turned before it.
        if not name.endswith("attention.key.bias"):
            assert parameter.grad.any(), name


class TestWhatDoesNotFit:
    PATH = DATA / "ar_rotary.npz"
    NAME = "perceiver_ar/~/self_attention/dense/linear/w"

    def refused(self, params: dict[str, np.ndarray], said: str) -> None:
        with pytest.raises(ModelError, match=said):
            from_official(spec_of_config(config(self.PATH)), params)

    def test_missing(self):
        params = parameters(self.PATH)
        params["perceiver_ar/~/self_attention/dense/linears/w"] = params.pop(self.NAME)
        self.refused(params, f"'{self.NAME}' is missing; wanted \\(32, 128\\), for encoder.* Did you mean")

    def test_of_another_shape(self):
        params = parameters(self.PATH)
        params[self.NAME] = params[self.NAME].T
        self.refused(params, rf"'{self.NAME}' is \(128, 32\), wanted \(32, 128\)")

    def test_too_much(self):
        params = parameters(self.PATH) | {"perceiver_ar/~/extra/w": np.zeros(3)}
        self.refused(params, r"'perceiver_ar/~/extra/w' has no place in the model \(1 arrays have none\)")

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
            spec_of_config({**config(self.PATH), **change})


def test_the_full_size_layout_of_the_official_checkpoint():
    layout = json.loads((DATA / "ar_layout_random_mirrored_32.json").read_text())
    spec = preset("perceiver-ar-copy-32").build_spec()
    ours = to_official(spec, build(spec).state_dict())
    assert {name: list(array.shape) for name, array in ours.items()} == layout
