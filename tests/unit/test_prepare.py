from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys

from perceivers.data.prepare import Prepared, open_source, prepare
from perceivers.data.settings import DataSettings
from perceivers.errors import DataError
from perceivers.inputs.category import CategoryInput
from perceivers.inputs.image import ImageInput
from perceivers.inputs.number import NumberInput
from perceivers.inputs.series import SeriesInput
from perceivers.outputs.category import CategoryOutput
from perceivers.outputs.number import NumberOutput
from perceivers.settings import parse_settings
from perceivers.training.recipe import as_recipe

NUMBERS = {"facts": NumberInput(columns=("x", "y"))}
LABEL = {"label": CategoryOutput()}


def prepared(
    folder: Path,
    inputs: Mapping[str, Any] = NUMBERS,
    outputs: Mapping[str, Any] = LABEL,
    advance: Any = toys.silent,
    **settings: Any,
) -> Prepared:
    data = parse_settings(DataSettings, {"source": "t.csv", **settings}, "data")
    return prepare(data, inputs, outputs, folder, advance)


def message(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def table(folder: Path, count: int = 20, name: str = "t.csv", **columns: Any) -> Path:
    """Numbers x and y, a label, and a split: rows 1 to 10 train, 11 to 15 validation, the others test."""
    cells: dict[str, Any] = {
        "x": range(count),
        "y": [i * i for i in range(count)],
        "label": ["ab"[i % 2] for i in range(count)],
        "split": [("train" if i < 10 else "validation" if i < 15 else "test") for i in range(count)],
        **columns,
    }
    rows = [{key: value[i] for key, value in cells.items()} for i in range(count)]
    return toys.write_csv(folder / name, rows)


BY_COLUMN = {"splits": {"kind": "column", "column": "split"}}


class TestTrainingSplitOnly:
    def test_extreme_test_rows_change_no_statistic(self, tmp_path):
        table(tmp_path)
        plain = prepared(tmp_path, **BY_COLUMN)
        table(tmp_path, x=[*range(10), *[1e12] * 10], y=[*[i * i for i in range(10)], *[-1e12] * 10])
        extreme = prepared(tmp_path, **BY_COLUMN)
        assert extreme.inputs == plain.inputs
        assert plain.inputs["facts"].mean == (4.5, 28.5)
        np.testing.assert_allclose(plain.inputs["facts"].std, (np.std(range(10)), np.std(np.arange(10) ** 2)))

    def test_a_target_of_numbers(self, tmp_path):
        outputs = {"score": NumberOutput()}
        table(tmp_path, score=[*range(10), *[1e12] * 10])
        found = prepared(tmp_path, outputs=outputs, **BY_COLUMN).outputs["score"]
        assert found.mean == (4.5,)

    def test_images(self, tmp_path):
        people = toys.write_people(tmp_path)
        inputs = {"photo": ImageInput(size=(4, 4), channels=1)}
        settings = {"source": people.name, "columns": {"photo": "picture"}, **BY_COLUMN}
        plain = prepared(tmp_path, inputs, **settings)
        for row in toys.rows():
            if row["split"] != "train":
                toys.write_picture(tmp_path / row["picture"], "white", 0).write_bytes(white())
        assert prepared(tmp_path, inputs, **settings).inputs == plain.inputs
        values = np.stack([row.inputs["photo"].values for row in plain.splits["train"].rows])
        np.testing.assert_allclose(plain.inputs["photo"].mean, values.mean(), rtol=1e-12)

    def test_classes_of_an_input(self, tmp_path):
        """A town that only the test split has tells the model nothing: it is masked and counted."""
        table(tmp_path, town=[*["Ulm", "Rom"] * 5, *["Rom"] * 5, *["Wien"] * 5])
        inputs = {"place": CategoryInput(columns=("town",))}
        found = prepared(tmp_path, inputs, **BY_COLUMN)
        assert found.inputs["place"].classes == {"town": ("Rom", "Ulm")}
        assert found.splits["test"].missing.masked == {"place": 5}
        assert found.splits["train"].missing.masked == {"place": 0}

    def test_classes_of_the_target(self, tmp_path):
        table(tmp_path, label=["b", "a"] * 5 + ["a"] * 10)
        assert prepared(tmp_path, **BY_COLUMN).outputs["label"].classes == ("a", "b")

    def test_what_the_recipe_gives_is_kept(self, tmp_path):
        table(tmp_path)
        given = {"facts": NumberInput(columns=("x", "y"), mean=(0, 0), std=(1, 1))}
        target = {"label": CategoryOutput(classes=("b", "a", "c"))}
        found = prepared(tmp_path, given, target, **BY_COLUMN)
        assert found.inputs == given
        assert found.outputs == target
        assert [row.targets["label"] for row in found.splits["train"].rows][:3] == [1, 0, 1]


def white() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (4, 4), 255).save(stream, "PNG")
    return stream.getvalue()


