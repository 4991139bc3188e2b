"""Inputs that are read in runs: the same latents and gradients as the whole array, whatever the runs; clear errors."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perceivers import Source, build
from perceivers.errors import DataError, SpecError

PHOTO = {"kind": "image", "size": [48, 40], "channels": 2, "mean": [0.5, 0.1], "std": [2.0, 1.0]}
FOURIER = {"kind": "fourier", "bands": 5}
IRREGULAR = {"kind": "series", "channels": 2, "seconds": 10.0, "mean": [0, 0], "std": [1, 1], "position": FOURIER}
REGULAR = {**IRREGULAR, "rate": 20.0}
FACTS = {"kind": "number", "columns": ["a", "b"], "channels": 8, "mean": [0, 0], "std": [1, 1]}
INPUTS = {
    "pixels": {**PHOTO, "position": FOURIER},
    "patches": {**PHOTO, "position": FOURIER, "lift": {"kind": "patches", "size": [4, 5], "channels": 6}},
    "conv1x1": {**PHOTO, "position": {"kind": "learned", "channels": 7}, "lift": {"kind": "conv1x1", "channels": 6}},
    "projected": {**PHOTO, "position": {"kind": "learned", "channels": 7, "project": 4}},
    "added": {**PHOTO, "position": {"kind": "learned", "channels": 2, "join": "add"}},
    "added fourier": {
        **PHOTO,
        "channels": 2,
        "position": {**FOURIER, "join": "add"},
        "lift": {"kind": "conv1x1", "channels": 22},
    },
    "set": {**PHOTO, "position": {"kind": "none"}},
    "regular": REGULAR,
    "sinusoidal": {**REGULAR, "position": {"kind": "sinusoidal", "channels": 6}},
    "irregular": IRREGULAR,
}


def a_model(scene, crosses=2, heads=2, facts=False):
    spec = {
        "inputs": {"scene": scene, **({"facts": FACTS} if facts else {})},
        "latents": {"count": 5, "channels": 16},
        "encoder": {"cross_attends": crosses, "layers": 1, "blocks": 1, "self_attend": {"heads": 2}}
        | {"cross": {"heads": heads, "qk_channels": 24}},
        "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
    }
    return build(spec, seed=0).double()


def a_scene(scene, holes=False):
    """The raw value, and what a source gives of it."""
    draw = np.random.default_rng(3)
    if scene["kind"] == "image":
        values = draw.normal(size=(*scene["size"], scene["channels"])).astype(np.float32)
    else:
        values = draw.normal(size=(150, 2)).astype(np.float32)
    if holes:
        values[3, ..., 0], values[17] = np.nan, np.inf
    if scene["kind"] == "series" and scene.get("rate") is None:
        times = np.sort(draw.uniform(0, 10, 150)).astype(np.float32)
        return {"values": values, "times": times}, values, times[:, None]
    return values, values, None


def a_source(values, coords, height):
    """A source whose runs are `height` rows."""
    if coords is None:
        return Source.of(values, run_rows=height)
    runs = lambda: ((values[i : i + height], coords[i : i + height]) for i in range(0, len(values), height))  # noqa: E731
    return Source(values.shape, runs, coords=True)


def answers(model, sample):
    model.zero_grad()
    found = model([sample])["label"]
    found.square().sum().backward()
    skipped = "attention.key.bias"
    return [found.detach(), *(p.grad for n, p in model.named_parameters() if not n.endswith(skipped))]


@pytest.mark.parametrize("facts", [False, True], ids=["alone", "with facts"])
@pytest.mark.parametrize("height", [1, 7, 1000])
@pytest.mark.parametrize("name", INPUTS)
def test_the_same_answers_and_gradients_as_the_whole(name, height, facts):
    model = a_model(INPUTS[name], facts=facts)
    raw, values, coords = a_scene(INPUTS[name])
    others = {"facts": [1.0, 2.0]} if facts else {}
    wanted = answers(model, {"scene": raw, **others})
    found = answers(model, {"scene": a_source(values, coords, height), **others})
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


class Passes(TorchDispatchMode):
    """Counts operations that make, or add, so many numbers or more."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers, self.count = numbers, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        # What changes in place touches as much as it is given; a view touches nothing.
        touched = args[1:] if func._schema.is_mutable else () if func.is_view else (made,)
        sizes = [t._values().numel() if t.is_sparse else t.numel() for t in touched if isinstance(t, torch.Tensor)]
        self.count += max(sizes, default=0) >= self.numbers
        return made


