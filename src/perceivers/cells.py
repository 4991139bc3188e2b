"""What a cell of a table means, the same for inputs and outputs: when it is missing, which class, which number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perceivers.errors import DataError, near_miss

# What programs write for a number that is not there, as readers of CSV know it for columns that hold numbers alone.
NO_NUMBER = frozenset(("na", "n/a", "#n/a", "#na", "null", "none", "nan", "-nan"))


def class_name(cell: Any) -> str | None:
    """A cell as a class name: None for empty and NaN; whole floats read as integers: 3.0 and 3 are one class."""
    if cell is None or (isinstance(cell, (float, np.floating)) and np.isnan(cell)):
        return None
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        cell = int(cell)
    if isinstance(cell, (bool, np.bool_)):
        return "true" if cell else "false"
    return str(cell).strip() or None


def number(cell: Any) -> float:
    """A cell as a number: NaN for None, empty text and NA. Raises `DataError` for all else that is not a number."""
    if cell is None or (isinstance(cell, str) and (not cell.strip() or cell.strip().lower() in NO_NUMBER)):
        return float("nan")
    try:
        if isinstance(cell, (str, bytes)) and ("_" in str(cell)):
            raise ValueError("Python's own 1_000 is no number in a table")
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{repr(cell)[:100]} is not a number.") from None


def rectangle(value: Any, what: str) -> np.ndarray:
    """A list of rows of numbers as a float64 array, NaN for None. Raises `DataError` that tells the first flaw."""
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        flaw = _flaw(value)
        raise DataError(
            f"{what}: not a rectangle of numbers, one row a point (use null for a missing number){flaw}."
        ) from None


def _flaw(rows: Any) -> str:
    """Which row is not like the first, or holds what is no number; empty where that cannot be told."""
    if not isinstance(rows, (list, tuple)) or not rows:
        return ""
    several = [row if isinstance(row, (list, tuple)) else [row] for row in rows]
    for place, row in enumerate(several, start=1):
        if len(row) != len(several[0]):
            return f": row {place} has {len(row)}, the first {len(several[0])}"
        for cell in row:
            try:
                number(cell)
            except DataError as error:
                return f": row {place}: {str(error).removesuffix('.')}"
    return ""


def is_missing(cell: Any) -> bool:
    """True for None, NaN and empty text: the input is absent, or the target unknown, for that sample."""
    if cell is None:
        return True
    if isinstance(cell, (str, bytes)):
        return not cell.strip()
    return isinstance(cell, (float, np.floating)) and bool(np.isnan(cell))


def cells_of(value: Any, columns: Sequence[str]) -> list[Any]:
    """One sample's cells in the order of `columns`, from a mapping (absent names are None) or as long a list."""
    if isinstance(value, Mapping):
        for name in value:
            if name not in columns:
                known = ", ".join(columns)
                raise DataError(f"there is no column '{name}'.{near_miss(str(name), columns)} Columns: {known}.")
        return [value.get(name) for name in columns]
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        value = [value]
    if len(value) != len(columns):
        raise DataError(f"got {len(value)} values for {len(columns)} columns ({', '.join(columns)}).")
    return list(value)


def real_spread(mean: np.ndarray, std: np.ndarray, values: type[np.floating]) -> np.ndarray:
    """`std` with exactly 0 for constant columns, whose computed spread may be some rounding.

    A spread that numbers of the type `values` could not tell from the mean is rounding, not variation. Of float64 a few
    thousand times that is: a mean over many rows rounds too.
    """
    resolution = float(np.finfo(values).eps) * (4096 if values is np.float64 else 1)
    return np.where(std > resolution * np.abs(mean), std, 0.0)