class TestColumns:
    def test_mapping(self, tmp_path):
        table(tmp_path, length=range(100, 120), answer=["yes", "no"] * 10)
        inputs = {"size": NumberInput(columns=("length",)), "also": NumberInput(columns=("x",))}
        found = prepared(tmp_path, inputs, columns={"label": "answer", "also": "length"}, **BY_COLUMN)
        assert found.outputs["label"].classes == ("no", "yes")
        assert found.inputs["size"].mean == found.inputs["also"].mean == (104.5,)

    def test_a_missing_column(self, tmp_path):
        table(tmp_path)
        inputs = {"facts": NumberInput(columns=("x", "yy"))}
        assert message(prepared, tmp_path, inputs) == (
            "t.csv: there is no column 'yy' for 'facts'. Did you mean 'y'? Columns: x, y, label, split. "
            "Correct the columns of 'facts' in the recipe."
        )

    def test_a_missing_target(self, tmp_path):
        table(tmp_path)
        assert message(prepared, tmp_path, outputs={"lable": CategoryOutput()}) == (
            "t.csv: there is no column 'lable' for 'lable'. Did you mean 'label'? Columns: x, y, label, split. "
            "Map it in the recipe: data.columns: {lable: column}."
        )

    def test_a_mapping_to_nowhere(self, tmp_path):
        table(tmp_path)
        assert "no column 'lbel' for 'label'. Did you mean 'label'?" in message(
            prepared, tmp_path, columns={"label": "lbel"}
        )

    def test_a_mapping_of_nothing(self, tmp_path):
        table(tmp_path)
        assert message(prepared, tmp_path, columns={"lable": "label"}) == (
            "data.columns names 'lable', which is neither an input nor an output. Did you mean 'label'?"
        )

    def test_every_split_needs_them(self, tmp_path):
        table(tmp_path, name="train.csv")
        toys.write_csv(tmp_path / "test.csv", [{"x": 1, "label": "a"}])
        splits = {"kind": "files", "train": "train.csv", "test": "test.csv"}
        assert "test.csv: there is no column 'y' for 'facts'" in message(prepared, tmp_path, source=None, splits=splits)


class TestBadRows:
    @pytest.fixture(autouse=True)
    def _table(self, tmp_path):
        x: list[Any] = list(range(20))
        x[2] = x[12] = x[13] = "old"
        table(tmp_path, x=x)

    def test_stop_lists_them(self, tmp_path):
        found = message(prepared, tmp_path, **BY_COLUMN)
        assert found == (
            "1 of 10 rows of the train split and 2 of 5 rows of the validation split cannot be read:\n"
            "  t.csv, row 3, column 'x': 'old' is not a number.\n"
            "  t.csv, row 13, column 'x': 'old' is not a number.\n"
            "  t.csv, row 14, column 'x': 'old' is not a number.\n"
            "Repair them, or set data.bad_rows: skip to leave them out."
        )

    def test_skip_counts_them(self, tmp_path):
        found = prepared(tmp_path, bad_rows="skip", **BY_COLUMN)
        assert found.skipped == {"train": 1, "validation": 2, "test": 0}
        assert {name: len(split) for name, split in found.splits.items()} == {"train": 9, "validation": 3, "test": 5}
        assert found.splits["train"].table.rows.tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 10]
        assert [row.inputs["facts"].values[0, 0] for row in found.splits["validation"].rows] == [10, 11, 14]
        assert found.inputs["facts"].mean[0] == (45 - 2) / 9

    def test_a_bad_row_counts_for_nothing(self, tmp_path):
        """A row left out for its x does not decide the classes either."""
        table(tmp_path, x=[*["old"] * 2, *range(18)], label=["c", "c", *["a", "b"] * 9])
        found = prepared(tmp_path, bad_rows="skip", **BY_COLUMN)
        assert found.outputs["label"].classes == ("a", "b")

    def test_many(self, tmp_path):
        table(tmp_path, x=["old"] * 8 + [1, 2] + [3] * 10)
        found = message(prepared, tmp_path, **BY_COLUMN)
        assert found.startswith("8 of 10 rows of the train split")
        assert "row 5, column 'x'" in found
        assert "row 6" not in found
        assert "… and 3 more" in found

    def test_nothing_left(self, tmp_path):
        table(tmp_path, x=["old"] * 10 + [3] * 10)
        assert message(prepared, tmp_path, bad_rows="skip", **BY_COLUMN).startswith("10 of 10 rows of the train split")
        table(tmp_path, x=[*range(10), *["old"] * 5, *range(5)])
        found = message(prepared, tmp_path, bad_rows="skip", **BY_COLUMN)
        assert found.startswith("5 of 5 rows of the validation split")
        assert found.endswith("Repair them: no row is left.")

    def test_an_unknown_class_in_validation(self, tmp_path):
        table(tmp_path, label=["ab"[i % 2] if i != 11 else "bb" for i in range(20)])
        assert "t.csv, row 12, column 'label': class 'bb' is not one" in message(prepared, tmp_path, **BY_COLUMN)
        assert prepared(tmp_path, bad_rows="skip", **BY_COLUMN).skipped["validation"] == 1


