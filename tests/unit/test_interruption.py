"""What stops a run: a person, a scheduler, numbers that are none, another recipe. Nothing saved is ever lost."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toys

from perceivers.cli.main import main
from perceivers.data.loader import Batches, Order, training_loader
from perceivers.data.prepare import prepare
from perceivers.errors import DataError, PerceiversError, TrainingError
from perceivers.training import module
from perceivers.training.checkpoints import latest_checkpoint
from perceivers.training.journal import read_lines
from perceivers.training.recipe import as_recipe
from perceivers.training.run import TrainingResult, train


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    toys.write_people(folder)
    return folder


def run(people: Path, out: Path, resume: bool = False, quiet: bool = True, **changes: Any) -> TrainingResult:
    return train(toys.recipe(**changes), out=out, base=people, quiet=quiet, resume=resume)


def refused(*arguments: Any, **changes: Any) -> str:
    with pytest.raises(TrainingError) as caught:
        run(*arguments, **changes)
    return str(caught.value)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Call `act` when that many steps are done, before anything is saved."""
    log = module.Training._log

    def watched(self: module.Training) -> None:
        log(self)
        if self.done == step:
            act()

    monkeypatch.setattr(module.Training, "_log", watched)


def outcome(run: Path) -> list[str]:
    """Every logged number but the speed, every number of the last checkpoint, and the best model, as exact text."""
    lines = [{k: v for k, v in line.items() if k != "samples_per_second"} for line in read_lines(run / "metrics.jsonl")]
    found = latest_checkpoint(run / "checkpoints", pytest.fail)
    assert found is not None
    # Python's own generator is restored too, but other libraries of the process draw from it as they like.
    found[1]["rng"].pop("python")
    exact = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    return [*map(str, lines), *leaves(found[1]), exact]


