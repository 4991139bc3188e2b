"""The factorised path: position channels of a grid stay tables, one an axis, and are never joined to the content.

An element of cell (y, x) is [c | T₁(y) | T₂(x)]. With `a` centred over the channels (the norm's mean, moved to the
queries' side) a score is rstd·(c·a_c + a₁·T₁(y) + a₂·T₂(x)): a narrow product and two small tables. The values are
marginals: with w = p·rstd, Σ w c, Σ_y (Σ_x w) T₁(y), Σ_x (Σ_y w) T₂(x). All axes but the last are `rows` here.
The last is `columns`. Algebra, no approximation; the backward pass has the same structure [decision 007].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from perceivers.nn.attention.state import LOG2_E, SAFE_SCORE, TILE_SCORES, Gradients, State, moments
from perceivers.nn.lifted import AxisTables, Lifted

SMALLEST_TILE = 32
# Products of one row after the other are shared by the cores, and their column sums are added together [measured: a row
# of 10,000 columns at a time takes 1.6 times as long].
FEWEST_ROWS = 8
# Tiles whose column sums are added in float32 before they go to the float64 sum.
FLUSH = 16
MASKED = -1e30


def factorised_state(a: Float[Tensor, "B Q C"], lifted: Lifted, eps: float, maps: tuple[Tensor, ...] = ()) -> State:
    """What rows `a` read of a grid whose position is `AxisTables`; see `State`."""
    samples = [_Sample(lifted, b, eps) for b in range(lifted.content.shape[0])]
    states = [_read(sample, _centred(a[b])) for b, sample in enumerate(samples)]
    return State(torch.stack([s.lse for s in states]), torch.stack([s.read for s in states]))


def factorised_gradients(
    a: Float[Tensor, "B Q C"],
    lifted: Lifted,
    eps: float,
    maps: tuple[Tensor, ...],
    state: State,
    dread: Float[Tensor, "B Q C"],
    offset: Float[Tensor, "B Q"],
    to_elements: bool,
) -> Gradients:
    """Gradients for `a` and, if asked, for content and tables; `state` is that of all that the softmax runs over."""
    assert isinstance(lifted.position, AxisTables), "a grid"
    das, dcontents = [], []
    dtables = [torch.zeros_like(t, dtype=torch.float64) for t in lifted.position.tables] if to_elements else []
    for b in range(lifted.content.shape[0]):
        sample = _Sample(lifted, b, eps)
        da, dcontent = _undo(sample, _centred(a[b]), _centred(dread[b]), state.lse[b], offset[b], dtables, to_elements)
        das.append(da)
        dcontents.append(dcontent)
    tables = tuple(d.to(t.dtype) for d, t in zip(dtables, lifted.position.tables, strict=False))
    return Gradients(torch.stack(das), torch.stack(dcontents) if to_elements else None, tables)


class _Tile(NamedTuple):
    """Rows and columns of the grid, ends exclusive."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass
class _Statistics:
    """Mean and 1/√(var + ε) of the elements of a tile, (t, w)."""

    mean: Tensor
    rstd: Tensor


