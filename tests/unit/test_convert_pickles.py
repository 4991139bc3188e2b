"""Pickles of weights: every way in which numpy, jax and haiku have written them."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from foreign_pickles import Reduced, foreign, jax_array

from perceivers.models.convert import read_weights

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "data"

W = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.zeros(3, np.float32)


@pytest.fixture
def kept(tmp_path):
    """Pickle a tree, and read it."""

    def keep(tree, protocol: int = 4, name: str = "weights.pickle"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(tree, protocol))
        return read_weights(path)

    return keep


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_arrays_of_every_protocol(kept, protocol):
    stored = kept({"encoder/~/linear": {"w": W, "b": B}}, protocol)
    assert list(stored.arrays) == ["params/encoder/~/linear/w", "params/encoder/~/linear/b"]
    w = stored.arrays["params/encoder/~/linear/w"]
    assert (w.module, w.name, w.shape, w.dtype, w.trained) == ("params/encoder/~/linear", "w", (2, 3), "float32", True)
    np.testing.assert_array_equal(w.read(), W)
    assert stored.parameters == 9
    assert stored.family == "unknown"
    assert stored.extra == {}


def test_the_names_of_numpy_before_two(tmp_path):
    path = tmp_path / "old.pickle"
    # Protocol 2 names without a length, so that the name can be changed in place.
    path.write_bytes(pickle.dumps({"m": {"w": W}}, 2).replace(b"numpy._core.", b"numpy.core."))
    assert b"numpy.core.multiarray" in path.read_bytes()
    np.testing.assert_array_equal(read_weights(path).arrays["params/m/w"].read(), W)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(W),
        W.astype(">f8"),
        np.array(7, np.int32),
        np.float32(1.5),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.array([1 + 2j]),
    ],
    ids=["fortran", "big-endian", "no axes", "numpy number", "empty", "bool", "complex"],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_every_layout(kept, array, protocol):
    found = kept({"m": {"x": array}}, protocol).arrays["params/m/x"]
    assert (found.shape, found.dtype) == (array.shape, array.dtype.name)
    np.testing.assert_array_equal(found.read(), array)


@pytest.mark.parametrize(
    ("module", "name"),
    [("jax._src.array", "_reconstruct_array"), ("jax._src.device_array", "reconstruct_device_array")],
)
def test_jax_arrays_old_and_new(kept, monkeypatch, module, name):
    make = foreign(monkeypatch, module, name)
    stored = kept({"m": {"w": jax_array(make, W), "n": jax_array(make, np.array(3))}})
    np.testing.assert_array_equal(stored.arrays["params/m/w"].read(), W)
    assert stored.arrays["params/m/n"].read() == 3


@pytest.mark.parametrize("name", ["FlatMapping", "frozendict"])
def test_haiku_mappings_outside_and_inside(kept, monkeypatch, name):
    mapping = foreign(monkeypatch, "haiku._src.data_structures", name)
    stored = kept(Reduced(mapping, ({"m": Reduced(mapping, ({"w": W},)), "n": OrderedDict(w=B)},)))
    assert list(stored.arrays) == ["params/m/w", "params/n/w"]


def test_parameters_and_state(kept):
    stored = kept({"params": {"m": {"w": W}}, "state": {"m/~/mean_ema": {"average": B}}}, name="x.pystate")
    average = stored.arrays["state/m/~/mean_ema/average"]
    assert not average.trained
    assert stored.parameters == 6  # a running mean is no parameter
    assert {module: list(arrays) for module, arrays in stored.modules.items()} == {
        "params/m": ["params/m/w"],
        "state/m/~/mean_ema": ["state/m/~/mean_ema/average"],
    }


def test_a_module_may_be_called_params(kept):
    assert list(kept({"params": {"w": W}}).arrays) == ["params/params/w"]


def test_a_checkpoint_of_training(kept, monkeypatch):
    """As Perceiver AR's: the optimiser's state is read over, and said to be."""
    adam = foreign(monkeypatch, "optax._src.transform", "ScaleByAdamState")
    empty = foreign(monkeypatch, "optax._src.base", "EmptyState")
    params = {"perceiver_ar/~/embed": {"embeddings": W}}
    moments = Reduced(adam, (np.array(3), params, params))
    tree = {
        "global_step": np.array(5000),
        "params": params,
        "state": {},
        "opt_state": (Reduced(empty, ()), moments),
    }
    stored = kept(tree, name="checkpoint.dill")
    assert list(stored.arrays) == ["params/perceiver_ar/~/embed/embeddings"]
    assert stored.family == "Perceiver AR"
    assert stored.format == "haiku pickle, a checkpoint of training"
    assert stored.extra == {"global_step": 5000, "left out": ["opt_state"]}


def test_what_stands_beside_the_weights_is_plain(kept):
    beside = {"step": 3, "rate": np.float32(0.5), "note": "text", "none": None}
    others = {"long": 10**5000, "complex": np.complex64(1), "many": np.zeros(3), "list": [1]}
    stored = kept({"params": {"m": {"w": W}}, **beside, **others})
    assert stored.extra == {"step": 3, "rate": 0.5, "note": "text", "none": None, "left out": list(others)}


@pytest.mark.parametrize(
    ("name", "family", "arrays", "parameters"),
    [
        ("language_like_flatmapping.pickle", "language model of Perceiver IO", 89, 43_862),
        ("imagenet_conv_like.pystate", "image classification of Perceiver IO, convolution stem", 81, 52_608),
    ],
)
def test_the_layouts_of_the_official_files(name, family, arrays, parameters):
    stored = read_weights(GOLDEN / name)
    assert (stored.format, stored.family) == ("haiku pickle", family)
    assert (len(stored.arrays), stored.parameters) == (arrays, parameters)
    assert all(np.isfinite(array.read()).all() for array in stored.arrays.values())
