"""Tokens read by tables of keys and values: what projecting every element gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.nn import linear
from perceivers.nn.attention import Attention, module
from perceivers.nn.attention.lookup import looked_up, looks_up
from perceivers.nn.lifted import Lifted, Lookup
from perceivers.nn.streamed import Gathered


def tokens(seed, batch, length, rows, channels, placed, masked, opposite=False):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    table, ids = draw(rows, channels), torch.randint(rows, (batch, length), generator=generator)
    position = draw(length, channels) if placed else None
    if opposite and position is not None:
        position[0] = 1e-7 * draw(channels) - table[0]
        ids[:, 0] = 0
    mask = torch.rand(batch, length, generator=generator) < 0.6 if masked else None
    if mask is not None:
        ids = torch.where(mask, ids, 0)
    return Lifted(table[ids], position, mask, True, Lookup(table, ids)).cleared()


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 12),
    length=st.integers(1, 9),
    rows=st.integers(1, 5),
    heads=st.integers(1, 3),
    placed=st.booleans(),
    masked=st.booleans(),
    bias=st.booleans(),
    numbers=st.integers(1, 200),
)
def test_as_projecting_every_element(seed, batch, length, rows, heads, placed, masked, bias, numbers):
    part = tokens(seed, batch, length, rows, 7, placed, masked)
    torch.manual_seed(seed)
    norm = torch.nn.LayerNorm(7).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    attention = Attention(6, 7, 2 * heads, 3 * heads, 4, heads, bias).double()
    queries = torch.randn(1, 5, 6, dtype=torch.float64).expand(batch, -1, -1)
    plain = attention.normed(queries, Gathered((part,)), norm)
    calls = []
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "NUMBERS_AT_ONCE", numbers)
        patch.setattr(module, "looked_up", lambda *a: calls.append(a) or looked_up(*a))
        found = attention.normed(queries, Gathered((part,)), norm)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    assert bool(calls) is (2 * (rows + length * placed) <= batch * length)


def test_a_token_and_a_place_that_are_opposite():
    part = tokens(0, 6, 5, 4, 8, placed=True, masked=False, opposite=True)
    norm, key = torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)
    lookup = Lookup(part.lookup.table.float(), part.lookup.ids)
    single = Lifted(part.content.float(), part.position.float(), None, True, lookup)
    with torch.no_grad():
        ((found,),) = looked_up(single, norm, key)
        wanted = key(norm(single.joined()))
    # Rounding of two products that cancel, 1e-7, over the root of the norm's epsilon.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7 / norm.eps**0.5 * 4)


@torch.no_grad()
def test_norms_of_all_tokens_at_all_places_are_no_larger_than_the_elements():
    assert looks_up(tokens(0, 60, 5, 120, 4, placed=True, masked=False))
    assert not looks_up(tokens(0, 60, 5, 121, 4, placed=True, masked=False))
    assert looks_up(tokens(0, 60, 5, 121, 4, placed=False, masked=False))


@pytest.mark.parametrize("reason", ["gradients", "few samples", "another position", "autocast", "no table"])
def test_else_elements_are_projected(reason):
    part = tokens(0, 1 if reason == "few samples" else 6, 5, 4, 8, placed=True, masked=False)
    if reason == "another position":
        part = Lifted(part.content, part.position, None, False, part.lookup)
    if reason == "no table":
        part = Lifted(part.content, part.position, None, True)
    with torch.set_grad_enabled(reason == "gradients"), torch.autocast("cpu", enabled=reason == "autocast"):
        assert not looks_up(part)
