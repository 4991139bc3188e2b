"""Queries that are positions of a grid ask few keys: a grid of queries is never projected, its position stays tables.

A query x = [c | T₁(y) | T₂(x)] (see `factorised`) asks key k with the score s = rstd·(x·a) + b: a = γ∘(W_Qᵀ k)/√d,
centred over the channels, and b = (W_Q β + b_Q)·k/√d is the same for every query. So a score is a narrow product with
the content and one small table an axis. What is read is Σ p·(W_O v): the output's weights go to the values' side too.
Rows of the grid are asked some at a time, and again in the backward pass.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from perceivers.nn.attention.state import CHUNK_SCORES, moments
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.linear import whole_rows, without_graph

# Scores alive at once, of all heads: more than when reading, since the rows written are as many as those asked.
ASKED_SCORES = 4 * CHUNK_SCORES
# What adding tables, scaling and the softmax of a score cost, in multiply-adds of a large product.
PASSES = 60


def ask_grid(
    queries: Lifted,
    keys: Float[Tensor, "B N F"],
    values: Float[Tensor, "B N V"],
    norm: nn.LayerNorm,
    query: nn.Linear,
    output: nn.Linear,
    heads: int,
) -> Float[Tensor, "B O _"]:
    """The same result as `output(attend(query(norm(q)), keys, values))` for the queries q = `queries.joined()`.

    The position of `queries` is `AxisTables`, concatenated; their mask, True = asks, leaves a query that asks nothing
    with the output's bias. Gradients reach all arguments.
    """
    assert isinstance(queries.position, AxisTables), "a grid"
    assert not queries.add, "positions behind the content"
    width = query.out_features // heads
    by_head = keys.unflatten(-1, (heads, -1)) * width**-0.5
    weights = query.weight.unflatten(0, (heads, -1))
    a = torch.einsum("bnhd,hdc->bhnc", by_head, weights * norm.weight)
    a = a - a.mean(-1, keepdim=True)
    shift = query.weight @ norm.bias if query.bias is None else query.weight @ norm.bias + query.bias
    constant = torch.einsum("bnhd,hd->bhn", by_head, shift.unflatten(0, (heads, -1)))
    c = queries.content.shape[-1]
    apart = torch.empty_like(a[..., c:])
    apart[..., list(queries.position.order)] = a[..., c:]
    parts = apart.split([table.shape[1] for table in queries.position.tables], dim=-1)
    tables = [torch.einsum("bhnp,yp->byhn", part, t) for part, t in zip(parts, queries.position.tables, strict=True)]
    keyed = _Keyed(a[..., :c].flatten(1, 2), tables, constant, _read(values, output, heads))
    answers = _asked(queries, keyed, norm.eps)[..., : output.out_features]
    if queries.mask is None:
        return answers
    nothing = answers.new_zeros(()) if output.bias is None else output.bias
    return torch.where(queries.mask[..., None], answers, nothing)


class _Keyed(NamedTuple):
    """What the keys and values make of a grid's queries.

    content: (B, H·N, c), by which content is a score. tables: per axis (B, n_a, H, N), what its places add to it.
    constant: (B, H, N), in the scores of every query. read: (B, H·N, E) and more columns, what there is to read.
    """

    content: Tensor
    tables: list[Tensor]
    constant: Tensor
    read: Tensor


def _read(values: Float[Tensor, "B N V"], output: nn.Linear, heads: int) -> Float[Tensor, "B HN _"]:
    """Values on the output's side, its bias shared out among the heads, whose weights add up to 1 each.

    Without gradients with columns of zeros behind them, see `whole_rows`.
    """
    weight = output.weight.unflatten(1, (heads, -1))
    read = torch.einsum("bnhv,ehv->bhne", values.unflatten(-1, (heads, -1)), weight).flatten(1, 2)
    if output.bias is not None:
        read = read + output.bias / heads
    return F.pad(read, (0, whole_rows(read.shape[-1]) - read.shape[-1])) if without_graph(read) else read


def _asked(queries: Lifted, keyed: _Keyed, eps: float) -> Float[Tensor, "B O _"]:
    """What all queries read, some rows of the grid at a time."""
    assert isinstance(queries.position, AxisTables), "a grid"
    (batch, count), width = queries.content.shape[:2], keyed.read.shape[-1]
    pieces = list(_rows(queries.position.grid, batch * keyed.read.shape[1]))
    if torch.is_grad_enabled():
        # Made again in the backward pass: of scores only those of some rows are alive.
        again = [
            checkpoint(_answers, queries, *piece, *keyed, eps, use_reentrant=False, preserve_rng_state=False)
            for piece in pieces
        ]
        return torch.cat(again, dim=1)
    answers, columns = keyed.read.new_empty(batch, count, width), queries.position.grid[-1]
    for start, stop in pieces:
        answers[:, start * columns : stop * columns] = _answers(queries, start, stop, *keyed, eps)
    return answers


def _rows(grid: tuple[int, ...], scores_a_query: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) row, all axes but the last being rows, of each piece."""
    rows, columns = math.prod(grid[:-1]), grid[-1]
    step = max(ASKED_SCORES // max(scores_a_query * columns, 1), 1)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _answers(
    queries: Lifted,
    start: int,
    stop: int,
    by_content: Float[Tensor, "B HN c"],
    tables: list[Tensor],
    constant: Float[Tensor, "B H N"],
    read: Float[Tensor, "B HN _"],
    eps: float,
) -> Float[Tensor, "B m _"]:
    """What the queries of the rows `start` to `stop` read; see `_Keyed`."""
    assert isinstance(queries.position, AxisTables), "a grid"
    *lead, columns = queries.position.grid
    places = _places(lead, start, stop, read.device)
    content = queries.content[:, start * columns : stop * columns].unflatten(1, (stop - start, columns))
    scores = tables[-1][:, None]
    for table, place in zip(tables, places, strict=False):
        scores = scores + table[:, place][:, :, None]
    if content.shape[-1]:
        scores = scores + (content @ by_content.mT[:, None]).unflatten(-1, constant.shape[1:])
    rstd = _rstd(content, queries.position.tables, places, eps)
    weights = (scores * rstd[..., None, None] + constant[:, None, None]).softmax(-1)
    return weights.flatten(3).flatten(1, 2) @ read


