"""A tiny run, whole: what it writes, what it learns from, what is saved."""

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import toys

from perceivers.errors import TrainingError
from perceivers.models.weights import load
from perceivers.predictor import Predictor
from perceivers.training import module
from perceivers.training.checkpoints import latest_checkpoint
from perceivers.training.evaluate import evaluate
from perceivers.training.journal import read_lines
from perceivers.training.plan import plan
from perceivers.training.recipe import as_recipe, read_recipe
from perceivers.training.run import TrainingResult, train
from perceivers.training.schedules import lr_factor


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """A folder with people.csv; runs are written elsewhere."""
    folder = tmp_path_factory.mktemp("people")
    toys.write_people(folder)
    return folder


def run(people: Path, out: Path, **changes: Any) -> TrainingResult:
    return train(toys.recipe(**changes), out=out, base=people, quiet=True)


def lines(run: Path, group: str = "train") -> list[dict[str, Any]]:
    return [line for line in read_lines(run / "metrics.jsonl") if line["group"] == group]


def losses(run: Path) -> list[str]:
    """Exact text of every logged loss."""
    return [line["loss"].hex() for line in lines(run)]


def state(run: Path) -> dict[str, Any]:
    found = latest_checkpoint(run / "checkpoints", pytest.fail)
    assert found is not None
    return found[1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestRunFolder:
    def test_what_is_in_it(self, trained):
        found = {path.name for path in (trained / "run").iterdir()}
        assert found == {"recipe.yaml", "metrics.jsonl", "curves.png", "tensorboard", "checkpoints", "model"}
        kept = sorted(path.name for path in (trained / "run" / "checkpoints").iterdir())
        assert kept == ["checkpoint-000000008", "checkpoint-000000012"]
        model = {path.name for path in (trained / "run" / "model").iterdir()}
        assert model == {"model.safetensors", "spec.json", "labels.json", "card.md", "recipe.yaml", "manifest.json"}
        assert (trained / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")

    def test_metrics(self, trained):
        steps = lines(trained / "run")
        assert [line["step"] for line in steps] == list(range(1, 13))
        assert set(steps[0]) == {"step", "group", "loss", "last_loss", "lr", "gradient_norm", "samples_per_second"}
        looks = lines(trained / "run", "validation")
        assert [line["step"] for line in looks] == [4, 8, 12]
        assert set(looks[0]) == {"step", "group", "loss", "label.accuracy", "label.f1"}

    def test_the_learning_rate_follows_the_schedule(self, trained):
        settings = as_recipe(toys.RECIPE).training
        expected = [settings.lr * lr_factor(step, 12, settings.schedule) for step in range(12)]
        assert [line["lr"] for line in lines(trained / "run")] == pytest.approx(expected)

    def test_the_recipe_is_whole_and_stands_alone(self, trained):
        stored = read_recipe(trained / "run" / "recipe.yaml")
        assert stored.data.source == str(trained / "people.csv")
        assert stored.model.outputs["label"].classes == toys.CLASSES
        assert stored.model.inputs["facts"].mean is not None
        assert stored.training == as_recipe(toys.RECIPE).training
        assert (trained / "run" / "model" / "recipe.yaml").read_bytes() == (
            trained / "run" / "recipe.yaml"
        ).read_bytes()

    def test_the_card_says_where_the_model_is_from(self, trained):
        card = (trained / "run" / "model" / "card.md").read_text()
        for part in (
            "people.csv, 24 training samples",
            "input `photo`: image",
            "label accuracy: ",
            "Share of training samples without each input: facts 20.00%, photo 20.00%.",
            "It was trained to do without each.",
        ):
            assert part in card

    def test_the_best_look_is_the_one_saved(self, trained):
        """The model answers as the journal says that it did."""
        looks = lines(trained / "run", "validation")
        best = max(looks, key=lambda line: line["label.accuracy"])
        scores = evaluate(trained / "run", out=trained.parent / "of-validation", split="validation", quiet=True)
        assert scores["scores"]["label"]["accuracy"] == best["label.accuracy"]
        assert scores["loss"] == pytest.approx(best["loss"], rel=1e-6)

    def test_the_model_predicts_as_evaluate_says(self, trained):
        table = [row for row in toys.rows() if row["split"] == "test"]
        model = Predictor(trained / "run")
        answers = [
            model({"photo": trained / row["picture"], "facts": {"age": row["age"], "height": row["height"]}})["label"]
            for row in table
        ]
        accuracy = sum(a == row["label"] for a, row in zip(answers, table, strict=True)) / len(table)
        scores = evaluate(trained / "run", out=trained.parent / "of-test", quiet=True)
        assert scores["scores"]["label"]["accuracy"] == pytest.approx(accuracy)
        assert scores["samples"] == len(table)


class TestResult:
    def test_what_it_says(self, people, tmp_path):
        result = run(people, tmp_path / "run")
        assert (result.run, result.model) == (tmp_path / "run", tmp_path / "run" / "model")
        assert (result.steps, result.metric, result.stopped_by) == (12, "accuracy", None)
        assert result.best == max(line["label.accuracy"] for line in lines(tmp_path / "run", "validation"))
        assert result.seconds > 0

    def test_it_learns(self, people, tmp_path):
        result = run(people, tmp_path / "run", training__steps=60, training__evaluate_every=20)
        assert result.best > 0.9, "brightness decides the class"

    def test_seeds(self, people, tmp_path):
        for name, seed in (("one", 3), ("again", 3), ("other", 4)):
            torch.rand(1)
            run(people, tmp_path / name, training__seed=seed, training__steps=4)
        assert losses(tmp_path / "one") == losses(tmp_path / "again")
        assert same(weights(tmp_path / "one" / "model"), weights(tmp_path / "again" / "model"))
        assert losses(tmp_path / "one") != losses(tmp_path / "other")

    def test_a_recipe_in_any_form(self, people, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        file = toys.write_recipe(people / "short.yaml", toys.recipe(training__steps=2))
        assert train(file, quiet=True, overrides=["training.steps=1"]).run == Path("runs/short")
        plain = toys.recipe(training__steps=9, data__source=str(people / "people.csv"))
        assert train(plain, quiet=True, overrides=["training.steps=1"]).run == Path("runs/run")
        made = as_recipe(toys.recipe(training__steps=9))
        assert train(made, out="b", overrides=["training.steps=1"], quiet=True, base=people).steps == 1
        assert losses(tmp_path / "runs/short") == losses(tmp_path / "runs/run") == losses(tmp_path / "b")
        assert {path.name for path in tmp_path.iterdir()} == {"runs", "b"}, "the engine leaves nothing of its own"

    def test_split_files_are_found_again_from_anywhere(self, people, tmp_path, monkeypatch):
        for name in ("train", "test"):
            part = [row for row in toys.rows() if row["split"] == name]
            toys.write_csv(people / f"{name}.csv", part)
        splits = {"kind": "files", "train": "train.csv", "test": "test.csv"}
        monkeypatch.chdir(people)
        data = toys.recipe(training__steps=1, data__source=None, data__splits=splits)
        train(data, out=tmp_path / "run", quiet=True)
        monkeypatch.chdir(tmp_path)
        assert evaluate("run", quiet=True)["samples"] == 12

    def test_what_follows_the_recipe_has_a_name(self, people):
        with pytest.raises(TypeError, match="positional"):
            train(toys.recipe(), "training.steps=1")

    def test_a_folder_that_is_no_run_is_left_alone(self, people, tmp_path):
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "1.png").touch()
        with pytest.raises(TrainingError) as caught:
            run(people, tmp_path / "pictures")
        assert str(caught.value) == (
            f"'{tmp_path / 'pictures'}' exists and is not a run folder; give another folder by --out (out=…)."
        )

    def test_epochs_and_a_batch_larger_than_the_data(self, people, tmp_path):
        result = run(people, tmp_path / "run", training={"epochs": 3, "batch_size": 100, "lr": 1e-3})
        assert result.steps == 3
        assert [line["step"] for line in lines(tmp_path / "run", "validation")] == [1, 2, 3]

    def test_early_stopping(self, people, tmp_path):
        result = run(people, tmp_path / "run", training__lr=1e-30, training__evaluate_every=2, training__patience=2)
        assert result.stopped_by == "no better score in 2 looks at the validation split"
        assert result.steps == 6, "the first look is the best; two more are waited for"
        assert state(tmp_path / "run")["step"] == 6

    def test_a_run_that_stopped_early_is_complete(self, people, tmp_path):
        data = toys.recipe(training__lr=1e-30, training__evaluate_every=2, training__patience=2)
        train(data, out=tmp_path / "run", base=people, quiet=True)
        with pytest.raises(TrainingError, match="it stopped early at step 6, 2 looks without a better score"):
            train(data, out=tmp_path / "run", base=people, quiet=True, resume=True)
        data["training"]["patience"] = 3
        assert train(data, out=tmp_path / "run", base=people, quiet=True, resume=True).steps == 8

    def test_patience_needs_something_to_look_at(self, people, tmp_path):
        with pytest.raises(TrainingError, match=r"training\.patience needs a validation split"):
            run(people, tmp_path / "run", training__patience=2, data__splits={"kind": "fraction", "validation": 0})

    def test_lamb_mixing_and_augmentation_run(self, people, tmp_path):
        changes: dict[str, Any] = {
            "model__inputs__facts": None,
            "training": {
                "steps": 3,
                "batch_size": 8,
                "optimiser": "lamb",
                "clip": None,
                "mix": {"mixup": 0.2, "cutmix": 1.0},
                "augment": {"photo": {"kind": "image", "crop": {"kind": "pad", "padding": 1}, "flip": 0.5}},
            },
        }
        assert run(people, tmp_path / "run", **changes).steps == 3


class TestWhatIsLearnedFrom:
    def test_averaged_weights_are_the_ones_saved(self, people, tmp_path):
        splits = {"kind": "fraction", "validation": 0, "test": 0.2}
        run(people, tmp_path / "run", training__ema=0.5, data__splits=splits)
        last, saved = state(tmp_path / "run"), weights(tmp_path / "run" / "model")
        assert same(saved, last["ema"])
        assert not same(saved, last["model"])
        assert "no score is known" in (tmp_path / "run" / "model" / "card.md").read_text()

    def test_averaged_weights_are_the_ones_judged(self, people, tmp_path):
        run(people, tmp_path / "run", training__ema=0.5, training__steps=4)
        scores = evaluate(tmp_path / "run", split="validation", quiet=True)
        (look,) = lines(tmp_path / "run", "validation")
        assert scores["loss"] == pytest.approx(look["loss"], rel=1e-6)

    def test_without_averages_the_last_weights_are_saved(self, people, tmp_path):
        run(people, tmp_path / "run", data__splits={"kind": "fraction", "validation": 0})
        assert same(weights(tmp_path / "run" / "model"), state(tmp_path / "run")["model"])

    def test_several_outputs_with_weights(self, people, tmp_path):
        outputs = {"label": {"kind": "category", "weight": 2.0}, "score": {"kind": "number", "weight": 0.5}}
        result = run(people, tmp_path / "run", model__outputs=outputs)
        looks = lines(tmp_path / "run", "validation")
        assert {"label.accuracy", "score.mae", "score.r2"} < set(looks[0])
        assert result.metric == "loss"
        assert result.best == min(line["loss"] for line in looks)
        assert set(Predictor(result.model)({"facts": {"age": 3, "height": 170}})) >= {"label", "score"}

    def test_an_output_that_weighs_nothing_is_not_learned(self, people, tmp_path):
        """The weight of an output reaches its gradient: with almost none its head stays where it was."""
        outputs = {"label": {"kind": "category"}, "score": {"kind": "number", "weight": 1e-30}}
        training = {"steps": 3, "batch_size": 8, "lr": 0.01, "weight_decay": 0, "eps": 1e-8}
        run(people, tmp_path / "run", model__outputs=outputs, training=training)
        from perceivers.models.build import build

        before = build(read_recipe(tmp_path / "run" / "recipe.yaml").model, seed=0).state_dict()
        after = state(tmp_path / "run")["model"]
        assert torch.equal(before["outputs.score.head.weight"], after["outputs.score.head.weight"])
        assert not torch.equal(before["outputs.label.head.weight"], after["outputs.label.head.weight"])

    def test_inputs_that_are_missing_in_the_data(self, tmp_path, recwarn, capfd):
        """Rows without one input, rows with a NaN, and an epoch-long batch that lacks an input altogether."""
        table = toys.rows()
        for i, row in enumerate(table):
            if i % 4 == 0:
                row["age"] = row["height"] = ""
            elif i % 4 == 1:
                row["picture"] = ""
            elif row["split"] == "test":
                row["height"] = "NaN"
        toys.write_people(tmp_path, table)
        toys.write_recipe(tmp_path / "toy.yaml", toys.recipe(training__input_dropout={}, training__batch_size=1))
        result = train(tmp_path / "toy.yaml", out=tmp_path / "run")
        said = capfd.readouterr().err
        assert "  facts: absent in 12 samples\n" in said
        assert "photo: absent in 12 samples" in said
        assert "  facts: 12 cells masked (NaN, infinite or empty)\n" in said
        load(result.model)
        assert not recwarn.list, "training saw each input absent, so nothing is untried"

    def test_an_input_that_never_went_missing_warns_at_load(self, people, tmp_path):
        result = run(people, tmp_path / "run", training__steps=1, training__input_dropout={"photo": 0.5})
        with pytest.warns(UserWarning, match="in training the input facts never went missing"):
            load(result.model)

    def test_label_smoothing_is_for_training_only(self, people, tmp_path):
        smoothed = {"kind": "category", "label_smoothing": 0.5}
        for name, output in (("plain", {"kind": "category"}), ("smooth", smoothed)):
            run(people, tmp_path / name, model__outputs__label=output, training__lr=1e-30, training__steps=1)
        assert losses(tmp_path / "plain") != losses(tmp_path / "smooth")
        plain, smooth = (lines(tmp_path / name, "validation")[0]["loss"] for name in ("plain", "smooth"))
        assert plain == smooth

    def test_input_dropout_reaches_the_model(self, people, tmp_path):
        for name, chance in (("off", 0.0), ("on", 0.5)):
            dropout = {"photo": chance, "facts": chance}
            run(people, tmp_path / name, training__lr=1e-30, training__steps=1, training__input_dropout=dropout)
        assert losses(tmp_path / "off") != losses(tmp_path / "on")

    def test_batches_may_come_from_worker_processes(self, people, tmp_path):
        run(people, tmp_path / "alone", training__steps=4)
        run(people, tmp_path / "worker", training__steps=4, data__workers=1, data__keep_bytes=0)
        assert losses(tmp_path / "alone") == losses(tmp_path / "worker")


class TestAround:
    def test_quiet_says_nothing(self, people, tmp_path, capfd):
        run(people, tmp_path / "run", training__steps=2)
        said = capfd.readouterr()
        assert (said.out, said.err) == ("", "")

    def test_plain_lines_on_standard_error(self, people, tmp_path, capfd):
        train(toys.recipe(), out=tmp_path / "run", base=people)
        said = capfd.readouterr()
        assert said.out == ""
        text = said.err.splitlines()
        assert text[:3] == ["train: 24 samples", "validation: 12 samples", "test: 12 samples"]
        assert text[3].startswith("step 4/12  validation: loss ")
        assert text[3].endswith("  best")
        assert text[-1].startswith("trained 12 steps in ")
        assert text[-1].endswith(f"model: {tmp_path / 'run' / 'model'}")
        assert "lightning" not in said.err.lower()

    def test_signals_are_as_they_were(self, people, tmp_path):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        run(people, tmp_path / "run", training__steps=1)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_the_process_has_its_threads_back(self, people, tmp_path, monkeypatch):
        before, found = torch.get_num_threads(), []
        log = module.Training._log
        monkeypatch.setattr(module.Training, "_log", lambda self: (found.append(torch.get_num_threads()), log(self)))
        torch.set_num_threads(2)
        try:
            run(people, tmp_path / "run", training__threads=1)
            assert set(found) == {1}
            assert torch.get_num_threads() == 2
            with pytest.raises(TrainingError):
                run(people, tmp_path / "run", training__threads=1)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_in_another_thread(self, people, tmp_path):
        """Where signals cannot be caught, as in a notebook's or a server's thread."""
        done = []
        thread = threading.Thread(target=lambda: done.append(run(people, tmp_path / "run", training__steps=2)))
        thread.start()
        thread.join()
        assert done[0].steps == 2

    def test_warnings_of_others_are_heard_again_afterwards(self, people, tmp_path):
        run(people, tmp_path / "run", training__steps=1)
        import warnings

        with pytest.raises(UserWarning, match="heard"):
            warnings.warn_explicit("heard", UserWarning, "x.py", 1, module="lightning.pytorch.trainer")

    def test_metrics_are_strict_json(self, trained):
        for text in (trained / "run" / "metrics.jsonl").read_text().splitlines():
            json.loads(text, parse_constant=pytest.fail)

    def test_only_the_engines_public_names_are_used(self):
        """What has a leading underscore may change in any release of lightning."""
        import ast

        import perceivers.training as package

        for path in Path(package.__path__[0]).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"):
                    assert not any(part.startswith("_") for part in node.module.split(".")), path
                    assert not any(alias.name.startswith("_") for alias in node.names), path
                if isinstance(node, ast.Attribute) and node.attr.startswith("_") and isinstance(node.value, ast.Name):
                    assert node.value.id not in ("pl", "trainer"), path
                inner = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute)
                assert not (inner and node.value.attr == "trainer" and node.attr.startswith("_")), path


class TestMemoryBudget:
    def test_less_memory_trains_the_same(self, people, tmp_path, capsys):
        run(people, tmp_path / "free", training={"steps": 3})
        needed = plan(read_recipe(tmp_path / "free" / "recipe.yaml")).memory.training / 1e9
        train(toys.recipe(training={"steps": 3, "memory_budget": 0.97 * needed}), out=tmp_path / "less", base=people)
        assert "GB by estimate; keys and values by chunks" in capsys.readouterr().err
        # Another order of sums: the same losses. (Weights that have no gradient follow the noise of it.)
        wanted, found = ([line["loss"] for line in lines(tmp_path / name)] for name in ("free", "less"))
        assert found == pytest.approx(wanted, rel=1e-5)

    def test_a_budget_that_is_too_small_says_what_would_fit(self, people, tmp_path):
        with pytest.raises(TrainingError, match="no batch fits: take a smaller model, or raise the budget"):
            run(people, tmp_path / "run", training={"steps": 3, "memory_budget": 1e-6})
        assert not (tmp_path / "run").exists()
