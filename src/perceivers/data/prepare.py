"""From a source to splits of samples: open, map columns, learn what only training data can tell, read every row once.

Every fault of every row is found here, before training starts, and named by file, row and column.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perceivers.data.copy_task import CopySplits, copy_tables
from perceivers.data.faults import (
    CellError,
    Fault,
    SplitFaults,
    faulty_rows,
)
from perceivers.data.files import has_splits, read_splits, read_table
from perceivers.data.named import NAMED, named
from perceivers.data.reader import Missing, Reader, Row
from perceivers.data.settings import DataSettings
from perceivers.data.splits import FileSplits, FractionSplits, split_table
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table
from perceivers.errors import DataError, near_miss
from perceivers.inputs import InputSettings, Sample
from perceivers.outputs import OutputSettings

Advance = Callable[[str, int, int], None]


@dataclass
class Split:
    """One split, ready: `rows` holds the parsed samples, or None when they are read again each time."""

    name: str
    table: Table
    reader: Reader
    rows: list[Row] | None
    missing: Missing

    def __len__(self) -> int:
        return len(self.table)

    def read_whole(self, names: frozenset[str]) -> "Split":
        """The same whose named inputs are as they are stored, not brought to size; nothing of it is kept in memory."""
        return replace(self, reader=replace(self.reader, whole=names), rows=None)

    def __getitem__(self, index: int) -> Row:
        return self.reader.row(self.table, index) if self.rows is None else self.rows[index]

    def sample(self, index: int, name: str) -> Sample | None:
        """One input of one row."""
        return self.reader.input(self.table, index, name) if self.rows is None else self.rows[index].inputs[name]


def open_source(settings: DataSettings, base: Path) -> dict[str, Table]:
    """The tables of a source by split. `base`: the folder that paths are relative to. Raises `DataError`."""
    if isinstance(settings.splits, FileSplits):
        return split_table(None, settings.splits, base)
    if isinstance(settings.splits, CopySplits):
        return copy_tables(settings.splits)
    if settings.source is None:
        raise DataError("data.source is missing: give a named data set or the path of a table.")
    path = base / settings.source
    if settings.source in NAMED and not path.exists():
        tables = named(settings.source).load()
    elif not path.exists() and "/" not in settings.source and not path.suffix:
        hint = near_miss(settings.source, NAMED)
        raise DataError(
            f"'{settings.source}' is neither a file or folder in {base} nor a named data set.{hint} "
            f"Named data sets: {', '.join(sorted(NAMED))}."
        )
    elif has_splits(path):
        tables = read_splits(path)
    else:
        return split_table(read_table(path), settings.splits or FractionSplits())
    if settings.splits is None:
        return tables
    raise DataError(f"'{settings.source}' brings its own splits ({', '.join(tables)}); leave data.splits out.")


def fit_kinds(reader: Reader, train: Table, skip: bool) -> tuple[dict[str, InputSettings], dict[str, OutputSettings]]:
    """Inputs and outputs completed from the training split: statistics and class names. Nothing else is looked at.

    `skip`: rows that cannot be read are left out whole, so that nothing is learned from their other columns either.
    Otherwise they are left to `read_split`, which refuses them; only their own cells are left out here, and a kind that
    has nothing else to learn from stays as it is.
    """
    left_out = ""
    if skip:
        whole, (rows, faults) = train, _readable_rows(reader, train)
        train = whole.take(rows)
        # Where the rest is too little to learn from, the rows left out may be why.
        left_out = f" {faults.bad} of {len(whole)} rows were left out: {faults.kept[0]}" if faults.bad else ""
    inputs: dict[str, InputSettings] = {}
    outputs: dict[str, OutputSettings] = {}
    for name, kind in reader.inputs.items():
        rows = _spread(reader.present_rows(train, name), kind.statistics_from)
        cells = _Cells(reader.input, train, name, rows)
        with _named(f"{train.name}, input '{name}'", cells, left_out):
            inputs[name] = kind
            inputs[name] = kind.fit(sample for sample in cells if sample is not None)
    for name, kind in reader.outputs.items():
        cells = _Cells(reader.target, train, name, range(len(train)))
        with _named(f"{train.name}, output '{name}'", cells, left_out):
            outputs[name] = kind
            outputs[name] = kind.fit(cells)
    return inputs, outputs


def read_split(
    name: str, table: Table, reader: Reader, settings: DataSettings, advance: Advance
) -> tuple[Split, SplitFaults]:
    """Parse every row once; keep them when they fit in memory. With the split, what was left out as the settings allow.

    Raises one `DataError` that lists the bad rows.
    """
    split, faults = _read(name, table, reader, settings, advance)
    if split is None:
        skip = "leave them out by bad_rows: skip (--bad-rows skip), which lists them all in skipped.csv"
        raise faulty_rows([faults], skip)
    return split, faults


def _read(
    name: str, table: Table, reader: Reader, settings: DataSettings, advance: Advance
) -> tuple[Split | None, SplitFaults]:
    """The split, or None when its faults forbid it, and all its faults."""
    rows: list[Row] = []
    kept: list[int] = []
    faults = SplitFaults(name, len(table))
    missing = Missing(reader.inputs)
    keep, used = True, 0
    for index in range(len(table)):
        advance(f"reading {name}", index, len(table))
        try:
            row = reader.row(table, index)
        except CellError as error:
            # All that is wrong with the row; at least what was just found.
            faults.add(reader.errors(table, index) or [error])
            continue
        kept.append(index)
        missing.add(row)
        used += sum(sample.values.nbytes for sample in row.inputs.values() if sample is not None)
        keep = keep and used <= settings.keep_bytes
        if keep:
            rows.append(row)
        else:
            rows.clear()
    advance(f"reading {name}", len(table), len(table))
    if faults.bad and (settings.bad_rows == "stop" or not kept):
        return None, faults
    if faults.bad:
        table = table.take(kept)
    reader.check_targets(table, name)
    return Split(name, table, reader, rows if keep else None, missing), faults


@dataclass
class Prepared:
    """All splits, and the kinds that were completed from training.

    skipped: by split, how many rows were left out. faults: what was wrong with them.
    """

    splits: dict[str, Split]
    inputs: dict[str, InputSettings]
    outputs: dict[str, OutputSettings]
    skipped: dict[str, int]
    faults: list[Fault]


def prepare(
    settings: DataSettings,
    inputs: Mapping[str, InputSettings],
    outputs: Mapping[str, OutputSettings],
    base: Path,
    advance: Advance,
    hidden: Sequence[str] = (),
) -> Prepared:
    """Open the source, fit the kinds on its training split and read every split.

    hidden: inputs that the model never reads in use, which may therefore read a target's column.
    """
    tables = open_source(settings, base)
    reader = Reader(inputs, outputs, settings.columns)
    for name in settings.columns:
        if name not in inputs and name not in outputs:
            hint = near_miss(name, [*inputs, *outputs])
            raise DataError(f"data.columns names '{name}', which is neither an input nor an output.{hint}")
        if name in outputs and name not in inputs and outputs[name].of_input is not None:
            raise DataError(
                f"data.columns names '{name}', but '{name}' has its target from input '{outputs[name].of_input}', not "
                "from a column; leave it out."
            )
    reader.check_apart(hidden)
    for table in tables.values():
        reader.check_columns(table)
    if not len(tables[TRAIN]):
        raise DataError(f"{tables[TRAIN].name}: the training split is empty.")
    fitted_inputs, fitted_outputs = fit_kinds(reader, tables[TRAIN], settings.bad_rows == "skip")
    reader = Reader(fitted_inputs, fitted_outputs, settings.columns)
    names = [name for name in (TRAIN, VALIDATION, TEST) if name in tables and len(tables[name])]
    splits: dict[str, Split] = {}
    faults, fatal = [], []
    for name in names:
        split, found = _read(name, tables[name], reader, settings, advance)
        faults.append(found)
        if split is None:
            fatal.append(found)
        else:
            splits[name] = split
    if fatal:
        raise faulty_rows(fatal)
    skipped = {found.split: found.bad for found in faults}
    return Prepared(splits, fitted_inputs, fitted_outputs, skipped, [fault for found in faults for fault in found.kept])


def _spread(rows: Sequence[int], most: int | None) -> Sequence[int]:
    """At most `most` of `rows`, evenly from the first to the last: tables are often sorted by class."""
    if most is None or len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


class _Cells:
    """The parsed cells of one input or output in `rows`, without those that cannot be read; `bad` counts these."""

    def __init__(self, read: Callable[[Table, int, str], Any], table: Table, name: str, rows: Iterable[int]) -> None:
        self.read, self.table, self.name, self.rows, self.bad = read, table, name, rows, 0

    def __iter__(self) -> Iterator[Any]:
        for index in self.rows:
            try:
                yield self.read(self.table, index, self.name)
            except CellError:
                # Not lost: every row is read once more, and refused with all that is wrong with it.
                self.bad += 1


def _readable_rows(reader: Reader, train: Table) -> tuple[list[int], SplitFaults]:
    faults, good = SplitFaults(TRAIN, len(train)), []
    for index in range(len(train)):
        if found := reader.errors(train, index):
            faults.add(found)
        else:
            good.append(index)
    if not good:
        raise faulty_rows([faults])
    return good, faults


@contextmanager
def _named(place: str, cells: _Cells, left_out: str) -> Iterator[None]:
    """What a kind finds wrong with the training split as a whole, after file and name and before what was left out.

    Where cells could not be read that is not the fault to tell of: those are.
    """
    try:
        yield
    except DataError as error:
        if not cells.bad:
            raise DataError(f"{place}: {error}{left_out}") from None
