"""The digest of a split: what changes it, and what does not."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys

from perceivers.data.digest import split_digest
from perceivers.data.files import read_table
from perceivers.data.prepare import Split
from perceivers.data.reader import Missing, Reader
from perceivers.data.table import Table
from perceivers.errors import TrainingError
from perceivers.inputs.image import ImageInput
from perceivers.inputs.number import NumberInput
from perceivers.inputs.series import SeriesInput
from perceivers.outputs.category import CategoryOutput
from perceivers.training.evaluate import evaluate
from perceivers.training.run import train

READER = Reader(
    {"photo": ImageInput(size=(4, 4), channels=1), "facts": NumberInput(columns=("age", "height"))},
    {"label": CategoryOutput()},
    {"photo": "picture"},
)


def digest(table: Table, reader: Reader = READER) -> str:
    return split_digest(Split("train", table, reader, None, Missing(reader.inputs)))


@pytest.fixture
def people(tmp_path) -> Path:
    return toys.write_people(tmp_path / "people")


def rewritten(people: Path, **cells: Any) -> Table:
    """people.csv with the cells of its second row replaced."""
    table = toys.rows()
    table[1].update(cells)
    toys.write_csv(people, table)
    return read_table(people)


def test_what_is_read_changes_it(people):
    first = digest(read_table(people))
    for cells in ({"age": 1}, {"height": ""}, {"label": "odd"}, {"picture": "pictures/2.png"}):
        assert digest(rewritten(people, **cells)) != first, cells
    assert digest(rewritten(people)) == first
    table = read_table(people)
    assert digest(table.take([1, 0, *range(2, 48)])) != first
    assert digest(table.take(range(47))) != first


def test_what_is_not_read_changes_nothing(people):
    assert digest(rewritten(people, score=7, split="train")) == digest(rewritten(people))


def test_another_picture_under_the_same_name_changes_it(people):
    first = digest(read_table(people))
    toys.write_picture(people.parent / "pictures/5.png", "bright", 77)
    assert digest(read_table(people)) != first


def test_a_copy_elsewhere_and_a_later_time_change_nothing(people, tmp_path):
    first = digest(read_table(people))
    shutil.copytree(people.parent, tmp_path / "copy")
    for path in (tmp_path / "copy" / "pictures").iterdir():
        os.utime(path, (1, 1))
    assert digest(read_table(tmp_path / "copy" / "people.csv")) == first


@pytest.mark.parametrize(
    "cell", ["a.npy", '{"values": "a.npy"}', {"values": "a.npy", "times": "b.npy"}, np.arange(9999.0), {"values": 1}]
)
def test_cells_of_every_form(tmp_path, cell):
    """Files that a mapping or JSON text names count, and the middle of a long array too."""
    np.save(tmp_path / "a.npy", np.arange(5000.0))
    np.save(tmp_path / "b.npy", np.arange(5000.0))
    reader = Reader({"wave": SeriesInput(rate=1, seconds=9999)}, {}, {})
    first = digest(Table({"wave": [cell, None]}, "t", tmp_path), reader)
    assert digest(Table({"wave": [cell, None]}, "t", tmp_path), reader) == first
    for value in (cell, {"values": cell}):
        if isinstance(value, dict) and isinstance(value.get("values"), np.ndarray):
            first = digest(Table({"wave": [value]}, "t", tmp_path), reader)
            cell[5000] = -1
            assert digest(Table({"wave": [value]}, "t", tmp_path), reader) != first
    if "npy" in str(cell):
        np.save(tmp_path / "a.npy", np.arange(5000.0) + 1)
        assert digest(Table({"wave": [cell, None]}, "t", tmp_path), reader) != first


def test_a_run_notices_that_its_pictures_were_replaced(people, tmp_path):
    out = tmp_path / "run"
    train(toys.recipe(training__steps=1), out=out, base=people.parent, quiet=True)
    rewritten(people, score=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate(out, quiet=True)["same_rows"] is True, "the score is no column of this model"
    for i, row in enumerate(toys.rows()):
        toys.write_picture(people.parent / row["picture"], "bright", i + 1)
    with pytest.warns(UserWarning, match="rows or files were added, removed, changed or reordered"):
        assert evaluate(out, quiet=True)["same_rows"] is False
    with pytest.raises(TrainingError, match="other rows or files, or the same in another order"):
        train(toys.recipe(training__steps=2), out=out, base=people.parent, quiet=True, resume=True)
