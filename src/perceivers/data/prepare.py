"""From a source to splits of samples: open, map columns, learn what only training data can tell, read every row once.

Every fault of every row is found here, before training starts, and named by file, row and column.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perceivers.cells import is_missing
from perceivers.data.faults import (
    CellError,
    Fault,
    SplitFaults,
    all_errors,
    cell_error,
    faulty_rows,
)
from perceivers.data.files import has_splits, read_splits, read_table
from perceivers.data.named import NAMED, named
from perceivers.data.settings import DataSettings
from perceivers.data.sources import source_for
from perceivers.data.splits import FileSplits, FractionSplits, split_table
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table
from perceivers.errors import DataError, SpecError, near_miss
from perceivers.inputs import InputSettings, Sample
from perceivers.outputs import OutputSettings
from perceivers.sources import Source

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One sample, parsed: input name → Sample or None (absent), output name → parsed target.

    sources: inputs that are too large to be parsed, and are read while they are answered.
    """

    inputs: Mapping[str, Sample | None]
    targets: Mapping[str, Any]
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass
class Reader:
    """How rows of a table become parsed samples. `outputs` is empty where there are no targets to read."""

    inputs: Mapping[str, InputSettings]
    outputs: Mapping[str, OutputSettings]
    columns: Mapping[str, str] = field(default_factory=dict)

    def present(self, table: Table) -> "Reader":
        """The same for a table that need not hold everything: kinds none of whose columns it has are left out."""

        def held(name: str, kind: InputSettings | OutputSettings) -> bool:
            return any(column in table.columns for column in self._columns(name, kind))

        inputs = {name: kind for name, kind in self.inputs.items() if held(name, kind)}
        outputs = {name: kind for name, kind in self.outputs.items() if held(name, kind)}
        return Reader(inputs, outputs, self.columns)

    def check_columns(self, table: Table) -> None:
        """Raise `DataError` with the near miss for the first column that the table lacks."""
        for name, kind in [*self.inputs.items(), *self.outputs.items()]:
            for column in self._columns(name, kind):
                if column not in table.columns:
                    hint, known = near_miss(column, table.columns), ", ".join(table.columns)
                    several = kind.reads_columns and name not in self.columns
                    place = f"the columns of '{name}' in the recipe" if several else f"data.columns: {{{name}: column}}"
                    raise DataError(
                        f"{table.name}: there is no column '{column}' for '{name}'.{hint} Columns: {known}. "
                        f"{'Correct' if several else 'Map it in the recipe:'} {place}."
                    )

    def input(self, table: Table, index: int, name: str) -> Sample | None:
        """One input of one row. Raises `CellError` naming file, row and column."""
        kind = self.inputs[name]
        columns = self._columns(name, kind)
        several = columns == kind.table_columns(name) and kind.reads_columns
        try:
            if several:
                # Training has all columns; a table to predict on may lack some, whose cells are then masked.
                cells = {column: table.columns[column][index] for column in columns if column in table.columns}
                empty = all(is_missing(cell) for cell in cells.values())
                # Absent, unless an empty cell is an error: then parse says so.
                return None if empty and kind.nan != "error" else kind.parse(cells)
            cell = table.columns[columns[0]][index]
            if is_missing(cell) and not (kind.reads_columns and kind.nan == "error"):
                return None
            return kind.parse(cell if table.base is None else kind.resolved(cell, table.base))
        except DataError as error:
            raise cell_error(table, index, None if several else columns[0], error) from None

    def source(self, table: Table, index: int, name: str) -> Source | None:
        """The file in that cell as a source, where it is too large to be parsed. Raises `DataError` naming the cell."""
        kind = self.inputs[name]
        if kind.source_axes() is None:
            return None
        column = self._columns(name, kind)[0]
        cell = table.columns[column][index]
        if is_missing(cell):
            return None
        try:
            return source_for(kind, cell if table.base is None else kind.resolved(cell, table.base))
        except DataError as error:
            raise cell_error(table, index, column, error) from None

    def present_rows(self, table: Table, name: str) -> Sequence[int]:
        """The rows that `fit` chooses from: where a kind looks at a sample of them, those whose cell is not missing."""
        kind = self.inputs[name]
        if kind.statistics_from is None:
            return range(len(table))
        column = table.columns[self._columns(name, kind)[0]]
        return [index for index, cell in enumerate(column) if not is_missing(cell)]

    def target(self, table: Table, index: int, name: str) -> Any:
        """One target of one row. Raises `CellError` naming file, row and column."""
        kind = self.outputs[name]
        columns = self._columns(name, kind)
        cells = [table.columns[column][index] for column in columns]
        try:
            return kind.parse(cells[0] if len(cells) == 1 else cells)
        except DataError as error:
            raise cell_error(table, index, ", ".join(columns), error) from None

    def row(self, table: Table, index: int) -> Row:
        """One sample. Raises `CellError` naming file, row and column."""
        inputs = {name: self.input(table, index, name) for name in self.inputs}
        return Row(inputs, {name: self.target(table, index, name) for name in self.outputs})

    def errors(self, table: Table, index: int) -> list[CellError]:
        """All that cannot be read of one row: every input and every target."""
        inputs = [lambda name=name: self.input(table, index, name) for name in self.inputs]
        return all_errors([*inputs, *(lambda name=name: self.target(table, index, name) for name in self.outputs)])

    def check_targets(self, table: Table, split: str) -> None:
        """Raise `DataError` when nothing can be learned or scored: training needs some target of every output."""
        empty = {}
        for name, kind in self.outputs.items():
            columns = self._columns(name, kind)
            if all(is_missing(cell) for column in columns for cell in table.columns[column]):
                empty[name] = ", ".join(columns)
        if empty and (split == TRAIN or len(empty) == len(self.outputs)):
            names, columns = (", ".join(f"'{n}'" for n in part) for part in (empty, empty.values()))
            raise DataError(
                f"{table.name}: no row of the {split} split has a target for {names}; fill column {columns}, "
                "or split otherwise."
            )

    def check_apart(self) -> None:
        """Raise `SpecError` for a target that an input reads too: the answer would be given away."""
        for output in self.outputs:
            for name in self.inputs:
                for column in self.columns_of(output):
                    if column in self.columns_of(name):
                        raise SpecError(
                            f"column '{column}' is the target of output '{output}', and input '{name}' reads it too: "
                            "the answer would be given away. Take it out of the input, or map another column in "
                            "data.columns."
                        )

    def columns_of(self, name: str) -> list[str]:
        """The table columns that an input or output is read from."""
        return self._columns(name, self.inputs[name] if name in self.inputs else self.outputs[name])

    def _columns(self, name: str, kind: InputSettings | OutputSettings) -> list[str]:
        return [self.columns[name]] if name in self.columns else kind.table_columns(name)


