"""Attention: the plain twin by its definition, the fast path by the plain twin, and rows with nothing to read."""

import math
import sys
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from perceivers.errors import SpecError
from perceivers.nn import Attention, attend, attend_plain

# Sums of float64 in another order.
FP64_SUM = {"rtol": 0, "atol": 1e-12}


class Case(NamedTuple):
    """Arguments of `attend`."""

    query: Tensor
    key: Tensor
    value: Tensor
    heads: int
    mask: Tensor | None


@st.composite
def cases(draw, least_elements=0):
    """Any sizes, F and V apart, and a mask that is absent, of every query, or shared by the queries."""
    size = lambda least, most: draw(st.integers(least, most))  # noqa: E731
    batch, queries, elements, heads = size(1, 3), size(1, 4), size(least_elements, 9), size(1, 4)
    qk, v = heads * size(1, 5), heads * size(1, 5)
    generator = torch.Generator().manual_seed(size(0, 10**6))
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    rows = draw(st.sampled_from([0, 1, queries]))
    density = draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    mask = torch.rand(batch, rows, elements, generator=generator) < density if rows else None
    return Case(normal(batch, queries, qk), normal(batch, elements, qk), normal(batch, elements, v), heads, mask)


def by_definition(case: Case) -> Tensor:
    """softmax(q·k / √(F/H)) v, written with loops."""
    out = torch.zeros(*case.query.shape[:2], case.value.shape[-1], dtype=torch.float64)
    f, v = case.query.shape[-1] // case.heads, case.value.shape[-1] // case.heads
    for b in range(len(out)):
        for o in range(case.query.shape[1]):
            row = case.mask[b, min(o, case.mask.shape[1] - 1)] if case.mask is not None else None
            readable = [m for m in range(case.key.shape[1]) if row is None or row[m]]
            for h in range(case.heads):
                q = case.query[b, o, h * f : (h + 1) * f]
                scores = [math.exp(float(q @ case.key[b, m, h * f : (h + 1) * f]) / math.sqrt(f)) for m in readable]
                for weight, m in zip(scores, readable, strict=True):
                    out[b, o, h * v : (h + 1) * v] += weight / sum(scores) * case.value[b, m, h * v : (h + 1) * v]
    return out


@given(cases())
def test_the_plain_twin_is_the_definition(case):
    torch.testing.assert_close(attend_plain(*case), by_definition(case), **FP64_SUM)


@given(cases())
def test_the_fast_path_is_the_plain_twin(case):
    torch.testing.assert_close(attend(*case), attend_plain(*case), **FP64_SUM)


@given(cases(), st.sampled_from([1, 7, 2**22]))
def test_tiles_are_the_plain_twin(case, scores):
    module = sys.modules[attend.__module__]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_SCORES", scores)
        patch.setattr(module, "FEWEST_SCORES", 1)
        torch.testing.assert_close(attend(*case), attend_plain(*case), **FP64_SUM)


def test_tiles_are_taken_where_torch_has_no_kernel(monkeypatch):
    module, taken = sys.modules[attend.__module__], []
    tiles = module._by_tiles
    monkeypatch.setattr(module, "_by_tiles", lambda *given, **named: taken.append(given) or tiles(*given, **named))
    monkeypatch.setattr(module, "FEWEST_SCORES", 2 * 5 * 5)
    narrow, wide = torch.randn(2, 5, 8), torch.randn(2, 5, 16)
    attend(narrow, narrow, wide, 2)
    with torch.no_grad():
        attend(narrow, narrow, narrow, 2)
        attend(narrow.bfloat16(), narrow.bfloat16(), wide.bfloat16(), 2)
        attend(narrow[:, :4], narrow, wide, 2)
        assert not taken
        attend(narrow, narrow, wide, 2)
    assert len(taken) == 1


@given(cases(least_elements=1))
def test_gradients_of_the_fast_path_are_the_plain_twins(case):
    gradients = []
    for path in (attend, attend_plain):
        leaves = [t.clone().requires_grad_() for t in case[:3]]
        path(*leaves, case.heads, case.mask).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for fast, plain in zip(*gradients, strict=True):
        assert fast.isfinite().all()
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-11)


