"""`perceivers init`: look at a table and draft a recipe for it, with a reason for every choice."""

import os
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.atomic import replace_file
from perceivers.cells import class_name
from perceivers.data.files import has_splits, read_splits, read_table
from perceivers.data.guess import distinct, guess_column, guess_group, guess_split
from perceivers.data.named import NAMED
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table
from perceivers.errors import DataError, PerceiversError, SpecError, near_miss
from perceivers.inputs import KINDS
from perceivers.models.spec import as_spec
from perceivers.plain_yaml import read_yaml
from perceivers.training.draft_text import recipe_draft_text
from perceivers.training.recipe import as_recipe

# Names that a target column usually has, likeliest first.
TARGET_NAMES = ("label", "labels", "target", "class", "y", "outcome", "response", "answer")
FEWEST_ROWS = 10


class TargetNeededError(DataError):
    """No column is clearly the target. `columns` are those to choose from."""

    def __init__(self, message: str, columns: Sequence[str]) -> None:
        super().__init__(message)
        self.columns = tuple(columns)


@dataclass
class Draft:
    """A recipe in the making.

    what: the data, in words. source: as the recipe names it. rows: of the training split. inputs, outputs: name →
    (reason, settings). columns: name → column where they differ. splits: (reason, settings or None for the source's
    own). scored: the split that is scored. validated: whether there is a validation split. group: a column whose rows
    may belong together, and why. points: irregular input → usual number of elements. unused: column → reason.
    predict_on: what the predict command reads.
    """

    what: str
    source: str
    rows: int
    inputs: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    splits: tuple[str, dict[str, Any] | None] = ("the data brings its own", None)
    scored: str = TEST
    validated: bool = True
    group: tuple[str, str] | None = None
    points: dict[str, int] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    predict_on: str = ""

    def free_name(self, column: str, kind: str, wanted: str | None = None) -> str:
        """A name for the input or output of `column` (`wanted`, or like the column), noted where it has to differ."""
        name = wanted or "".join(letter if f"a{letter}".isidentifier() else "_" for letter in column).strip("_") or kind
        name = name if name.isidentifier() else f"{kind}_{name}"
        name = name if _can_be_name(name) else f"{name}_{kind}"
        taken, number, free = {*self.inputs, *self.outputs}, 2, name
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        if free != column:
            self.columns[free] = column
        return free


def draft_recipe(table_path: str | Path, target: str | None = None, out: str | Path = "recipe.yaml") -> str:
    """A commented recipe, as YAML text, for a table, a folder of class folders or a named data set.

    target: the column to learn; None: the one that is called label, target, class, y or the like. out: where the recipe
    will stand, which its relative paths and its commands depend on. Raises `TargetNeededError` when the target is not
    clear, and `DataError` when the table cannot be read or learned from.
    """
    path, out = Path(table_path), Path(out)
    is_named = str(table_path) in NAMED and not path.exists()
    draft = _of_named(str(table_path), target) if is_named else _of_table(path, target, out)
    text = recipe_draft_text(draft, f"perceivers init {shlex.quote(str(table_path))}", out)
    as_recipe(read_yaml(text, str(table_path)), f"the recipe drafted for {table_path}")
    return text


def init(table_path: str | Path, target: str | None = None, out: str | Path = "recipe.yaml") -> Path:
    """Write the recipe that `draft_recipe` drafts to the file `out`, which must not exist, and return its path.

    Raises as `draft_recipe`, and `PerceiversError` when `out` exists or cannot be written.
    """
    path = Path(out)
    text = draft_recipe(table_path, target, path)
    if path.exists():
        raise PerceiversError(f"'{path}' exists and is left as it is. Give another name by --out (out=…).")
    try:
        replace_file(path, lambda stream: stream.write(text.encode()) and None)
    except OSError as failure:
        raise PerceiversError(f"'{path}' could not be written: {failure.strerror or failure}.") from failure
    return path


def _of_named(name: str, target: str | None) -> Draft:
    """A named data set says itself what goes in and comes out; nothing is fetched for it."""
    data = NAMED[name]
    if target is not None and target not in data.outputs:
        hint = near_miss(target, data.outputs)
        raise DataError(f"the data set '{name}' has the target {', '.join(data.outputs)}, not '{target}'.{hint}")
    rows = data.sizes[TRAIN]
    draft = Draft(f"the data set '{name}' ({data.title})", name, rows)
    for key, settings in data.inputs.items():
        draft.inputs[key] = (data.modality, KINDS[settings["kind"]].sized(settings))
    for key, settings in data.outputs.items():
        draft.outputs[key] = (f"{len(data.classes)} classes", dict(settings))
    draft.splits = (data.splits, None)
    draft.validated = VALIDATION in data.sizes
    return draft


def _of_table(path: Path, target: str | None, out: Path) -> Draft:
    table, own = _opened(path)
    target = target if target is not None else _find_target(table, path, out)
    table.column(target)
    source = Path(os.path.relpath(path, out.parent)).as_posix()
    what = f"{path.name or path}: {len(table):,} rows, {len(table.columns)} columns"
    draft = Draft(what, source, len(table), predict_on=str(path))
    if len(table) < FEWEST_ROWS:
        raise DataError(
            f"{path}: {len(table)} rows are too few to train, validate and test; give {FEWEST_ROWS} or more."
        )
    reason, output = _output(table, target)
    draft.outputs[draft.free_name(target, "output")] = (reason, output)
    split = _split(draft, table, own, target, output["kind"] == "category")
    is_class_folder = path.is_dir() and set(table.columns) == {"file", "label"}
    _add_inputs(draft, table, {target, split}, is_class_folder)
    if not draft.inputs:
        reasons = "; ".join(f"{column}: {why}" for column, why in draft.unused.items()) or "there is no other column"
        raise DataError(f"{path}: nothing is left to learn '{target}' from ({reasons}).")
    return draft


