"""The absorbed path equals the plain twin, forward and backward, whatever the shapes, masks and chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from perceivers.nn.attention import absorbed, attend_absorbed, attend_plain, planner
from perceivers.nn.blocks import CrossAttend


def plain(query, elements, norm, key, value, heads, mask):
    read = None if mask is None else mask[:, None]
    x = norm(elements)
    return attend_plain(query, key(x), value(x), heads, read)


def drawn(seed, batch, queries, count, channels, heads, head, scale, masked, dtype=torch.float64):
    """Arguments of both, with weights of every size, a sample that may read nothing among them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    norm, key = nn.LayerNorm(channels), nn.Linear(channels, heads * head)
    value = nn.Linear(channels, heads * (head + 1))
    for module in (norm, key, value):
        for parameter in module.parameters():
            parameter.data = draw(*parameter.shape).to(dtype)
    query = (scale * draw(batch, queries, heads * head)).to(dtype).requires_grad_()
    elements = (3 * draw(batch, count, channels) + 1).to(dtype).requires_grad_()
    mask = None
    if masked:
        mask = torch.rand(batch, count, generator=generator) < 0.5
        mask[0] = False
    return query, elements, norm, key, value, heads, mask


def gradients(function, arguments):
    query, elements, norm, key, value, _, _ = arguments
    result = function(*arguments)
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    wanted = [query, elements, *norm.parameters(), key.weight, *value.parameters()]
    return [result.detach(), *torch.autograd.grad((result * weights).sum(), wanted)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    queries=st.integers(1, 5),
    count=st.integers(1, 40),
    channels=st.integers(2, 9),
    heads=st.integers(1, 3),
    head=st.integers(1, 4),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    masked=st.booleans(),
    chunk=st.integers(1, 50),
)
def test_equals_the_plain_twin_and_its_gradients(seed, chunk, **shape):
    arguments = drawn(seed, **shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(absorbed, "SMALLEST_CHUNK", chunk)
        patch.setattr(absorbed, "LARGEST_CHUNK", chunk)
        found = gradients(attend_absorbed, arguments)
    wanted = gradients(plain, arguments)
    for one, other in zip(found, wanted, strict=True):
        # Relative to the largest number of each; scores of hundreds lose a few more digits in both.
        tolerance = 1e-12 * max(1.0, float(other.abs().max())) * max(1.0, shape["scale"])
        assert float((one - other).abs().max()) <= tolerance


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_float32_against_float64(scale):
    shape = {"batch": 2, "queries": 16, "count": 5000, "channels": 32, "heads": 2, "head": 16, "masked": True}
    exact = plain(*drawn(3, scale=scale, **shape)).detach()
    found = attend_absorbed(*drawn(3, scale=scale, dtype=torch.float32, **shape)).detach()
    assert float((found - exact).abs().max() / exact.abs().max()) <= 2e-6 * max(1.0, scale**2)


def test_no_gradient_of_elements_is_made_when_none_is_needed():
    query, elements, *rest = drawn(1, 1, 2, 8, 3, 1, 2, 1.0, masked=False)
    attend_absorbed(query, elements.detach(), *rest).sum().backward()
    assert query.grad is not None


class TestPlanner:
    def block(self, heads=1):
        torch.manual_seed(0)
        return CrossAttend(16, 24, heads=heads, qk_channels=24).double()

    @pytest.mark.parametrize("masked", [False, True])
    def test_a_cross_attend_takes_it_for_many_elements_and_gives_the_same(self, masked, monkeypatch):
        block, count = self.block(), planner.FEWEST_ELEMENTS
        queries, elements = torch.randn(2, 5, 16).double(), torch.randn(2, count, 24).double()
        mask = (torch.rand(2, 1, count) < 0.3) if masked else None
        calls = []
        seen = lambda *a: calls.append(1) or attend_absorbed(*a)  # noqa: E731
        monkeypatch.setattr("perceivers.nn.attention.module.attend_absorbed", seen)
        found = block(queries, elements, mask)
        assert calls == [1]
        monkeypatch.setattr(planner, "FEWEST_ELEMENTS", count + 1)
        torch.testing.assert_close(found, block(queries, elements, mask), rtol=1e-12, atol=1e-12)
        assert calls == [1]

    @pytest.mark.parametrize(
        ("query", "elements", "heads", "mask", "path"),
        [
            ((1, 8, 64), (1, 5000, 64), 1, None, "absorbed"),
            ((1, 8, 64), (1, 5000, 64), 1, (1, 1, 5000), "absorbed"),
            ((1, 8, 64), (1, 5000, 64), 1, (1, 8, 5000), "plain"),
            ((1, 8, 64), (1, 100, 64), 1, None, "plain"),
            ((1, 512, 512), (1, 50176, 261), 8, None, "plain"),
            ((1, 512, 261), (1, 50176, 261), 1, None, "absorbed"),
        ],
    )
    def test_the_path_follows_from_shapes(self, query, elements, heads, mask, path):
        q, x = torch.empty(1).expand(query), torch.empty(1).expand(elements)
        m = None if mask is None else torch.ones(1, dtype=torch.bool).expand(mask)
        assert planner.choose_path(q, x, query[2], heads, m) == path
        assert planner.choose_path(q.half(), x.half(), query[2], heads, m) == "plain"
