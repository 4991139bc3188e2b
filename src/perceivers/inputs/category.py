"""`category` as an input: several columns of classes at once. Empty cells and classes never trained on are masked."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import PositiveInt, model_validator

from perceivers.cells import cells_of, class_name
from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError, near_miss
from perceivers.inputs.base import Input, InputSettings, Sample, collate_grid
from perceivers.inputs.columns import CategoryCells, OneHotCell
from perceivers.settings import Names


class CategoryInput(InputSettings):
    """Columns of classes. A class that the training split never held tells the model nothing, so it is masked."""

    reads_columns: ClassVar[bool] = True
    columnwise: ClassVar[bool] = True
    drafted_name: ClassVar[str] = "categories"
    kind: Literal["category"] = "category"
    columns: Names
    channels: PositiveInt | Literal["classes"] = 64
    """C: width of a cell's learned vector; `classes`: of one column, 1 for its class and 0 for the others."""
    classes: Mapping[str, Names] | None = None
    """Class names of each column. None: learned from the training split."""

    @model_validator(mode="after")
    def _one_hot_of_one(self) -> Self:
        if self.channels == "classes" and len(self.columns) > 1:
            raise ValueError("channels: classes is for one column; give each column an input of its own")
        return self

    @model_validator(mode="after")
    def _classes_of_every_column(self) -> Self:
        if self.classes is None:
            return self
        for name in self.classes:
            if name not in self.columns:
                raise ValueError(f"classes are given for '{name}', which is no column.{near_miss(name, self.columns)}")
        missing = [name for name in self.columns if name not in self.classes]
        if missing:
            raise ValueError(f"no classes are given for column {', '.join(missing)}")
        return self

    def table_columns(self, name: str) -> list[str]:
        """The columns themselves."""
        return list(self.columns)

    def parse(self, value: Any) -> Sample:
        """{column: class} or a list in column order. Before `fit` values are class names, after it indices."""
        cells = [class_name(cell) for cell in cells_of(value, self.columns)]
        if self.classes is None:
            names = np.array([cell or "" for cell in cells], dtype=object)[:, None]
            return Sample(names, mask=np.array([cell is not None for cell in cells]))
        index = [self._index(name, cell) for name, cell in zip(self.columns, cells, strict=True)]
        values = np.array(index, dtype=np.int64)[:, None]
        mask = values[:, 0] >= 0
        if self.nan == "error" and not mask.all():
            unread = [n for n, real in zip(self.columns, mask, strict=True) if not real]
            raise DataError(f"columns {', '.join(unread)} are empty or hold an unknown class and 'nan: error' is set.")
        return Sample(np.maximum(values, 0), mask=None if mask.all() else mask)

    def _index(self, column: str, cell: str | None) -> int:
        assert self.classes is not None, "classes are known here"
        names = self.classes[column]
        return names.index(cell) if cell in names else -1

    def fit(self, samples: Iterable[Sample]) -> Self:
        """With the sorted class names of each column in the training split, when the recipe gives none."""
        if self.classes is not None:
            return self
        rows = [(s.values[:, 0], s.mask) for s in samples]
        found = {
            column: sorted({str(values[i]) for values, mask in rows if mask is None or mask[i]})
            for i, column in enumerate(self.columns)
        }
        for column, names in found.items():
            if not names:
                raise DataError(f"column '{column}' is empty in the training split; leave it out of the input.")
        return self.with_changes(classes=found)

    def completed(self) -> tuple[Self, str | None]:
        """With two classes in each column that has none yet."""
        if self.classes is not None:
            return self, None
        names = ", ".join(self.columns)
        assumed = f"the classes are learned from data: assumed 2 in each column ({names})"
        return self.with_changes(classes=dict.fromkeys(self.columns, ("a", "b"))), assumed

    def elements(self) -> int:
        """M: one element a column."""
        return len(self.columns)

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, columns, 1) of class indices."""
        return collate_grid(samples, (len(self.columns),), 1)

    def build(self) -> Input:
        """The module."""
        if self.classes is None:
            raise SpecError(
                "category: classes are not known yet. perceivers.train learns them from the training split; "
                "to build without training give the class names of every column."
            )
        if self.channels == "classes":
            return OneHotCell(len(self.classes[self.columns[0]]))
        return CategoryCells([len(self.classes[column]) for column in self.columns], self.channels)
