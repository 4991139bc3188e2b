import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import toys

from perceivers.data.table import Table
from perceivers.errors import DataError, ModelError, TrainingError
from perceivers.models.weights import find_model, load
from perceivers.predictor import Predictor
from perceivers.training.evaluate import evaluate
from perceivers.training.run import train


def message(error: type[Exception], *arguments: Any, **named: Any) -> str:
    with pytest.raises(error) as caught:
        evaluate(*arguments, quiet=True, **named)
    return str(caught.value)


@pytest.fixture(scope="module")
def result(trained, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("evaluation") / "scores"
    return out, evaluate(trained / "run", out=out, quiet=True)


@pytest.fixture(scope="module")
def answers(trained) -> tuple[list[str], list[str]]:
    """True and predicted classes of the test split, by the predictor."""
    table = [row for row in toys.rows() if row["split"] == "test"]
    columns = {key: [row[key] for row in table] for key in ("picture", "age", "height")}
    rows = Predictor(trained / "run").table(Table(columns, "people", trained), strict=True)
    return [row["label"] for row in table], [row["label"] for row in rows]


class TestMetrics:
    def test_the_file_is_what_is_returned(self, result):
        out, found = result
        assert json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail) == found
        counts = {"samples", "skipped", "absent", "masked", "padded", "same_rows"}
        assert set(found) == {"model", "split", "loss", "scores", "classes", "without"} | counts
        assert found["same_rows"] is True
        assert found["model"] == "run/model"
        assert (found["split"], found["samples"], found["skipped"]) == ("test", 12, 0)

    def test_scores_are_those_of_the_predictions(self, result, answers):
        scores = result[1]["scores"]["label"]
        true, predicted = answers
        assert scores["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
        assert scores["f1"] == pytest.approx(
            sk.f1_score(true, predicted, labels=toys.CLASSES, average="macro", zero_division=0)
        )

    def test_per_class_scores_are_those_of_scikit_learn(self, result, answers):
        true, predicted = answers
        expected = sk.precision_recall_fscore_support(true, predicted, labels=toys.CLASSES, zero_division=0)
        classes = result[1]["classes"]["label"]
        assert list(classes) == list(toys.CLASSES)
        for i, name in enumerate(toys.CLASSES):
            for key, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
                assert classes[name][key] == pytest.approx(column[i]), (name, key)

    def test_each_input_is_removed_in_turn(self, result, trained):
        without = result[1]["without"]
        assert set(without) == {"photo", "facts"}
        table = [row for row in toys.rows() if row["split"] == "test"]
        model = Predictor(trained / "run")
        lacking_photo = model.answers([{"facts": {"age": row["age"], "height": row["height"]}} for row in table])
        lacking_facts = model.answers([{"photo": trained / row["picture"]} for row in table])
        for name, answers in (("photo", lacking_photo), ("facts", lacking_facts)):
            right = [a["label"] == row["label"] for a, row in zip(answers, table, strict=True)]
            assert without[name]["label"]["accuracy"] == pytest.approx(np.mean(right)), name

    def test_pictures(self, result):
        out, _ = result
        assert {path.name for path in out.iterdir()} == {"metrics.json", "confusion-label.png"}
        assert (out / "confusion-label.png").read_bytes().startswith(b"\x89PNG")

    def test_a_model_of_one_input_has_nothing_to_remove(self, tmp_path):
        toys.write_people(tmp_path)
        changes = {
            "model__inputs__photo": None,
            "data__columns": {},
            "training__input_dropout": {},
            "training__steps": 1,
        }
        train(toys.recipe(**changes), out=tmp_path / "run", base=tmp_path, quiet=True)
        assert evaluate(tmp_path / "run", quiet=True)["without"] == {}

    def test_any_batch_size_gives_the_same(self, trained, tmp_path, result):
        again = evaluate(trained / "run", out=tmp_path / "e", batch_size=5, quiet=True)
        assert again["scores"]["label"] == pytest.approx(result[1]["scores"]["label"])
        assert again["loss"] == pytest.approx(result[1]["loss"], rel=1e-5)


class TestSplits:
    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_each_of_the_recipe(self, trained, tmp_path, split):
        found = evaluate(trained / "run", out=tmp_path / "e", split=split, quiet=True)
        assert found["split"] == split
        assert found["samples"] == {"train": 24, "validation": 12, "test": 12}[split]

    def test_one_that_is_not_there(self, trained, tmp_path):
        found = message(DataError, trained / "run", out=tmp_path / "e", split="tets")
        assert found == "there is no split 'tets'. Did you mean 'test'? Splits: train, validation, test."

    def test_the_same_rows_from_wherever_it_is_called(self, trained, tmp_path, monkeypatch, result):
        monkeypatch.chdir(tmp_path)
        assert evaluate(trained / "run", out="e", quiet=True)["scores"] == result[1]["scores"]
        assert (tmp_path / "e" / "metrics.json").is_file()

    def test_by_default_beside_the_model(self, trained, tmp_path):
        shutil.copytree(trained / "run", tmp_path / "run")
        evaluate(tmp_path / "run" / "model", quiet=True)
        assert (tmp_path / "run" / "evaluation-test" / "metrics.json").is_file()

    def test_models_side_by_side_have_an_evaluation_each(self, trained, tmp_path, monkeypatch):
        for name in ("one", "two"):
            shutil.copytree(trained / "run" / "model", tmp_path / name)
            evaluate(tmp_path / name, quiet=True)
            assert json.loads((tmp_path / f"evaluation-{name}-test" / "metrics.json").read_text())["model"] == name
        monkeypatch.chdir(tmp_path / "one")
        assert evaluate(".", split="validation", quiet=True)["model"] == "one"
        assert (tmp_path / "evaluation-one-validation" / "metrics.json").is_file()
        assert "evaluation-one-validation" not in {path.name for path in (tmp_path / "one").iterdir()}


class TestSource:
    def test_another_table_is_scored_whole(self, trained, tmp_path):
        toys.write_people(tmp_path, toys.rows(seed=9, count=7))
        found = evaluate(trained / "run", out=tmp_path / "e", source=str(tmp_path / "people.csv"), quiet=True)
        assert (found["split"], found["samples"]) == ("all", 7)

    def test_a_table_of_one_row(self, trained, tmp_path):
        toys.write_people(tmp_path, toys.rows(seed=9, count=1))
        found = evaluate(trained / "run", out=tmp_path / "e", source=str(tmp_path / "people.csv"), quiet=True)
        assert found["samples"] == 1

    def test_a_table_has_no_splits(self, trained, tmp_path):
        source = str(toys.write_people(tmp_path))
        found = message(DataError, trained / "run", out=tmp_path / "e", source=source, split="test")
        assert found == "there is no split 'test'. Splits: all."

    def test_the_table_of_training_is_told_of(self, trained, tmp_path):
        """Wherever it lies, and the training split alone too."""
        source = toys.write_people(tmp_path)
        told = "people.csv: the model was trained on rows of this table, so the scores are better than those of new"
        with pytest.warns(UserWarning, match=told):
            evaluate(trained / "run", out=tmp_path / "e", source=str(source), quiet=True)
        toys.write_people(tmp_path, [{**row, "age": row["age"] + 1} for row in toys.rows()])
        evaluate(trained / "run", out=tmp_path / "e", source=str(source), quiet=True)

    def test_a_folder_of_class_folders(self, tmp_path):
        for label in toys.CLASSES:
            for i in range(6):
                toys.write_picture(tmp_path / "faces" / label / f"{i}.png", label, i)
        changes = {"model__inputs__facts": None, "training__input_dropout": {}, "training__steps": 2}
        recipe = toys.recipe(**changes, data={"source": "faces", "columns": {"photo": "file"}})
        with pytest.warns(UserWarning, match="the validation split has 2 rows, which choose the best model"):
            train(recipe, out=tmp_path / "run", base=tmp_path, quiet=True)
        with pytest.warns(UserWarning, match="faces: the model was trained on rows of this table"):
            assert evaluate(tmp_path / "run", source=str(tmp_path / "faces"), quiet=True)["samples"] == 18

    def test_a_target_of_which_only_some_columns_are_there(self, tmp_path):
        toys.write_people(tmp_path)
        outputs = {"size": {"kind": "number", "columns": ["age", "height"]}}
        recipe = toys.recipe(training__steps=1, model__outputs=outputs, model__inputs__facts__columns=["score"])
        train(recipe, out=tmp_path / "run", base=tmp_path, quiet=True)
        table = [{key: value for key, value in row.items() if key != "age"} for row in toys.rows()]
        source = toys.write_csv(tmp_path / "new.csv", table)
        found = message(DataError, tmp_path / "run", source=str(source))
        assert found.startswith("new.csv: there is no column 'age' for 'size'.")

    def test_a_missing_one(self, trained, tmp_path):
        assert "there is no such file" in message(DataError, trained / "run", source=str(tmp_path / "x.csv"))
        assert "Did you mean 'digits'?" in message(DataError, trained / "run", source="digit")

    def test_a_model_without_a_recipe_needs_one(self, trained, tmp_path):
        model = load(trained / "run").save(tmp_path / "alone")
        assert message(DataError, model) == (
            f"'{model}' holds no recipe, so it is not known what to score it on; give a source (--data)."
        )

    def test_targets_that_are_all_empty(self, trained, tmp_path):
        table = [{**row, "label": ""} for row in toys.rows(count=4)]
        toys.write_people(tmp_path, table)
        found = message(DataError, trained / "run", out=tmp_path / "e", source=str(tmp_path / "people.csv"))
        assert found.startswith("people.csv: no row of the all split has a target for 'label'")

    def test_bad_rows_that_the_recipe_leaves_out_are_counted(self, tmp_path):
        table = toys.rows()
        table[3]["age"] = table[7]["age"] = "old"  # rows of the test split
        toys.write_people(tmp_path, table)
        recipe = toys.recipe(data__bad_rows="skip", training__steps=1)
        train(recipe, out=tmp_path / "run", base=tmp_path, quiet=True)
        with pytest.warns(UserWarning, match=r"2 of 12 rows of the test split .* row 4, column 'age': 'old'"):
            found = evaluate(tmp_path / "run", quiet=True)
        assert (found["samples"], found["skipped"]) == (10, 2)
        listed = (tmp_path / "run" / "evaluation-test" / "skipped.csv").read_text().splitlines()
        assert listed[1:] == [f"people.csv,{row},age,'old' is not a number." for row in (4, 8)]
        with pytest.warns(UserWarning, match="2 of 12 rows"):
            evaluate(tmp_path / "run", quiet=True)  # over the earlier one, which holds that file

    def test_bad_rows_may_be_left_out_of_one_evaluation(self, trained, tmp_path):
        table = toys.rows(count=8)
        table[3]["age"] = "old"
        toys.write_people(tmp_path, table)
        given = {"out": tmp_path / "e", "source": str(tmp_path / "people.csv")}
        found = message(DataError, trained / "run", **given)
        assert found.startswith("1 of 8 rows of the all split cannot be read")
        assert found.endswith(
            "or leave them out by bad_rows: skip (--bad-rows skip), which lists them all in skipped.csv."
        )
        with pytest.warns(UserWarning, match="1 of 8 rows"):
            scores = evaluate(trained / "run", **given, bad_rows="skip", quiet=True)
        assert (scores["samples"], scores["skipped"]) == (7, 1)


class TestOut:
    def test_an_earlier_evaluation_is_replaced(self, trained, tmp_path):
        evaluate(trained / "run", out=tmp_path / "e", split="validation", quiet=True)
        (tmp_path / "e" / "confusion-old.png").write_bytes(b"")
        (tmp_path / "e" / ".DS_Store").write_bytes(b"")
        evaluate(trained / "run", out=tmp_path / "e", split="test", quiet=True)
        assert json.loads((tmp_path / "e" / "metrics.json").read_text())["split"] == "test"
        assert {path.name for path in (tmp_path / "e").iterdir()} == {"metrics.json", "confusion-label.png"}
        assert [path.name for path in tmp_path.iterdir()] == ["e"]

    @pytest.mark.parametrize("names", [["thesis.doc"], ["metrics.json", "thesis.doc"], ["confusion-label.png"]])
    def test_anything_else_is_not_touched(self, trained, tmp_path, names, monkeypatch):
        monkeypatch.setattr("perceivers.training.evaluate.score", lambda *a, **k: pytest.fail("found before scoring"))
        folder = tmp_path / "mine"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("precious")
        before = toys.tree(tmp_path)
        found = message(TrainingError, trained / "run", out=folder)
        assert found == f"'{folder}' exists and is not an evaluation; give another folder by --out (out=…)."
        assert toys.tree(tmp_path) == before

    def test_nor_is_a_file(self, trained, tmp_path):
        (tmp_path / "e").write_text("precious")
        assert "is not an evaluation" in message(TrainingError, trained / "run", out=tmp_path / "e")
        assert (tmp_path / "e").read_text() == "precious"

    def test_the_run_folder_itself_is_not_replaced(self, trained):
        assert "is not an evaluation" in message(TrainingError, trained / "run", out=trained / "run")

    def test_an_empty_folder_is_filled(self, trained, tmp_path):
        (tmp_path / "e").mkdir()
        evaluate(trained / "run", out=tmp_path / "e", quiet=True)
        assert (tmp_path / "e" / "metrics.json").is_file()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Path:
    """The run of a model that answers a number."""
    folder = tmp_path_factory.mktemp("numbers")
    toys.write_people(folder)
    recipe = toys.recipe(model__outputs={"score": {"kind": "number"}}, training__steps=2)
    train(recipe, out=folder / "run", base=folder, quiet=True)
    return folder / "run"


class TestNumbers:
    def test_no_confusion_and_no_classes(self, numbers):
        found = evaluate(numbers, quiet=True)
        assert found["classes"] == {}
        assert set(found["scores"]["score"]) == {"mae", "rmse", "r2"}
        assert [path.name for path in (numbers / "evaluation-test").iterdir()] == ["metrics.json"]

    def test_what_one_row_cannot_tell_is_none(self, numbers, tmp_path):
        """Strict JSON holds no NaN."""
        toys.write_people(tmp_path, toys.rows(count=1))
        found = evaluate(numbers, out=tmp_path / "e", source=str(tmp_path / "people.csv"), quiet=True)
        assert found["scores"]["score"]["r2"] is None
        assert found["without"]["photo"]["score"]["r2"] is None
        assert json.loads((tmp_path / "e" / "metrics.json").read_text(), parse_constant=pytest.fail) == found

    def test_a_target_that_never_changes(self, numbers, tmp_path):
        toys.write_people(tmp_path, [{**row, "score": 3} for row in toys.rows(count=5)])
        found = evaluate(numbers, out=tmp_path / "e", source=str(tmp_path / "people.csv"), quiet=True)
        json.loads((tmp_path / "e" / "metrics.json").read_text(), parse_constant=pytest.fail)
        assert found["scores"]["score"]["mae"] > 0


class TestFindModel:
    def test_run_folder_and_model_directory(self, trained):
        assert find_model(trained / "run") == trained / "run" / "model"
        assert find_model(trained / "run" / "model") == trained / "run" / "model"

    def test_near_miss(self, trained):
        with pytest.raises(
            ModelError, match=r"there is no model directory or run folder '.*/rnu'\. Did you mean 'run'\?"
        ):
            find_model(trained / "rnu")

    def test_a_folder_that_holds_none(self, tmp_path):
        assert "is not a whole model directory" in message(ModelError, tmp_path)


def test_progress_goes_to_standard_error(trained, tmp_path, capfd):
    evaluate(trained / "run", out=tmp_path / "e")
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == f"scores and pictures: {tmp_path / 'e'}"
