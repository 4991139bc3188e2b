"""Rows that cannot be read: all of them, whatever else is wrong, shown in part and written down whole."""

import csv
import pickle
from pathlib import Path
from typing import Any

import pytest
import toys

from perceivers.data import faults
from perceivers.data.faults import CellError, SplitFaults, faulty_rows
from perceivers.data.table import Table
from perceivers.errors import ColumnError, DataError
from perceivers.training.run import train

STOP = "Repair them, or set data.bad_rows: skip to leave them out."


def people(folder: Path, **cells: dict[int, Any]) -> Path:
    """people.csv with some cells replaced: column → {row, counted from 1: cell}. Rows go train, train, valid., test."""
    table = toys.rows()
    for column, changed in cells.items():
        for row, cell in changed.items():
            table[row - 1][column] = cell
    toys.write_people(folder, table)
    for row in cells.get("picture", {}):
        (folder / table[row - 1]["picture"]).unlink()
    return folder


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(DataError) as caught:
        train(toys.recipe(**changes), out=folder / "runs" / "toy", base=folder, quiet=True)
    return str(caught.value)


def read(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [tuple(row) for row in csv.reader(stream)]


def test_all_inputs_targets_and_splits_are_looked_at(tmp_path):
    """Two inputs and a target, two splits, and a row with two faults; nothing ends the search."""
    outputs = {"label": {"kind": "category"}, "score": {"kind": "number"}}
    folder = people(
        tmp_path, age={1: "old"}, picture={2: "pictures/gone.png"}, score={2: "much"}, label={3: "brihgt", 4: "odd"}
    )
    found = refused(folder, model__outputs=outputs)
    assert found == (
        "2 of 24 rows of the train split and 1 of 12 rows of the validation split and 1 of 12 rows of the test split "
        "cannot be read:\n"
        "  people.csv, row 1, column 'age': 'old' is not a number.\n"
        f"  people.csv, row 2, column 'picture': image file '{folder / 'pictures/gone.png'}' does not exist. "
        "Paths in a table are relative to the table.\n"
        "  people.csv, row 2, column 'score': 'much' is not a number.\n"
        "  people.csv, row 3, column 'label': class 'brihgt' is not one that the model was made for. "
        "Did you mean 'bright'? Classes: bright, dark, even.\n"
        "  people.csv, row 4, column 'label': class 'odd' is not one that the model was made for. "
        f"Classes: bright, dark, even.\n{STOP}"
    )
    assert not (folder / "runs").exists(), "all stand in the message"


def test_more_than_a_message_holds_are_written_down(tmp_path):
    folder = people(tmp_path, age=dict.fromkeys(range(1, 9), "old"), height={3: "tall"})
    found = refused(folder)
    path = folder / "runs" / "toy-bad-rows.csv"
    assert found.splitlines()[0].startswith("4 of 24 rows of the train split and 2 of 12 rows of the validation split")
    assert found.splitlines()[-3:] == ["  … and 3 more", STOP, f"The whole list: {path}"]
    header, *rows = read(path)
    assert header == ("file", "row", "column", "message")
    assert [row[:3] for row in rows] == [("people.csv", str(n), "age") for n in (1, 2, 5, 6, 3, 7, 4, 8)]
    assert rows[0][3] == "'old' is not a number."
    assert not (folder / "runs" / "toy").exists()


def test_where_the_list_cannot_be_written_the_faults_are_still_told(tmp_path, monkeypatch):
    folder = people(tmp_path, age=dict.fromkeys(range(1, 9), "old"))
    # The folder could be made when training began, and no more when the list is written.
    monkeypatch.setattr("perceivers.training.resumption._check_writable", lambda run: (folder / "runs").touch())
    found = refused(folder)
    assert "row 1, column 'age': 'old' is not a number." in found
    assert "The whole list could not be written: " in found


def test_a_column_that_cannot_be_learned_from_is_told_by_its_cells(tmp_path):
    folder = people(tmp_path, age=dict.fromkeys(range(1, 49), "old"))
    found = refused(folder)
    assert found.startswith("24 of 24 rows of the train split and 12 of 12 rows of the validation split and ")
    assert "Repair them: no row is left." in found


def test_pictures_beyond_those_that_statistics_are_taken_from_count_too(tmp_path, monkeypatch):
    monkeypatch.setattr("perceivers.inputs.image.ImageInput.statistics_from", 2)
    folder = people(tmp_path, picture={1: "pictures/x.png", 6: "pictures/y.png"})
    assert refused(folder).startswith("2 of 24 rows of the train split cannot be read:")


def test_rows_left_out_are_written_into_the_run(tmp_path, capfd):
    folder = people(tmp_path, age={1: "old", 4: "young"}, label={3: "odd"})
    train(toys.recipe(training__steps=1, data__bad_rows="skip"), out=folder / "run", base=folder)
    assert f"what was wrong with the rows left out: {folder / 'run' / 'skipped.csv'}\n" in capfd.readouterr().err
    assert read(folder / "run" / "skipped.csv") == [
        ("file", "row", "column", "message"),
        ("people.csv", "1", "age", "'old' is not a number."),
        (
            "people.csv",
            "3",
            "label",
            "class 'odd' is not one that the model was made for. Classes: bright, dark, even.",
        ),
        ("people.csv", "4", "age", "'young' is not a number."),
    ]
    train(toys.recipe(training__steps=1), out=folder / "other", base=people(tmp_path / "whole"), quiet=True)
    assert not (folder / "other" / "skipped.csv").exists()


def test_memory_is_bounded_and_nothing_is_miscounted(monkeypatch):
    monkeypatch.setattr(faults, "MOST_KEPT", 7)
    found = SplitFaults("train", 9)
    for row in range(8):
        found.add([CellError("x", faults.Fault("t", row, "", "x"))] * 2)
    error = faulty_rows([found])
    assert len(error.faults) == 7
    assert str(error).startswith("8 of 9 rows of the train split cannot be read:")
    assert "… and 11 more" in str(error)


def test_a_column_may_be_called_anything(tmp_path):
    """The column is a part of the error, not a pattern in its text; it also comes back from a worker process."""
    error = ColumnError("the 'age'", "'old' is not a number.")
    again = pickle.loads(pickle.dumps(error))
    for reason in (error, again):
        fault = faults.cell_error(Table({"the 'age'": ["old"]}, "t.csv"), 0, None, reason).fault
        assert (fault.column, fault.message) == ("the 'age'", "'old' is not a number.")
