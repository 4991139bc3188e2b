"""The cells of a grid that changes: raw values with a mask, lifted a tile at a time."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs.base import Sample
from perceivers.inputs.grid import GridInput
from perceivers.nn.attention.planner import PartShape
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.position import FourierPosition


class HeldGrid:
    """Cells of a grid (n1, …, nA), none real at first.

    A block is a tile of at most `block` elements, as square as can be: a window then touches few of them.
    """

    def __init__(self, module: GridInput, grid: Sequence[int], channels: int, block: int) -> None:
        units = module.lift.units(len(grid))
        if units is None:
            raise SpecError(
                f"{module.lift.called} reads across the borders of any window, so such an input cannot be live; "
                "use lift pixels, samples, patches or conv1x1."
            )
        self.module = module
        self.grid: tuple[int, ...] = tuple(grid)
        self.cells = module.lift.cells(self.grid)
        self.tile: tuple[int, ...] = tile_of(self.cells, block)
        self.changed: set[int] = set()
        """Blocks to be read anew."""
        self.masked = 0
        """Cells that came NaN or infinite, and so are masked."""
        self._units = units
        self._tiles = tuple(-(-n // t) for n, t in zip(self.cells, self.tile, strict=True))
        self._values = np.zeros((*self.grid, channels), np.uint8)
        self._real = np.zeros(self.grid, bool)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return math.prod(self._tiles)

    @property
    def shape(self) -> PartShape:
        """Of a whole tile."""
        *lead, columns = self.tile
        tables = isinstance(self.module.position, FourierPosition) and not self.module.add and lead
        content = self.module.lift.channels if tables else self.module.channels
        return PartShape(math.prod(self.tile), content, columns if tables else None)

    def __len__(self) -> int:
        return int(self._real.sum())

    def replace(self, where: Sequence[int], sample: Sample) -> None:
        """The window that begins at the cell `where` holds these values from now on, and what they mask is masked."""
        window = self._window(where, sample.values.shape[:-1])
        dtype = np.result_type(self._values, sample.values)
        if dtype != self._values.dtype:
            self._values = self._values.astype(dtype)
        self.masked += sample.masked
        self._values[window] = sample.values
        self._real[window] = True if sample.mask is None else sample.mask
        self._touch(window)

    def delete(self, where: Sequence[int], size: Sequence[int]) -> None:
        """The window of `size` cells that begins at the cell `where` is masked from now on."""
        window = self._window(where, size)
        self._real[window] = False
        self._touch(window)

    def lifted(self, block: int) -> Lifted | None:
        """The elements of a tile, or None when all are masked."""
        places = [
            slice(t * i, min(t * (i + 1), n)) for i, t, n in zip(self._place(block), self.tile, self.cells, strict=True)
        ]
        raw = tuple(
            slice(place.start * unit, min(place.stop * unit, n))
            for place, unit, n in zip(places, self._units, self.grid, strict=True)
        )
        real, device = self._real[raw], self.module.mean.device
        if not real.any():
            return None
        values = torch.from_numpy(self._values[raw].reshape(real.size, -1))[None].to(device)
        mask = None if real.all() else torch.from_numpy(real.reshape(1, -1)).to(device)
        content, mask = self.module.content(Elements(values, grid=real.shape, mask=mask))
        return Lifted(content, self._position(places, content), mask, self.module.add)

    def _place(self, block: int) -> list[int]:
        """Which tile it is, on each axis."""
        return [int(i) for i in np.unravel_index(block, self._tiles)]

    def _position(self, places: list[slice], content: Tensor) -> Tensor | AxisTables | None:
        """Of the tile's elements, as they are in the whole grid."""
        position = self.module.position
        if isinstance(position, FourierPosition):
            # Of one axis the table is as long as the input: only this tile's rows of the first are made.
            rows = position.window(self.cells, places[0].start, places[0].stop, content)
            others = zip(rows.tables[1:], places[1:], strict=True)
            found = AxisTables((rows.tables[0], *(table[place] for table, place in others)), rows.order)
            return found.joined() if self.module.add else found
        if position is None:
            return None
        rows = self.module.window(self.cells, places[0].start, places[0].stop, content)
        assert isinstance(rows, Tensor), "tables are fourier's"
        return rows.unflatten(0, (-1, *self.cells[1:]))[(slice(None), *places[1:])].flatten(0, -2)

    def _window(self, where: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
        where, size = tuple(where), tuple(size)
        if len(where) != len(self.grid) or len(size) != len(self.grid):
            raise DataError(
                f"a window of the grid {self.grid} begins at {len(self.grid)} numbers and has as many sides; "
                f"got {where} and {size}."
            )
        if any(a < 0 or s < 0 or a + s > n for a, s, n in zip(where, size, self.grid, strict=True)):
            raise DataError(f"a window of {size} at {where} is not within the grid {self.grid}.")
        return tuple(slice(a, a + s) for a, s in zip(where, size, strict=True))

    def _touch(self, window: tuple[slice, ...]) -> None:
        axes = []
        for place, unit, tile in zip(window, self._units, self.tile, strict=True):
            cells = unit * tile
            axes.append(range(place.start // cells, -(-place.stop // cells)) if place.stop > place.start else ())
        self.changed.update(int(np.ravel_multi_index(at, self._tiles)) for at in itertools.product(*axes))


def tile_of(cells: Sequence[int], block: int) -> tuple[int, ...]:
    """Sides of a tile of at most `block` cells of a grid, as equal as the grid's own sides allow."""
    sides, left = [1] * len(cells), block
    for done, axis in enumerate(sorted(range(len(cells)), key=lambda axis: cells[axis])):
        # The float root of a power may fall just short of it.
        sides[axis] = min(cells[axis], max(int(left ** (1 / (len(cells) - done)) + 1e-9), 1))
        left //= sides[axis]
    return tuple(sides)
