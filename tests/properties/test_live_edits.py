"""Whatever is appended, replaced, deleted or slid, the latents of a live input are those of reading it all again."""

import math

import numpy as np
import pytest
import torch
import toys
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perceivers import LiveEncoder, build
from perceivers.inputs import held_set
from perceivers.nn.attention import planner

SECONDS = 10.0
FOURIER = {"kind": "fourier", "bands": 3}
STATISTICS = {"mean": [0.5, 0.1], "std": [2.0, 1.0]}
EVENTS = {"kind": "series", "channels": 2, "seconds": SECONDS, "position": FOURIER, **STATISTICS}
IMAGE = {"kind": "image", "size": [12, 15], "channels": 2, **STATISTICS}
FACTS = {"kind": "number", "columns": ["a", "b"], "channels": 8, "mean": [0, 0], "std": [1, 1]}
GRIDS = {
    "pixels": {**IMAGE, "position": FOURIER},
    "set of pixels": {**IMAGE, "position": {"kind": "none"}},
    "patches": {**IMAGE, "position": FOURIER, "lift": {"kind": "patches", "size": [3, 5], "channels": 6}},
    "strides": {
        **IMAGE,
        "position": {"kind": "learned", "channels": 7},
        "lift": {"kind": "conv1x1", "channels": 6, "stride": 7},
    },
    "added": {**IMAGE, "position": {**FOURIER, "join": "add"}, "lift": {"kind": "conv1x1", "channels": 14}},
    "regular": {**EVENTS, "rate": 5.0},
    "sinusoidal": {**EVENTS, "rate": 5.0, "position": {"kind": "sinusoidal", "channels": 6}},
    "video": {
        **IMAGE,
        "kind": "video",
        "size": [4, 6, 5],
        "position": FOURIER,
        "lift": {"kind": "patches", "size": [2, 3, 1]},
    },
    "strides of video": {**IMAGE, "kind": "video", "size": [4, 6, 5], "lift": {"kind": "pixels", "stride": [3, 1, 2]}},
}
MODELS: dict = {}


def a_model(live, facts, heads, sharp):
    """One of few, since making one takes longer than reading. `sharp`: scores of tens, so that a maximum is sought."""
    key = repr((live, facts, heads, sharp))
    if key not in MODELS:
        spec = {
            "inputs": {"live": live, **({"facts": FACTS} if facts else {})},
            "latents": {"count": 3, "channels": 8},
            "encoder": {"layers": 1, "self_attend": {"heads": 2}, "cross": {"heads": heads, "qk_channels": 8}},
            "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
        }
        model = build(spec, seed=0).double()
        if sharp:
            with torch.no_grad():
                model.encoder.cross_attends[0].attention.query.weight *= 100
        MODELS[key] = model
    return MODELS[key]


def numbers(seed, *shape):
    """Values of which one in ten elements holds NaN or infinity."""
    draw = np.random.default_rng(seed)
    values = draw.normal(size=shape).astype(np.float32)
    holes = draw.uniform(size=shape[:-1]) < 0.1
    values[holes, seed % 2] = np.nan if seed % 3 else np.inf
    return values


class Edits(RuleBasedStateMachine):
    """What both sorts share: a live input, the other input, and the comparison."""

    def begin(self, live, facts, heads, sharp, block):
        self.model, self.others = a_model(live, facts, heads, sharp), {}
        self.facts = facts
        self.patch = pytest.MonkeyPatch()
        # Small pages and costs that ask for tables, or for keys and values, so that little data takes every way.
        self.patch.setattr(held_set, "PAGE", 8)
        self.patch.setattr(planner, "FEWEST_ELEMENTS", 1)
        toys.make_cheap(self.patch, "projected" if heads > 1 else "factorised")
        self.live = LiveEncoder(self.model, "live", block=block)

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.undo()

    @precondition(lambda self: self.facts)
    @rule(value=st.sampled_from([None, [1.0, 2.0], [None, -1.0], [0.3, float("nan")]]))
    def another_other(self, value):
        self.others = {} if value is None else {"facts": value}
        self.live.update_others(self.others)

    @invariant()
    def latents_are_those_of_a_full_recompute(self):
        if not hasattr(self, "live"):
            return
        with torch.no_grad():
            wanted = self.model.encode({**self.others, **self.whole()})
        assert float((self.live.latents() - wanted).abs().max()) <= 1e-12 * max(1.0, float(wanted.abs().max()))


