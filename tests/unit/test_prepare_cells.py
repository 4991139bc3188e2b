"""From a table's cell to what a kind parses: paths beside the table, JSON text, and which rows are looked at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys

from perceivers.data.prepare import Prepared, fit_kinds, prepare
from perceivers.data.reader import Reader
from perceivers.data.settings import DataSettings
from perceivers.data.table import Table
from perceivers.errors import DataError, SpecError
from perceivers.inputs.category import CategoryInput
from perceivers.inputs.image import ImageInput
from perceivers.inputs.number import NumberInput
from perceivers.inputs.series import SeriesInput
from perceivers.inputs.text import TextInput
from perceivers.outputs.category import CategoryOutput
from perceivers.outputs.number import NumberOutput
from perceivers.settings import parse_settings
from perceivers.training.run import train


def prepared(folder: Path, inputs: Any, source: str = "t.jsonl", **settings: Any) -> Prepared:
    data = parse_settings(DataSettings, {"source": source, **settings}, "data")
    return prepare(data, inputs, {"label": CategoryOutput()}, folder, toys.silent)


def table(folder: Path, cells: list[Any], name: str, form: str = "jsonl") -> None:
    """A table of one input and the labels a, b, a, b, …."""
    rows = [{name: cell, "label": "ab"[i % 2]} for i, cell in enumerate(cells)]
    if form == "csv":
        toys.write_csv(folder / "t.csv", rows)
    else:
        (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_series_with_times_in_files(tmp_path, form):
    """In JSON lines the cell is an object, in CSV its text; its files stand beside the table."""
    np.save(tmp_path / "v.npy", np.arange(3.0))
    np.save(tmp_path / "t.npy", np.array([0, 1.5, 4]))
    cells: list[Any] = [
        {"values": "v.npy", "times": "t.npy"},
        {"values": "v.npy", "times": [0, 1.5, 4]},
        {"values": "[0, 1, 2]", "times": "t.npy"},
    ] * 10
    table(tmp_path, [json.dumps(cell) for cell in cells] if form == "csv" else cells, "wave", form)
    found = prepared(tmp_path, {"wave": SeriesInput(seconds=4)}, f"t.{form}")
    for row in found.splits["train"].rows:
        assert row.inputs["wave"].values[:, 0].tolist() == [0, 1, 2]
        assert row.inputs["wave"].coords[:, 0].tolist() == [0, 1.5, 4]


def test_pictures_as_mappings(tmp_path):
    toys.write_picture(tmp_path / "p.png", "dark", 1)
    table(tmp_path, [{"path": "p.png"}] * 20, "photo")
    assert len(prepared(tmp_path, {"photo": ImageInput(size=(4, 4), channels=1)}).splits["train"]) == 16


def test_a_series_that_is_broken_json_is_named(tmp_path):
    table(tmp_path, ['{"values": [1, 2'] * 20, "wave")
    with pytest.raises(DataError, match=r"t\.jsonl, row 1, column 'wave': the series is not valid JSON"):
        prepared(tmp_path, {"wave": SeriesInput(seconds=4)})


def test_statistics_of_a_sorted_table_come_from_all_of_it():
    """As class folders are: 2,500 black images, then 2,500 white ones; the absent ones between are not counted."""
    black, white = np.zeros((1, 1), np.uint8), np.full((1, 1), 255, np.uint8)
    cells = [black] * 2500 + [None] * 5000 + [white] * 2500
    read: list[int] = []

    class Counted(ImageInput):
        def parse(self, value: Any) -> Any:
            read.append(1)
            return super().parse(value)

    reader = Reader({"photo": Counted(size=(1, 1), channels=1)}, {})
    fitted = fit_kinds(reader, Table({"photo": cells}, "t"), skip=False)[0]["photo"]
    assert fitted.mean == pytest.approx((127.5,))
    assert fitted.std == pytest.approx((127.5,))
    assert len(read) == 2000


@pytest.mark.parametrize("columns", [("x",), ("x", "y")])
@pytest.mark.parametrize("kind", [NumberInput, CategoryInput])
def test_a_row_with_nothing_in_it_is_an_error_where_nan_is_one(kind, columns):
    known = {"mean": (0,) * len(columns), "std": (1,) * len(columns)}
    known = {"classes": dict.fromkeys(columns, ("1",))} if kind is CategoryInput else known
    table = Table({"x": np.array([1.0, np.nan]), "y": np.array([1.0, np.nan])}, "t")
    masked = Reader({"facts": kind(columns=columns, **known)}, {})
    assert masked.input(table, 1, "facts") is None
    strict = Reader({"facts": kind(columns=columns, nan="error", **known)}, {})
    with pytest.raises(DataError, match=r"row 2.*'nan: error' is set"):
        strict.input(table, 1, "facts")
    mapped = Reader(strict.inputs, {}, {"facts": "x"})
    if len(columns) == 1:
        with pytest.raises(DataError, match=r"row 2.*'nan: error' is set"):
            mapped.input(table, 1, "facts")


@pytest.mark.parametrize(
    ("inputs", "outputs", "columns", "said"),
    [
        ({"facts": NumberInput(columns=("x", "y"))}, {"y": NumberOutput()}, {}, ("y", "y", "facts")),
        ({"facts": NumberInput(columns=("x", "y"))}, {"z": NumberOutput(columns=("z", "x"))}, {}, ("x", "z", "facts")),
        ({"tags": CategoryInput(columns=("label",))}, {"label": CategoryOutput()}, {}, ("label", "label", "tags")),
        ({"words": TextInput()}, {"label": CategoryOutput()}, {"words": "label"}, ("label", "label", "words")),
        ({"words": TextInput()}, {"label": CategoryOutput()}, {"label": "words"}, ("words", "label", "words")),
    ],
)
def test_a_target_is_no_input(tmp_path, inputs, outputs, columns, said):
    toys.write_csv(tmp_path / "t.csv", [{"x": i, "y": i, "z": i, "label": "ab"[i % 2], "words": "c"} for i in range(8)])
    data = parse_settings(DataSettings, {"source": "t.csv", "columns": columns}, "data")
    with pytest.raises(SpecError) as caught:
        prepare(data, inputs, outputs, tmp_path, toys.silent)
    column, output, name = said
    assert str(caught.value) == (
        f"column '{column}' is the target of output '{output}', and input '{name}' reads it too: the answer would be "
        "given away. Take it out of the input, map another column in data.columns, or, for an input that nobody has "
        f"in use, hide it: encoder.masking: {{{name}: {{training: 0.5, otherwise: 1}}}}."
    )


def test_what_was_left_out_is_told_where_the_rest_is_too_little(tmp_path):
    """`bad_rows: skip` and a size that no picture has: the pictures are the fault, not what is left."""
    table = toys.rows()
    for row in table[:40]:
        row["age"] = "old"
    for row in table[40:]:
        row["height"] = None
    toys.write_people(tmp_path, table)
    with pytest.raises(DataError, match=r"'height' has no number .* left out: people.csv, row 1, column 'age'"):
        train(toys.recipe(data__bad_rows="skip"), out=tmp_path / "run", base=tmp_path, quiet=True)
