"""Reading a stream: the states of its runs merged; the backward pass reads the runs once more.

Each run is made again with its graph, and its gradient is sent into that graph at once: of what grows with M only
one run is ever alive. Sums over runs are in float64.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from perceivers.nn.attention.paths import GRADIENTS, STATES, Settings, offset_of, with_gradients
from perceivers.nn.attention.state import State, merged
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.streamed import Streamed


class ReadStream(torch.autograd.Function):
    """(lse, read) of rows over a stream; the tensors are the maps and the stream's parameters."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, stream: Streamed, settings: Settings, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One pass over the runs."""
        maps = tensors[: settings.maps]
        state: State | None = None
        for run in stream.runs():
            found = STATES[settings.path](rows, run.cleared(), settings.eps, maps)
            state = found if state is None else merged([state, found])
        assert state is not None, "a stream has a run, if only an empty one"
        ctx.settings, ctx.stream = settings, stream
        ctx.save_for_backward(rows, *state, *maps)
        return state.lse, state.read

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dlse: Tensor, dread: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One more pass, only when something needs it."""
        rows, lse, read, *maps = ctx.saved_tensors
        settings, stream, state = ctx.settings, ctx.stream, State(lse, read)
        offset = offset_of(state, dlse, dread, rows)
        needed = [p for p, n in zip(stream.parameters, ctx.needs_input_grad[3 + settings.maps :], strict=True) if n]
        sums = {id(p): torch.zeros_like(p, dtype=torch.float64) for p in needed}
        drows, dmaps = _zeros(rows), [_zeros(m) for m in maps]
        for run, graph in _remade(stream, settings, bool(needed)):
            found = GRADIENTS[settings.path](
                rows, run, settings.eps, tuple(maps), state, dread.to(rows.dtype), offset, bool(graph)
            )
            drows += found.rows
            for total, part in zip(dmaps, found.maps, strict=True):
                total += part
            if graph:
                position = found.position or (None,) * (len(graph) - 1)
                _send_back(graph, (found.content, *position), needed, sums)
        given = [sums[id(p)].to(p.dtype) if id(p) in sums else None for p in stream.parameters]
        return drows.to(rows.dtype), None, None, *(d.to(rows.dtype) for d in dmaps), *given


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.float64)


def _remade(stream: Streamed, settings: Settings, with_graph: bool) -> Iterator[tuple[Lifted, tuple[Tensor, ...]]]:
    """Each run without its graph, and its tensors (content, positions) with theirs; none when no gradient is wanted."""
    runs = iter(stream.runs())
    while True:
        with torch.set_grad_enabled(with_graph):
            run = next(runs, None)
            if run is None:
                return
            run = with_gradients(run.cleared(), settings.path)
        yield _detached(run), (run.content, *run.positions) if with_graph else ()


def _detached(run: Lifted) -> Lifted:
    position = run.position
    if isinstance(position, AxisTables):
        position = AxisTables(tuple(table.detach() for table in position.tables), position.order)
    elif position is not None:
        position = position.detach()
    return replace(run, content=run.content.detach(), position=position)


def _send_back(
    graph: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...], needed: list[Tensor], sums: dict[int, Tensor]
) -> None:
    """Add to `sums` what the tensors of a run, given their gradients, mean for the parameters."""
    pairs = [(t, g) for t, g in zip(graph, gradients, strict=True) if t.requires_grad and g is not None]
    if not pairs:
        return
    tensors, given = zip(*pairs, strict=True)
    for parameter, gradient in zip(needed, torch.autograd.grad(tensors, needed, given, allow_unused=True), strict=True):
        if gradient is None:
            continue
        total = sums[id(parameter)]
        if gradient.is_sparse:
            # Of a learned position, whose table may be as long as the input: the rows of this run.
            total.index_add_(0, gradient._indices()[0], gradient._values().to(total.dtype))
        else:
            total += gradient
