"""The module of every input on a regular grid: normalise → lift → position."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perceivers.elements import Elements
from perceivers.inputs.base import Input, Lifted
from perceivers.inputs.lift import Lift


class GridInput(Input):
    """Elements on a grid, or with coordinates, → content and position.

    mean, std: per channel, in the input's own units. `position` is None for a set. `span`: coordinates run from 0 to
    `span` per axis and are scaled to [−1, 1]. Masked cells are zero after normalising, whatever they held.
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
        width = 0 if position is None else int(position.channels)  # pyright: ignore[reportArgumentType]
        self.channels = lift.channels + (0 if add else width)

    def forward(self, elements: Elements) -> Lifted:
        """Content (B, M, c), position (M, P) or (B, M, P), mask (B, M)."""
        x, mask = self._normalised(elements), elements.mask
        if elements.grid is None:
            content = x
        else:
            cells = x.unflatten(1, elements.grid)
            content, mask = self.lift(cells, None if mask is None else mask.unflatten(1, elements.grid))
        return Lifted(content, self._position(elements, content), mask, self.add)

    def _normalised(self, elements: Elements) -> Tensor:
        # In float32 at least, then in the weights' dtype, which the buffers follow.
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        x = (elements.values.to(dtype) - self.mean.to(dtype)) / self.std.to(dtype)
        x = x.to(self.mean.dtype)
        if elements.mask is None:
            return x
        return torch.where(elements.mask[..., None], x, x.new_zeros(()))

    def _position(self, elements: Elements, content: Tensor) -> Tensor | None:
        if self.position is None:
            return None
        if elements.grid is not None:
            return self.position(grid=self.lift.cells(elements.grid), like=content)
        assert elements.coords is not None and self.span is not None, "coordinates come with a span"
        scaled = elements.coords.to(content.dtype) / content.new_tensor(self.span) * 2 - 1
        if elements.mask is not None:
            scaled = torch.where(elements.mask[..., None], scaled, scaled.new_zeros(()))
        return self.position(coords=scaled)