class EditsOfASet(Edits):
    """Events by id, beside a dictionary of what should be there."""

    @initialize(
        facts=st.booleans(), heads=st.sampled_from([1, 2, 8]), sharp=st.booleans(), block=st.sampled_from([1, 3, 16])
    )
    def start(self, **settings):
        self.there = {}
        self.begin(EVENTS, **settings)

    def whole(self):
        if not self.there:
            return {}
        values, times = zip(*self.there.values(), strict=True)
        return {"live": {"values": np.stack(values), "times": np.stack(times)}}

    def some(self, seed, count):
        return np.random.default_rng(seed).permutation(list(self.there))[:count]

    @rule(count=st.integers(0, 12), seed=st.integers(0, 10**6))
    def append(self, count, seed):
        values, times = numbers(seed, count, 2), np.random.default_rng(seed + 1).uniform(0, SECONDS, count)
        ids = self.live.append(values, times)
        assert len(ids) == count
        assert all(i > max(self.there, default=-1) for i in ids)
        self.there |= dict(zip(ids, zip(values, times, strict=True), strict=True))

    @rule(count=st.integers(0, 6), seed=st.integers(0, 10**6), moved=st.booleans())
    def replace(self, count, seed, moved):
        ids = self.some(seed, count)
        values, times = numbers(seed, len(ids), 2), np.linspace(0, SECONDS, len(ids))
        self.live.replace(ids, values, times if moved else None)
        for i, value, when in zip(ids.tolist(), values, times, strict=True):
            self.there[i] = value, when if moved else self.there[i][1]

    @rule(count=st.integers(0, 6), seed=st.integers(0, 10**6))
    def delete(self, count, seed):
        ids = self.some(seed, count)
        self.live.delete(ids)
        for i in ids.tolist():
            del self.there[i]

    @rule()
    def delete_all(self):
        self.live.delete(list(self.there))
        self.there = {}

    @rule(share=st.floats(0, 1))
    def slide(self, share):
        count = int(share * len(self.there))
        self.live.slide(count)
        for i in sorted(self.there)[:count]:
            del self.there[i]

    @invariant()
    def as_many_are_there(self):
        if hasattr(self, "live"):
            assert len(self.live) == len(self.there)


class EditsOfAGrid(Edits):
    """Windows of cells, beside an array that is NaN where nothing is."""

    @initialize(
        name=st.sampled_from(sorted(GRIDS)),
        facts=st.booleans(),
        heads=st.sampled_from([1, 2, 8]),
        sharp=st.booleans(),
        block=st.sampled_from([1, 7, 40, 1000]),
    )
    def start(self, name, **settings):
        kind = GRIDS[name]
        grid = kind.get("size", (50,))
        self.array = np.full((*grid, 2), np.nan, np.float32)
        self.begin(kind, **settings)

    def whole(self):
        return {"live": self.array}

    def window(self, corner, extent):
        """A corner and a size from shares of the grid."""
        grid = self.array.shape[:-1]
        where = [int(c * n) for c, n in zip(corner, grid, strict=False)]
        size = [math.ceil(e * (n - w)) for e, n, w in zip(extent, grid, where, strict=False)]
        return where, size, tuple(slice(w, w + s) for w, s in zip(where, size, strict=True))

    # As many as the longest grid has axes; of shorter ones the first count.
    shares = st.tuples(*[st.floats(0, 0.999)] * 3)
    extents = st.tuples(*[st.floats(0.001, 1)] * 3)

    @rule(corner=shares, extent=extents, seed=st.integers(0, 10**6))
    def replace(self, corner, extent, seed):
        where, size, place = self.window(corner, extent)
        values = numbers(seed, *size, 2)
        self.live.replace(where, values)
        self.array[place] = values

    @rule(corner=shares, extent=extents, value=st.integers(0, 255))
    def replace_by_whole_numbers(self, corner, extent, value):
        where, size, place = self.window(corner, extent)
        self.live.replace(where, np.full((*size, 2), value, np.uint8))
        self.array[place] = value

    @rule(corner=shares, extent=extents)
    def delete(self, corner, extent):
        where, size, place = self.window(corner, extent)
        self.live.delete(where, size)
        self.array[place] = np.nan

    @rule()
    def delete_all(self):
        grid = self.array.shape[:-1]
        self.live.delete([0] * len(grid), grid)
        self.array[:] = np.nan

    @invariant()
    def as_many_are_there(self):
        if hasattr(self, "live"):
            assert len(self.live) == int(np.isfinite(self.array).all(-1).sum())


LONG = settings(max_examples=30, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
EditsOfASet.TestCase.settings = LONG
EditsOfAGrid.TestCase.settings = LONG
TestEditsOfASet = EditsOfASet.TestCase
TestEditsOfAGrid = EditsOfAGrid.TestCase
