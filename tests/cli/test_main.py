"""The command line as people and scripts meet it: exit codes, what goes to which stream, and no traceback."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import toys

import perceivers
from perceivers.cli.main import app, main
from perceivers.errors import DataError, SpecError
from perceivers.predictor import Predictor

PROGRAM = [sys.executable, "-m", "perceivers"]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


class TestExitCodes:
    def test_help(self, call):
        for arguments in (["--help"], ["train", "--help"], ["data", "--help"], ["data", "list", "--help"]):
            done = call(*arguments)
            assert (done.code, done.err) == (0, "")
            assert "Usage: perceivers" in done.out
        for command in ("init", "train", "evaluate", "predict", "data", "plan", "presets"):
            assert f"\n  {command} " in call("--help").out

    def test_no_help_text_is_cut(self, call, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        for arguments in (["--help"], ["data", "--help"]):
            assert "..." not in call(*arguments).out.partition("Commands:")[2]

    def test_version(self, call):
        assert call("--version") == (0, f"perceivers {perceivers.__version__}\n", "")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["trian"], "No such command 'trian'"),
            (["train"], "Missing argument 'RECIPE'"),
            (["train", "a.yaml", "--resum"], "No such option: --resum"),
            (["train", "a.yaml", "--out"], "Option '--out' requires an argument"),
            (["predict", "model"], "Missing argument 'INPUTS"),
            (["evaluate"], "Missing argument 'MODEL'"),
        ],
    )
    def test_bad_usage_is_two(self, call, arguments, said):
        done = call(*arguments)
        assert done.code == 2
        assert said.lower() in done.err.lower()
        assert done.out == ""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["train", "a.yaml"], "error: there is no recipe 'a.yaml'."),
            (["evaluate", "runs/a"], "error: there is no model directory or run folder 'runs/a'."),
            (["predict", "runs/a", "b.csv"], "error: there is no model directory or run folder 'runs/a'."),
            (["predict", "runs/a", "b.csv", "--out", "c.xlsx"], "error: unknown ending of an output file '.xlsx'."),
            (
                ["predict", "a.yml", "b.csv"],
                "error: 'a.yml' looks like a recipe; wanted a model directory or a run folder. "
                "Train it: perceivers train a.yml --out runs/a. The model is then in runs/a.",
            ),
            (["evaluate", "own.csv"], "error: there is no model directory 'own.csv'.\n"),
            (["data", "fetch", "digit"], "error: unknown data set 'digit'. Did you mean 'digits'?"),
        ],
    )
    def test_a_users_mistake_is_one_and_no_traceback(self, call, arguments, said):
        for name in ("a.yml", "own.csv"):
            Path(name).write_text("a: 1\n")
        done = call(*arguments)
        assert done.code == 1
        assert done.err.startswith(said)
        assert "Traceback" not in done.err
        assert done.out == ""

    @pytest.mark.parametrize("arguments", [["--debug", "train", "a.yaml"], ["train", "a.yaml", "--debug"]])
    def test_debug_lets_it_through(self, arguments):
        with pytest.raises(SpecError):
            main(arguments)

    def test_debug_shows_the_traceback(self, tmp_path):
        """In a process of its own, since it is Python that prints it."""
        done = subprocess.run(
            [*PROGRAM, "--debug", "train", "a.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback (most recent call last):")
        assert done.stderr.splitlines()[-1].endswith("SpecError: there is no recipe 'a.yaml'.")

    def test_a_disk_that_fails_is_one(self, call, monkeypatch):
        def fail(*arguments: Any) -> None:
            raise OSError(28, "No space left on device", "somewhere")

        monkeypatch.setattr("perceivers.training.recipe.read_yaml", fail)
        Path("a.yaml").write_text("")
        done = call("train", "a.yaml")
        assert (done.code, done.err) == (1, "error: 'somewhere': No space left on device.\n")

    def test_an_interrupt_is_130(self, call, monkeypatch):
        def interrupt(*arguments: Any, **named: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("perceivers.training.evaluate.load", interrupt)
        assert call("evaluate", ".") == (130, "", "interrupted.\n")

    def test_warnings_are_words(self, call, monkeypatch):
        def warn(*arguments: Any, **named: Any) -> None:
            warnings.simplefilter("default")
            warnings.warn("the gyroscope never went missing.", UserWarning, stacklevel=1)
            raise DataError("and then")

        monkeypatch.setattr("perceivers.training.evaluate.load", warn)
        assert call("evaluate", ".") == (1, "", "warning: the gyroscope never went missing.\nerror: and then\n")

    def test_a_programming_error_is_not_hidden(self, monkeypatch):
        def fail(*arguments: Any, **named: Any) -> None:
            raise AttributeError("ours")

        monkeypatch.setattr("perceivers.training.evaluate.load", fail)
        with pytest.raises(AttributeError, match="ours"):
            main(["evaluate", "."])


@pytest.mark.parametrize("arguments", [["evaluate"], ["predict", "people.csv"]])
def test_a_device_that_is_not_there(call, run, arguments, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    done = call(arguments[0], run, *arguments[1:], "--device", "cuda")
    assert (done.code, done.out, done.err) == (1, "", "error: there is no device 'cuda' here. Devices: cpu.\n")


class TestTrain:
    def test_from_a_recipe_to_a_model(self, call, tmp_path):
        toys.write_people(tmp_path / "data")
        recipe = toys.write_recipe(tmp_path / "data" / "toy.yaml")
        done = call("train", recipe, "training.steps=2", "training.evaluate_every=1")
        assert (done.code, done.out) == (0, "")
        assert done.err.splitlines()[0] == "train: 24 samples"
        assert done.err.splitlines()[-1].endswith("model: runs/toy/model")
        assert set(Predictor("runs/toy")({"facts": {"age": 3, "height": 4}})) > {"label"}
        again = call("train", recipe, "training.steps=2")
        assert again.code == 1
        assert again.err.startswith("error: 'runs/toy' exists. Go on with it by --resume")
        longer = call("train", recipe, "training.steps=3", "training.evaluate_every=1", "--resume", "--quiet")
        assert (longer.code, longer.out, longer.err) == (0, "", "")

    def test_faults_of_a_recipe_are_listed(self, call):
        toys.write_recipe(Path("toy.yaml"), toys.recipe(training__lrr=3, model__latents__cuont=4))
        done = call("train", "toy.yaml")
        assert done.code == 1
        assert done.err.startswith("error: toy.yaml has 2 faults:\n")
        assert "training.lrr: unknown key. Did you mean 'lr'?" in done.err
        assert "model.latents.cuont: unknown key. Did you mean 'count'?" in done.err


class TestEvaluate:
    def test_a_table_for_people(self, call, run):
        done = call("evaluate", run, "--out", "scores")
        assert done.code == 0
        for words in (
            "run/model on test (12 samples)",
            "without facts",
            "without photo",
            "label",
            "accuracy",
            *toys.CLASSES,
        ):
            assert words in done.out
        assert done.err == "scores and pictures: scores\n"
        assert Path("scores/metrics.json").is_file()

    def test_json_for_programs(self, call, run):
        done = call("evaluate", run, "--out", "scores", "--json", "--split", "validation")
        assert (done.code, done.err) == (0, "")
        assert json.loads(done.out) == json.loads(Path("scores/metrics.json").read_text())
        assert json.loads(done.out)["split"] == "validation"

    def test_another_table(self, call, run, tmp_path):
        toys.write_people(tmp_path, toys.rows(count=5))
        done = call("evaluate", run, "--data", "people.csv", "--out", "scores", "--json")
        assert json.loads(done.out)["samples"] == 5

    def test_names_are_not_markup(self, call, monkeypatch):
        """A class may be called [bold] or [/], and a score may be unknown."""
        row = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 4}
        result = {
            "model": "[red]m",
            "split": "test",
            "samples": 1,
            "scores": {"label": {"accuracy": 0.5, "r2": None}},
            "without": {},
            "classes": {"label": {"[bold]": row, "[/]": row}},
        }
        monkeypatch.setattr("perceivers.training.evaluate.evaluate", lambda *a, **k: result)
        done = call("evaluate", "x")
        for words in ("[red]m on test", "[bold]", "[/]", "unknown", "0.5000", "0.333"):
            assert words in done.out


class TestPredict:
    def test_a_table_to_json_lines(self, call, run, trained):
        done = call("predict", run, trained / "people.csv")
        assert done.code == 0
        rows = lines(done.out)
        assert [row["row"] for row in rows] == list(range(1, 49))
        assert set(rows[0]) == {"row", "label", "label_probability", "label_probabilities"}
        assert done.err == ""

    @pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
    def test_to_a_file(self, call, run, trained, suffix):
        done = call("predict", run, trained / "people.csv", "--out", f"answers.{suffix}")
        assert (done.code, done.out) == (0, "")
        assert done.err == f"48 rows: answers.{suffix}\n"
        path = Path(f"answers.{suffix}")
        count = (
            len(pq.read_table(path)) if suffix == "parquet" else len(path.read_text().splitlines()) - (suffix == "csv")
        )
        assert count == 48

    def test_files(self, call, run, trained):
        done = call("predict", run, trained / "pictures/0.png", "gone.png")
        first, second = lines(done.out)
        assert first["file"] == str(trained / "pictures/0.png")
        assert second["error"].startswith("gone.png: image file 'gone.png' does not exist")
        assert (done.code, done.err) == (
            0,
            "  facts: absent in 1 sample\n1 of 2 rows could not be read; each has an error.\n",
        )

    def test_bad_rows_are_counted_and_strict_stops(self, call, run, tmp_path):
        rows = toys.rows(count=3)
        rows[1]["age"] = "old"
        toys.write_people(tmp_path, rows)
        done = call("predict", run, "people.csv", "--out", "a.csv")
        assert (done.code, done.err) == (0, "1 of 3 rows could not be read; each has an error.\n3 rows: a.csv\n")
        strict = call("predict", run, "people.csv", "--out", "b.csv", "--strict")
        assert strict.code == 1
        assert strict.err == "error: people.csv, row 2, column 'age': 'old' is not a number.\n"
        assert not Path("b.csv").exists()

    def test_quiet(self, call, run):
        done = call("predict", run, "gone.png", "--quiet")
        assert (done.code, done.err, len(lines(done.out))) == (1, "", 1)

    def test_nothing_but_errors_is_a_failure(self, call, run):
        done = call("predict", run, "gone.png", "lost.png", "--out", "a.csv")
        assert (done.code, done.err.splitlines()[-2:]) == (
            1,
            ["2 of 2 rows could not be read; each has an error.", "2 rows: a.csv"],
        )

    def test_the_table_itself_and_files_that_exist_are_kept(self, call, run, trained, tmp_path):
        Path("own.csv").write_text("age,height\n30,170\n")
        done = call("predict", run, "own.csv", "--out", "own.csv", "--overwrite")
        assert (done.code, Path("own.csv").read_text()) == (1, "age,height\n30,170\n")
        assert (
            done.err
            == "error: 'own.csv' is one of the files to be read, and would be lost; give another file to write.\n"
        )
        Path("a.csv").write_text("precious")
        done = call("predict", run, trained / "people.csv", "--out", "a.csv")
        assert (done.code, Path("a.csv").read_text()) == (1, "precious")
        assert done.err.startswith(
            "error: 'a.csv' exists, and would be replaced; give another file, or allow it by --ov"
        )
        assert call("predict", run, trained / "people.csv", "--out", "a.csv", "--overwrite").code == 0
        assert Path("a.csv").read_text().startswith("row,")

    def test_a_file_whose_name_is_not_unicode(self, call, run):
        name = os.fsdecode(b"caf\xe9.png")
        toys.write_picture(Path(name), "dark", 0)
        (row,) = lines(call("predict", run, name).out)
        assert row["file"] == name
        assert "label" in row


def test_every_command_has_a_line_of_help():
    assert all((command.callback.__doc__ or "").strip() for command in app.registered_commands if command.callback)
