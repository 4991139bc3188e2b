"""The paths without keys equal the plain twin, forward and backward, whatever the shapes, masks, chunks and inputs."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from perceivers.nn.attention import attend_lifted, attend_plain, factorised, paths, planner, state
from perceivers.nn.attention.planner import Asking, PartShape, choose_paths
from perceivers.nn.blocks import CrossAttend
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.streamed import Gathered


def plain(query, parts, paths, norm, key, value, heads):
    whole = Gathered(parts)
    x = norm(whole.joined)
    return attend_plain(query, key(x), value(x), heads, None if whole.mask is None else whole.mask[:, None])


def a_part(draw, kind, batch, channels, masked):
    """One input of `channels` in all; its position by kind: none, added, for each sample, for all, a grid."""
    width = 1 + int(draw(1).abs() * 100) % (channels - 1)
    if kind.startswith("grid"):
        grid = tuple(1 + int(n.abs() * 100) % 5 for n in draw(int(kind[-1])))
        count, rest = math.prod(grid), channels - width
        cuts = sorted(int(c.abs() * 100) % (rest + 1) for c in draw(len(grid) - 1))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, rest], strict=True)]
        tables = tuple(draw(n, size) for n, size in zip(grid, sizes, strict=True))
        position = AxisTables(tables, tuple(torch.argsort(draw(rest)).tolist()))
    else:
        count = int(draw(1).abs() * 1000) % 40
        width = channels if kind in ("none", "added") else width
        position = {"none": None, "added": draw(count, channels)}.get(kind)
        if kind in ("each", "all"):
            position = draw(*((batch,) if kind == "each" else ()), count, channels - width)
    mask = draw(batch, count) < 0.3 if masked else None
    if mask is not None:
        mask[0] = False
    return Lifted(2 * draw(batch, count, width) + 1, position, mask, kind == "added")


def drawn(seed, kinds, batch, queries, channels, heads, head, scale, masked, projected=(), dtype=torch.float64):
    """Arguments of both, with weights of every size, a sample that may read nothing among them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    norm, key = nn.LayerNorm(channels), nn.Linear(channels, heads * head)
    value = nn.Linear(channels, heads * (head + 1))
    for module in (norm, key, value):
        for parameter in module.parameters():
            parameter.data = draw(*parameter.shape)
    query = (scale * draw(batch, queries, heads * head)).requires_grad_()
    parts = tuple(a_part(draw, kind, batch, channels, masked) for kind in kinds)
    paths = tuple(
        "projected" if place in projected else "factorised" if kind.startswith("grid") else "absorbed"
        for place, kind in enumerate(kinds)
    )
    return query, parts, paths, norm, key, value, heads


def leaves(parts):
    """Everything in the parts that can have a gradient."""
    for part in parts:
        yield part.content
        yield from (
            part.position.tables
            if isinstance(part.position, AxisTables)
            else [part.position][: part.position is not None]
        )