class Missing:
    """What the inputs of some rows lacked, counted by input name.

    absent: samples without that input. masked: its cells that were NaN, infinite or empty. padded: its cells that only
    fill up a fixed length.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.absent, self.masked, self.padded = (dict.fromkeys(names, 0) for _ in range(3))

    def add(self, row: Row) -> None:
        """Count what `row` lacks. An input that it does not name is absent."""
        for name in self.absent:
            if name in row.sources:
                continue  # what is masked in it is known when it has been read
            sample = row.inputs.get(name)
            if sample is None:
                self.absent[name] += 1
                continue
            self.masked[name] += sample.masked
            self.padded[name] += sample.padding

    def lines(self) -> list[str]:
        """One line for each input that lacked anything, with what it lacked."""
        found = []
        for name in self.absent:
            absent, masked, padded = self.absent[name], self.masked[name], self.padded[name]
            said = [f"absent in {absent:,} sample{'s' * (absent != 1)}"] if absent else []
            said += [f"{masked:,} cell{'s' * (masked != 1)} masked (NaN, infinite or empty)"] if masked else []
            said += [f"{padded:,} padding"] if padded else []
            found += [f"  {name}: {', '.join(said)}"] if said else []
        return found


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

    def __getitem__(self, index: int) -> Row:
        return self.reader.row(self.table, index) if self.rows is None else self.rows[index]


def open_source(settings: DataSettings, base: Path) -> dict[str, Table]:
    """The tables of a source by split. `base`: the folder that paths are relative to. Raises `DataError`."""
    if isinstance(settings.splits, FileSplits):
        return split_table(None, settings.splits, base)
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
    if skip:
        train = train.take(_readable_rows(reader, train))
    inputs: dict[str, InputSettings] = {}
    outputs: dict[str, OutputSettings] = {}
    for name, kind in reader.inputs.items():
        rows = _spread(reader.present_rows(train, name), kind.statistics_from)
        cells = _Cells(reader.input, train, name, rows)
        with _named(f"{train.name}, input '{name}'", cells):
            inputs[name] = kind
            inputs[name] = kind.fit(sample for sample in cells if sample is not None)
    for name, kind in reader.outputs.items():
        cells = _Cells(reader.target, train, name, range(len(train)))
        with _named(f"{train.name}, output '{name}'", cells):
            outputs[name] = kind
            outputs[name] = kind.fit(cells)
    return inputs, outputs


def read_split(name: str, table: Table, reader: Reader, settings: DataSettings, advance: Advance) -> Split:
    """Parse every row once; keep them when they fit in memory. Raises one `DataError` that lists the bad rows."""
    split, faults = _read(name, table, reader, settings, advance)
    if split is None:
        raise faulty_rows([faults])
    return split


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
) -> Prepared:
    """Open the source, fit the kinds on its training split and read every split."""
    tables = open_source(settings, base)
    reader = Reader(inputs, outputs, settings.columns)
    for name in settings.columns:
        if name not in inputs and name not in outputs:
            hint = near_miss(name, [*inputs, *outputs])
            raise DataError(f"data.columns names '{name}', which is neither an input nor an output.{hint}")
    reader.check_apart()
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


def _readable_rows(reader: Reader, train: Table) -> list[int]:
    faults, good = SplitFaults(TRAIN, len(train)), []
    for index in range(len(train)):
        if found := reader.errors(train, index):
            faults.add(found)
        else:
            good.append(index)
    if not good:
        raise faulty_rows([faults])
    return good


@contextmanager
def _named(place: str, cells: _Cells) -> Iterator[None]:
    """What a kind finds wrong with the training split as a whole, headed by file and name.

    Where cells could not be read that is not the fault to tell of: those are.
    """
    try:
        yield
    except DataError as error:
        if not cells.bad:
            raise DataError(f"{place}: {error}") from None