class _Sample:
    """One sample of a grid: its content (R, W, c), mask (R, W), and what the tables add to the norm's sums."""

    def __init__(self, lifted: Lifted, sample: int, eps: float) -> None:
        assert isinstance(lifted.position, AxisTables), "a grid"
        self.position = lifted.position
        *lead, self.columns = lifted.position.grid
        self.rows = 1
        for n in lead:
            self.rows *= n
        self.content = lifted.content[sample].unflatten(0, (self.rows, self.columns))
        self.mask = None if lifted.mask is None else lifted.mask[sample].view(self.rows, self.columns)
        self.channels = lifted.channels
        self.eps = eps
        self.tables = lifted.position.tables
        self.places = _places(lead, self.content.device)
        self.moments = [moments(table.double()) for table in self.tables]

    def statistics(self, tile: _Tile) -> _Statistics:
        """In float64, from each table row's mean m and squares q about it: Σ (T − μ)² = q + P·(m − μ)²."""
        content = self.content[tile.top : tile.bottom, tile.left : tile.right].double()
        found = []
        for axis, (table, of_rows) in enumerate(zip(self.tables, self.moments, strict=True)):
            if axis < len(self.places):
                place = self.places[axis][tile.top : tile.bottom]
                found.append((table.shape[1], *(values[place][:, None] for values in of_rows)))
            else:
                found.append((table.shape[1], *(values[tile.left : tile.right] for values in of_rows)))
        mean = (content.sum(-1) + sum(count * m for count, m, _ in found)) / self.channels
        square = (content - mean[..., None]).square().sum(-1)
        square += sum(q + count * (m - mean).square() for count, m, q in found)
        rstd = (square / self.channels + self.eps).rsqrt()
        return _Statistics(mean.to(self.content.dtype), rstd.to(self.content.dtype))

    def right_side(self, tile: _Tile, rstd: Float[Tensor, "t w"]) -> Float[Tensor, "t c3 w"]:
        """Per row of the grid: content·rstd, rstd, ones, and MASKED where nothing may be read."""
        c = self.content.shape[-1]
        side = self.content.new_zeros(rstd.shape[0], c + 3, rstd.shape[1])
        content = self.content[tile.top : tile.bottom, tile.left : tile.right]
        torch.mul(content.mT, rstd[:, None], out=side[:, :c])
        side[:, c] = rstd
        side[:, c + 1] = 1.0
        if self.mask is not None:
            side[:, c + 2].masked_fill_(~self.mask[tile.top : tile.bottom, tile.left : tile.right], MASKED)
        return side

    def tiles(self, scores_a_row: int) -> Iterator[_Tile]:
        """Whole rows of the grid while several fit, else equal pieces of a few."""
        size = max(TILE_SCORES // max(scores_a_row, 1), SMALLEST_TILE)
        height = min(max(size // self.columns, FEWEST_ROWS), self.rows)
        width = -(-self.columns // -(-self.columns * height // size))
        for top in range(0, self.rows, height):
            for left in range(0, self.columns, width):
                yield _Tile(top, min(top + height, self.rows), left, min(left + width, self.columns))


class _Rows:
    """Query rows as a sample's tiles need them: content part (Q, c), and scores per grid row and column."""

    def __init__(self, a: Float[Tensor, "Q C"], sample: _Sample) -> None:
        width = sample.content.shape[-1]
        joined = a[:, width:]
        apart = torch.empty_like(joined)
        apart[:, list(sample.position.order)] = joined
        self.content = a[:, :width]
        self.parts = apart.split([table.shape[1] for table in sample.tables], dim=1)
        scores = [part @ table.mT for part, table in zip(self.parts, sample.tables, strict=True)]
        self.columns = scores.pop().contiguous()
        self.lead = scores
        self.sample = sample

    def left_side(self, tile: _Tile, shift: Float[Tensor, "Q 1"]) -> Float[Tensor, "t Q c3"]:
        """Per row of the grid, what times the right side gives the scores less `shift`, but for the columns' share."""
        count, c = self.content.shape
        side = self.content.new_zeros(tile.bottom - tile.top, count, c + 3)
        side[..., :c] = self.content
        for scores, place in zip(self.lead, self.sample.places, strict=True):
            side[..., c] += scores.index_select(1, place[tile.top : tile.bottom]).mT
        side[..., c + 1] = -shift[:, 0]
        side[..., c + 2] = 1.0
        return side


class _Marginals:
    """Sums of weights over the elements: with the content, by place on each axis, and in all; float64."""

    def __init__(self, sample: _Sample, rows: int) -> None:
        new = lambda *shape: torch.zeros(*shape, dtype=torch.float64, device=sample.content.device)  # noqa: E731
        self.sample = sample
        self.content = new(rows, sample.content.shape[-1])
        self.lead = [new(rows, table.shape[0]) for table in sample.tables[:-1]]
        self.columns = new(rows, sample.columns)
        self.total = new(rows)
        self._recent = sample.content.new_zeros(rows, sample.columns)
        self._count = 0

    def add_(self, weights: Float[Tensor, "t Q w"], side: Tensor, rstd: Tensor, tile: _Tile) -> None:
        """A tile's weights, which are not themselves afterwards."""
        c = self.content.shape[1]
        sums = (side[:, : c + 2] @ weights.mT).double()
        self.content += sums[:, :c].sum(0).mT
        self.total += sums[:, c + 1].sum(0)
        for lead, place in zip(self.lead, self.sample.places, strict=True):
            lead.index_add_(1, place[tile.top : tile.bottom], sums[:, c].mT)
        self._recent[:, tile.left : tile.right] += weights.mul_(rstd[:, None]).sum(0)
        self._count += 1
        if self._count % FLUSH == 0:
            self.flush()

    def flush(self) -> None:
        """Move the columns' recent sums to float64."""
        self.columns += self._recent
        self._recent.zero_()

    def joined(self) -> Float[Tensor, "Q C"]:
        """Σ weight·x over all channels, in their joined order."""
        self.flush()
        marginals = [*self.lead, self.columns]
        apart = [m @ table.double() for m, table in zip(marginals, self.sample.tables, strict=True)]
        position = torch.cat(apart, dim=1)[:, list(self.sample.position.order)]
        return torch.cat([self.content, position], dim=1)


def _centred(a: Tensor) -> Tensor:
    return a - a.mean(-1, keepdim=True)


def _places(lead: list[int], device: torch.device) -> list[Tensor]:
    """Per leading axis the place of every row on it, (R,)."""
    axes = [torch.arange(n, device=device) for n in lead]
    return [place.flatten() for place in torch.meshgrid(*axes, indexing="ij")] if axes else []


def _scores(rows: _Rows, tile: _Tile, side: Tensor, rstd: Tensor, shift: Tensor) -> Float[Tensor, "t Q w"]:
    """What the rows give against every element of the tile, less `shift`."""
    scores = rows.left_side(tile, shift) @ side
    return scores.addcmul_(rows.columns[:, tile.left : tile.right], rstd[:, None])


def _read(sample: _Sample, a: Float[Tensor, "Q C"]) -> State:
    rows, marginals = _Rows(a * LOG2_E, sample), _Marginals(sample, a.shape[0])
    shift = _shift(rows, sample, a)
    for tile in sample.tiles(a.shape[0]):
        rstd = sample.statistics(tile).rstd
        side = sample.right_side(tile, rstd)
        marginals.add_(_scores(rows, tile, side, rstd, shift).exp2_(), side, rstd, tile)
    empty = marginals.total == 0
    total = torch.where(empty, 1.0, marginals.total)
    lse = torch.where(empty, float("-inf"), shift[:, 0].double() / LOG2_E + total.log())
    # Centring the sum over the channels takes the norm's mean off every element.
    return State(lse, _centred(marginals.joined() / total[:, None]))


def _shift(rows: _Rows, sample: _Sample, a: Tensor) -> Float[Tensor, "Q 1"]:
    """0 where no score can be large (|s| ≤ ‖a‖·√C), else each row's largest score, by a pass; in powers of 2."""
    zero = a.new_zeros(a.shape[0], 1)
    if bool((a.norm(dim=-1) * a.shape[-1] ** 0.5 <= SAFE_SCORE).all()):
        return zero
    highest = a.new_full((a.shape[0],), MASKED)
    for tile in sample.tiles(a.shape[0]):
        rstd = sample.statistics(tile).rstd
        scores = _scores(rows, tile, sample.right_side(tile, rstd), rstd, zero)
        highest = torch.maximum(highest, scores.amax((0, 2)))
    return torch.where(highest <= MASKED / 2, 0.0, highest)[:, None]


def _undo(
    sample: _Sample,
    a: Float[Tensor, "Q C"],
    dread: Float[Tensor, "Q C"],
    lse: Float[Tensor, " Q"],
    offset: Float[Tensor, " Q"],
    dtables: list[Tensor],
    to_elements: bool,
) -> tuple[Tensor, Tensor | None]:
    """da (Q, C) and, if asked, dcontent (M, c); what the tables get is added to `dtables`."""
    rows, drows, count = _Rows(a * LOG2_E, sample), _Rows(dread, sample), a.shape[0]
    back = _Back(sample, a, dread) if to_elements else None
    dscore_sums = _Marginals(sample, count)
    # Where nothing was read the weights are exp(s − ∞) = 0.
    shift = torch.where(lse.isinf(), -MASKED, lse * LOG2_E)[:, None].to(a.dtype)
    for tile in sample.tiles(2 * count):
        statistics = sample.statistics(tile)
        side, rstd = sample.right_side(tile, statistics.rstd), statistics.rstd
        scores = _scores(rows, tile, side, rstd, shift)
        products = _scores(drows, tile, side, rstd, offset[:, None])
        if back is None:
            dscores = products.mul_(scores.exp2_())
        else:
            weights = scores.exp2()
            dscores = products * weights
            # Natural scores and products, no longer less shift and offset.
            back.add(tile, statistics, weights, dscores, (scores + shift) / LOG2_E, products + offset[:, None])
            back.weight_sums.add_(weights, side, rstd, tile)
        dscore_sums.add_(dscores, side, rstd, tile)
    da = _centred(dscore_sums.joined()).to(a.dtype)
    return da, back.finish(dscore_sums, rows, drows, dtables) if back else None


class _Back:
    """Gradients of content and tables: dx = rstd·(g − x̂·κ), g = Σ ds·a + p·dread and κ = Σ (ds·s + p·dp)/C."""

    def __init__(self, sample: _Sample, a: Float[Tensor, "Q C"], dread: Float[Tensor, "Q C"]) -> None:
        width = sample.content.shape[-1]
        self.sample, self.a, self.dread = sample, a[:, :width], dread[:, :width]
        self.weight_sums = _Marginals(sample, a.shape[0])
        self.content = torch.zeros_like(sample.content)
        new = lambda: torch.zeros(sample.rows, sample.columns, dtype=torch.float64, device=self.content.device)  # noqa: E731
        # Per element rstd²·κ and that times the mean.
        self.curve, self.level = new(), new()

    def add(
        self, tile: _Tile, statistics: _Statistics, weights: Tensor, dscores: Tensor, scores: Tensor, products: Tensor
    ) -> None:
        """One tile; all but the statistics are (t, Q, w). A masked element weighs 0."""
        rstd, mean = statistics.rstd, statistics.mean
        kappa = (scores.mul_(dscores).sum(1) + products.mul_(weights).sum(1)) / self.sample.channels
        g = dscores.mT @ self.a + weights.mT @ self.dread
        place = (slice(tile.top, tile.bottom), slice(tile.left, tile.right))
        x = (self.sample.content[place] - mean[..., None]) * rstd[..., None]
        self.content[place] = rstd[..., None] * (g - x * kappa[..., None])
        self.curve[place] = rstd.square() * kappa
        self.level[place] = rstd.square() * kappa * mean

    def finish(self, dscore_sums: _Marginals, rows: _Rows, drows: _Rows, dtables: list[Tensor]) -> Tensor:
        """dcontent (M, c), flat; the tables' share is added to `dtables`."""
        self.weight_sums.flush()
        curves, levels = [self.curve.sum(1), self.curve.sum(0)], [self.level.sum(1), self.level.sum(0)]
        for axis, (table, dtable) in enumerate(zip(self.sample.tables, dtables, strict=True)):
            last = axis == len(self.sample.tables) - 1
            ds = dscore_sums.columns if last else dscore_sums.lead[axis]
            p = self.weight_sums.columns if last else self.weight_sums.lead[axis]
            dtable += ds.mT @ rows.parts[axis].double() / LOG2_E + p.mT @ drows.parts[axis].double()
            curve, level = curves[last], levels[last]
            if not last:
                zero = torch.zeros(table.shape[0], dtype=torch.float64, device=curve.device)
                curve, level = (zero.index_add(0, self.sample.places[axis], v) for v in (curve, level))
            dtable -= curve[:, None] * table.double() - level[:, None]
        return self.content.flatten(0, 1)
