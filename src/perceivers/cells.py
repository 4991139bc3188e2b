"""What a cell of a table means, the same for inputs and outputs: when it is missing, which class, which number."""

from typing import Any

import numpy as np

from perceivers.errors import DataError


def class_name(cell: Any) -> str | None:
    """A cell as a class name: None for empty and NaN; whole floats read as integers, so that 3.0 and 3 are one class."""
    if cell is None or (isinstance(cell, (float, np.floating)) and np.isnan(cell)):
        return None
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        cell = int(cell)
    if isinstance(cell, (bool, np.bool_)):
        return "true" if cell else "false"
    return str(cell).strip() or None


def number(cell: Any) -> float:
    """A cell as a number: NaN for None and empty text. Raises `DataError` for anything else that is not a number."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return float("nan")
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise DataError(f"{cell!r} is not a number.") from None


def is_missing(cell: Any) -> bool:
    """True for None, NaN and empty text: the input is absent, or the target unknown, for that sample."""
    if cell is None:
        return True
    if isinstance(cell, (str, bytes)):
        return not cell.strip()
    return isinstance(cell, (float, np.floating)) and bool(np.isnan(cell))
