"""Reading with no array of all keys and values: queries against each input by its own path, the states merged.

With x̂ = (x − mean)/√(var + ε), a score is s = (W_K γ)ᵀq·x̂/√d: the norm's β and the key's bias shift every score of a
query alike, and the softmax does not see it. What is read of a value is Σ p W_V γ x̂, and the constant W_V β + b_V comes
on top, since Σ p = 1. The paths differ in how they come to the state; everything else is here, in ordinary autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from perceivers.nn.attention.absorbed import score_bound
from perceivers.nn.attention.paths import GRADIENTS, STATES, Settings, offset_of, with_gradients
from perceivers.nn.attention.planner import Path
from perceivers.nn.attention.sharded import Workers, merge_over, shared
from perceivers.nn.attention.state import State, merged
from perceivers.nn.attention.streaming import ReadStream
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.streamed import Streamed


@dataclass(frozen=True)
class Asked:
    """Queries as the paths take them.

    wide: (B, H·N, C), on the elements' side of the key. narrow: (B, H·N, F/H), and `maps`, for keys and values.
    """

    wide: Tensor
    narrow: Tensor
    maps: tuple[Tensor, Tensor]
    eps: float
    heads: int

    def rows(self, path: Path) -> Tensor:
        """The queries for one path."""
        return self.narrow if path == "projected" else self.wide


def asked(query: Float[Tensor, "B O F"], norm: nn.LayerNorm, key: nn.Linear, value: nn.Linear, heads: int) -> Asked:
    """Queries with the norm's scale and the key's weights on their side; scores need no further scale."""
    return asked_by(query, norm.weight, key.weight, value.weight, norm.eps, heads)


def asked_by(
    query: Float[Tensor, "B O F"],
    scale: Float[Tensor, " C"],
    key: Float[Tensor, "F C"],
    value: Float[Tensor, "V C"],
    eps: float,
    heads: int,
) -> Asked:
    """The same from the weights themselves; scale: of the norm."""
    split = query.unflatten(-1, (heads, -1)) * (query.shape[-1] // heads) ** -0.5
    maps = key * scale, value * scale
    wide = torch.einsum("bohd,hdc->bhoc", split, maps[0].unflatten(0, (heads, -1))).flatten(1, 2)
    return Asked(wide, split.transpose(1, 2).flatten(1, 2), maps, eps, heads)


def attend_lifted(
    query: Float[Tensor, "B O F"],
    parts: Sequence[Lifted | Streamed],
    paths: Sequence[Path],
    norm: nn.LayerNorm,
    key: nn.Linear,
    value: nn.Linear,
    heads: int,
    group: ProcessGroup | None = None,
) -> Float[Tensor, "B O V"]:
    """The same result as `attend` over `key(norm(x))` and `value(norm(x))` of all parts joined, which are never made.

    paths: one a part: `absorbed`, `projected`, or `factorised` (whose position is `AxisTables`, concatenated). Masked
    elements must hold finite numbers. A sample with nothing to read gives zeros. Gradients reach all arguments; the
    key's bias has none (exactly 0). Not differentiable twice. group: streams are shares of what its workers read
    together, see `Gathered`; every worker calls this, and gets the same.
    """
    queries = asked(query, norm, key, value, heads)
    if group is not None and any(isinstance(part, Streamed) for part in parts):
        state = _state_over(group, query, queries, parts, paths, norm, key, value)
    else:
        states = [part_state(queries, part, path) for part, path in zip(parts, paths, strict=True)]
        state = merged_values(queries, states, paths)
    return values_of(queries, state, norm, value, sure=sure_to_read(parts))


def _state_over(
    group: ProcessGroup,
    query: Tensor,
    queries: Asked,
    parts: Sequence[Lifted | Streamed],
    paths: Sequence[Path],
    norm: nn.LayerNorm,
    key: nn.Linear,
    value: nn.Linear,
) -> State:
    """Of the streams of all workers, merged, and of what is in memory, which each worker reads for itself.

    What is in memory is read by one path on every worker, or rounding would let the workers drift apart.
    """
    workers = Workers(group)
    streams = [workers.guarded(part) for part in parts if isinstance(part, Streamed)]
    their_paths: list[Path] = [path for part, path in zip(parts, paths, strict=True) if isinstance(part, Streamed)]
    held = [part for part in parts if isinstance(part, Lifted)]
    parameters = [p for stream in streams for p in stream.parameters]
    query, *weights = shared(workers, query, norm.weight, key.weight, value.weight, *parameters)
    share = asked_by(query, weights[0], weights[1], weights[2], norm.eps, queries.heads)

    def read() -> State:
        states, given = [], iter(weights[3:])
        for stream, path in zip(streams, their_paths, strict=True):
            states.append(part_state(share, stream, path, tuple(islice(given, len(stream.parameters)))))
        return merged_values(share, states, their_paths)

    lse = queries.narrow.new_full(queries.narrow.shape[:2], float("-inf"), dtype=torch.float64)
    nothing = State(lse, lse.new_zeros(*lse.shape, value.out_features // queries.heads))
    state = merge_over(workers, workers.attempt(read, nothing), score_bound(share.wide.detach()))
    if not held:
        return state
    one: list[Path] = ["absorbed"] * len(held)
    own = merged_values(queries, [part_state(queries, part, "absorbed") for part in held], one)
    return merged([state, State(own.lse, own.read.double())])


def merged_values(queries: Asked, states: Sequence[State], paths: Sequence[Path]) -> State:
    """One state in the space of the heads' values, from states of elements and of values."""
    wide = [state for state, path in zip(states, paths, strict=True) if path != "projected"]
    narrow = [state for state, path in zip(states, paths, strict=True) if path == "projected"]
    if wide:
        whole, by_head = merged(wide), queries.maps[1].unflatten(0, (queries.heads, -1))
        elements = whole.read.to(by_head.dtype).unflatten(1, (queries.heads, -1))
        read = torch.einsum("bhoc,hvc->bhov", elements, by_head).flatten(1, 2)
        narrow = [State(whole.lse, read.double() if narrow else read), *narrow]
    return merged(narrow)


