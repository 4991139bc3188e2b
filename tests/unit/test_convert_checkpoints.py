"""Checkpoints of training: whatever they hold beside plain weights, these are read, and nothing is executed."""

import argparse
import collections
import datetime
import enum
import functools
import json
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.models.convert import read_weights

W = torch.arange(6.0).reshape(2, 3)


class Outer:
    class Level(enum.Enum):
        LOW = 1

    class Named(list):
        pass


class Made:
    def __new__(cls, *, size: int):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"size": 3}


# What training leaves in its checkpoints, beside the weights.
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
HASHABLE = SCALARS | st.tuples(SCALARS, st.tuples(SCALARS)) | st.frozensets(SCALARS) | st.just(Outer.Level.LOW)
OBJECTS = st.sampled_from(
    [
        *(np.float32(1.5), np.arange(3), np.random.default_rng(0), np.array(["a", 1], object), torch.float16),
        *(torch.Size([1]), torch.device("cpu"), 2j, Path("a"), range(3), slice(1, 2), datetime.date(2020, 1, 2)),
        *(Outer.Level.LOW, Outer.Named([1, Outer.Named([2])]), Outer, Made(size=3), functools.partial(int, base=2)),
        *(
            torch.zeros(2, dtype=torch.complex64),
            W.to(torch.float8_e4m3fn),
            torch.nn.Parameter(W),
            torch.nn.Linear(1, 2),
        ),
        *(collections.deque([1, 2]), collections.Counter("aab"), collections.OrderedDict(a=1), bytearray(b"ab")),
    ]
)


def around(inner: st.SearchStrategy) -> st.SearchStrategy:
    several = st.lists(inner, max_size=3)
    mapped = st.dictionaries(HASHABLE, inner, max_size=3)
    named = st.dictionaries(st.sampled_from(["lr", "model"]), inner).map(lambda d: argparse.Namespace(**d))
    made = mapped.map(lambda d: collections.defaultdict(list, d)) | mapped.map(collections.OrderedDict)
    return several | several.map(tuple) | several.map(Outer.Named) | mapped | named | made | st.sets(HASHABLE)


@given(st.dictionaries(HASHABLE, st.recursive(SCALARS | OBJECTS, around, max_leaves=8), max_size=4), st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_whatever_stands_beside_them_weights_are_read(tmp_path_factory, beside, protocol):
    path = tmp_path_factory.mktemp("zip") / "some.ckpt"
    args = argparse.Namespace(beside=beside, lr=0.1)
    content = {**beside, "args": args, "hyper_parameters": beside, "state_dict": {"a.w": W.T}}
    torch.save(content, path, pickle_protocol=protocol)
    stored = read_weights(path)
    assert list(stored.arrays) == ["a.w"]
    np.testing.assert_array_equal(stored.arrays["a.w"].read(), W.T.numpy())
    json.dumps(stored.extra)


def test_the_state_of_an_optimiser_beside_weights(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, functools.partial(pow, 0.9))
    model(W).sum().backward()
    optimiser.step()
    schedule.step()
    history = collections.defaultdict(Outer.Named, {("loss", 0): Outer.Named([1.0])})
    states = {"optimizer_states": [optimiser.state_dict()], "schedulers": [schedule.state_dict()], "history": history}
    torch.save({"state_dict": model.state_dict(), **states, 7: "seven", ("a", 1): 0}, tmp_path / "some.ckpt")
    stored = read_weights(tmp_path / "some.ckpt")
    assert stored.parameters == 8
    assert stored.extra == {"7": "seven", "a tuple": 0, "left out": ["history", "optimizer_states", "schedulers"]}
