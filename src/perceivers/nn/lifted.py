"""What an input hands to the encoder: content and position still apart, so that the attention can use a grid.

Position channels of a grid that depend on one axis each (Fourier features) are kept as one table an axis. Joined they
would be M × P numbers; apart they are a few thousand, and attention needs no more [decision 007].
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class AxisTables:
    """Position channels of a regular grid, one table an axis.

    tables: per axis (n_a, P_a), in array order; the grid is (n_1, …, n_A), flattened row-major.
    order: P = ΣP_a numbers; channel `p` of the joined position is channel `order[p]` of the tables side by side.
    """

    tables: tuple[Tensor, ...]
    order: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """(n_1, …, n_A)."""
        return tuple(table.shape[0] for table in self.tables)

    @property
    def channels(self) -> int:
        """P."""
        return len(self.order)

    def joined(self) -> Float[Tensor, "M P"]:
        """Every cell's channels in one array."""
        return self._gathered([table[i] for table, i in zip(self.tables, self._indices(), strict=True)])

    def rows(self, start: int, stop: int) -> Float[Tensor, "m P"]:
        """Channels of the cells `start` to `stop` of the flattened grid."""
        cells = torch.arange(start, stop, device=self.tables[0].device)
        parts, rest = [], math.prod(self.grid)
        for table in self.tables:
            rest //= table.shape[0]
            parts.append(table[cells // rest % table.shape[0]])
        return self._gathered(parts)

    def extended(self, constant: Float[Tensor, "1 E"]) -> "AxisTables":
        """The same cells with `constant` channels behind the others, equal in every cell."""
        first, *others = self.tables
        width, added = first.shape[1], constant.shape[1]
        order = [p if p < width else p + added for p in self.order]
        joined = torch.cat([first, constant.to(first.dtype).expand(first.shape[0], -1)], dim=1)
        return AxisTables((joined, *others), (*order, *range(width, width + added)))

    def _indices(self) -> list[Tensor]:
        axes = [torch.arange(n, device=self.tables[0].device) for n in self.grid]
        return [index.flatten() for index in torch.meshgrid(*axes, indexing="ij")]

    def _gathered(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=-1)[:, list(self.order)]


class Lookup(NamedTuple):
    """What content is rows of: a table (K, c), and which row each element is, (B, M)."""

    table: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Lifted:
    """Elements of one input on their way to the encoder.

    content: (B, M, c). position: (M, P), (B, M, P), `AxisTables` of a grid with M cells, or None. mask: (B, M), True =
    real, or None = all. `add`: positions are added, not concatenated behind the content [models.md §3: output order is
    features, position]. lookup: where every real element's content is a row of one table, that.
    """

    content: Tensor
    position: Tensor | AxisTables | None = None
    mask: Tensor | None = None
    add: bool = False
    lookup: Lookup | None = None

    @property
    def batch(self) -> int:
        """B."""
        return self.content.shape[0]

    @property
    def channels(self) -> int:
        """C: the width when joined."""
        content = self.content.shape[-1]
        if self.position is None or self.add:
            return content
        return content + (self.position.channels if isinstance(self.position, AxisTables) else self.position.shape[-1])

    @property
    def order(self) -> tuple[int, ...] | None:
        """The order of the tables' channels, where the position is tables."""
        return self.position.order if isinstance(self.position, AxisTables) else None

    @property
    def positions(self) -> tuple[Tensor, ...]:
        """The tensors of the position: tables, one array, or none."""
        if isinstance(self.position, AxisTables):
            return self.position.tables
        return () if self.position is None else (self.position,)

    def joined(self) -> Float[Tensor, "B M C"]:
        """Content and position in one array."""
        return self.rows(0, self.content.shape[1])

    def rows(self, start: int, stop: int) -> Float[Tensor, "B m C"]:
        """Content and position of the elements `start` to `stop` in one array."""
        whole = start == 0 and stop == self.content.shape[1]
        content = self.content if whole else self.content[:, start:stop]
        if self.position is None:
            return content
        if isinstance(self.position, AxisTables):
            position = self.position.joined() if whole else self.position.rows(start, stop)
        else:
            position = self.position[..., start:stop, :]
        if self.add:
            return content + position
        return torch.cat([content, position.expand(*content.shape[:2], -1)], dim=-1)

    def boxes(self, most: int) -> Iterator["Lifted"]:
        """A grid whose position is tables, in parts of at most `most` cells that are grids too, in order."""
        assert isinstance(self.position, AxisTables), "a grid"
        grid, tables = self.position.grid, self.position.tables
        inner = [math.prod(grid[place + 1 :]) for place in range(len(grid))]
        # The axis that is cut is the first one whose rows are small enough; those before it go one by one.
        axis = next(place for place, count in enumerate(inner) if count <= most)
        step = most // inner[axis]
        start = 0
        for lead in itertools.product(*map(range, grid[:axis])):
            for first in range(0, grid[axis], step):
                last = min(first + step, grid[axis])
                cut = slice(start, start + (last - first) * inner[axis])
                fixed = [table[row : row + 1] for table, row in zip(tables, lead, strict=False)]
                part = AxisTables((*fixed, tables[axis][first:last], *tables[axis + 1 :]), self.position.order)
                mask = None if self.mask is None else self.mask[:, cut]
                yield Lifted(self.content[:, cut], part, mask, self.add)
                start = cut.stop

    def cleared(self) -> "Lifted":
        """The same with zeros where the mask says that nothing is: whatever stood there, NaN too, is gone."""
        if self.mask is None:
            return self
        real = self.mask[..., None]
        content = torch.where(real, self.content, self.content.new_zeros(()))
        position = self.position
        if isinstance(position, Tensor) and position.ndim == 3:
            position = torch.where(real, position, position.new_zeros(()))
        return replace(self, content=content, position=position)

    def extended(self, constant: Float[Tensor, "1 E"]) -> "Lifted":
        """The same with `constant` channels behind all others."""
        if isinstance(self.position, AxisTables) and not self.add:
            return replace(self, position=self.position.extended(constant))
        joined = self.joined()
        tail = constant.expand(*joined.shape[:2], -1)
        return Lifted(torch.cat([joined, tail], dim=-1), None, self.mask)