def _opened(path: Path) -> tuple[Table, tuple[str, ...]]:
    """The table to look at, and the splits that the source brings."""
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        hint = near_miss(str(path), NAMED)
        raise DataError(
            f"'{path}' is neither a file or folder nor a named data set.{hint} Named data sets: {', '.join(NAMED)}."
        )
    if not has_splits(path):
        return read_table(path), ()
    tables = read_splits(path)
    return tables[TRAIN], tuple(tables)


def _find_target(table: Table, path: Path, out: Path) -> str:
    lower = {name.strip().lower(): name for name in reversed(list(table.columns))}
    found = next((lower[name] for name in TARGET_NAMES if name in lower), None)
    if found is not None:
        return found
    command = f"perceivers init {shlex.quote(str(path))} --target {shlex.quote(list(table.columns)[-1])}"
    command += "" if out == Path("recipe.yaml") else f" --out {shlex.quote(str(out))}"
    raise TargetNeededError(
        f"{path}: which column is to be learned? None is called {', '.join(TARGET_NAMES[:5])} or the like. Columns: "
        f"{', '.join(table.columns)}. Name it, for example: {command}",
        list(table.columns),
    )


def _output(table: Table, target: str) -> tuple[str, dict[str, Any]]:
    """The output for a target column: a number where there are many different ones, else a category."""
    values = distinct(table, target)
    place = f"{table.name}, column '{target}'"
    if len(values) < 2:
        held = f"only '{values[0]}'" if values else "nothing"
        raise DataError(f"{place}: the target holds {held}, so there is nothing to learn; name another column.")
    column = table.columns[target]
    if isinstance(column, np.ndarray) and column.dtype.kind in "iuf":
        real = column[np.isfinite(column)]
        whole = bool((real == np.round(real)).all())
        if len(values) > (20 if whole else 10) or (len(values) > 2 and len(values) * 3 > len(real)):
            return f"{len(values):,} different numbers from {real.min():.10g} to {real.max():.10g}", {"kind": "number"}
    if len(values) * 2 > len(table):
        raise DataError(
            f"{place}: the target holds {len(values):,} different classes in {len(table):,} rows: too few rows for "
            "each to learn from. Name a column that holds numbers or fewer classes."
        )
    shown = ", ".join(values[:8]) + (", …" if len(values) > 8 else "")
    return f"{len(values):,} classes: {shown}", {"kind": "category"}


def _split(draft: Draft, table: Table, own: Sequence[str], target: str, is_category: bool) -> str | None:
    """Decides the splits; returns the column that holds them, if there is one."""
    found = None if own else guess_split(table)
    if own:
        draft.scored, draft.validated = _last(own), VALIDATION in own
        missing = [split for split in (VALIDATION, TEST) if split not in own]
        draft.splits = (
            "the data brings its own" + (f"; it has no {' and no '.join(missing)}" if missing else ""),
            None,
        )
    elif found is not None and found[0] != target:
        column, values = found
        draft.scored, draft.validated = _last(values), VALIDATION in values
        counts = Counter(class_name(cell) for cell in table.columns[column])
        draft.rows = counts[values[TRAIN]]
        reason = ", ".join(f"{counts[value]:,} rows say '{value}'" for value in values.values())
        changed = {split: value for split, value in values.items() if split != value}
        draft.splits = (reason, {"kind": "column", "column": column, **changed})
        return column
    else:
        share = 0.1 if len(table) >= 500 else 0.2
        stratify = {"stratify": target} if is_category else {}
        why = f", each class of '{target}' shared out alike" if is_category else ""
        draft.splits = (f"drawn at random{why}", {"kind": "fraction", "validation": share, "test": share, **stratify})
        draft.rows = round(len(table) * (1 - 2 * share))
        draft.group = guess_group(table, target)
    return None


def _last(splits: Collection[str]) -> str:
    """The split to score: the one that training saw least of."""
    return next(split for split in (TEST, VALIDATION, TRAIN) if split in splits)


def _add_inputs(draft: Draft, table: Table, used: set[str | None], is_class_folder: bool) -> None:
    """An input for each column of its own, as images and texts; one for all numbers and one for all categories."""
    guesses = {name: guess_column(table, name) for name in table.columns if name not in used}
    draft.unused = {name: guess.why for name, guess in guesses.items() if guess.kind == "skip"}
    for column, guess in guesses.items():
        if guess.kind != "skip" and not KINDS[guess.kind].reads_columns:
            name = draft.free_name(column, guess.kind, guess.kind if is_class_folder else None)
            draft.inputs[name] = KINDS[guess.kind].drafted(guess.why, guess.facts, draft.rows)
            if "points" in guess.facts:
                draft.points[name] = guess.facts["points"]
    for kind in [name for name, settings in KINDS.items() if settings.reads_columns]:
        columns = [name for name, guess in guesses.items() if guess.kind == kind]
        if columns:
            name = draft.free_name(KINDS[kind].drafted_name, "input")
            draft.columns.pop(name, None)  # these kinds name their columns themselves
            reason = "; ".join(f"{column}: {guesses[column].why}" for column in columns[:6])
            more = f"; and {len(columns) - 6} more columns" if len(columns) > 6 else ""
            draft.inputs[name] = KINDS[kind].drafted(reason + more, {"columns": columns}, draft.rows)


def _can_be_name(name: str) -> bool:
    try:
        as_spec({"inputs": {name: {"kind": "text"}}, "outputs": {"answer_": {"kind": "number"}}})
    except SpecError:
        return False
    return True
