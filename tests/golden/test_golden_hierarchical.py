"""Hierarchical Perceivers equal the official code: outputs, parameter names both ways, and every weight learns.

The tests take every recording that lies here.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from perceivers.errors import ModelError
from perceivers.models.convert import compare
from perceivers.models.convert.hierarchical import autoencoder_of, from_official, to_official
from perceivers.models.convert.npz import npz_weights
from perceivers.models.convert.stored import Stored

RECORDINGS = sorted((Path(__file__).parent / "data").glob("hip_*.npz"))
MODELS = [path for path in RECORDINGS if path.stem != "hip_functional"]

every_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)


def arrays(stored: Stored, folder: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(f"{folder}/"): a.read() for n, a in stored.arrays.items() if n.startswith(f"{folder}/")}


def test_there_are_recordings():
    assert {"hip_basic", "hip_class_bottleneck", "hip_functional"} <= {path.stem for path in RECORDINGS}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_output_is_computed_anew(path):
    found = compare(path)
    assert found.keys() == arrays(npz_weights(path), "output").keys()
    assert all(comparison.within for comparison in found.values()), found


@every_model
def test_the_model_has_as_many_parameters_as_the_config_says(path):
    stored = npz_weights(path)
    model, _ = autoencoder_of(stored)
    assert sum(p.numel() for p in model.parameters()) == stored.extra["config"]["num_params"] == stored.parameters


@every_model
def test_parameters_there_and_back(path):
    stored = npz_weights(path)
    model, published = autoencoder_of(stored)
    params = arrays(stored, "params")
    back = to_official(model.state_dict(), published)
    assert back.keys() == params.keys()
    for name, array in params.items():
        assert np.array_equal(back[name], array), name
    again = from_official(back, published)
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


@every_model
def test_every_parameter_gets_a_gradient(path):
    stored = npz_weights(path)
    model, _ = autoencoder_of(stored)
    values = {name: torch.from_numpy(array) for name, array in arrays(stored, "input").items()}
    again, _ = model.train()(values)
    sum(value.square().sum() for value in again.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The softmax does not see what is the same for all keys: these gradients are zero but for rounding.
        if not name.endswith("attention.key.bias"):
            assert parameter.grad.any(), name


@pytest.fixture
def basic() -> tuple[dict[str, np.ndarray], object]:
    stored = npz_weights(next(path for path in MODELS if path.stem == "hip_basic"))
    return arrays(stored, "params"), autoencoder_of(stored)[1]


def test_a_missing_parameter_is_named(basic):
    params, published = basic
    del params["perceiver/block_3/~/self_attend_id_0/dense/mlp_hidden_linear/w"]
    with pytest.raises(ModelError, match=r"lack 'perceiver/block_3/~/self_attend_id_0/dense/mlp_hidden_linear/w'"):
        from_official(params, published)


def test_an_extra_parameter_is_named(basic):
    params, published = basic
    params["perceiver/block_9/w"] = np.zeros((2, 2), np.float32)
    with pytest.raises(ModelError, match="no place for 'perceiver/block_9/w'"):
        from_official(params, published)


def test_a_parameter_of_another_shape_is_named(basic):
    params, published = basic
    params["perceiver/embedder/~embed/embed_image/w"] = np.zeros((8, 3), np.float32)
    with pytest.raises(ModelError, match=r"embed_image/w' has the shape \(8, 3\), which does not fit \(8, 3\) here"):
        from_official(params, published)