class TestAbsence:
    def test_absent_and_masked_are_counted(self, tmp_path):
        x: list[Any] = list(range(20))
        y: list[Any] = list(range(20))
        x[0] = y[0] = ""  # all cells of the input: absent
        x[1] = "inf"  # one of them: masked
        y[11] = "NA"
        table(tmp_path, x=x, y=y)
        found = prepared(tmp_path, **BY_COLUMN).splits
        assert found["train"].missing.absent == {"facts": 1}
        assert found["train"].missing.masked == {"facts": 1}
        assert found["validation"].missing.masked == {"facts": 1}
        assert found["train"].rows[0].inputs == {"facts": None}
        assert found["train"].rows[1].inputs["facts"].mask.tolist() == [False, True]

    def test_missing_cells_are_not_in_the_statistics(self, tmp_path):
        table(tmp_path, x=["", "NaN", *range(2, 20)])
        assert prepared(tmp_path, **BY_COLUMN).inputs["facts"].mean[0] == sum(range(2, 10)) / 8

    def test_a_column_that_is_empty_in_training(self, tmp_path):
        table(tmp_path, x=[""] * 10 + [1] * 10)
        assert message(prepared, tmp_path, **BY_COLUMN) == (
            "t.csv, input 'facts': column 'x' has no number in the training split; leave it out of the input."
        )


class TestTargets:
    def test_one_class_only(self, tmp_path):
        table(tmp_path, label=["a"] * 10 + ["b"] * 10)
        assert message(prepared, tmp_path, **BY_COLUMN) == (
            "t.csv, output 'label': the target holds only the class 'a' in the training split; there is nothing to "
            "tell apart. Check the target column and how the table is split."
        )

    def test_one_number_only(self, tmp_path):
        table(tmp_path, score=[3] * 20)
        found = message(prepared, tmp_path, outputs={"score": NumberOutput()}, **BY_COLUMN)
        assert found.startswith("t.csv, output 'score': the target is the same number ([3.0]) in every training row")

    def test_unknown_ones_are_allowed(self, tmp_path):
        table(tmp_path, label=["", "a", "b", *["a"] * 17])
        rows = prepared(tmp_path, **BY_COLUMN).splits["train"].rows
        assert [row.targets["label"] for row in rows[:3]] == [-1, 0, 1]

    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_a_split_without_any(self, tmp_path, split):
        """With known classes nothing else would notice: the loss would be 0 for ever, and every score empty."""
        label = ["ab"[i % 2] for i in range(20)]
        rows = {"train": range(10), "validation": range(10, 15), "test": range(15, 20)}[split]
        table(tmp_path, label=["" if i in rows else name for i, name in enumerate(label)])
        outputs = {"label": CategoryOutput(classes=("a", "b"))}
        assert message(prepared, tmp_path, outputs=outputs, **BY_COLUMN) == (
            f"t.csv: no row of the {split} split has a target for 'label'; fill column 'label', or split otherwise."
        )


class TestMemory:
    def test_reading_again_gives_the_same(self, tmp_path):
        people = toys.write_people(tmp_path)
        recipe = as_recipe(toys.recipe())
        arguments = (recipe.model.inputs, recipe.model.outputs, tmp_path, toys.silent)
        kept = prepare(recipe.data, *arguments)
        again = prepare(recipe.data.with_changes(keep_bytes=0), *arguments)
        assert again.inputs == kept.inputs
        for name, split in kept.splits.items():
            other = again.splits[name]
            assert split.rows is not None
            assert other.rows is None
            assert len(other) == len(split) == len(split.rows)
            for index in range(len(split)):
                for key, sample in split[index].inputs.items():
                    np.testing.assert_array_equal(other[index].inputs[key].values, sample.values)
                assert other[index].targets == split[index].targets
        assert people.exists()

    def test_what_does_not_fit_is_read_again(self, tmp_path):
        table(tmp_path)
        # 10 rows of two float64 numbers
        assert prepared(tmp_path, keep_bytes=160, **BY_COLUMN).splits["train"].rows is not None
        assert prepared(tmp_path, keep_bytes=159, **BY_COLUMN).splits["train"].rows is None

    def test_skipped_rows_stay_left_out(self, tmp_path):
        x: list[Any] = list(range(20))
        x[2] = "old"
        table(tmp_path, x=x)
        train = prepared(tmp_path, bad_rows="skip", keep_bytes=0, **BY_COLUMN).splits["train"]
        assert [train[i].inputs["facts"].values[0, 0] for i in range(len(train))] == [0, 1, 3, 4, 5, 6, 7, 8, 9]


