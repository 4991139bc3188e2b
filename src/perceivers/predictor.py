"""`predict` and `Predictor`: raw values in, answers out, in the order given. A bad row is a row with an `error`."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from perceivers.atomic import check_writable
from perceivers.cells import cells_of, is_missing
from perceivers.data.doubts import Range, meant, misspelt
from perceivers.data.files import READERS, WRITERS, read_table, write_rows
from perceivers.data.loader import collate
from perceivers.data.reader import Missing, Reader, Row
from perceivers.data.settings import DataSettings
from perceivers.data.sources import source_for
from perceivers.data.table import Table
from perceivers.errors import DataError, ModelError, SpecError, unknown
from perceivers.inputs import Sample, unknown_input
from perceivers.models.model import Model
from perceivers.models.weights import RECIPE, find_model, load
from perceivers.outputs import Output
from perceivers.outputs.base import with_top
from perceivers.plain_yaml import read_yaml
from perceivers.settings import parse_settings
from perceivers.sources import Source

Advance = Callable[[str, int, int], None]
NOTHING = "every input is absent or masked whole, so there is nothing to answer from."


class Predictor:
    """A loaded model that answers raw values. `model`: a model directory, a run folder or a `Model`.

    `predictor({"photo": "cat.png", "age": {"years": 3}})` answers one sample; inputs that are left out are absent.
    A value may be a `Source`, or a file that is read as one. top: of many classes an answer has the probabilities of
    only so many, the likeliest first.
    """

    def __init__(
        self,
        model: "str | Path | Model",
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        top: int | None = None,
    ) -> None:
        if top is not None and top < 1:
            raise DataError(f"top is {top}; wanted the number of classes that an answer has, 1 or more.")
        columns: Mapping[str, str] = {}
        if not isinstance(model, Model):
            folder = find_model(Path(model))
            model, columns = load(folder, device), _columns(folder)
        self.model = model.eval()
        self.batch_size = batch_size
        self.top = top
        # What the inputs of all rows answered so far lacked.
        self.missing = Missing(self.model.spec.inputs)
        self.range = Range(self.model.spec.inputs)
        # Keys that no input reads, of which it was told.
        self.told: set[str] = set()
        # Tables to predict on have no targets.
        self.reader = Reader(self.model.spec.inputs, {}, columns)
        self._advance: Advance | None = None

    def __repr__(self) -> str:
        spec, count = self.model.spec, sum(parameter.numel() for parameter in self.model.parameters())
        inputs, outputs = (
            ", ".join(f"{n} ({k.kind})" for n, k in part.items()) for part in (spec.inputs, spec.outputs)
        )
        return f"Predictor({inputs} → {outputs}; {count:,} parameters on {self.model.device})"

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one sample: input name → raw value. Raises `DataError` for a value that cannot be read."""
        return next(self._answer([lambda: self._parsed(sample)], strict=True))

    def answers(self, samples: Sequence[Mapping[str, Any]], strict: bool = False) -> list[dict[str, Any]]:
        """One answer a sample, in order. A sample that cannot be read is `{"error": …}`, or raises when `strict`."""
        if isinstance(samples, (str, bytes, Mapping)):
            one = "; one sample is answered by predictor(sample)" if isinstance(samples, Mapping) else ""
            raise DataError(f"got one {type(samples).__name__}, wanted a list of samples: input name → value{one}.")
        readers = (lambda n=n, s=s: self._parsed(s, f"sample {n}") for n, s in enumerate(samples, start=1))
        return list(self._answer(readers, strict))

    def table(
        self, table: Table, strict: bool = False, advance: Advance | None = None, quiet: bool = False
    ) -> list[dict[str, Any]]:
        """One answer a row of `table`. Columns may be missing, which warns unless `quiet`: their cells are empty."""
        reader = self._present(table, quiet)
        readers = (lambda i=i: self._row(reader, table, i) for i in range(len(table)))
        found, self._advance = [], advance
        try:
            for answer in self._answer(readers, strict):
                found.append(answer)
                if advance is not None:
                    advance("predicting", len(found), len(table))
        finally:
            self._advance = None  # it may be closed when the next row is read
        return found

    def record(self, record: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The answer to one row of a table given as an object: column → cell. `where` heads the message of an error.

        An input of several columns may also be given by its own name: `{"facts": {"age": 3}}` is `{"age": 3}`.
        """
        cells: dict[str, Any] = {}
        for name, cell in record.items():
            kind = self.model.spec.inputs.get(name)
            columns = kind.table_columns(name) if kind is not None and kind.names_columns else []
            try:
                cells |= dict(zip(columns, cells_of(cell, columns), strict=True)) if columns else {name: cell}
            except DataError as error:
                raise DataError(f"{where}, input '{name}': {error}") from None
        table = Table({name: [cell] for name, cell in cells.items()} or {"": [None]}, where)
        reader = self._present(table, quiet=True)
        self._tell_unread(table)
        return next(self._answer([lambda: self._row(reader, table, 0)], strict=True))

    def _tell_unread(self, table: Table) -> None:
        """Warn, once a key, of those that no input reads and no output is called by."""
        spec, columns = self.model.spec, self.reader.columns
        wanted = [column for name in spec.inputs for column in self.reader.columns_of(name)]
        targets = [c for n, kind in spec.outputs.items() for c in (columns.get(n, n), *kind.table_columns(n))]
        for name in table.columns:
            if name and name not in wanted and name not in targets and name not in self.told:
                self.told.add(name)
                warnings.warn(
                    f"{table.name}: no input reads '{name}'.{meant([name], wanted)}", UserWarning, stacklevel=3
                )

    def lines(
        self, lines: Iterable[bytes], strict: bool = False, name: str = "standard input"
    ) -> Iterator[dict[str, Any]]:
        """One answer a line, as soon as the line is there. A line is a line of a .jsonl table: column → cell.

        Empty lines have no answer, but count in `row`. A line that cannot be read is {"row": …, "error": …}, or raises
        when `strict`. name: heads the messages.
        """
        empty = True
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            empty = False
            where = f"{name}, line {number}"
            try:
                answer = self.record(_record(line, where), where)
            except DataError as error:
                if strict:
                    raise
                answer = {"error": str(error)}
            yield {"row": number, **answer}
        if empty:
            raise DataError(f"{name}: the table is empty: it holds no rows. Give it at least one row.")

    def _present(self, table: Table, quiet: bool = False) -> Reader:
        """What this table can be read for: a `DataError` when it is nothing, a warning of missing columns."""
        reader = self.reader.present(table)
        wanted = [column for name in self.reader.inputs for column in self.reader.columns_of(name)]
        # What was probably meant is looked for only where it is said: it costs more than reading a row.
        near = lambda: meant([name for name in table.columns if name not in wanted], wanted)  # noqa: E731
        if not reader.inputs:
            names = "; ".join(
                f"{name} (column {', '.join(self.reader.columns_of(name))})" for name in self.reader.inputs
            )
            known = ", ".join(table.columns)
            raise DataError(f"{table.name}: holds no column of any input: {names}.{near()} Columns: {known}.")
        if quiet:
            return reader
        if missing := [column for column in wanted if column not in table.columns]:
            warnings.warn(
                f"{table.name}: no column {', '.join(missing)}; taken as missing in every row.{near()}",
                UserWarning,
                stacklevel=3,
            )
        elif odd := [name for name in misspelt(table, wanted) if name not in self.told]:
            self.told |= set(odd)
            warnings.warn(
                f"{table.name}: no input reads {', '.join(odd)}.{meant(odd, wanted)}", UserWarning, stacklevel=3
            )
        return reader

    def _parsed(self, sample: Mapping[str, Any], place: str = "") -> Row:
        head, inner = (f"{place}: ", f"{place}, ") if place else ("", "")
        if not isinstance(sample, Mapping):
            raise DataError(f"{head}got {type(sample).__name__}, wanted a mapping: input name → value.")
        for name in sample:
            if name not in self.model.spec.inputs:
                raise DataError(f"{head}{unknown_input(name, self.model.spec.inputs)}")
        parsed, sources = {}, {}
        for name, kind in self.model.spec.inputs.items():
            value = sample.get(name)
            try:
                source = value if isinstance(value, Source) else source_for(kind, value)
                if source is not None:
                    sources[name] = source
                else:
                    parsed[name] = None if is_missing(value) else kind.parse(value)
            except DataError as error:
                raise DataError(f"{inner}input '{name}': {error}") from None
        if not sources and all(_is_empty(part) for part in parsed.values()):
            raise DataError(f"{head}{NOTHING}")
        return Row(parsed, {}, sources, inner)

    def _row(self, reader: Reader, table: Table, index: int) -> Row:
        found = {name: reader.source(table, index, name) for name in reader.inputs}
        sources = {name: source for name, source in found.items() if source is not None}
        whole = replace(reader, inputs={n: kind for n, kind in reader.inputs.items() if n not in sources})
        place = table.where(index) + (", " if table.places is None else ": ")
        row = replace(whole.row(table, index), sources=sources, place=place)
        if not sources and all(_is_empty(part) for part in row.inputs.values()):
            raise DataError(f"{table.where(index)}: {NOTHING}")
        for name, source in sources.items():
            source.progress = partial(self._advance, f"reading {name}") if self._advance else None
        return row

    def _answer(self, readers: Iterable[Callable[[], Row]], strict: bool) -> Iterator[dict[str, Any]]:
        batch: list[Row | str] = []
        for read in readers:
            try:
                row: Row | str = read()
            except DataError as error:
                if strict:
                    raise
                row = str(error)
            else:
                self.missing.add(row)
                self.range.check(row)
                if row.sources:
                    # A source is one sample, answered alone; those before it come first.
                    yield from self._answer_batch(batch, strict)
                    batch = []
                    yield self._answer_sources(row, strict)
                    continue
            batch.append(row)
            if len(batch) == self.batch_size:
                yield from self._answer_batch(batch, strict)
                batch = []
        if batch:
            yield from self._answer_batch(batch, strict)

    def _answer_sources(self, row: Row, strict: bool) -> dict[str, Any]:
        """The answer to one row of inputs that are read now."""
        try:
            (answer,) = self._answer_batch([row], strict)
        except DataError as error:
            if strict:
                raise DataError(f"{row.place}{error}") from error
            answer = {"error": f"{row.place}{error}"}
        for name, source in row.sources.items():
            self.missing.masked[name] += source.masked
        lost = all(source.masked == source.count * prod(source.grid[1:]) for source in row.sources.values())
        if lost and "error" not in answer and all(_is_empty(part) for part in row.inputs.values()):
            answer = {"error": f"{row.place}{next(iter(row.sources.values())).name}: {NOTHING}"}
            if strict:
                raise DataError(answer["error"])
        return answer

    @torch.no_grad()
    def _answer_batch(self, rows: Sequence[Row | str], strict: bool) -> list[dict[str, Any]]:
        good = [row for row in rows if isinstance(row, Row)]
        answers: list[dict[str, Any]] = [{} for _ in good]
        failed: dict[int, str] = {}
        if good:
            kinds = self.model.spec.inputs
            batch = collate([Row({n: row.inputs.get(n) for n in kinds}, {}) for row in good], kinds, {})
            batch = replace(batch, sources={name: source for row in good for name, source in row.sources.items()})
            for name, prediction in self.model(batch.to(self.model.device)).items():
                output = self.model.outputs[name]
                assert isinstance(output, Output), "outputs are Outputs"
                for answer, part in zip(answers, output.answer(name, prediction, batch.inputs), strict=True):
                    answer.update(part if self.top is None else with_top(part, f"{name}_probabilities", self.top))
                lost = (~prediction.flatten(1).isfinite().all(-1)).nonzero().flatten().tolist()
                failed.update(
                    dict.fromkeys(lost, f"'{name}' has no finite answer; look for extreme values in the row.")
                )
        if failed and strict:
            raise DataError(next(iter(failed.values())))
        ready = ({"error": failed[i]} if i in failed else answer for i, answer in enumerate(answers))
        return [next(ready) if isinstance(row, Row) else {"error": row} for row in rows]


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: this is not UTF-8: byte {error.start} is 0x{line[error.start]:02x}.") from None
    except RecursionError:
        raise DataError(f"{where}: this is not JSON: it is nested too deep.") from None
    except ValueError as error:
        raise DataError(
            f"{where}: this is not JSON: {error}. Standard input takes JSON lines; "
            "give a table of another sort as a file."
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a line must be a JSON object: column → cell.")
    return record


def check_output(path: Path, inputs: Iterable[Any] = (), overwrite: bool = False) -> None:
    """Raise `DataError` for a file that `predict` could or should not write, before anything is computed for it.

    That is also one of the files in `inputs`, and, unless `overwrite`, any file that exists.
    """
    if path.suffix.lower() not in WRITERS:
        raise unknown("ending of an output file", path.suffix, WRITERS, DataError)
    check_writable(path, inputs, overwrite)


def predict(
    model: "str | Path | Model | Predictor",
    inputs: "str | Path | Sequence[str | Path] | Sequence[Mapping[str, Any]]",
    *,
    out: str | Path | None = None,
    strict: bool = False,
    advance: Advance | None = None,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Answers for a table, for files, or for samples, in the order given.

    inputs: a table's path; or paths of files, for a model that reads one file a sample (each answer then has `file`);
    or samples (input name → raw value or `Source`). out: also written as .jsonl, .csv, .tsv or .parquet, whole or not
    at all; a file that exists is replaced only when `overwrite` says so, and never one that is read.
    A row that cannot be read becomes `{"error": …}`; `strict` raises instead, and nothing is written.
    """
    if out is not None:
        check_output(Path(out), [inputs] if isinstance(inputs, (str, Path)) else inputs, overwrite)
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    rows = _rows(predictor, inputs, strict, advance)
    if out is not None:
        # Whichever row fails first, scripts see one order of columns.
        write_rows(rows, Path(out), last="error")
    return rows


def _rows(predictor: Predictor, inputs: Any, strict: bool, advance: Advance | None) -> list[dict[str, Any]]:
    if isinstance(inputs, (str, Path)):
        inputs = [inputs]
    if not len(inputs):
        raise DataError("there is nothing to predict: give a table, files or samples.")
    if isinstance(inputs[0], Mapping):
        answers = predictor.answers(inputs, strict)
        return [{"row": i, **answer} for i, answer in enumerate(answers, start=1)]
    paths = [Path(path) for path in inputs]
    tables = [path for path in paths if path.suffix.lower() in READERS or (path.is_dir() and path.suffix != ".zarr")]
    if tables and len(paths) > 1:
        raise DataError(f"give one table or several files, not both: '{tables[0]}' is a table.")
    if tables:
        table = read_table(tables[0])
        answers = predictor.table(table, strict, advance)
        return [{"row": int(row), **answer} for row, answer in zip(table.rows, answers, strict=True)]
    column = predictor.reader.columns_of(_file_input(predictor.model))[0]
    names = [str(path) for path in paths]
    table = Table({column: names}, "files", places=names)
    answers = predictor.table(table, strict, advance, quiet=True)
    return [{"file": str(path), **answer} for path, answer in zip(paths, answers, strict=True)]


def _file_input(model: Model) -> str:
    names = [name for name, kind in model.spec.inputs.items() if kind.reads_files]
    if len(names) != 1:
        what = f"several inputs that are files ({', '.join(names)})" if names else "no input that is a file"
        raise DataError(f"the model has {what}, so give a table or JSON lines with a column an input.")
    return names[0]


def _is_empty(sample: Sample | None) -> bool:
    return sample is None or not len(sample.values) or (sample.mask is not None and not sample.mask.any())


def _columns(folder: Path) -> Mapping[str, str]:
    """The column mapping of the recipe that trained the model."""
    path = folder / RECIPE
    if not path.is_file():
        return {}
    try:
        recipe = read_yaml(path.read_text(encoding="utf-8"), str(path))
        return parse_settings(DataSettings, recipe["data"], f"{path}, data").columns
    except (SpecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(
            f"'{path}' is damaged; save the model anew from Python to predict without its column mapping: {error}"
        ) from None