def gradients(function, arguments):
    query, parts, _, norm, key, value, _ = arguments
    wanted = [query, *norm.parameters(), key.weight, *value.parameters(), *leaves(parts)]
    for leaf in wanted:
        leaf.requires_grad_()
    result = function(*arguments)
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    found = torch.autograd.grad((result * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
    return [result.detach(), *found]


KINDS = ["none", "added", "each", "all", "grid1", "grid2", "grid3", "grid4"]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    batch=st.integers(1, 3),
    queries=st.integers(1, 5),
    channels=st.integers(3, 9),
    heads=st.integers(1, 3),
    head=st.integers(1, 4),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    masked=st.booleans(),
    projected=st.sets(st.integers(0, 2)),
    chunk=st.integers(1, 50),
)
def test_equals_the_plain_twin_and_its_gradients(seed, chunk, **shape):
    arguments = drawn(seed, **shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "SMALLEST_CHUNK", chunk)
        patch.setattr(state, "LARGEST_CHUNK", chunk)
        patch.setattr(factorised, "TILE_SCORES", chunk * 15)
        patch.setattr(factorised, "SMALLEST_TILE", 1)
        patch.setattr(factorised, "FLUSH", 1 + chunk % 3)
        found = gradients(attend_lifted, arguments)
    wanted = gradients(plain, arguments)
    for one, other in zip(found, wanted, strict=True):
        # Relative to the largest number of each; scores of hundreds lose a few more digits in both.
        largest = max([1.0, *other.abs().flatten().tolist()])
        assert float((one - other).abs().sum()) <= 1e-12 * largest * max(1.0, shape["scale"]) * max(other.numel(), 1)


@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("kind", ["none", "grid2"])
def test_float32_against_float64(kind, scale):
    shape = {"batch": 2, "queries": 16, "channels": 32, "heads": 2, "head": 16, "masked": True}
    draw = torch.Generator().manual_seed(5)
    content = torch.randn(2, 5000, 32 if kind == "none" else 3, generator=draw)
    position = AxisTables((torch.randn(50, 15, generator=draw), torch.randn(100, 14, generator=draw)), tuple(range(29)))
    query, _, _, *rest = drawn(3, [], scale=scale, **shape)
    part = Lifted(content, None if kind == "none" else position, torch.rand(2, 5000, generator=draw) < 0.7)
    wide = Lifted(content.double(), part.joined()[..., content.shape[-1] :].double(), part.mask)
    exact = plain(query, (wide,), (), *rest).detach()
    query, _, _, *rest = drawn(3, [], scale=scale, dtype=torch.float32, **shape)
    path = "absorbed" if kind == "none" else "factorised"
    found = attend_lifted(query, (part,), (path,), *rest).detach()
    assert float((found - exact).abs().max() / exact.abs().max()) <= 2e-6 * max(1.0, scale**2)


@pytest.mark.parametrize("kind", ["none", "grid2"])
def test_no_gradient_of_elements_is_made_when_none_is_needed(kind, monkeypatch):
    query, parts, chosen, *rest = drawn(1, [kind], 1, 2, 5, 1, 2, 1.0, masked=False)
    asked, real = [], dict(paths.GRADIENTS)
    for name, function in real.items():
        monkeypatch.setitem(paths.GRADIENTS, name, lambda *a, f=function: asked.append(a[-1]) or f(*a))
    attend_lifted(query, parts, chosen, *rest).sum().backward()
    assert query.grad is not None
    assert asked == [False]


@pytest.fixture
def products_only(monkeypatch):
    """Costs of products and scores alone: small tests then choose as large inputs do."""
    monkeypatch.setattr(
        planner, "COSTS", {key: (1.0, 1.0, 40.0 if key[0] == "factorised" else 20.0, 0, 0, 0) for key in planner.COSTS}
    )


@pytest.mark.usefixtures("products_only")
class TestPlanner:
    def block(self, heads=1, channels=24):
        torch.manual_seed(0)
        return CrossAttend(16, channels, heads=heads, qk_channels=24).double()

    @pytest.mark.parametrize("masked", [False, True])
    def test_a_cross_attend_takes_it_for_many_elements_and_gives_the_same(self, masked, monkeypatch):
        block, count = self.block(), planner.FEWEST_ELEMENTS
        queries, elements = torch.randn(2, 5, 16).double(), torch.randn(2, count, 24).double()
        mask = (torch.rand(2, 1, count) < 0.3) if masked else None
        calls = watch(monkeypatch)
        found = block(queries, elements, mask)
        assert calls == [("absorbed",)]
        monkeypatch.setattr(planner, "FEWEST_ELEMENTS", count + 1)
        torch.testing.assert_close(found, block(queries, elements, mask), rtol=1e-12, atol=1e-12)
        assert calls == [("absorbed",)]

    def test_each_input_takes_its_own_path(self, monkeypatch):
        grid = AxisTables((torch.randn(64, 60).double(), torch.randn(64, 60).double()), tuple(range(120)))
        photo = Lifted(torch.randn(2, 4096, 4).double(), grid)
        table = Lifted(torch.randn(2, 7, 124).double(), None, torch.rand(2, 7) < 0.5)
        block, queries, calls = self.block(channels=124), torch.randn(2, 5, 16).double(), watch(monkeypatch)
        found = block(queries, Gathered((photo, table)))
        assert calls == [("factorised", "absorbed")]
        monkeypatch.setattr(planner, "FEWEST_ELEMENTS", 10**6)
        torch.testing.assert_close(found, block(queries, Gathered((photo, table))), rtol=1e-12, atol=1e-12)

    def test_flat_and_streamed_inputs_are_never_joined(self):
        shapes = [PartShape(100, 64)], [PartShape(100, 64, streamed=True)]
        asking = Asking(8, 64, 64, 64, 8)
        assert choose_paths(shapes[0], asking) is None
        assert choose_paths(shapes[0], asking, flat=True) is not None
        assert choose_paths(shapes[1], asking) is not None

    def test_where_there_is_room_keys_and_values_are_made_at_once(self):
        shapes, asking = [PartShape(50176, 261, 224)], Asking(512, 261, 261, 261, 1)
        assert choose_paths(shapes, asking) is not None
        assert choose_paths(shapes, asking, roomy=True) is None
        assert choose_paths(shapes, asking, flat=True, roomy=True) is not None
        assert choose_paths([PartShape(50176, 261, streamed=True)], asking, roomy=True) is not None

    def test_room_is_an_accelerators(self, monkeypatch):
        asking = Asking(queries=7, channels=11, qk=30, v=20, heads=2)
        assert not planner.has_room(torch.zeros(1), 1, asking)
        like, needed = torch.zeros(3, 1, device="meta"), 3 * 4 * 100 * (2 * 11 + 30 + 20 + 2 * 2 * 7)
        for training, share in ((False, 8), (True, 16)):
            for memory, roomy in ((share * needed, True), (share * needed - 1, False)):
                monkeypatch.setattr(planner, "device_memory", lambda device, memory=memory: memory)
                assert planner.has_room(like, 100, replace(asking, training=training)) is roomy

    def test_half_precision_and_shapes_without_data_are_read_plainly(self):
        assert planner.reads_apart(torch.zeros(1))
        assert not planner.reads_apart(torch.zeros(1).half())
        assert not planner.reads_apart(torch.zeros(1, device="meta"))

    def test_devices_without_float64_too(self, monkeypatch):
        monkeypatch.setattr(planner, "WITHOUT_FLOAT64", ("cpu",))
        assert not planner.reads_apart(torch.zeros(1))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("parts", "queries", "channels", "heads", "paths"),
    [
        ([PartShape(50176, 64)], 64, 64, 1, ("absorbed",)),
        ([PartShape(100, 64)], 8, 64, 1, None),
        ([PartShape(50176, 768)], 512, 768, 8, None),
        ([PartShape(50176, 261)], 512, 261, 1, ("absorbed",)),
        ([PartShape(50176, 3, 224)], 512, 261, 1, ("factorised",)),
        ([PartShape(50176, 768, streamed=True)], 512, 768, 8, ("projected",)),
        ([PartShape(50176, 3, 224), PartShape(5000, 261)], 512, 261, 1, ("factorised", "absorbed")),
    ],
)
def test_the_paths_follow_from_shapes(parts, queries, channels, heads, paths, training):
    assert choose_paths(parts, Asking(queries, channels, channels, channels, heads, training)) == paths


def watch(monkeypatch):
    """The paths of every call that takes some."""
    calls = []
    seen = lambda *a: calls.append(tuple(a[2])) or attend_lifted(*a)  # noqa: E731
    monkeypatch.setattr("perceivers.nn.attention.module.attend_lifted", seen)
    return calls