@pytest.mark.parametrize("project", [None, 9])
def test_each_run_touches_its_own_rows_of_a_learned_position(project):
    position = {"kind": "learned", "channels": 64, "project": project}
    model = a_model({**PHOTO, "position": position}, crosses=1)
    values, passes = a_scene(PHOTO)[1], []
    for height in (24, 2):
        model.zero_grad()
        answer = model({"scene": a_source(values, None, height)})["label"].sum()
        with Passes(48 * 40 * 64) as counted:
            answer.backward()
        passes.append(counted.count)
    assert passes[0] == passes[1], "however many the runs are"


@pytest.mark.parametrize("name", ["pixels", "patches", "regular", "irregular"])
def test_holes_are_masked_and_counted_as_in_the_whole(name):
    model = a_model(INPUTS[name])
    raw, values, coords = a_scene(INPUTS[name], holes=True)
    source = a_source(values, coords, 7)
    torch.testing.assert_close(
        model([{"scene": source}])["label"], model([{"scene": raw}])["label"], rtol=1e-9, atol=1e-12
    )
    assert source.masked == int((~np.isfinite(values).all(-1)).sum())
    with pytest.raises(DataError, match="nan: error"):
        a_model({**INPUTS[name], "nan": "error"}).encode({"scene": a_source(values, coords, 7)})


