"""Queries that are positions of a grid ask few keys: a grid of queries is never projected, its position stays tables.

A query x = [c | T₁(y) | T₂(x)] (see `factorised`) asks key k with the score s = rstd·(x·a) + b: a = γ∘(W_Qᵀ k)/√d,
centred over the channels, and b = (W_Q β + b_Q)·k/√d is the same for every query. So a score is a narrow product with
the content and one small table an axis. What is read is Σ p·(W_O v): the output's weights go to the values' side too.
Rows of the grid are asked some at a time, and again in the backward pass.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perceivers.nn.attention.state import CHUNK_SCORES
from perceivers.nn.lifted import AxisTables, Lifted

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
    read = torch.einsum("bnhv,ehv->bhne", values.unflatten(-1, (heads, -1)), output.weight.unflatten(1, (heads, -1)))
    c = queries.content.shape[-1]
    apart = torch.empty_like(a[..., c:])
    apart[..., list(queries.position.order)] = a[..., c:]
    parts = apart.split([table.shape[1] for table in queries.position.tables], dim=-1)
    tables = [torch.einsum("bhnp,yp->bhyn", part, t) for part, t in zip(parts, queries.position.tables, strict=True)]
    found = []
    for start, stop in _rows(queries.position.grid, keys.shape[0] * heads * keys.shape[1]):
        arguments = (queries, start, stop, a[..., :c], tables, constant, read, norm.eps)
        if torch.is_grad_enabled():
            # Made again in the backward pass: of scores only those of some rows are alive.
            found.append(checkpoint(_answers, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            found.append(_answers(*arguments))
    answers = torch.cat(found, dim=1)
    if queries.mask is not None:
        answers = torch.where(queries.mask[..., None], answers, answers.new_zeros(()))
    return answers if output.bias is None else answers + output.bias


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
    a: Float[Tensor, "B H N c"],
    tables: list[Tensor],
    constant: Float[Tensor, "B H N"],
    read: Float[Tensor, "B H N E"],
    eps: float,
) -> Float[Tensor, "B m E"]:
    """What the queries of the rows `start` to `stop` read, without the output's bias."""
    assert isinstance(queries.position, AxisTables), "a grid"
    *lead, columns = queries.position.grid
    cells = slice(start * columns, stop * columns)
    whole = queries.rows(cells.start, cells.stop)
    rstd = (whole.var(-1, correction=0) + eps).rsqrt().unflatten(1, (stop - start, columns))
    scores = tables[-1][:, :, None]
    rest = math.prod(lead)
    place = torch.arange(start, stop, device=rstd.device)
    for table, n in zip(tables, lead, strict=False):
        rest //= n
        scores = scores + table[:, :, place // rest % n][:, :, :, None]
    if a.shape[-1]:
        content = queries.content[:, cells].unflatten(1, (stop - start, columns))
        scores = scores + torch.einsum("byxc,bhnc->bhyxn", content, a)
    weights = (scores * rstd[:, None, :, :, None] + constant[:, :, None, None]).softmax(-1).flatten(2, 3)
    return (weights @ read).sum(1)


def asks_by_tables(queries: Lifted, keys: int, channels: int, qk: int, v: int, heads: int) -> bool:
    """Whether asking by tables takes fewer products than projecting every query; `channels`: E of the queries."""
    if not isinstance(queries.position, AxisTables) or queries.add:
        return False
    content = queries.content.shape[-1]
    by_tables = heads * keys * (content + channels + PASSES)
    return by_tables < channels * (qk + v) + keys * (qk + v)
