"""JSON lines: one object a line, one row an object."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from perceivers.bounded import GB, read_bounded
from perceivers.data.arrow import Column
from perceivers.errors import DataError

MOST_BYTES = 16 * GB  # of one table: it is held whole while it is read
_EXACT = 2**53  # whole numbers up to here are exact in float64


def read_json_lines(path: Path) -> dict[str, Column]:
    """The columns of a file with one JSON object a line; blank lines are skipped.

    Columns stand in the order in which the names are first seen. An absent or null cell is missing. Columns of
    numbers become int64 or float64 (missing: NaN); all others are lists of what JSON holds (missing: None).
    Raises `DataError` naming row and line.
    """
    rows: list[dict[str, Any]] = []
    offset = 0
    for line, data in enumerate(read_bounded(path, MOST_BYTES, str(path)).split(b"\n"), start=1):
        if data.strip():
            rows.append(_parse(data, offset, f"{path}, row {len(rows) + 1} (line {line})"))
        offset += len(data) + 1
    return {name: _column([row.get(name) for row in rows]) for name in names_of(rows)}


def write_json_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: BinaryIO, place: str) -> None:
    """Writes rows of plain values, one JSON object a line; each row keeps its own keys, whatever `columns`."""
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def names_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys, in the order in which they are first seen."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _parse(data: bytes, offset: int, place: str) -> dict[str, Any]:
    try:
        row = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_no_repeats)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {offset + error.start} of the file (0x{data[error.start]:02x}) is not UTF-8. "
            "Save the file again as UTF-8."
        ) from error
    except RecursionError as error:
        raise DataError(f"{place}: the lists in this line are nested too deep.") from error
    except ValueError as error:
        raise DataError(f"{place}: this is not one JSON object: {error}. Put each row on one line.") from error
    if not isinstance(row, dict):
        raise DataError(f'{place}: wanted a JSON object such as {{"age": 3}}, got a {type(row).__name__}.')
    return row


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name '{repeated}' occurs more than once")
    return row


def _column(cells: list[Any]) -> Column:
    present = [cell for cell in cells if cell is not None]
    if not present or not all(type(cell) in (int, float) for cell in present):  # a bool is no number here
        return cells
    whole = [cell for cell in present if type(cell) is int]
    if len(whole) == len(cells):
        fits = min(whole) >= -(2**63) and max(whole) < 2**63
        return np.array(cells, dtype=np.int64) if fits else cells
    if any(abs(cell) > _EXACT for cell in whole):
        return cells
    return np.array([np.nan if cell is None else cell for cell in cells], dtype=np.float64)