def _places(lead: list[int], start: int, stop: int, device: torch.device) -> list[Tensor]:
    """Of the rows `start` to `stop` the place on each leading axis."""
    place, rest, found = torch.arange(start, stop, device=device), math.prod(lead), []
    for n in lead:
        rest //= n
        found.append(place // rest % n)
    return found


def _rstd(
    content: Float[Tensor, "B y x c"], tables: tuple[Tensor, ...], places: list[Tensor], eps: float
) -> Float[Tensor, "B y x"]:
    """1/√(var + ε) of queries, from each table row's mean m and squares q about it: Σ (T − μ)² = q + P·(m − μ)²."""
    whole, found = content.double(), []
    for axis, table in enumerate(tables):
        mean, squares = moments(table.double())
        m, q = (v[None, places[axis], None] if axis < len(places) else v[None, None] for v in (mean, squares))
        found.append((table.shape[1], m, q))
    channels = content.shape[-1] + sum(count for count, _, _ in found)
    mu = (whole.sum(-1) + sum(count * m for count, m, _ in found)) / channels
    square = (whole - mu[..., None]).square().sum(-1) + sum(q + count * (m - mu).square() for count, m, q in found)
    return (square / channels + eps).rsqrt().to(content.dtype)


def asks_by_tables(queries: Lifted, keys: int, channels: int, qk: int, v: int, heads: int) -> bool:
    """Whether asking by tables takes fewer products than projecting every query; `channels`: E of the queries."""
    if not isinstance(queries.position, AxisTables) or queries.add:
        return False
    content = queries.content.shape[-1]
    by_tables = heads * keys * (content + channels + PASSES)
    return by_tables < channels * (qk + v) + keys * (qk + v)