class TestSources:
    def test_a_named_set(self):
        image = {"image": ImageInput(size=(8, 8), channels=1)}
        found = prepared(Path(), image, source="digits", keep_bytes=0)
        assert {name: len(split) for name, split in found.splits.items()} == {
            "train": 1295,
            "validation": 143,
            "test": 359,
        }
        assert found.outputs["label"].classes == tuple("0123456789")

    def test_a_named_set_has_its_own_splits(self):
        found = message(open_source, DataSettings(source="digits", splits={"kind": "fraction"}), Path())
        assert found == "'digits' brings its own splits (train, validation, test); leave data.splits out."

    def test_neither_a_file_nor_a_name(self, tmp_path):
        found = message(open_source, DataSettings(source="digit"), tmp_path)
        assert found.startswith(
            f"'digit' is neither a file or folder in {tmp_path} nor a named data set. Did you mean 'digits'?"
        )

    def test_no_source(self, tmp_path):
        assert message(open_source, DataSettings(), tmp_path).startswith("data.source is missing")

    def test_a_file_of_that_name_comes_first(self, tmp_path):
        for label in ("a", "b"):
            for i in range(3):
                toys.write_picture(tmp_path / "digits" / label / f"{i}.png", label, i)
        tables = open_source(DataSettings(source="digits"), tmp_path)
        assert sum(map(len, tables.values())) == 6

    def test_a_missing_file(self, tmp_path):
        table(tmp_path)
        found = message(open_source, DataSettings(source="tt.csv"), tmp_path)
        assert found == f"{tmp_path / 'tt.csv'}: there is no such file. Did you mean 't.csv'?"

    def test_files(self, tmp_path):
        table(tmp_path, name="a.csv")
        table(tmp_path, name="b.csv", count=4)
        found = prepared(tmp_path, source=None, splits={"kind": "files", "train": "a.csv", "validation": "b.csv"})
        assert {name: len(split) for name, split in found.splits.items()} == {"train": 20, "validation": 4}
        assert found.splits["validation"].table.name == "b.csv"

    def test_fractions(self, tmp_path):
        table(tmp_path)
        splits = {"kind": "fraction", "validation": 0.2, "test": 0, "stratify": "label"}
        found = prepared(tmp_path, splits=splits)
        assert {name: len(split) for name, split in found.splits.items()} == {"train": 16, "validation": 4}

    def test_a_column(self, tmp_path):
        table(tmp_path)
        found = prepared(tmp_path, **BY_COLUMN)
        assert found.splits["test"].table.rows.tolist() == [16, 17, 18, 19, 20]

    def test_paths_are_relative_to_the_table(self, tmp_path):
        toys.write_people(tmp_path / "deep" / "down")
        inputs = {"photo": ImageInput(size=(4, 4), channels=1)}
        settings = {"source": "deep/down/people.csv", "columns": {"photo": "picture"}, **BY_COLUMN}
        assert len(prepared(tmp_path, inputs, **settings).splits["train"]) == 24

    def test_a_picture_whose_name_begins_like_a_list(self, tmp_path):
        toys.write_picture(tmp_path / "[1].png", "dark", 1)
        table(tmp_path, photo=["[1].png"] * 20)
        inputs = {"photo": ImageInput(size=(4, 4), channels=1)}
        assert len(prepared(tmp_path, inputs).splits["train"]) == 16

    def test_series_as_lists_and_as_files(self, tmp_path):
        np.save(tmp_path / "wave.npy", np.arange(6, dtype=np.float32))
        cells = ["[0, 1, 2, 3, 4, 5]", "wave.npy"] * 10
        table(tmp_path, wave=cells)
        inputs = {"wave": SeriesInput(rate=2, seconds=3)}
        rows = prepared(tmp_path, inputs, **BY_COLUMN).splits["train"].rows
        np.testing.assert_array_equal(rows[0].inputs["wave"].values, rows[1].inputs["wave"].values)


def test_progress_is_told(tmp_path):
    table(tmp_path)
    told: list[tuple[str, int, int]] = []
    prepared(tmp_path, advance=lambda *step: told.append(step), **BY_COLUMN)
    assert told[0] == ("reading train", 0, 10)
    assert ("reading train", 10, 10) in told
    assert told[-1] == ("reading test", 5, 5)
