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
from perceivers.nn.linear import samples_at_once, without_graph


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


def looked_up(part: Lifted, norm: nn.LayerNorm, *linears: nn.Linear) -> Iterator[tuple[Float[Tensor, "b M _"], ...]]:
    """`linear(norm(part.joined()))` of each, of some samples at a time, see `samples_at_once`.

    A masked element gives what stands in the table instead.
    """
    assert part.lookup is not None, "asked of what looks up"
    table, ids = part.lookup
    position = part.position if isinstance(part.position, Tensor) else table.new_zeros(1, table.shape[1])
    tokens, places = (rows - rows.mean(1, keepdim=True) for rows in (table, position))
    rstd = _rstd(tokens.double(), places.double(), ids, norm.eps).to(table.dtype)
    made = []
    for linear in linears:
        weight = linear.weight * norm.weight
        constant = nn.functional.linear(norm.bias, linear.weight, linear.bias)
        made.append((tokens @ weight.mT, places @ weight.mT, constant))
    samples = samples_at_once(max(linear.out_features for linear in linears) * ids.shape[1], table)
    for some, scale in zip(ids.split(samples), rstd.split(samples), strict=True):
        yield tuple(
            by_token[some].add_(by_place).mul_(scale[..., None]).add_(constant) for by_token, by_place, constant in made
        )


def _rstd(tokens: Float[Tensor, "K C"], places: Float[Tensor, "#M C"], ids: Tensor, eps: float) -> Float[Tensor, "B M"]:
    """1/√(var + ε) of centred tokens and places: |e + p|² = |e|² + |p|² + 2 e·p. In float64: they may be opposite."""
    squares = tokens.square().sum(1)[:, None] + places.square().sum(1) + 2 * (tokens @ places.mT)
    rstd = (squares.clamp(min=0) / tokens.shape[1] + eps).rsqrt()
    if places.shape[0] == 1:
        return rstd[:, 0][ids]
    return rstd[ids, torch.arange(places.shape[0], device=ids.device)]
