"""Queries that are positions of a grid: asked by tables or one by one, the same answers and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.nn.attention import asking
from perceivers.nn.attention.asking import asks_by_tables
from perceivers.nn.blocks import CrossAttend
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.perceiver import Decoder


def a_decoder(channels, residual, heads, draw):
    block = CrossAttend(channels, 6, heads, 2 * heads, 3 * heads, query_residual=residual).double()
    for parameter in block.parameters():
        parameter.data = draw(*parameter.shape)
    return Decoder(block)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    grid=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    content=st.integers(0, 3),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    residual=st.booleans(),
    masked=st.booleans(),
    chunk=st.one_of(st.none(), st.integers(1, 30)),
    scores=st.integers(1, 200),
)
def test_by_tables_as_one_by_one(seed, grid, content, batch, heads, residual, masked, chunk, scores):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    tables = tuple(draw(n, 1 + place % 3) for place, n in enumerate(grid))
    width = sum(table.shape[1] for table in tables)
    order = tuple(torch.randperm(width, generator=generator).tolist())
    count = math.prod(grid)
    mask = torch.rand(batch, count, generator=generator) < 0.5 if masked else None
    queries = Lifted(draw(batch, count, content), AxisTables(tables, order))
    decoder, latents = a_decoder(content + width, residual, heads, draw), draw(batch, 5, 6)
    # One channel alone is always 0 behind the norm.
    leaves = [latents, queries.content, *tables, *(p for n, p in decoder.named_parameters())]
    for leaf in leaves:
        leaf.requires_grad_()

    def answers(by_tables):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("perceivers.nn.attention.module.asks_by_tables", lambda *a: by_tables)
            patch.setattr(asking, "ASKED_SCORES", scores)
            found = decoder(queries, latents, mask, chunk)
        weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
        gradients = torch.autograd.grad((found * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
        return [found.detach(), *gradients]

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("perceivers.nn.attention.module.asks_by_tables", lambda *a: True)
        patch.setattr(asking, "ASKED_SCORES", scores)
        kept_nothing = decoder(queries, latents, mask, chunk)
    by_tables, one_by_one = answers(True), answers(False)
    torch.testing.assert_close(kept_nothing, one_by_one[0], rtol=1e-11, atol=1e-11)
    for one, other in zip(by_tables, one_by_one, strict=True):
        largest = max([1.0, *other.abs().flatten().tolist()])
        assert float((one - other).abs().sum()) <= 1e-11 * largest * max(other.numel(), 1)


def test_without_gradients_nothing_is_kept():
    decoder = a_decoder(5, False, 2, lambda *shape: torch.randn(*shape).double())
    tables = AxisTables((torch.randn(4, 2).double(), torch.randn(5, 3).double()), (0, 1, 2, 3, 4))
    with torch.no_grad():
        answers = decoder(Lifted(torch.zeros(1, 20, 0).double(), tables), torch.randn(1, 3, 6).double())
    assert answers.shape == (1, 20, 5)
    assert not answers.requires_grad


@pytest.mark.parametrize(
    ("content", "keys", "channels", "qk", "heads", "by_tables"),
    [
        (64, 2048, 322, 512, 1, True),  # optical flow
        (0, 784, 1026, 512, 1, True),  # video autoencoding
        (0, 256, 258, 512, 8, False),
    ],
)
def test_when_tables_pay(content, keys, channels, qk, heads, by_tables):
    tables = AxisTables((torch.zeros(2, channels - content - 1), torch.zeros(2, 1)), tuple(range(channels - content)))
    assert asks_by_tables(Lifted(torch.zeros(1, 4, content), tables), keys, channels, qk, qk, heads) is by_tables
