"""The module of every input on a regular grid: normalise → lift → position."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from perceivers.elements import Elements
from perceivers.errors import DataError
from perceivers.inputs.base import Input, joined_channels, linear_flops
from perceivers.inputs.lift import Lift
from perceivers.inputs.streaming import streamed
from perceivers.nn.attention.planner import PartShape
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.position import FourierPosition
from perceivers.nn.streamed import Streamed
from perceivers.sources import Source


class GridInput(Input):
    """Elements on a grid, or with coordinates, → content and position.

    mean, std: per channel, in the input's own units. `position` is None for a set. `span`: coordinates run from 0 to
    `span` per axis and are scaled to [−1, 1]; None: the elements lie on a grid. Masked cells are zero after
    normalising, whatever they held.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        lift: Lift,
        position: nn.Module | None,
        add: bool,
        span: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        # Not in the state dict: the spec holds them, and it travels with the weights.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.lift = lift
        self.position = position
        self.add = add
        self.span = span
        self.channels = joined_channels(lift.channels, position, add)

    def forward(self, elements: Elements) -> Lifted:
        """Content (B, M, c), position (M, P) or (B, M, P), mask (B, M)."""
        self._check(elements)
        content, mask = self.content(elements)
        return Lifted(content, self._position(elements, content), mask, self.add)

    def content(self, elements: Elements) -> tuple[Tensor, Tensor | None]:
        """Content (B, M, c) and mask (B, M): normalised and lifted, without position."""
        x, mask = self._normalised(elements), elements.mask
        if elements.grid is None:
            return x, mask
        return self.lift(x.unflatten(1, elements.grid), None if mask is None else mask.unflatten(1, elements.grid))

    @property
    def source_unit(self) -> int:
        """Of the lift; one that reads across runs is refused when it is asked to."""
        return self.lift.unit or 1

    def stream(self, source: Source, grid: tuple[int, ...], nan: Literal["mask", "error"]) -> Streamed:
        """The elements of `source` in runs; see `inputs.streaming.streamed`."""
        return streamed(self, source, grid, nan)

    def flops(self, elements: int, raw_grid: tuple[int, ...] | None) -> int:
        """Those of the lift, and of the position's linear once an element."""
        position = 0 if self.position is None else linear_flops(self.position, elements)
        return self.lift.flops(elements, raw_grid) + position

    def kept(self, raw_grid: tuple[int, ...] | None) -> list[int]:
        """What the lift keeps."""
        return [] if raw_grid is None else self.lift.kept(raw_grid)

    def part(self, elements: int, channels: int, raw_grid: tuple[int, ...] | None) -> PartShape:
        """The content alone where the position stays a table an axis."""
        if raw_grid is None or self.add or not isinstance(self.position, FourierPosition):
            return PartShape(elements, channels)
        cells = self.lift.cells(raw_grid)
        return PartShape(elements, self.lift.channels, cells[-1] if len(cells) > 1 else None)

    def window(self, cells: tuple[int, ...], start: int, stop: int, like: Tensor) -> Tensor | AxisTables | None:
        """Position of the rows `start` to `stop` of the first axis of a grid of elements."""
        if self.position is None:
            return None
        found = self.position.window(cells, start, stop, like)  # pyright: ignore[reportCallIssue]
        return found.joined() if isinstance(found, AxisTables) and self.add else found

    def _check(self, elements: Elements) -> None:
        # A batch made by hand may not fit, and a wrong number of channels would broadcast without a word.
        given, wanted = elements.values.shape[-1], len(self.mean)
        if given != wanted:
            raise DataError(f"the elements have {given} channels, but the input takes {wanted}.")
        if (elements.grid is None) != (self.span is not None):
            has, takes = ("coordinates", "a grid") if elements.grid is None else ("a grid", "coordinates")
            raise DataError(f"the elements have {has}, but the input takes {takes}.")
        if elements.grid is not None:
            self.lift.cells(elements.grid)

    def _normalised(self, elements: Elements) -> Tensor:
        # In float32 at least, then in the weights' dtype, which the buffers follow.
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        x = (elements.values.to(dtype) - self.mean.to(dtype)) / self.std.to(dtype)
        x = x.to(self.mean.dtype)
        if elements.mask is None:
            return x
        return torch.where(elements.mask[..., None], x, x.new_zeros(()))

    def _position(self, elements: Elements, content: Tensor) -> Tensor | AxisTables | None:
        if self.position is None:
            return None
        if elements.grid is not None:
            cells = self.lift.cells(elements.grid)
            if isinstance(self.position, FourierPosition) and not self.add:
                return self.position.tables(cells, content)
            return self.position(grid=cells, like=content)
        assert elements.coords is not None, "no grid, so coordinates"
        assert self.span is not None, "coordinates come with a span"
        # In float32 at least: bfloat16 could not tell one coordinate from the next.
        coords = elements.coords.to(torch.promote_types(content.dtype, torch.float32))
        scaled = coords / coords.new_tensor(self.span) * 2 - 1
        if elements.mask is not None:
            scaled = torch.where(elements.mask[..., None], scaled, scaled.new_zeros(()))
        return self.position(coords=scaled).to(content.dtype)
