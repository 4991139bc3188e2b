"""One table of samples, whatever it came from: named columns of equal length that remember their file and rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.errors import DataError, near_miss

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    `columns` maps a name to a sequence (list or array, one entry per sample; an array's first axis is the sample).
    `name` is what messages call it (a file name or a data set's name); `base` is the folder that relative paths
    in cells are relative to; `rows` are the 1-based data row numbers in that file, kept through every selection.
    `places` is what messages call each row instead, where there is no such file but one file a row.
    """

    columns: Mapping[str, Sequence[Any] | np.ndarray]
    name: str
    base: Path | None = None
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    places: Sequence[str] | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{self.name}: columns have different lengths: {lengths}.")
        if len(self.rows) == 0:
            count = next(iter(lengths.values()), 0)
            object.__setattr__(self, "rows", np.arange(1, count + 1))

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Sequence[Any] | np.ndarray:
        """The column called `name`. Raises `DataError` with the near miss when there is none."""
        if name not in self.columns:
            known = ", ".join(self.columns) or "none"
            raise DataError(
                f"{self.name}: there is no column '{name}'.{near_miss(name, self.columns)} Columns: {known}."
            )
        return self.columns[name]

    def take(self, indices: Iterable[int]) -> "Table":
        """The samples at `indices`, in that order."""
        index = np.asarray(list(indices), dtype=np.int64)
        columns = {
            name: column[index] if isinstance(column, np.ndarray) else [column[i] for i in index]
            for name, column in self.columns.items()
        }
        places = None if self.places is None else [self.places[int(i)] for i in index]
        return Table(columns, self.name, self.base, self.rows[index], places)

    def where(self, index: int, column: str | None = None) -> str:
        """Where sample `index` stands, for messages: `people.csv, row 12, column 'age'`."""
        if self.places is not None:
            return self.places[index]
        place = f"{self.name}, row {self.rows[index]}"
        return f"{place}, column '{column}'" if column else place
