"""Position encodings as modules: a grid or coordinates in, position channels out (models.md §2 of the plan).

Each is called as `encoding(grid=…)` → (M, P), the same for every sample, or `encoding(coords=…)` → (B, M, P) with
coordinates already scaled to [−1, 1]. Each says its width in `.channels`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from perceivers.errors import DataError
from perceivers.nn.initialisers import learned_array, plain_linear
from perceivers.nn.lifted import AxisTables
from perceivers.positions import (
    cell_positions,
    fourier_channels,
    fourier_features,
    sinusoidal_features,
)


class FourierPosition(nn.Module):
    """Fourier features of grid cells or coordinates [P1 §3.2]; no parameters.

    `resolution`: μ per axis. It is independent of the grid: released models encode one grid at another's resolution.
    `end`: whether the last cell of an axis is at 1 (`positions.cell_positions`).
    `exact`: those of a grid are computed in float64. Else in float32 as other libraries do, and noise in the last bits
    of angles of some hundreds is the same as theirs.
    The tables of the last grid are kept, since they are the same for every batch.
    """

    def __init__(
        self,
        resolution: Sequence[float],
        bands: int,
        concat_position: bool = True,
        sine_only: bool = False,
        end: bool = True,
        exact: bool = True,
    ) -> None:
        super().__init__()
        self.end = end
        self.exact = exact
        self.resolution = tuple(resolution)
        self.bands = bands
        self.concat_position = concat_position
        self.sine_only = sine_only
        self.channels = fourier_channels(len(self.resolution), bands, concat_position, sine_only)
        self._kept: tuple[tuple[object, ...], AxisTables] | None = None

    def forward(
        self,
        grid: Sequence[int] | None = None,
        coords: Float[Tensor, "B M A"] | None = None,
        like: Tensor | None = None,
    ) -> Float[Tensor, "*B M P"]:
        """(M, P) for a grid, (B, M, P) for coordinates; dtype and device of `like` (or of `coords`)."""
        if coords is not None:
            return self._features(coords, self.resolution)
        assert grid is not None, "a grid or coords"
        assert like is not None, "a grid alone says neither dtype nor device"
        return self.tables(grid, like).joined()

    def tables(self, grid: Sequence[int], like: Tensor) -> AxisTables:
        """The same features of a grid, one table an axis; dtype and device of `like`."""
        key = (*grid, like.dtype, like.device)
        if self._kept is None or self._kept[0] != key:
            # Tables that are made in inference mode must serve training too.
            with torch.inference_mode(False):
                found = tuple(self._table(axis, 0, n, n, like) for axis, n in enumerate(grid))
                self._kept = (key, AxisTables(found, self._order()))
        return self._kept[1]

    def window(self, grid: Sequence[int], start: int, stop: int, like: Tensor) -> AxisTables:
        """The tables of the rows `start` to `stop` of the grid's first axis, as they are in those of the whole grid."""
        first = self._table(0, start, stop, grid[0], like)
        # The other axes' tables are those of a grid of one row, which is kept.
        return AxisTables((first, *self.tables((1, *grid[1:]), like).tables[1:]), self._order())

    def places(self, grid: Sequence[int], cells: Int[Tensor, "*n"], like: Tensor) -> Float[Tensor, "*n P"]:
        """The same features of some cells of a grid, by their numbers in the flattened grid."""
        axes = [self._positions(i, n) for i, n in zip(torch.unravel_index(cells, tuple(grid)), grid, strict=True)]
        return self._features(torch.stack(axes, dim=-1), self.resolution).to(like.device, like.dtype)

    def _table(self, axis: int, start: int, stop: int, cells: int, like: Tensor) -> Float[Tensor, "m P"]:
        """Where exact in float64 until the end; the same in every cut."""
        positions = self._positions(torch.arange(start, stop), cells)[:, None]
        return self._features(positions, self.resolution[axis : axis + 1]).to(like.device, like.dtype)

    def _positions(self, index: Int[Tensor, "*n"], cells: int) -> Float[Tensor, "*n"]:
        if self.exact:
            return cell_positions(index, cells, self.end)
        return torch.linspace(-1, 1, cells)[index] if self.end else -1 + 2 * index / cells

    def _order(self) -> tuple[int, ...]:
        """Joined channels run [positions][sines, axis outer][cosines]; side by side each table has all of its own."""
        axes, own, first = range(len(self.resolution)), self.channels // len(self.resolution), int(self.concat_position)
        places = [axis * own for axis in axes] if first else []
        for part in range(1 if self.sine_only else 2):
            places += [axis * own + first + part * self.bands + band for axis in axes for band in range(self.bands)]
        return tuple(places)

    def _features(self, positions: Tensor, resolution: Sequence[float]) -> Tensor:
        return fourier_features(positions, self.bands, resolution, self.concat_position, self.sine_only)