def leaves(tree: Any, place: str = "") -> list[str]:
    if isinstance(tree, torch.Tensor):
        return [f"{place} {tree.dtype} {tuple(tree.shape)} {hashlib.sha256(tree.numpy().tobytes()).hexdigest()}"]
    if isinstance(tree, dict | list | tuple):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [leaf for key, value in pairs for leaf in leaves(value, f"{place}.{key}")]
    return [f"{place} {tree!r}"]


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_stopped_run_goes_on_as_if_it_had_not(self, people, tmp_path, monkeypatch, capfd, number):
        """At a step that is neither logged nor saved otherwise."""
        changes = {"training__log_every": 3, "training__ema": 0.9}
        run(people, tmp_path / "peace", **changes)
        with monkeypatch.context() as patch:
            at_step(patch, 5, lambda: os.kill(os.getpid(), number))
            result = run(people, tmp_path / "run", quiet=False, **changes)
        assert (result.stopped_by, result.steps) == (number.name, 5)
        said = capfd.readouterr().err
        assert f"{number.name}: finishing this step and saving; once more to stop at once." in said
        assert "stopped at step 5 of 12; a checkpoint is saved. Go on with the same command and --resume" in said
        assert (tmp_path / "run" / "curves.png").is_file()
        assert run(people, tmp_path / "run", resume=True, **changes).stopped_by is None
        assert outcome(tmp_path / "run") == outcome(tmp_path / "peace")

    def test_the_second_one_stops_at_once(self, people, tmp_path, monkeypatch):
        def twice() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        at_step(monkeypatch, 6, twice)
        with pytest.raises(KeyboardInterrupt):
            run(people, tmp_path / "run")
        assert signal.getsignal(signal.SIGINT) is before
        found = latest_checkpoint(tmp_path / "run" / "checkpoints", pytest.fail)
        assert found is not None
        assert found[1]["step"] == 4, "the one of the last look is untouched"

    @pytest.mark.parametrize(
        ("number", "code", "workers"), [(signal.SIGINT, 130, 0), (signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 2)]
    )
    # On a machine with one core torch warns about two workers.
    @pytest.mark.filterwarnings("ignore:This DataLoader will create")
    def test_the_command_line(self, people, tmp_path, number, code, workers):
        """The whole process group gets the signal, as from a terminal or a scheduler: workers must not die of it."""
        overrides = ["training.schedule={kind: constant}", "training.steps=1000000", "training.evaluate_every=1000000"]
        overrides += [f"data.workers={workers}", "data.keep_bytes=0"]
        recipe = toys.write_recipe(people / "long.yaml")
        status, said = stopped(
            ["train", str(recipe), *overrides, "--out", str(tmp_path / "run")], tmp_path / "run", number
        )
        assert status == code, said
        assert "Traceback" not in said
        assert said.count(f"{number.name}: finishing this step and saving") == 1
        assert "Go on with the same command and --resume" in said
        steps = len(read_lines(tmp_path / "run" / "metrics.jsonl"))
        assert f"stopped at step {steps} of 1000000" in said
        overrides[1] = f"training.steps={steps + 2}"
        result = train(recipe, out=tmp_path / "run", overrides=overrides, resume=True, quiet=True)
        assert result.steps == steps + 2
        assert [line["step"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")][: steps + 2] == list(
            range(1, steps + 3)
        )


def stopped(arguments: list[str], run: Path, number: signal.Signals) -> tuple[int, str]:
    """The exit code and what was said of a command line in a process group of its own, stopped after three steps."""
    said = run.parent / "said.txt"
    child = os.fork()
    if child == 0:
        os.setsid()
        sys.stdout = sys.stderr = said.open("w", encoding="utf-8")
        code = 99
        try:
            main(arguments)
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            sys.stderr.flush()
            os._exit(code)
    guard = threading.Timer(60, os.killpg, [child, signal.SIGKILL])
    guard.start()
    while len(read_lines(run / "metrics.jsonl")) < 3 and guard.is_alive():
        time.sleep(0.01)
    os.killpg(child, number)
    _, status = os.waitpid(child, 0)
    guard.cancel()
    return os.waitstatus_to_exitcode(status), said.read_text(encoding="utf-8")


class TestNotFinite:
    def saved(self, run: Path) -> dict[str, bytes]:
        files = toys.tree(run)
        return {name: content for name, content in files.items() if name.startswith(("checkpoints/", "model/"))}

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_loss_stops_before_it_reaches_anything(self, people, tmp_path, monkeypatch, value):
        run(people, tmp_path / "peace")
        before = {}

        def spoil() -> None:
            before.update(self.saved(tmp_path / "run"))
            monkeypatch.setattr(module, "total_loss", lambda *a: torch.tensor(value, requires_grad=True))

        with monkeypatch.context():
            at_step(monkeypatch, 6, spoil)
            found = refused(people, tmp_path / "run")
        last = tmp_path / "run" / "checkpoints" / "checkpoint-000000004"
        assert found == (
            f"step 7: the loss is {value}; training stops before it is saved. The last good checkpoint is "
            f"{last}. Try a smaller training.lr, a longer warm-up, or look for extreme values in the data."
        )
        assert before
        assert self.saved(tmp_path / "run") == before
        assert (tmp_path / "run" / "curves.png").is_file()
        monkeypatch.undo()
        run(people, tmp_path / "run", resume=True)
        assert outcome(tmp_path / "run") == outcome(tmp_path / "peace")

    def test_a_gradient_too(self, people, tmp_path, monkeypatch):
        class Steep(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
                return loss.clone()

            @staticmethod
            def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
                return gradient * float("nan")

        loss = module.total_loss
        at_step(monkeypatch, 6, lambda: monkeypatch.setattr(module, "total_loss", lambda *a: Steep.apply(loss(*a))))
        found = refused(people, tmp_path / "run")
        assert found.startswith("step 7: the gradient norm is nan; training stops before it is saved.")

    @pytest.mark.parametrize("lr", [1e30, 1e36, 3e38])
    def test_an_extreme_learning_rate(self, people, tmp_path, lr):
        """Where the step itself overflows, loss and gradient are still numbers: weights are looked at before saving."""
        schedule = {"kind": "constant"}
        changes = {"training__lr": lr, "training__weight_decay": 0.0, "training__evaluate_every": 1}
        found = refused(people, tmp_path / "run", training__schedule=schedule, **changes)
        assert "training stops before it is saved" in found
        assert "Try a smaller training.lr" in found
        saved = latest_checkpoint(tmp_path / "run" / "checkpoints", pytest.fail)
        assert saved is None or all(tensor.isfinite().all() for tensor in saved[1]["model"].values())
        assert (saved is None) == ("No checkpoint had been written yet" in found)

    def test_before_anything_was_saved(self, people, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "total_loss", lambda *a: torch.tensor(float("nan"), requires_grad=True))
        assert "No checkpoint had been written yet." in refused(people, tmp_path / "run")
        assert not (tmp_path / "run" / "model").exists()

    def test_signals_and_the_journal_are_given_back(self, people, tmp_path, monkeypatch):
        before = signal.getsignal(signal.SIGINT)
        monkeypatch.setattr(module, "total_loss", lambda *a: torch.tensor(float("nan"), requires_grad=True))
        refused(people, tmp_path / "run")
        assert signal.getsignal(signal.SIGINT) is before


class TestResume:
    @pytest.fixture
    def begun(self, people, tmp_path, monkeypatch) -> Path:
        """A run stopped at step 5."""
        with monkeypatch.context() as patch:
            at_step(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
            run(people, tmp_path / "run")
        return tmp_path / "run"

    @pytest.mark.parametrize(
        ("change", "value", "said"),
        [
            ("training__lr", 0.02, "training.lr 0.01 → 0.02"),
            ("training__seed", 1, "training.seed 0 → 1"),
            ("training__schedule", {"kind": "constant"}, "training.schedule "),
            ("training__input_dropout", {"photo": 0.5}, "training.input_dropout "),
            ("model__latents__count", 5, "model.latents.count 4 → 5"),
            ("model__inputs__facts__channels", 9, "model.inputs.facts.channels 8 → 9"),
            ("model__outputs__label__classes", ["bright", "dark"], "model.outputs.label.classes "),
            ("data__columns", {}, "data.columns "),
            ("data__bad_rows", "skip", "data.bad_rows 'stop' → 'skip'"),
            ("data__splits", {"kind": "fraction"}, "data.splits "),
        ],
    )
    def test_another_recipe_is_refused(self, people, begun, change, value, said):
        before = toys.tree(begun)
        found = refused(people, begun, resume=True, **{change: value})
        assert found.startswith(f"'{begun}' was begun with another recipe ({said}")
        assert found.endswith("); resume with that one, or begin a new run.")
        assert toys.tree(begun) == before

    def test_what_says_how_long_and_how_it_is_reported_may_change(self, people, begun):
        changes = {"training__steps": 7, "training__log_every": 2, "training__save_every": 1, "data__workers": 1}
        result = run(people, begun, resume=True, training__patience=3, evaluation={"split": "train"}, **changes)
        assert result.steps == 7

    def test_the_data_may_lie_elsewhere(self, people, begun, tmp_path):
        moved = Path(shutil.copytree(people, tmp_path / "moved"))
        assert run(moved, begun, resume=True).steps == 12

    def test_other_data_is_refused(self, people, begun, tmp_path):
        table = toys.rows()
        table[0]["age"] = 99
        toys.write_people(tmp_path / "other", table)
        assert refused(tmp_path / "other", begun, resume=True) == (
            f"the data has changed since '{begun}' was begun (model.inputs.facts.mean, model.inputs.facts.std, other "
            "rows or files, or the same in another order). "
            "Resume with the data of then, or begin a new run."
        )

    def test_more_data_is_refused_even_where_nothing_is_learned_from_it(self, people, begun, tmp_path):
        table = toys.rows()
        toys.write_people(
            tmp_path / "other", [*table, {**table[0], "label": "", "age": "", "height": "", "picture": ""}]
        )
        assert "24 training samples → 25" in refused(tmp_path / "other", begun, resume=True)

    def test_a_complete_run(self, people, tmp_path, monkeypatch):
        run(people, tmp_path / "run", training__steps=2)
        before = toys.tree(tmp_path / "run")
        monkeypatch.setattr("perceivers.training.run.prepare", lambda *a: pytest.fail("found before data is read"))
        found = refused(people, tmp_path / "run", resume=True, training__steps=2)
        monkeypatch.undo()
        assert found == f"'{tmp_path / 'run'}' is complete: 2 of 2 steps. Raise training.epochs or steps to go on."
        assert toys.tree(tmp_path / "run") == before
        assert run(people, tmp_path / "run", resume=True, training__steps=3).steps == 3

    def test_nothing_to_resume(self, people, tmp_path):
        assert refused(people, tmp_path / "run", resume=True) == (
            f"there is no run to resume in '{tmp_path / 'run'}': recipe.yaml is missing."
        )

    def test_stopped_before_the_first_checkpoint(self, people, tmp_path, monkeypatch, capfd):
        with monkeypatch.context() as patch:
            patch.setattr(module, "total_loss", lambda *a: torch.tensor(float("nan"), requires_grad=True))
            refused(people, tmp_path / "run")
        assert run(people, tmp_path / "run", resume=True, quiet=False).steps == 12
        assert "no checkpoint had been written in" in capfd.readouterr().err

    def test_a_damaged_checkpoint_is_passed_over(self, people, begun, capfd):
        newest = max((begun / "checkpoints").iterdir())
        (newest / "tensors.safetensors").write_bytes(b"damaged")
        assert run(people, begun, resume=True, quiet=False).steps == 12
        said = capfd.readouterr().err
        assert "checkpoint-000000005 cannot be used" in said
        assert "going on from checkpoint-000000004" in said

    def test_leftovers_of_a_kill_are_removed(self, people, begun):
        (begun / ".model.0123abcd.new").mkdir()
        (begun / "checkpoints" / ".checkpoint-000000006.0123abcd.new").mkdir()
        run(people, begun, resume=True)
        assert not list(begun.rglob(".*"))


class TestFolder:
    def test_a_run_that_exists_is_not_touched(self, trained, people):
        before = toys.tree(trained / "run")
        assert refused(people, trained / "run") == (
            f"'{trained / 'run'}' exists. Go on with it by --resume (resume=True), "
            "or give another folder by --out (out=…)."
        )
        assert toys.tree(trained / "run") == before

    def test_nor_is_anything_else(self, people, tmp_path):
        (tmp_path / "file").write_text("precious")
        assert "exists" in refused(people, tmp_path / "file")
        assert "exists" in refused(people, tmp_path)

    def test_empty_folders_and_what_a_kill_left_of_nothing_are_taken(self, people, tmp_path):
        (tmp_path / ".recipe.yaml.0123abcd.new").write_text("mod")
        assert run(people, tmp_path, training__steps=1).steps == 1

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"data__columns": {"photo": "pictrue"}}, "no column 'pictrue'"),
            ({"training__schedule": {"kind": "steps", "at": [500]}}, "the schedule's at is 500"),
            ({"training__augment": {"photo": {"kind": "series"}}}, "does not fit its kind"),
            ({"training__mix": {"mixup": 0.2}}, "need exactly one input"),
            ({"training__accelerator": "gpu"}, "torch finds none here"),
            ({"model__encoder__self_attend__heads": 3}, "heads"),
        ],
    )
    def test_what_does_not_fit_leaves_no_folder(self, people, tmp_path, changes, said, monkeypatch):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
        with pytest.raises(PerceiversError) as caught:
            run(people, tmp_path / "run", **changes)
        assert said in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_a_worker_that_cannot_read_says_it_in_its_own_words(people, tmp_path, monkeypatch):
    """A picture that vanishes while training reads it again and again, in another process."""
    folder = Path(shutil.copytree(people, tmp_path / "people"))
    picture = folder / next(row["picture"] for row in toys.rows() if row["split"] == "train")
    monkeypatch.setattr("perceivers.training.run._tell", lambda *a: picture.unlink())
    with pytest.raises(DataError) as caught:
        run(folder, tmp_path / "run", data__workers=1, data__keep_bytes=0)
    assert str(caught.value) == (
        f"people.csv, row 1, column 'picture': image file '{picture}' does not exist. Paths in a table are relative to "
        "the table."
    )


@pytest.mark.parametrize("own", [True, False])
def test_a_worker_ends_by_the_signal_of_its_run_and_of_nobody_else(people, own):
    """Else a process that still holds a loader could never end: Python joins what it has terminated."""
    recipe = as_recipe(toys.recipe())
    split = prepare(recipe.data, recipe.model.inputs, recipe.model.outputs, people, toys.silent).splits["train"]
    before = set(multiprocessing.active_children())
    loaded = iter(training_loader(Batches(split), Order(24, 8, 0, 0, 100), 1))
    next(loaded)
    (worker,) = set(multiprocessing.active_children()) - before
    if own:
        worker.terminate()
    else:
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
        subprocess.run(["kill", "-INT", str(worker.pid)], check=True)
        assert [next(loaded).size for _ in range(4)] == [8] * 4
        worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0
