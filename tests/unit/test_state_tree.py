"""A state comes apart into tensors and JSON, and back together with the same values and types."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.training.state_tree import flatten, unflatten


def same(one, other) -> bool:
    """Equal in type and to the last bit, all the way down."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.tolist() == other.tolist()
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one.hex() == other.hex() if isinstance(one, float) else one == other


tensors = st.lists(st.integers(-5, 5), max_size=4).map(torch.tensor)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | tensors
keys = st.text() | st.integers()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(trees)
def test_any_tree_comes_back_the_same(tree):
    skeleton, named = flatten(tree)
    assert same(unflatten(json.loads(json.dumps(skeleton, allow_nan=False)), named), tree)


def test_names_are_paths_and_never_clash():
    tree = {"model": {"latents": torch.ones(1)}, "a": {"b": torch.zeros(1)}, "a/b": torch.ones(2)}
    clashes = {"keys": {1: torch.ones(1), "1": torch.zeros(1)}, "__metadata__": torch.ones(3)}
    skeleton, named = flatten({**tree, **clashes})
    assert set(named) == {"model/latents", "a/b", "a/b'", "keys/1", "keys/1'", "__metadata__'"}
    assert same(unflatten(skeleton, named), {**tree, **clashes})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2])
def test_floats_are_exact(value):
    skeleton, _ = flatten([value])
    assert unflatten(json.loads(json.dumps(skeleton, allow_nan=False)), {})[0].hex() == value.hex()


@pytest.mark.parametrize(
    "value",
    [np.float64(1), np.int64(1), np.zeros(2), {1, 2}, b"x", object(), torch.float32, 1j],
    ids=lambda value: type(value).__name__,
)
def test_what_a_tree_cannot_hold_is_named_with_its_place(value):
    with pytest.raises(TypeError, match=rf"cannot hold a {type(value).__name__} \(at 'loop/0/best'\)"):
        flatten({"loop": [{"best": value}]})


def test_keys_and_tensors_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match=r"must be a str or an int, not \(1, 2\) \(at 'loop'\)"):
        flatten({"loop": {(1, 2): 3}})
    with pytest.raises(TypeError, match=r"dense tensors only \(at 'x'\)"):
        flatten({"x": torch.ones(2).to_sparse()})
    with pytest.raises(TypeError, match=r"dense tensors only \(at 'x'\)"):
        flatten({"x": torch.ones(2, device="meta")})


@pytest.mark.parametrize("skeleton", [{}, {"dict": {}, "list": []}, {"pickle": "x"}, {"float": "one"}])
def test_a_skeleton_that_no_tree_has_is_refused(skeleton):
    with pytest.raises(ValueError, match=r"key|float"):
        unflatten(skeleton, {})
