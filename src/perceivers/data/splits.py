"""Train, validation and test: from named files, from a column, or by seeded fractions of one table."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from perceivers.cells import class_name
from perceivers.data.files import read_table
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table
from perceivers.errors import DataError, near_miss
from perceivers.settings import Settings

Share = Annotated[float, Field(ge=0, lt=1)]

_ORDERS = 16  # seeded orders of the groups that are tried when a split is stratified and grouped


class FileSplits(Settings):
    """One table per split. Paths are relative to the folder of the recipe (or of the table, when there is one)."""

    kind: Literal["files"] = "files"
    train: str
    validation: str | None = None
    test: str | None = None


class ColumnSplits(Settings):
    """A column of the table says which split a row is in; the fields are the values that mean each split."""

    kind: Literal["column"] = "column"
    column: str
    train: str = TRAIN
    validation: str = VALIDATION
    test: str = TEST

    @model_validator(mode="after")
    def _three_values(self) -> Self:
        if len({self.train, self.validation, self.test}) < 3:
            raise ValueError(
                "train, validation and test need three different values of the column, got "
                f"'{self.train}', '{self.validation}' and '{self.test}'"
            )
        return self


class FractionSplits(Settings):
    """Shares of the rows, drawn with `seed`; what is left is for training.

    - Plain: the shares are rounded to whole rows, at least one for each share above 0.
    - `stratify`: each class of that column (empty cells are a class) is shared out alike. A class gives its shares
      rounded up or down, so that the whole has the wanted number of rows; one row of each class stays in training
      whatever the shares, so a class with a single row is only there, and many small classes make the other splits
      smaller.
    - `group`: all rows with one value of that column are in one split. Groups are taken in a drawn order, each when it
      brings the split nearer to its share: it then misses its share by at most half of the largest group, unless
      the groups are so few or so large that one for each split is all there is.
    - both: as `group`, "nearer" being the sum over classes of (rows − wanted rows)² / rows of the class, for the best
      of 16 drawn orders. It is greedy: a class that lives in few groups may miss a split.

    The same table and seed give the same splits. With `group` the order of the rows does not matter; without, another
    order gives other splits.
    """

    kind: Literal["fraction"] = "fraction"
    validation: Share = 0.1
    test: Share = 0.1
    stratify: str | None = None
    group: str | None = None
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation} and test {self.test} leave nothing for training; "
                "their sum must be less than 1"
            )
        return self


def split_table(
    table: Table | None, settings: FileSplits | ColumnSplits | FractionSplits, base: Path | None = None
) -> dict[str, Table]:
    """The tables of the splits that there are, in the order train, validation, test; train is always there.

    `table` is not needed for `files`, whose paths are relative to `base`, else to the table's folder. Raises
    `DataError` for unknown columns and values, and when a split would be empty.
    """
    if isinstance(settings, FileSplits):
        folder = base or (table.base if table else None) or Path()
        names = {TRAIN: settings.train, VALIDATION: settings.validation, TEST: settings.test}
        return {split: read_table(folder / name) for split, name in names.items() if name is not None}
    assert table is not None, "only named files need no table"
    rows = _by_column(table, settings) if isinstance(settings, ColumnSplits) else _by_fraction(table, settings)
    return {split: table.take(index) for split, index in rows.items() if len(index)}


def _by_column(table: Table, settings: ColumnSplits) -> dict[str, np.ndarray]:
    meanings = {settings.train: TRAIN, settings.validation: VALIDATION, settings.test: TEST}
    found: dict[str, list[int]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for index, cell in enumerate(table.column(settings.column)):
        value = class_name(cell)
        if value not in meanings:
            given = "the cell is empty" if value is None else f"'{value}' is no split.{near_miss(value, meanings)}"
            raise DataError(
                f"{table.where(index, settings.column)}: {given} Wanted one of {', '.join(meanings)}; other names can "
                "be given in the recipe's splits."
            )
        found[meanings[value]].append(index)
    if not found[TRAIN]:
        raise DataError(f"{table.name}, column '{settings.column}': no row is for training ('{settings.train}').")
    return {split: np.array(index, dtype=np.int64) for split, index in found.items()}


def _by_fraction(table: Table, settings: FractionSplits) -> dict[str, np.ndarray]:
    shares = {split: share for split, share in ((TEST, settings.test), (VALIDATION, settings.validation)) if share}
    random = np.random.default_rng(settings.seed)
    classes = _codes(table, settings.stratify)
    if settings.group is not None:
        return _grouped(table, settings, shares, classes, random)
    if len(table) <= len(shares):
        raise DataError(f"{table.name}: {len(table)} rows cannot be shared among {len(shares) + 1} splits.")
    if settings.stratify is not None:
        return _stratified(table, settings.stratify, shares, classes, random)
    order, start, rows = random.permutation(len(table)), 0, {}
    for split, count in _counts(len(table), shares).items():
        rows[split] = np.sort(order[start : start + count])
        start += count
    return _in_order({**rows, TRAIN: np.sort(order[start:])})


def _counts(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Rows of each split: its share rounded, at least 1, and at least 1 left for training."""
    counts = {split: max(1, round(total * share)) for split, share in shares.items()}
    while sum(counts.values()) >= total:
        raised = [split for split in counts if counts[split] > 1]
        counts[max(raised, key=lambda split: counts[split] - total * shares[split])] -= 1
    return counts


