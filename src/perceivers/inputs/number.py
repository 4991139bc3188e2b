"""`number`: several numeric columns at once, each cell an element. NaN, infinity and empty cells are masked."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from perceivers.cells import cells_of, number, real_spread
from perceivers.elements import Elements
from perceivers.errors import ColumnError, DataError, SpecError
from perceivers.inputs.base import Input, InputSettings, Sample, Scale, collate_grid
from perceivers.inputs.columns import NumberCells
from perceivers.settings import Names


class NumberInput(InputSettings):
    """Numeric columns of a table, in their own units; standardised inside the model."""

    reads_columns: ClassVar[bool] = True
    columnwise: ClassVar[bool] = True
    drafted_name: ClassVar[str] = "numbers"
    kind: Literal["number"] = "number"
    columns: Names
    channels: PositiveInt = 64
    """C: width of a cell's vector."""
    mean: tuple[float, ...] | None = None
    """Per column. None: learned from the training split."""
    std: tuple[PositiveFloat, ...] | None = None

    def table_columns(self, name: str) -> list[str]:
        """The columns themselves."""
        return list(self.columns)

    def parse(self, value: Any) -> Sample:
        """{column: number} or a list in column order; None, empty and NaN cells are masked."""
        cells = [self._cell(c, n) for c, n in zip(cells_of(value, self.columns), self.columns, strict=True)]
        values = np.array(cells, dtype=np.float64)[:, None]
        return Sample(values, mask=self.checked(values, "the row"))

    def _cell(self, cell: Any, column: str) -> float:
        try:
            return number(cell)
        except DataError as error:
            raise ColumnError(column, str(error)) from None

    def fit(self, samples: Iterable[Sample]) -> Self:
        """With mean and standard deviation per column of the training rows, when the recipe gives none."""
        if self.mean is not None and self.std is not None:
            return self
        rows = np.array([s.values[:, 0] for s in samples]).reshape(-1, len(self.columns))
        real = np.isfinite(rows)
        for column, any_real in zip(self.columns, np.asarray(real.any(axis=0)), strict=True):
            if not any_real:
                raise DataError(f"column '{column}' has no number in the training split; leave it out of the input.")
        mean = np.mean(rows, axis=0, where=real)
        std = real_spread(mean, np.std(rows, axis=0, where=real), np.float64)
        return self.with_changes(mean=self.mean or mean.tolist(), std=self.std or np.where(std > 0, std, 1.0).tolist())

    def scale(self) -> Scale | None:
        """Of every column."""
        if self.mean is None or self.std is None:
            return None
        return Scale(tuple(f"column '{column}'" for column in self.columns), self.mean, self.std)

    def numbers(self, sample: Sample) -> np.ndarray:
        """One row of all columns."""
        cells = sample.values[:, 0]
        return (cells if sample.mask is None else np.where(sample.mask, cells, np.nan))[None]

    def completed(self) -> tuple[Self, str | None]:
        """With mean 0 and standard deviation 1 where they are not known; no count depends on them."""
        width = len(self.columns)
        return self.with_changes(mean=self.mean or (0.0,) * width, std=self.std or (1.0,) * width), None

    def elements(self) -> int:
        """M: one element a column."""
        return len(self.columns)

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, columns, 1)."""
        return collate_grid(samples, (len(self.columns),), 1)

    def build(self) -> Input:
        """The module."""
        if self.mean is None or self.std is None:
            raise SpecError(
                "number: mean and std are not known yet. perceivers.train learns them from the training split; "
                "to build without training give both, one number a column."
            )
        for name, given in (("mean", self.mean), ("std", self.std)):
            if len(given) != len(self.columns):
                raise SpecError(f"number: {name} has {len(given)} numbers for {len(self.columns)} columns.")
        return NumberCells(self.mean, self.std, self.channels)
