"""Keys and values of tokens: an element that is a row of a table, with a position added, is never projected.

With x = e + p, a row of the embedding and one of the positions, both less their own mean, the norm is
x̂ = (e + p)/√(var + ε), and a linear of it is ((W γ)·e + (W γ)·p)/√(var + ε) + W β + b. So a product with each row of
the two tables serves all samples: of the byte language model 2,310 rows for eight texts of 2,048 bytes.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perceivers.nn.lifted import Lifted
from perceivers.nn.linear import without_graph


def looks_up(part: Lifted) -> bool:
    """Whether the tables have at most half as many rows as the samples have elements, and nothing needs a gradient.

    Nor may the norms of all tokens at all places take more room than the elements themselves.
    """
    position = part.position
    if part.lookup is None or not without_graph(part.content) or part.lookup.table.dtype != part.content.dtype:
        return False
    if position is not None and not (part.add and isinstance(position, Tensor) and position.ndim == 2):
        return False
    batch, count, channels = part.content.shape
    tokens, places = part.lookup.table.shape[0], 0 if position is None else position.shape[0]
    # In float64, twice as wide as most elements.
    return 2 * (tokens + places) <= batch * count and 2 * tokens * places <= batch * count * channels


def looked_up(part: Lifted, norm: nn.LayerNorm, *linears: nn.Linear) -> Iterator[Float[Tensor, "B M _"]]:
    """`linear(norm(part.joined()))` of each; a masked element gives what stands in the table instead."""
    assert part.lookup is not None, "asked of what looks up"
    table, ids = part.lookup
    position = part.position if isinstance(part.position, Tensor) else table.new_zeros(1, table.shape[1])
    tokens, places = (rows - rows.mean(1, keepdim=True) for rows in (table, position))
    rstd = _rstd(tokens.double(), places.double(), ids, norm.eps).to(table.dtype)
    for linear in linears:
        weight = linear.weight * norm.weight
        constant = nn.functional.linear(norm.bias, linear.weight, linear.bias)
        by_token, by_place = tokens @ weight.mT, places @ weight.mT
        found = table.new_empty(*ids.shape, linear.out_features)
        for sample, of_sample, scale in zip(found, ids, rstd, strict=True):
            torch.index_select(by_token, 0, of_sample, out=sample)
            sample.add_(by_place).mul_(scale[:, None]).add_(constant)
        yield found


def _rstd(tokens: Float[Tensor, "K C"], places: Float[Tensor, "#M C"], ids: Tensor, eps: float) -> Float[Tensor, "B M"]:
    """1/√(var + ε) of centred tokens and places: |e + p|² = |e|² + |p|² + 2 e·p. In float64: they may be opposite."""
    squares = tokens.square().sum(1)[:, None] + places.square().sum(1) + 2 * (tokens @ places.mT)
    rstd = (squares.clamp(min=0) / tokens.shape[1] + eps).rsqrt()
    if places.shape[0] == 1:
        return rstd[:, 0][ids]
    return rstd[ids, torch.arange(places.shape[0], device=ids.device)]
