"""Cells that cannot be read: each known by file, row and column, the first few shown, all of them written down."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perceivers.data.files import write_rows
from perceivers.data.table import Table
from perceivers.errors import ColumnError, DataError, MissingFileError

# Faults listed in one message.
SHOWN = 5
# Faults of one split that are kept; a column of the wrong kind has one in every row of a table of any size.
MOST_KEPT = 100_000


@dataclass(frozen=True)
class Fault:
    """One cell that cannot be read. column: empty where `message` names it, of several."""

    file: str
    row: int
    column: str
    message: str

    def __str__(self) -> str:
        column = f", column '{self.column}'" if self.column else ""
        return f"{self.file}, row {self.row}{column}: {self.message}"


class CellError(DataError):
    """A cell that cannot be read; the text is that of `fault`."""

    def __init__(self, message: str, fault: Fault | None = None) -> None:
        # One argument must do: torch makes the error of a worker process anew from its text.
        super().__init__(message)
        self.fault = fault


def cell_error(table: Table, index: int, column: str | None, reason: DataError) -> CellError:
    """The error of row `index` of `table`, whose cell in `column` (None: several) `reason` is about."""
    message = str(reason)
    if column is None and isinstance(reason, ColumnError):
        column, message = reason.column, reason.reason
    if isinstance(reason, MissingFileError) and table.base is not None and not _is_absolute(table, index, column):
        message += " Paths in a table are relative to the table."
    fault = Fault(table.name, int(table.rows[index]), column or "", message)
    return CellError(f"{table.where(index, column)}: {message}", fault)


def _is_absolute(table: Table, index: int, column: str | None) -> bool:
    """Whether the cell names its file in full, so that it does not matter where the table is."""
    cell = table.columns[column][index] if column is not None and column in table.columns else None
    return isinstance(cell, str) and Path(cell).is_absolute()


@dataclass
class SplitFaults:
    """What cannot be read of one split of `rows` rows. bad: how many rows. cells: how many faults they have."""

    split: str
    rows: int
    bad: int = 0
    cells: int = 0
    kept: list[Fault] = field(default_factory=list)

    def add(self, errors: Sequence[CellError]) -> None:
        """One more bad row, with all that is wrong in it."""
        self.bad += 1
        self.cells += len(errors)
        found = [error.fault for error in errors if error.fault is not None]
        self.kept += found[: MOST_KEPT - len(self.kept)]


class FaultyRowsError(DataError):
    """Rows that cannot be read, of one or several splits; the message shows the first few of `faults`."""

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = faults


def faulty_rows(
    splits: Iterable[SplitFaults], otherwise: str = "set data.bad_rows: skip to leave them out"
) -> FaultyRowsError:
    """The one error for all bad rows of `splits`. otherwise: what can be done but to repair them."""
    found = [faults for faults in splits if faults.bad]
    counts = " and ".join(f"{f.bad} of {f.rows} rows of the {f.split} split" for f in found)
    kept = [fault for faults in found for fault in faults.kept]
    shown = "\n".join(f"  {fault}" for fault in kept[:SHOWN])
    left = sum(faults.cells for faults in found) - len(kept[:SHOWN])
    more = f"\n  … and {left} more" if left > 0 else ""
    lost = any(faults.bad == faults.rows for faults in found)
    todo = "Repair them: no row is left." if lost else f"Repair them, or {otherwise}."
    return FaultyRowsError(f"{counts} cannot be read:\n{shown}{more}\n{todo}", kept)


def write_faults(faults: Iterable[Fault], path: Path) -> None:
    """A table of faults: file, row, column and message. Raises `DataError` when it cannot be written."""
    write_rows((vars(fault) for fault in faults), path)


def all_errors(calls: Iterable[Callable[[], Any]]) -> list[CellError]:
    """What each of `calls` finds wrong with a row."""
    errors = []
    for call in calls:
        try:
            call()
        except CellError as error:
            errors.append(error)
    return errors
