"""Reading without keys and values: queries on the elements' side of the key's weights, states of all inputs merged.

With x̂ = (x − mean)/√(var + ε) and a = γ∘(W_Kᵀ q)/√d per head, a score is s = x̂·a: the norm's β and the key's bias shift
every score of a query alike, and the softmax does not see it. With r = Σ softmax(s) x̂ the value is W_V (γ∘r + β) + b_V.
The paths differ in how they come to the state (log Σ exp s, r); everything else is here, in ordinary autograd.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perceivers.nn.attention.absorbed import absorbed_gradients, absorbed_state
from perceivers.nn.attention.factorised import factorised_gradients, factorised_state
from perceivers.nn.attention.planner import Path
from perceivers.nn.attention.state import State, merged
from perceivers.nn.lifted import AxisTables, Lifted

_STATES = {"absorbed": absorbed_state, "factorised": factorised_state}
_GRADIENTS = {"absorbed": absorbed_gradients, "factorised": factorised_gradients}


def attend_lifted(
    query: Float[Tensor, "B O F"],
    parts: Sequence[Lifted],
    paths: Sequence[Path],
    norm: nn.LayerNorm,
    key: nn.Linear,
    value: nn.Linear,
    heads: int,
) -> Float[Tensor, "B O V"]:
    """The same result as `attend` over `key(norm(x))` and `value(norm(x))` of all parts joined, which are never made.

    paths: one a part, `absorbed` or `factorised` (whose position is `AxisTables`, concatenated). Masked elements must
    hold finite numbers. A sample with nothing to read gives zeros. Gradients reach all arguments; the key's bias has
    none (exactly 0). Not differentiable twice.
    """
    count, width = query.shape[1:]
    split = query.unflatten(-1, (heads, -1)) * (width // heads) ** -0.5
    a = torch.einsum("bohd,hdc->bhoc", split, key.weight.unflatten(0, (heads, -1))) * norm.weight
    rows = a.flatten(1, 2)
    state = merged([_state(rows, part, path, norm.eps) for part, path in zip(parts, paths, strict=True)])
    affine = state.read.unflatten(1, (heads, count)) * norm.weight + norm.bias
    values = torch.einsum("bhoc,hvc->bohv", affine, value.weight.unflatten(0, (heads, -1)))
    values = values.flatten(2) + value.bias
    if all(part.mask is None and part.content.shape[1] for part in parts):
        return values
    return torch.where(state.lse[:, :1, None].isinf(), values.new_zeros(()), values)


def _state(a: Float[Tensor, "B Q C"], part: Lifted, path: Path, eps: float) -> State:
    """The state of one part, differentiable."""
    position, order = part.position, None
    if isinstance(position, AxisTables):
        if path == "absorbed" and any(table.requires_grad for table in position.tables):
            position = position.joined()
        else:
            order = position.order
    tensors = position.tables if isinstance(position, AxisTables) else () if position is None else (position,)
    return State(*_Read.apply(a, part.content, part.mask, eps, path, part.add, order, *tensors))


class _Read(torch.autograd.Function):
    """(lse, read) of rows `a` over one part. `order` is given when the last arguments are the tables of a grid."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        content: Tensor,
        mask: Tensor | None,
        eps: float,
        path: Path,
        add: bool,
        order: tuple[int, ...] | None,
        *position: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.settings = eps, path, add, order
        state = _STATES[path](a, _lifted(content, mask, add, order, position), eps)
        ctx.save_for_backward(a, content, mask, *state, *position)
        return state.lse, state.read

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dlse: Tensor, dread: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, content, mask, lse, read, *position = ctx.saved_tensors
        eps, path, add, order = ctx.settings
        offset = ((dread.double() * read.double()).sum(-1) - dlse).to(a.dtype)
        to_elements = any(ctx.needs_input_grad[1:])
        lifted = _lifted(content, mask, add, order, tuple(position))
        found = _GRADIENTS[path](a, lifted, eps, State(lse, read), dread, offset, to_elements)
        dposition = found.position or (None,) * len(position)
        return found.a, found.content, None, None, None, None, None, *dposition


def _lifted(
    content: Tensor, mask: Tensor | None, add: bool, order: tuple[int, ...] | None, position: tuple[Tensor, ...]
) -> Lifted:
    if order is not None:
        return Lifted(content, AxisTables(position, order), mask, add)
    return Lifted(content, position[0] if position else None, mask, add)