def values_of(queries: Asked, state: State, norm: nn.LayerNorm, value: nn.Linear, sure: bool) -> Float[Tensor, "B O V"]:
    """What is read, all heads side by side, with the constant part of the values. `sure`: every sample reads some."""
    read = state.read.unflatten(1, (queries.heads, -1)).transpose(1, 2).flatten(2)
    constant = value.weight @ norm.bias if value.bias is None else value.weight @ norm.bias + value.bias
    values = read.to(queries.wide.dtype) + constant
    return values if sure else torch.where(state.lse[:, :1, None].isinf(), values.new_zeros(()), values)


def sure_to_read(parts: Sequence[Lifted | Streamed]) -> bool:
    """Whether every sample has something to read, whatever the masks of other parts say."""
    return any(isinstance(part, Lifted) and part.mask is None and part.content.shape[1] > 0 for part in parts)


def part_state(queries: Asked, part: Lifted | Streamed, path: Path, given: tuple[Tensor, ...] | None = None) -> State:
    """The state of one part, differentiable. given: what takes the gradients of a stream's parameters for them."""
    rows, maps = queries.rows(path), queries.maps if path == "projected" else ()
    settings = Settings(path, queries.eps, len(maps))
    if isinstance(part, Streamed):
        return State(*ReadStream.apply(rows, part, settings, *maps, *(part.parameters if given is None else given)))
    part = with_gradients(part, path)
    settings = replace(settings, add=part.add, order=part.order)
    return State(*_Read.apply(rows, part.content, part.mask, settings, *maps, *part.positions))


class _Read(torch.autograd.Function):
    """(lse, read) of rows over one part; the maps come first among the tensors, then positions."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, content: Tensor, mask: Tensor | None, settings: Settings, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        maps, position = tensors[: settings.maps], tensors[settings.maps :]
        state = STATES[settings.path](rows, _lifted(content, mask, settings, position), settings.eps, maps)
        ctx.settings = settings
        ctx.save_for_backward(rows, content, mask, *state, *tensors)
        return state.lse, state.read

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dlse: Tensor, dread: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, content, mask, lse, read, *tensors = ctx.saved_tensors
        settings: Settings = ctx.settings
        maps, position = tuple(tensors[: settings.maps]), tuple(tensors[settings.maps :])
        needed = ctx.needs_input_grad
        to_elements = needed[1] or any(needed[4 + settings.maps :])
        lifted, state = _lifted(content, mask, settings, position), State(lse, read)
        found = GRADIENTS[settings.path](
            rows,
            lifted,
            settings.eps,
            maps,
            state,
            dread.to(rows.dtype),
            offset_of(state, dlse, dread, rows),
            to_elements,
        )
        dposition = found.position or (None,) * len(position)
        return found.rows, found.content, None, None, *found.maps, *dposition


def _lifted(content: Tensor, mask: Tensor | None, settings: Settings, position: tuple[Tensor, ...]) -> Lifted:
    if settings.order is not None:
        return Lifted(content, AxisTables(position, settings.order), mask, settings.add)
    return Lifted(content, position[0] if position else None, mask, settings.add)