class LearnedPosition(nn.Module):
    """A trainable array, one row a grid cell: (M, P), truncated normal 0.02 [P1 §3.2, released IO models]."""

    def __init__(self, grid: Sequence[int], channels: int, std: float = 0.02) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.table = learned_array(math.prod(self.grid), channels, std=std)
        self.channels = channels

    def forward(
        self,
        grid: Sequence[int] | None = None,
        coords: Float[Tensor, "B M A"] | None = None,
        like: Tensor | None = None,
    ) -> Float[Tensor, "M P"]:
        """(M, P). Raises `DataError` for any grid but the one it was made for, and for coordinates."""
        self._check(grid)
        return self.table

    def resized(self, grid: Sequence[int]) -> "LearnedPosition":
        """For another grid of as many axes: the table between its rows, cubic along one axis after the other.

        Of two axes this is the bicubic interpolation of transformers. Beyond the edge the edge is repeated.
        """
        assert len(self.grid) == len(grid), "as many axes"
        with torch.random.fork_rng(devices=[]):
            other = LearnedPosition(grid, self.channels)
        with torch.no_grad():
            table = self.table.unflatten(0, self.grid)
            for axis, (before, after) in enumerate(zip(self.grid, grid, strict=True)):
                if before != after:
                    # torch's cubic wants two axes: the other one has a single cell, which stays.
                    rows = table.movedim(axis, -1)
                    lines = rows.reshape(1, -1, 1, before)
                    lines = F.interpolate(lines, size=(1, after), mode="bicubic", align_corners=False)
                    table = lines.reshape(*rows.shape[:-1], after).movedim(-1, axis)
        other.table = nn.Parameter(table.reshape(-1, self.channels).contiguous())
        return other

    def window(self, grid: Sequence[int], start: int, stop: int, like: Tensor) -> Float[Tensor, "m P"]:
        """Of the rows `start` to `stop` of the grid's first axis."""
        self._check(grid)
        cells = math.prod(self.grid[1:])
        # By numbers and sparse: the gradient of a run is its own rows, not those of the whole table.
        places = torch.arange(start * cells, stop * cells, device=self.table.device)
        return F.embedding(places, self.table, sparse=True)

    def _check(self, grid: Sequence[int] | None) -> None:
        if grid is None or tuple(grid) != self.grid:
            given = "coordinates" if grid is None else f"a grid of {tuple(grid)}"
            raise DataError(
                f"learned positions were made for a grid of {self.grid}, but the input has {given}. "
                "Use that size, or a fourier position, which takes any. perceivers.resized makes a model for another "
                "size of one that is trained: its positions are interpolated."
            )


class SinusoidalPosition(nn.Module):
    """Transformer sinusoids of the cell index or of a coordinate in steps, one axis [Vaswani et al. 2017 §3.5].

    Coordinates in [−1, 1] are read as if they spanned `steps` cells.
    """

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.channels = channels
        self.steps = steps

    def forward(
        self,
        grid: Sequence[int] | None = None,
        coords: Float[Tensor, "B M A"] | None = None,
        like: Tensor | None = None,
    ) -> Float[Tensor, "*B M P"]:
        """(M, P) for a grid of one axis, (B, M, P) for coordinates of one axis."""
        if coords is not None:
            return sinusoidal_features((coords[..., 0] + 1) / 2 * (self.steps - 1), self.channels)
        assert grid is not None, "a grid or coords"
        assert like is not None, "a grid alone says neither dtype nor device"
        return self.window(grid, 0, math.prod(grid), like)

    def window(self, grid: Sequence[int], start: int, stop: int, like: Tensor) -> Float[Tensor, "m P"]:
        """Of the cells `start` to `stop` of the only axis."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        index = torch.arange(start, stop, device=like.device, dtype=dtype)
        return sinusoidal_features(index, self.channels).to(like.dtype)


class RefinedPosition(nn.Module):
    """A position encoding with trainable layers behind it: (M, P) → (M, project or P) [models.md §2].

    `project`: a linear with bias (`project_pos_dim` of the official code). `extra`: so many times p = p + linear(p),
    with a ReLU behind each but the last (`n_extra_pos_mlp`).
    """

    def __init__(
        self, encoding: "FourierPosition | SinusoidalPosition | LearnedPosition", project: int | None, extra: int
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.projection = plain_linear(encoding.channels, project) if project else None
        self.channels = project or encoding.channels
        self.extra = nn.ModuleList(plain_linear(self.channels, self.channels) for _ in range(extra))

    def forward(
        self,
        grid: Sequence[int] | None = None,
        coords: Float[Tensor, "B M A"] | None = None,
        like: Tensor | None = None,
    ) -> Float[Tensor, "*B M P"]:
        """(M, P) for a grid, (B, M, P) for coordinates."""
        return self._refined(self.encoding(grid=grid, coords=coords, like=like))

    def window(self, grid: Sequence[int], start: int, stop: int, like: Tensor) -> Float[Tensor, "m P"]:
        """Of the rows `start` to `stop` of the grid's first axis."""
        found = self.encoding.window(grid, start, stop, like)
        return self._refined(found.joined() if isinstance(found, AxisTables) else found)

    def _refined(self, position: Tensor) -> Tensor:
        if self.projection is not None:
            position = self.projection(position)
        for layer in self.extra:
            position = position + layer(position)
            position = position if layer is self.extra[-1] else torch.relu(position)
        return position


class PermutedPosition(nn.Module):
    """Positions of a grid whose cells come in another order: row i is the encoding's row `order[i]` [P1 §4.1].

    They are one dense table, (M, P): a permuted grid has no tables an axis.
    """

    order: Tensor

    def __init__(self, encoding: nn.Module, order: Int[Tensor, " M"]) -> None:
        super().__init__()
        self.encoding = encoding
        self.channels: int = encoding.channels  # pyright: ignore[reportAttributeAccessIssue]
        self.register_buffer("order", order, persistent=False)

    def forward(
        self,
        grid: Sequence[int] | None = None,
        coords: Float[Tensor, "B M A"] | None = None,
        like: Tensor | None = None,
    ) -> Float[Tensor, "M P"]:
        """(M, P) of a grid."""
        return self.encoding(grid=grid, coords=coords, like=like)[self.order]
