"""How a row of a table becomes a parsed sample, and what rows lacked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perceivers.cells import is_missing
from perceivers.data.faults import (
    CellError,
    all_errors,
    cell_error,
)
from perceivers.data.sources import source_for
from perceivers.data.table import TRAIN, Table
from perceivers.errors import DataError, SpecError, near_miss
from perceivers.inputs import InputSettings, Sample
from perceivers.outputs import OutputSettings
from perceivers.sources import Source


@dataclass(frozen=True)
class Row:
    """One sample, parsed: input name → Sample or None (absent), output name → parsed target.

    sources: inputs that are too large to be parsed, and are read while they are answered.
    place: heads the message of whatever is then wrong with them.
    """

    inputs: Mapping[str, Sample | None]
    targets: Mapping[str, Any]
    sources: Mapping[str, Source] = field(default_factory=dict)
    place: str = ""


@dataclass
class Reader:
    """How rows of a table become parsed samples. `outputs` is empty where there are no targets to read.

    whole: inputs that are read by `parse_some`, as they are stored: a change of training samples brings them to size.
    """

    inputs: Mapping[str, InputSettings]
    outputs: Mapping[str, OutputSettings]
    columns: Mapping[str, str] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()

    def present(self, table: Table) -> "Reader":
        """The same for a table that need not hold everything: kinds none of whose columns it has are left out."""

        def held(name: str, kind: InputSettings | OutputSettings) -> bool:
            return any(column in table.columns for column in self.columns_of(name, kind))

        inputs = {name: kind for name, kind in self.inputs.items() if held(name, kind)}
        outputs = {name: kind for name, kind in self.outputs.items() if held(name, kind) or kind.of_input in inputs}
        return Reader(inputs, outputs, self.columns)

    def check_columns(self, table: Table) -> None:
        """Raise `DataError` with the near miss for the first column that the table lacks."""
        for name, kind in [*self.inputs.items(), *self.outputs.items()]:
            for column in self.columns_of(name, kind):
                if column not in table.columns:
                    hint, known = near_miss(column, table.columns), ", ".join(table.columns)
                    several = kind.names_columns and name not in self.columns
                    place = f"the columns of '{name}' in the recipe" if several else f"data.columns: {{{name}: column}}"
                    raise DataError(
                        f"{table.name}: there is no column '{column}' for '{name}'.{hint} Columns: {known}. "
                        f"{'Correct' if several else 'Map it in the recipe:'} {place}."
                    )

    def input(self, table: Table, index: int, name: str) -> Sample | None:
        """One input of one row. Raises `CellError` naming file, row and column."""
        kind = self.inputs[name]
        columns = self.columns_of(name, kind)
        several = columns == kind.table_columns(name) and kind.names_columns
        parse = kind.parse_some if name in self.whole else kind.parse
        try:
            if several:
                # Training has all columns; a table to predict on may lack some, whose cells are then masked.
                cells = {column: table.columns[column][index] for column in columns if column in table.columns}
                empty = all(is_missing(cell) for cell in cells.values())
                # Absent, unless an empty cell is an error: then parse says so.
                if empty and kind.nan != "error":
                    return None
                return parse(cells if table.base is None else kind.resolved(cells, table.base))
            cell = table.columns[columns[0]][index]
            if is_missing(cell) and not (kind.names_columns and kind.nan == "error"):
                return None
            return parse(cell if table.base is None else kind.resolved(cell, table.base))
        except DataError as error:
            raise cell_error(table, index, None if several else columns[0], error) from None

    def source(self, table: Table, index: int, name: str) -> Source | None:
        """The file in that cell as a source, where it is too large to be parsed. Raises `DataError` naming the cell."""
        kind = self.inputs[name]
        if kind.source_axes() is None:
            return None
        column = self.columns_of(name, kind)[0]
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
        column = table.columns[self.columns_of(name, kind)[0]]
        return [index for index, cell in enumerate(column) if not is_missing(cell)]

    def target(self, table: Table, index: int, name: str) -> Any:
        """One target of one row. Raises `CellError` naming file, row and column."""
        kind = self.outputs[name]
        if kind.of_input is not None:
            return None  # made of the input when samples are put together, after whatever training changes in them
        columns = self.columns_of(name, kind)
        cells = [table.columns[column][index] for column in columns]
        if table.base is not None:
            cells = [cell if is_missing(cell) else kind.resolved(cell, table.base) for cell in cells]
        try:
            return kind.parse(cells[0] if len(cells) == 1 else cells)
        except DataError as error:
            raise cell_error(table, index, ", ".join(columns), error) from None

    def row(self, table: Table, index: int) -> Row:
        """One sample. Raises `CellError` naming file, row and column."""
        inputs = {name: self.input(table, index, name) for name in self.inputs}
        row = Row(inputs, {name: self.target(table, index, name) for name in self.outputs})
        self._check_laid(table, index, row)
        return row

    def _check_laid(self, table: Table, index: int, row: Row) -> None:
        """Raise `CellError` for a target that cannot be of the sample that it lies on."""
        for name, kind in self.outputs.items():
            sample = None if kind.laid_on is None else row.inputs.get(kind.laid_on)
            if sample is None or row.targets[name] is None:
                continue
            try:
                kind.check_laid(row.targets[name], sample.given)
            except DataError as error:
                raise cell_error(table, index, ", ".join(self.columns_of(name, kind)), error) from None

    def errors(self, table: Table, index: int) -> list[CellError]:
        """All that cannot be read of one row: every input and every target."""
        inputs: dict[str, Sample | None] = {}
        targets: dict[str, Any] = {}
        calls = [lambda n=n: inputs.update({n: self.input(table, index, n)}) for n in self.inputs]
        calls += [lambda n=n: targets.update({n: self.target(table, index, n)}) for n in self.outputs]
        return all_errors(calls) or all_errors([lambda: self._check_laid(table, index, Row(inputs, targets))])

    def check_targets(self, table: Table, split: str) -> None:
        """Raise `DataError` when nothing can be learned or scored: training needs some target of every output."""
        empty = {}
        for name, kind in self.outputs.items():
            columns = self.columns_of(name, kind)
            if kind.of_input is None and all(is_missing(cell) for column in columns for cell in table.columns[column]):
                empty[name] = ", ".join(columns)
        if empty and (split == TRAIN or len(empty) == len(self.outputs)):
            names, columns = (", ".join(f"'{n}'" for n in part) for part in (empty, empty.values()))
            raise DataError(
                f"{table.name}: no row of the {split} split has a target for {names}; fill column {columns}, "
                "or split otherwise."
            )

    def check_apart(self, hidden: Sequence[str] = ()) -> None:
        """Raise `SpecError` for a target that an input reads too: the answer would be given away.

        Not by inputs that are `hidden` in use. Nor is a target that is an input by declaration (`of_input`), as an
        autoencoder's is: to give that back through the latents is the task.
        """
        for output, kind in self.outputs.items():
            for name in [] if kind.continues else [name for name in self.inputs if name not in hidden]:
                for column in self.columns_of(output, kind):
                    if column in self.columns_of(name, self.inputs[name]):
                        raise SpecError(
                            f"column '{column}' is the target of output '{output}', and input '{name}' reads it too: "
                            "the answer would be given away. Take it out of the input, map another column in "
                            "data.columns, or, for an input that nobody has in use, hide it: encoder.masking: "
                            f"{{{name}: {{training: 0.5, otherwise: 1}}}}."
                            f"{kind.apart if name in kind.asks_with else ''}"
                        )

    def columns_of(self, name: str, kind: InputSettings | OutputSettings | None = None) -> list[str]:
        """The table columns that an input or output is read from. kind: which of the two, where both have the name."""
        kind = kind or (self.inputs[name] if name in self.inputs else self.outputs[name])
        if isinstance(kind, OutputSettings) and kind.of_input is not None:
            return []  # even where the input has its name, which may be mapped to a column
        if name in self.columns:
            return [self.columns[name]]
        if isinstance(kind, OutputSettings) and kind.continues and len(self.inputs) == 1:
            return self.columns_of(next(iter(self.inputs)))
        return kind.table_columns(name)


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