@pytest.mark.parametrize("path", [attend, attend_plain])
@given(case=cases(least_elements=1))
def test_a_row_with_nothing_to_read_gives_zeros_and_sends_no_gradient(path, case):
    leaves = [t.clone().requires_grad_() for t in case[:3]]
    mask = torch.ones(len(case.query), case.query.shape[1], case.key.shape[1], dtype=torch.bool)
    mask[0, 0] = False
    read = path(*leaves, case.heads, mask)
    assert torch.equal(read[0, 0], torch.zeros_like(read[0, 0]))
    read[0, 0].sum().backward()
    for leaf in leaves:
        assert torch.equal(leaf.grad, torch.zeros_like(leaf)), "neither NaN nor a gradient"


def test_no_kernel_is_handed_a_row_with_nothing_to_read(monkeypatch):
    """Kernels differ there: some give zeros, some NaN."""
    seen = []

    def kernel(q, k, v, attn_mask=None):
        seen.append(attn_mask)
        return torch.zeros(*q.shape[:-1], v.shape[-1])

    monkeypatch.setattr(sys.modules[attend.__module__], "scaled_dot_product_attention", kernel)
    mask = torch.tensor([[[True, False, True], [False] * 3]])
    attend(torch.zeros(1, 2, 4), torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), 2, mask)
    assert seen[0].any(-1).all()
    assert torch.equal(seen[0][0, 0, 0], mask[0, 0])


@pytest.mark.parametrize("path", [attend, attend_plain])
@pytest.mark.parametrize("masked", [False, True])
def test_no_elements_at_all_give_zeros(path, masked):
    query = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.ones(2, 3, 0, dtype=torch.bool) if masked else None
    read = path(query, torch.zeros(2, 0, 4), torch.zeros(2, 0, 6), 2, mask)
    assert torch.equal(read, torch.zeros(2, 3, 6))


@given(cases(least_elements=1), st.sampled_from([1e30, -1e30, 0.0]))
def test_masked_elements_change_nothing(case, value):
    mask = torch.rand(len(case.key), 1, case.key.shape[1], generator=torch.Generator().manual_seed(0)) < 0.5
    key = torch.where(mask.transpose(1, 2), case.key, value)
    values = torch.where(mask.transpose(1, 2), case.value, value)
    for path in (attend, attend_plain):
        zeros = path(
            case.query,
            torch.where(mask.transpose(1, 2), case.key, 0.0),
            torch.where(mask.transpose(1, 2), case.value, 0.0),
            case.heads,
            mask,
        )
        torch.testing.assert_close(path(case.query, key, values, case.heads, mask), zeros, **FP64_SUM)


def test_the_scale_is_that_of_one_head():
    query, key = torch.full((1, 1, 8), 2.0), torch.stack([torch.ones(8), torch.zeros(8)])[None]
    value = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    for heads in (1, 2):
        weight = 1 / (1 + math.exp(-2.0 * (8 / heads) / math.sqrt(8 / heads)))
        assert attend(query, key, value, heads)[0, 0, 0].item() == pytest.approx(weight)


def test_module_widths_and_what_a_query_with_nothing_to_read_gives():
    module = Attention(5, 3, qk_channels=8, v_channels=6, output_channels=7, heads=2)
    with torch.no_grad():
        module.output.bias.copy_(torch.arange(7.0))
    queries, elements = torch.randn(2, 4, 5), torch.randn(2, 9, 3)
    assert module(queries, elements).shape == (2, 4, 7)
    nothing = module(queries, elements, torch.zeros(2, 1, 9, dtype=torch.bool))
    assert torch.equal(nothing, torch.arange(7.0).expand(2, 4, 7))
    assert torch.equal(module(queries, elements[:, :0]), nothing)
    sizes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    weights = {"query.weight": (8, 5), "key.weight": (8, 3), "value.weight": (6, 3), "output.weight": (7, 6)}
    assert sizes == weights | {"query.bias": (8,), "key.bias": (8,), "value.bias": (6,), "output.bias": (7,)}


@pytest.mark.parametrize(("qk", "v", "name"), [(7, 6, "qk_channels = 7"), (6, 7, "v_channels = 7")])
def test_channels_must_divide_by_heads(qk, v, name):
    with pytest.raises(SpecError, match=f"{name} cannot be split into 2 heads; make it a multiple of 2"):
        Attention(4, 4, qk, v, 4, heads=2)