@pytest.mark.parametrize("height", [1, 7, 1000])
def test_a_series_that_ends_inside_a_patch(height):
    """Its last rows are masked with the rest of their patch, as they are in the whole; they are not counted as NaN."""
    model = a_model({**REGULAR, "lift": {"kind": "patches", "size": [4]}})
    values = a_scene(REGULAR)[1]
    source = a_source(values, None, height)
    for one, other in zip(answers(model, {"scene": source}), answers(model, {"scene": values}), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert source.masked == 0


@pytest.mark.parametrize("name", ["patches", "conv1x1"])
def test_rows_of_an_image_that_end_inside_a_patch(name):
    """A patch that is not whole is masked; of a stride the cell that is read is enough."""
    scene = INPUTS[name] if name == "patches" else {**INPUTS[name], "lift": {"kind": "conv1x1", "stride": 4}}
    model, values = a_model(scene), a_scene(scene)[1]
    wanted = 44 if name == "patches" else 48
    found = model.encode({"scene": Source.of(values, rows=(0, 46), run_rows=5)})
    torch.testing.assert_close(found, model.encode({"scene": Source.of(values, rows=(0, wanted))}))


def test_tensors_are_read_as_arrays_are():
    """What float32 cannot hold is infinite, and so masked, whoever holds the numbers."""
    values = a_scene(REGULAR)[1].astype(np.float64)
    values[3, 0] = 1e300
    model = a_model(REGULAR).float()
    array, tensor = Source.of(values, run_rows=7), Source.of(torch.from_numpy(values), run_rows=7)
    wanted = model.encode({"scene": array})
    assert torch.equal(model.encode({"scene": tensor}), wanted)
    assert wanted.isfinite().all()
    assert array.masked == tensor.masked == 1
    for dtype in (torch.uint8, torch.bool, torch.int64, torch.bfloat16):
        ((_, read, _),) = Source.of(torch.ones(2, 1, dtype=dtype)).read()
        assert read.dtype == (torch.uint8 if dtype == torch.uint8 else torch.float32)
    with pytest.raises(DataError, match=r"must be real numbers; got torch\.complex64"):
        list(Source.of(torch.ones(2, 1, dtype=torch.complex64)).read())


def test_a_source_of_nothing_and_a_masked_one_leave_the_latents_to_the_rest():
    model = a_model(IRREGULAR, facts=True)
    absent = model.encode([{"facts": [1.0, 2.0]}])
    empty = Source((0, 2), lambda: iter(()), coords=True)
    lost = Source((3, 2), lambda: iter([(np.full((3, 2), np.nan), np.zeros((3, 1)))]), coords=True)
    for source in (empty, lost):
        torch.testing.assert_close(model.encode({"scene": source, "facts": [1.0, 2.0]}), absent, rtol=1e-12, atol=1e-14)


def test_parts_of_a_source_are_its_rows():
    values = np.arange(40.0).reshape(10, 2, 2)
    whole = Source(values.shape, lambda: (values[i : i + 3] for i in range(0, 10, 3)), name="grid")
    for source in (whole, Source.of(values, run_rows=4)):
        part = source.part(2, 9)
        rows = [(start, v.numpy()) for start, v, _ in part.read()]
        assert rows[0][0] == 2
        np.testing.assert_array_equal(np.concatenate([v for _, v in rows]), values[2:9])
    with pytest.raises(DataError, match="not within"):
        whole.part(4, 11)
    with pytest.raises(DataError, match="cannot be read in parts"):
        Source((10, 2, 2), iter([values])).part(0, 3)


def test_a_part_is_within_its_source():
    for source in (Source.of(np.zeros((30, 1)), rows=(0, 10)), Source((30, 1), lambda: iter(()), rows=(0, 10))):
        with pytest.raises(DataError, match=r"rows 5 to 20 are not within this source's, \(0, 10\)"):
            source.part(5, 20)


@pytest.mark.parametrize("height", [7, 50, 120])
def test_the_last_part_sees_rows_too_many(height):
    """As a whole pass does; what comes before the last part cannot know."""
    values = np.zeros((120, 1))
    source = Source((100, 1), lambda: (values[i : i + height] for i in range(0, 120, height)))
    with pytest.raises(DataError, match="said 100 rows, but gives more: row 100 came"):
        list(source.part(50, 100).read())
    if height < 120:
        assert sum(len(v) for _, v, _ in source.part(0, 50).read()) == 50


@pytest.mark.parametrize("coords", [False, True])
def test_a_part_of_runs_that_are_none(coords):
    with pytest.raises(DataError, match="the run at row 0"):
        list(Source((4, 1), lambda: iter([3.0]), coords=coords).part(1, 3).read())


def test_a_part_tells_its_own_progress():
    seen, whole = [], Source((6, 1), lambda: iter([np.zeros((4, 1)), np.zeros((2, 1))]))
    part = whole.part(2, 6)
    part.progress = whole.progress = lambda done, count: seen.append((done, count))
    list(part.read())
    assert seen == [(2, 4), (4, 4)]


def test_a_source_goes_as_soon_as_it_is_let_go():
    """With the file that it holds, not when Python next looks for cycles."""
    gc.disable()
    try:
        source = Source.of(np.zeros((6, 1)), run_rows=4)
        part = source.part(1, 5)
        list(source.read())
        list(part.read())
        left = [weakref.ref(source), weakref.ref(part)]
        del source, part
        assert [ref() for ref in left] == [None, None]
    finally:
        gc.enable()


def test_runs_come_in_multiples_of_a_unit_but_at_the_end():
    values = np.arange(11.0)[:, None]
    source = Source(values.shape, lambda: iter([values[:2], values[2:3], values[3:9], values[9:]]))
    assert [(start, len(v)) for start, v, _ in source.read(4)] == [(0, 8), (8, 3)]


def test_progress_counts_rows():
    seen, values = [], np.zeros((6, 1))
    source = Source.of(values, run_rows=4)
    source.progress = lambda done, count: seen.append((done, count))
    list(source.read())
    assert seen == [(4, 6), (6, 6)]


def test_an_iterator_serves_one_pass():
    values = np.zeros((48, 40, 2), np.float32)
    model = a_model(INPUTS["pixels"], crosses=1)
    latents = model.encode({"scene": Source(values.shape, iter([values]))})
    torch.testing.assert_close(latents, model.encode({"scene": values}), rtol=1e-9, atol=1e-12)
    with pytest.raises(DataError, match="second pass"):
        latents.sum().backward()
    with pytest.raises(DataError, match="2 cross-attends"):
        a_model(INPUTS["pixels"], crosses=2).encode({"scene": Source(values.shape, iter([values]))})


BAD_RUNS = {
    "too few rows": ([np.zeros((4, 40, 2))], "ended after 4 of 48 rows"),
    "too many rows": ([np.zeros((49, 40, 2))], "gives more"),
    "another width": ([np.zeros((48, 39, 2))], r"wanted values of shape \(rows, 40, 2\); got \(48, 39, 2\)"),
    "other channels": ([np.zeros((48, 40, 3))], "run at row 0"),
    "no numbers": ([np.full((48, 40, 2), "a")], "must be numbers"),
}


@pytest.mark.parametrize(("runs", "message"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_runs_that_are_not_what_was_said(runs, message):
    with pytest.raises(DataError, match=message):
        a_model(INPUTS["pixels"]).encode({"scene": Source((48, 40, 2), lambda: iter(runs), name="scene.npy")})


BAD_TIMES = {
    "two columns": (np.zeros((3, 2)), r"rows 0 to 3: wanted coordinates of shape \(3, 1\); got \(3, 2\)"),
    "after the end": ([[0.5], [11.0], [1.0]], r"rows 0 to 3: times must lie between 0 and 10\.0 s; got 0\.5 to 11\."),
    "before the beginning": ([[-1.0], [2.0], [1.0]], r"times must lie between 0 and 10\.0 s; got -1 to 2\."),
    "not a number": ([[np.nan], [2.0], [1.0]], "1 of the 3 times is NaN or infinite; every value needs its time"),
}


@pytest.mark.parametrize("position", [FOURIER, {"kind": "sinusoidal", "channels": 6}, {"kind": "none"}], ids=str)
@pytest.mark.parametrize(("times", "message"), BAD_TIMES.values(), ids=BAD_TIMES)
def test_times_that_a_whole_series_could_not_have(times, message, position):
    model = a_model({**IRREGULAR, "position": position})
    source = Source((3, 2), lambda: iter([(np.zeros((3, 2)), np.asarray(times))]), coords=True)
    with pytest.raises(DataError, match=message):
        model.encode({"scene": source})


def test_a_time_at_the_very_end_may_be_rounded():
    """0.1 in float32 is more than 0.1."""
    model, times = a_model({**IRREGULAR, "seconds": 0.1}), np.array([[0.0], [0.1]])
    found = model.encode({"scene": Source((2, 2), lambda: iter([(np.ones((2, 2)), times)]), coords=True)})
    wanted = model.encode({"scene": {"values": np.ones((2, 2)), "times": times[:, 0]}})
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_source_that_changes_between_passes():
    lengths = iter([48, 47])
    source = Source((48, 40, 2), lambda: iter([np.zeros((next(lengths), 40, 2))]))
    with pytest.raises(DataError, match="ended after 47 of 48 rows"):
        a_model(INPUTS["pixels"], crosses=2).encode({"scene": source})


def test_what_cannot_read_a_source_says_so():
    values, model = np.zeros((48, 40, 2)), a_model(INPUTS["pixels"], facts=True)
    with pytest.raises(SpecError, match="convolution stem"):
        a_model({**PHOTO, "lift": {"kind": "conv"}}).encode({"scene": Source.of(values)})
    with pytest.raises(DataError, match="reads no source"):
        model.encode({"facts": Source.of(np.zeros((2, 1)))})
    with pytest.raises(DataError, match="one sample"):
        model.encode([{"scene": Source.of(values)}, {}])
    with pytest.raises(DataError, match=r"takes \(48, 40, 2\)"):
        model.encode({"scene": Source.of(np.zeros((48, 41, 2)))})
    with pytest.raises(DataError, match="permuted"):
        a_model({**INPUTS["pixels"], "permute": 1}).encode({"scene": Source.of(values)})
    with pytest.raises(DataError, match="takes 200"):
        a_model(REGULAR).encode({"scene": Source.of(np.zeros((201, 2)))})
    with pytest.raises(DataError, match="takes coordinates"):
        a_model(IRREGULAR).encode({"scene": Source.of(np.zeros((201, 2)))})
    with pytest.raises(SpecError, match="float32 or float64"):
        model.bfloat16().encode({"scene": Source.of(values)})


@pytest.mark.parametrize("shape", [(3,), (3, 0), (-1, 2)])
def test_a_shape_that_is_none(shape):
    with pytest.raises(DataError, match="a source has a shape"):
        Source(shape, lambda: iter(()))