def _stratified(
    table: Table, column: str, shares: dict[str, float], classes: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    members = [random.permutation(np.flatnonzero(classes == code)) for code in range(classes.max() + 1)]
    sizes = np.array([len(rows) for rows in members])
    left = sizes - 1  # one row of each class stays for training
    taken = np.zeros_like(sizes)
    found: dict[str, np.ndarray] = {}
    for split, count in _counts(len(table), shares).items():
        quotas = _quotas(sizes * shares[split], count, left, random)
        if quotas.sum() == 0:
            raise DataError(
                f"{table.name}, column '{column}': {len(sizes)} classes in {len(table)} rows are too few rows a class "
                f"for a '{split}' split. Stratify by a column with fewer classes, or not at all."
            )
        found[split] = _concatenated([r[t : t + q] for r, t, q in zip(members, taken, quotas, strict=True)])
        taken, left = taken + quotas, left - quotas
    return _in_order({**found, TRAIN: _concatenated([r[t:] for r, t in zip(members, taken, strict=True)])})


def _quotas(wanted: np.ndarray, count: int, left: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Whole rows per class: `wanted` rounded down, then one more by largest remainder (ties drawn) up to `count`."""
    whole = np.minimum(np.floor(wanted + 1e-9).astype(np.int64), left)
    order = np.lexsort((random.random(len(wanted)), -np.round(wanted - whole, 9)))
    for code in order:
        if whole.sum() >= count:
            break
        if whole[code] < left[code]:
            whole[code] += 1
    return whole


def _grouped(
    table: Table,
    settings: FractionSplits,
    shares: dict[str, float],
    classes: np.ndarray,
    random: np.random.Generator,
) -> dict[str, np.ndarray]:
    assert settings.group is not None
    groups = _codes(table, settings.group, whole=True)
    sizes = np.zeros((groups.max() + 1, classes.max() + 1), dtype=np.float64)
    np.add.at(sizes, (groups, classes), 1)
    if len(sizes) <= len(shares):
        raise DataError(
            f"{table.name}, column '{settings.group}': {len(sizes)} groups cannot be shared among {len(shares) + 1} "
            "splits without tearing one apart. Set a share to 0, or group by another column."
        )
    tries = [_assign(sizes, shares, random) for _ in range(_ORDERS if settings.stratify else 1)]
    _, assigned = min(tries, key=lambda one: one[0])
    names = [*shares, TRAIN]
    return _in_order({name: np.flatnonzero(assigned[groups] == number) for number, name in enumerate(names)})


def _assign(sizes: np.ndarray, shares: dict[str, float], random: np.random.Generator) -> tuple[float, np.ndarray]:
    """The distance from the wanted shares, and the split of each group: the index in `shares`, or the next for train.

    sizes: (groups, classes) rows.
    """
    train = len(shares)
    assigned = np.full(len(sizes), train)
    totals = sizes.sum(0)
    distance = 0.0
    for number, share in enumerate(shares.values()):
        free = random.permutation(np.flatnonzero(assigned == train))
        spare = len(free) - (train - number)  # each later split and training need a group too
        have = -share * totals
        for group in free:
            # |have + size|² < |have|², weighted by class, is: the group brings the split nearer to its share.
            if spare and (sizes[group] * (2 * have + sizes[group]) / totals).sum() < 0:
                assigned[group], have, spare = number, have + sizes[group], spare - 1
        if not (assigned == number).any():
            smallest = free[sizes[free].sum(1).argmin()]
            assigned[smallest], have = number, have + sizes[smallest]
        distance += float((have**2 / totals).sum())
    return distance, assigned


def _codes(table: Table, column: str | None, whole: bool = False) -> np.ndarray:
    """(rows,) the number of each cell's value in sorted order of the values; zeros without a column.

    `whole`: an empty cell is an error.
    """
    if column is None:
        return np.zeros(len(table), dtype=np.int64)
    values: list[Any] = [class_name(cell) for cell in table.column(column)]
    if whole and None in values:
        raise DataError(f"{table.where(values.index(None), column)}: the group is empty; every row needs one.")
    return np.unique(np.array([value or "" for value in values], dtype=object), return_inverse=True)[1]


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(parts))


def _in_order(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {split: rows[split] for split in (TRAIN, VALIDATION, TEST) if split in rows}
