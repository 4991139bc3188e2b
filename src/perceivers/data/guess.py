"""What the columns of a table are likely to hold: the guesses behind `perceivers init`, each with its reason."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from perceivers.cells import class_name, is_missing, number
from perceivers.data.files import IMAGE_SUFFIXES, POINT_SUFFIXES, SOUND_SUFFIXES, VIDEO_SUFFIXES
from perceivers.data.guess_cells import (
    Guess,
    array_guess,
    image_guess,
    looks_like_array,
    points_guess,
    sound_guess,
    spread,
    video_guess,
)
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table
from perceivers.errors import DataError

MOST_SMALL = 20  # whole numbers from 0 to here may be class numbers
LONGEST_TEXT = 1024  # bytes
_ID_WORDS = {"id", "ids", "uid", "uuid", "guid", "index", "idx", "key", "row", "rowid", "unnamed"}
_OWNERS = {"patient", "subject", "person", "participant", "user", "customer", "client", "group", "session", "device"}
_OWNERS |= {"animal", "donor", "speaker", "author", "site", "visit", "family", "household"}
MOSTLY, FEWEST_NUMBERS = 0.95, 20  # a column of text that is nearly all numbers is one of numbers, with slips
FEWEST_GROUPS = 10  # fewer cannot be shared out among three splits
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d\S*( ?[+-]\d\d:?\d\d)?)?|\d\d:\d\d:\d\d\S*")
_CODE = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{16,}")
_SPLIT_VALUES = {
    TRAIN: {"train", "training"},
    VALIDATION: {"validation", "valid", "val", "dev"},
    TEST: {"test", "testing", "holdout"},
}


def guess_column(table: Table, name: str) -> Guess:
    """What the column `name` of `table` holds, from its cells, its name and a look into a few of its files."""
    column = table.columns[name]
    if {"split", "fold"} & set(_words(name)):
        return Guess("skip", "its name says that it divides the rows, so it is nothing to learn from")
    if isinstance(column, np.ndarray) and column.ndim == 1:
        values = column[~np.isnan(column)] if column.dtype.kind == "f" else column
        return _numbers(name, values)
    cells = [cell for cell in column if not is_missing(cell)]
    if not cells:
        return Guess("skip", "every cell is empty")
    first = cells[0]
    if isinstance(first, bytes | bytearray) or (isinstance(first, Mapping) and {"bytes", "path"} & set(first)):
        return image_guess(cells, table.base)
    if isinstance(first, np.ndarray | list | Mapping):
        return array_guess(cells, table.base)
    if isinstance(first, str):
        return _strings(table, name, [str(cell) for cell in cells])
    return _classes(name, [str(class_name(cell)) for cell in cells])


def guess_split(table: Table) -> tuple[str, dict[str, str]] | None:
    """The column that says which split a row is in, and which of its values means which split; None when there is none.

    Every row holds a word for training, validation or test, and there are two of these at least.
    """
    for name in table.columns:
        cells = table.columns[name]
        if any(not isinstance(cell, str) for cell in cells):
            continue
        values = {str(class_name(cell)) for cell in cells}
        meant = {split: value for split, known in _SPLIT_VALUES.items() for value in values if value.lower() in known}
        if TRAIN in meant and len(meant) > 1 and len(meant) == len(values):
            return name, meant
    return None


def guess_group(table: Table, target: str) -> tuple[str, str] | None:
    """A column that says whose the rows are, and how often each stands there; None when there is none.

    It is called id, patient, user, session or the like, and its values repeat: ten or more, each twice on average.
    """
    for name, column in table.columns.items():
        if name == target or not (_ID_WORDS | _OWNERS) & set(_words(name)):
            continue
        if any(isinstance(cell, list | Mapping | bytes | np.ndarray) for cell in column):
            continue
        count = len(distinct(table, name))
        if count >= FEWEST_GROUPS and count * 2 <= len(table):
            return name, f"{count:,} values in {len(table):,} rows"
    return None


def distinct(table: Table, name: str) -> list[str]:
    """The different values of a column of plain cells, as class names, sorted. Raises `DataError` for other cells."""
    cells = table.column(name)
    if any(isinstance(cell, list | Mapping | bytes | np.ndarray) for cell in cells):
        raise DataError(
            f"{table.name}, column '{name}': its cells are lists or files; wanted classes or "
            "numbers. Of other targets, such as numbers for each point or the flow of images, write the recipe by hand."
        )
    return sorted({named for cell in cells if (named := class_name(cell)) is not None})


def _numbers(name: str, values: np.ndarray) -> Guess:
    count, different = len(values), np.unique(values)
    if count == 0:
        return Guess("skip", "every cell is empty")
    if len(different) == 1:
        return Guess("skip", f"the same in every row ({class_name(different[0])})")
    finite = different[np.isfinite(different)]
    if len(finite) == 0:
        return Guess("skip", "it holds no finite number")
    whole = len(finite) == len(different) and bool((finite == np.round(finite)).all())
    if whole and len(different) == count and (_is_id(name) or _counts_rows(different)):
        return Guess("skip", "another whole number in every row: it can only be learned by heart")
    if whole and _is_id(name):
        return _classes(name, [str(class_name(value)) for value in values])
    few = len(different) <= 10 and len(different) * 5 <= count
    if whole and few and finite[0] >= 0 and finite[-1] <= MOST_SMALL:
        return Guess("category", f"{len(different)} different small whole numbers")
    return Guess("number", f"{len(different):,} different numbers from {finite[0]:.10g} to {finite[-1]:.10g}")


def _strings(table: Table, name: str, cells: list[str]) -> Guess:
    numbers, others = _as_numbers(cells)
    if len(numbers) >= MOSTLY * len(cells) and len(numbers) >= FEWEST_NUMBERS:
        found = _numbers(name, numbers[np.isfinite(numbers)])
        is_ = "cells is" if len(others) == 1 else "cells are"
        shown = f"{len(others):,} of {len(cells):,} {is_} no number (first: '{_short(others[0])}'): repair "
        shown += "it" if len(others) == 1 else "them"
        return Guess(found.kind, f"{found.why}; {shown}", found.facts) if found.kind == "number" else found
    sample = spread(cells)
    for suffixes, look in (
        (IMAGE_SUFFIXES, image_guess),
        (SOUND_SUFFIXES, sound_guess),
        (VIDEO_SUFFIXES, video_guess),
        (POINT_SUFFIXES, points_guess),
    ):
        if _most(cell.lower().endswith(suffixes) for cell in sample):
            return look(cells, table.base)
    if _most(looks_like_array(cell, table.base) for cell in sample):
        return array_guess(cells, table.base)
    return _classes(name, cells)


def _as_numbers(cells: list[str]) -> tuple[np.ndarray, list[str]]:
    """The cells that are numbers, and those that are not."""
    numbers, others = [], []
    for cell in cells:
        try:
            numbers.append(number(cell))
        except DataError:
            others.append(cell)
    return np.array(numbers), others


def _classes(name: str, cells: list[str]) -> Guess:
    """Strings as classes, or as text where there are too many different ones."""
    count, different = len(cells), set(cells)
    if len(different) == 1:
        return Guess("skip", f"the same in every row ('{_short(cells[0])}')")
    if len(different) == count and (_is_id(name) or all(_CODE.fullmatch(cell) for cell in cells)):
        return Guess("skip", "another identifier in every row: it can only be learned by heart")
    repeated = len(different) * 5 <= count or (len(different) <= 10 and len(different) * 2 <= count)
    if repeated and len(different) <= 1000 and sum(map(len, different)) <= 100 * len(different):
        return Guess("category", f"{len(different):,} different values in {count:,} rows")
    if _is_id(name):
        return Guess("skip", f"{len(different):,} identifiers in {count:,} rows: too few rows for each to learn from")
    if all(_TIME.fullmatch(cell) for cell in cells):
        return Guess("skip", "dates or times, whose letters say little: make numbers of them, as the hour or the year")
    longest = max(len(cell.encode("utf-8", "replace")) for cell in cells)
    length = min(max(-(-longest // 16) * 16, 16), LONGEST_TEXT)
    return Guess("text", f"{len(different):,} different texts of up to {longest:,} bytes", {"length": length})


def _words(name: str) -> list[str]:
    """`PassengerId`, `passenger_id` → passenger, id."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _is_id(name: str) -> bool:
    return bool(_ID_WORDS & set(_words(name)))


def _counts_rows(different: np.ndarray) -> bool:
    """0, 1, 2, … or 1, 2, 3, …, sorted."""
    return len(different) >= 10 and different[0] in (0, 1) and bool((np.diff(different) == 1).all())


def _most(found: Iterable[bool]) -> bool:
    """Four of five."""
    answers = list(found)
    return sum(answers) * 5 >= len(answers) * 4


def _short(text: str) -> str:
    return text if len(text) <= 30 else text[:29] + "…"
