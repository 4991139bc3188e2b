import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.data.table import Table
from perceivers.errors import DataError, ModelError
from perceivers.predictor import Predictor, predict
from perceivers.training.run import train


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor(trained / "run")


@pytest.fixture(scope="module")
def whole(trained, predictor) -> list[dict[str, Any]]:
    """The answers to people.csv."""
    return predict(predictor, trained / "people.csv")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Predictor:
    """A model that reads one picture a sample and answers two numbers."""
    folder = tmp_path_factory.mktemp("pictures")
    toys.write_people(folder)
    changes = {
        "model__inputs__facts": None,
        "model__outputs": {"size": {"kind": "number", "columns": ["age", "height"]}},
        "training__input_dropout": {},
        "training__steps": 1,
    }
    return Predictor(train(toys.recipe(**changes), out=folder / "run", base=folder, quiet=True).model)


def message(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal, numbers to what float32 holds."""
    if one.keys() != other.keys():
        return False
    for key, value in one.items():
        if isinstance(value, dict):
            if not close(value, other[key]):
                return False
        elif isinstance(value, float):
            if value != pytest.approx(other[key], abs=1e-6, rel=1e-5):
                return False
        elif value != other[key]:
            return False
    return True


def answer(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("row", "file")}


def sample(folder: Path, index: int) -> dict[str, Any]:
    row = toys.rows()[index]
    return {"photo": str(folder / row["picture"]), "facts": {"age": row["age"], "height": row["height"]}}


class TestAnswers:
    def test_a_row_is_plain_data(self, whole):
        first = whole[0]
        assert set(first) == {"row", "label", "label_probability", "label_probabilities"}
        assert first["label"] in toys.CLASSES
        assert list(first["label_probabilities"]) == list(toys.CLASSES)
        assert sum(first["label_probabilities"].values()) == pytest.approx(1)
        assert first["label_probability"] == max(first["label_probabilities"].values())
        json.dumps(whole, allow_nan=False)

    def test_order_is_kept(self, whole):
        assert [row["row"] for row in whole] == list(range(1, 49))

    def test_alone_or_in_any_batch(self, trained, predictor, whole):
        for size in (1, 7, 48):
            other = predict(Predictor(predictor.model, batch_size=size), samples_of(trained))
            assert all(close(answer(a), answer(b)) for a, b in zip(whole, other, strict=True)), size

    def test_a_sample_is_answered_as_its_row_is(self, trained, predictor, whole):
        for index in (0, 17, 47):
            assert close(predictor(sample(trained, index)), answer(whole[index]))

    def test_values_may_be_paths_bytes_or_arrays(self, trained, predictor):
        from PIL import Image

        path = trained / toys.rows()[5]["picture"]
        forms = [str(path), path, path.read_bytes(), np.asarray(Image.open(path)), {"bytes": path.read_bytes()}]
        answers = predictor.answers([{"photo": form} for form in forms], strict=True)
        assert all(found == answers[0] for found in answers)

    @given(st.lists(st.sampled_from(["both", "photo", "facts", "bad"]), min_size=1, max_size=12), st.integers(1, 5))
    @settings(max_examples=15)
    def test_neighbours_change_nothing(self, trained, predictor, kinds, batch_size):
        """Whatever else is in the batch, absent inputs and bad rows included."""
        whole = sample(trained, 3)
        forms = {
            "both": whole,
            "photo": {"photo": whole["photo"]},
            "facts": {"facts": whole["facts"], "photo": None},
            "bad": {"facts": {"age": "old", "height": 1}},
        }
        found = Predictor(predictor.model, batch_size=batch_size).answers([forms[kind] for kind in kinds])
        for number, (kind, row) in enumerate(zip(kinds, found, strict=True), start=1):
            if kind == "bad":
                assert row == {"error": f"sample {number}, input 'facts': column 'age': 'old' is not a number."}
            else:
                assert close(row, predictor(forms[kind]))

    def test_several_numbers(self, pictures, trained):
        found = pictures({"photo": trained / toys.rows()[0]["picture"]})
        assert set(found) == {"size_age", "size_height"}
        assert all(isinstance(value, float) for value in found.values())

    def test_no_gradient_and_no_mode_is_left_behind(self, trained, predictor):
        predictor(sample(trained, 0))
        assert not predictor.model.training
        assert all(p.grad is None for p in predictor.model.parameters())


def samples_of(folder: Path) -> list[dict[str, Any]]:
    return [sample(folder, index) for index in range(toys.ROWS)]


class TestSamples:
    def test_one_too_odd(self, predictor):
        assert message(predictor, {"phtoo": 1}) == "unknown input 'phtoo'. Did you mean 'photo'? Known: facts, photo."
        assert "got list, wanted a mapping: input name → value" in message(predictor, [1])

    @pytest.mark.parametrize(
        "nothing",
        [{}, {"photo": None}, {"facts": {}}, {"facts": {"age": None, "height": float("nan")}}, {"facts": ["", ""]}],
    )
    def test_nothing_to_answer_from(self, predictor, nothing):
        assert (
            message(predictor, nothing) == "every input is absent or masked whole, so there is nothing to answer from."
        )
        (row,) = predict(predictor, [nothing])
        assert row == {
            "row": 1,
            "error": "sample 1: every input is absent or masked whole, so there is nothing to answer from.",
        }

    def test_strict_names_the_sample(self, predictor):
        good, bad = {"facts": {"age": 3}}, {"facts": {"aeg": 3}}
        assert message(predict, predictor, [good, bad], strict=True) == (
            "sample 2, input 'facts': there is no column 'aeg'. Did you mean 'age'? Columns: age, height."
        )
        rows = predict(predictor, [good, bad, good, 3])
        assert ["error" in row for row in rows] == [False, True, False, True]
        assert [row["row"] for row in rows] == [1, 2, 3, 4]

    def test_no_samples(self, predictor):
        assert "there is nothing to predict" in message(predict, predictor, [])

    def test_what_overflows_has_no_answer(self, predictor):
        """Finite, but beyond all that the model can hold: an error, not NaN dressed as a class."""
        predictor = Predictor(predictor.model)
        with pytest.warns(UserWarning, match=r"column 'age' is 1e\+300, but the model was trained on a mean of"):
            row, fine = predict(
                predictor, [{"facts": {"age": 1e300, "height": 1}}, {"facts": {"age": 30, "height": 1}}]
            )
        assert row == {"row": 1, "error": "'label' has no finite answer; look for extreme values in the row."}
        assert "label" in fine
        assert "no finite answer" in message(predictor, {"facts": {"age": 1e300, "height": 1}})


class TestTable:
    def table(self, folder: Path, **changes: Any) -> Path:
        """people.csv of four rows with columns replaced; None takes a column out."""
        rows = [{**row, **{k: v[i] for k, v in changes.items() if v}} for i, row in enumerate(toys.rows(count=4))]
        rows = [{key: value for key, value in row.items() if changes.get(key, True) is not None} for row in rows]
        for i in range(4):
            toys.write_picture(folder / f"pictures/{i}.png", toys.rows()[i]["label"], i)
        return toys.write_csv(folder / "people.csv", rows)

    def test_targets_are_not_needed(self, predictor, tmp_path, whole):
        found = predict(predictor, self.table(tmp_path, label=None, split=None, score=None))
        assert all(close(a, b) for a, b in zip(found, whole, strict=False))

    def test_bad_rows_become_errors_where_they_stand(self, predictor, tmp_path, whole):
        path = self.table(tmp_path, age=["x", 30, 30, 30], picture=["pictures/0.png", "gone.png", "", "pictures/3.png"])
        found = predict(predictor, path)
        assert [set(row) == {"row", "error"} for row in found] == [True, True, False, False]
        assert found[0] == {"row": 1, "error": "people.csv, row 1, column 'age': 'x' is not a number."}
        assert found[1]["error"].startswith("people.csv, row 2, column 'picture': image file '")
        assert "gone.png' does not exist" in found[1]["error"]

    def test_strict_stops(self, predictor, tmp_path):
        path = self.table(tmp_path, age=[30, 30, "x", "y"])
        out = tmp_path / "answers.csv"
        assert message(predict, predictor, path, out=out, strict=True).startswith("people.csv, row 3, column 'age'")
        assert not out.exists()

    def test_an_input_whose_columns_are_missing_is_absent(self, predictor, tmp_path, trained):
        with pytest.warns(UserWarning, match=r"no column picture; taken as missing in every row"):
            found = predict(predictor, self.table(tmp_path, picture=None))
        for index, row in enumerate(found):
            assert close(answer(row), predictor({"facts": sample(trained, index)["facts"]}))

    def test_a_column_that_is_missing_is_empty_cells(self, predictor, tmp_path, trained):
        with pytest.warns(UserWarning, match=r"people\.csv: no column age; taken as missing in every row"):
            found = predict(predictor, self.table(tmp_path, age=None))
        first = sample(trained, 0)
        assert close(answer(found[0]), predictor({**first, "facts": {"height": first["facts"]["height"]}}))

    def test_no_column_of_any_input(self, predictor, tmp_path):
        found = message(predict, predictor, self.table(tmp_path, picture=None, age=None, height=None))
        assert found == (
            "people.csv: holds no column of any input: photo (column picture); facts (column age, height). "
            "Columns: label, split, score."
        )

    def test_row_numbers_are_the_tables(self, predictor, trained):
        columns = {"age": [1, 2, 3], "height": [1, 2, 3]}
        found = predictor.table(Table(columns, "t", trained).take([2, 0]), quiet=True)
        assert close(found[1], predictor({"facts": {"age": 1, "height": 1}}))

    def test_a_row_with_nothing(self, predictor, tmp_path):
        with pytest.warns(UserWarning, match="no column picture"):
            found = predict(predictor, self.table(tmp_path, age=["", 1, 1, 1], height=["", 1, 1, 1], picture=None))
        assert found[0]["error"] == (
            "people.csv, row 1: every input is absent or masked whole, so there is nothing to answer from."
        )

    def test_progress(self, predictor, tmp_path):
        told: list[tuple[str, int, int]] = []
        predict(predictor, self.table(tmp_path), advance=lambda *step: told.append(step))
        assert told == [("predicting", i, 4) for i in (1, 2, 3, 4)]


class TestFiles:
    def test_one_file_a_sample(self, pictures, trained):
        paths = [trained / row["picture"] for row in toys.rows(count=3)]
        found = predict(pictures, paths)
        assert [row["file"] for row in found] == [str(path) for path in paths]
        assert close(answer(found[1]), pictures({"photo": paths[1]}))
        assert close(predict(pictures, str(paths[1]))[0], found[1])

    def test_a_bad_file_is_an_error_in_its_place(self, pictures, trained, tmp_path):
        (tmp_path / "text.png").write_text("no picture")
        paths = [trained / "pictures/0.png", tmp_path / "text.png", tmp_path / "gone.png", trained / "pictures/1.png"]
        found = predict(pictures, paths)
        assert ["error" in row for row in found] == [False, True, True, False]
        assert "is not an image" in found[1]["error"]
        assert "does not exist" in found[2]["error"]

    def test_with_several_inputs_the_others_are_absent(self, predictor, trained):
        path = trained / "pictures/0.png"
        assert close(answer(predict(predictor, [path])[0]), predictor({"photo": path}))

    def test_a_model_that_reads_no_files(self, tmp_path):
        toys.write_people(tmp_path)
        changes = {
            "model__inputs__photo": None,
            "data__columns": {},
            "training__input_dropout": {},
            "training__steps": 1,
        }
        model = train(toys.recipe(**changes), out=tmp_path / "run", base=tmp_path, quiet=True).model
        assert message(predict, model, ["a.png"]) == (
            "the model has no input that is a file, so give a table or JSON lines with a column an input."
        )

    def test_tables_and_files_do_not_mix(self, pictures, trained):
        found = message(predict, pictures, [trained / "people.csv", trained / "pictures/0.png"])
        assert found == f"give one table or several files, not both: '{trained / 'people.csv'}' is a table."


class TestOut:
    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
    def test_formats(self, predictor, trained, whole, tmp_path, suffix):
        out = tmp_path / f"answers{suffix}"
        assert predict(predictor, trained / "people.csv", out=out) == whole
        if suffix == ".jsonl":
            rows = [json.loads(line) for line in out.read_text().splitlines()]
        elif suffix == ".parquet":
            rows = pq.read_table(out).to_pylist()
        else:
            with out.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream, delimiter="\t" if suffix == ".tsv" else ","))
            for row in rows:
                row["row"] = int(row["row"])
                row["label_probability"] = float(row["label_probability"])
                row["label_probabilities"] = json.loads(row["label_probabilities"])
        assert rows == whole
        assert [path.name for path in tmp_path.iterdir()] == [out.name]

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
    def test_errors_are_in_the_file_too(self, predictor, tmp_path, suffix):
        rows = predict(predictor, [{"facts": {"age": 3}}, {"facts": {"age": "x"}}], out=tmp_path / f"a{suffix}")
        assert "error" in rows[1]
        assert "is not a number" in (tmp_path / f"a{suffix}").read_bytes().decode("utf-8", "replace")

    def test_an_unknown_ending_is_found_before_anything_is_computed(self, trained, tmp_path, monkeypatch):
        monkeypatch.setattr("perceivers.predictor.Predictor", lambda *a: pytest.fail("found first"))
        found = message(predict, trained / "run", trained / "people.csv", out=tmp_path / "answers.jsn")
        assert found == (
            "unknown ending of an output file '.jsn'. Did you mean '.jsonl'? "
            "Known: .csv, .jsonl, .ndjson, .parquet, .tsv."
        )

    def test_whole_or_not_at_all(self, predictor, trained, tmp_path, monkeypatch):
        out = tmp_path / "answers.csv"
        out.write_text("of before")

        def fail(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fail)
        assert "No space left on device" in message(predict, predictor, trained / "people.csv", out=out, overwrite=True)
        assert out.read_text() == "of before"
        assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]

    def test_what_exists_is_replaced_on_request_only(self, predictor, trained, whole, tmp_path):
        out = tmp_path / "answers.jsonl"
        out.write_text("precious")
        assert message(predict, predictor, trained / "people.csv", out=out) == (
            f"'{out}' exists, and would be replaced; give another file, or allow it by --overwrite (overwrite=True)."
        )
        assert out.read_text() == "precious"
        assert predict(predictor, trained / "people.csv", out=out, overwrite=True) == whole
        assert len(out.read_text().splitlines()) == len(whole)

    @pytest.mark.parametrize("several", [False, True])
    def test_what_is_read_is_never_replaced(self, predictor, tmp_path, several):
        own, link = tmp_path / "own.csv", tmp_path / "link.csv"
        own.write_text("age,height\n30,170\n")
        link.symlink_to(own)
        given = [own] if several else own
        for out in (own, link):
            found = message(predict, predictor, given, out=out, overwrite=True)
            assert found == f"'{out}' is one of the files to be read, and would be lost; give another file to write."
        assert own.read_text() == "age,height\n30,170\n"


def without_checksum(model: Path) -> None:
    """Take the recipe out of the manifest, as in model directories written before it stood there."""
    manifest = json.loads((model / "manifest.json").read_text())
    del manifest["files"]["recipe.yaml"]
    (model / "manifest.json").write_text(json.dumps(manifest))


class TestModel:
    def test_any_way_to_name_it(self, trained, predictor, whole):
        table = trained / "people.csv"
        for model in (trained / "run", str(trained / "run" / "model")):
            assert predict(model, table) == whole

    def test_a_model_from_python_takes_inputs_by_name(self, trained, predictor):
        """A model alone knows no recipe, so columns carry the names of the inputs."""
        found = Predictor(predictor.model).table(Table({"photo": ["pictures/0.png"]}, "t", trained), quiet=True)
        assert close(found[0], predictor({"photo": trained / "pictures/0.png"}))

    @pytest.mark.parametrize(
        "text", ["data: [", "data: 3", "[1]", "model: {}", "data: {colums: {}}", "data: {columns: [a]}"]
    )
    def test_a_damaged_recipe(self, trained, tmp_path, text):
        model = shutil.copytree(trained / "run" / "model", tmp_path / "model")
        (model / "recipe.yaml").write_text(text)
        without_checksum(model)
        with pytest.raises(ModelError, match=r"recipe\.yaml' is damaged; save the model anew from Python to pre"):
            Predictor(model)

    def test_no_recipe(self, trained, tmp_path):
        model = shutil.copytree(trained / "run" / "model", tmp_path / "model")
        (model / "recipe.yaml").unlink()
        without_checksum(model)
        assert "holds no column of any input" not in str(predict(model, [{"facts": {"age": 3}}]))

    def test_there_is_none(self, trained):
        with pytest.raises(
            ModelError, match=r"there is no model directory or run folder '.*rnu'\. Did you mean 'run'\?"
        ):
            Predictor(trained / "rnu")
