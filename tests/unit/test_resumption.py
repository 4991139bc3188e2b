"""What may be begun, what may be gone on with, and what is said when it is not quite the same."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys

from perceivers.data.prepare import prepare
from perceivers.errors import TrainingError
from perceivers.training import resumption
from perceivers.training.checkpoints import latest_checkpoint
from perceivers.training.run import train


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """A folder with people.csv; runs are written elsewhere."""
    folder = tmp_path_factory.mktemp("people")
    toys.write_people(folder)
    return folder


def run(people: Path, out: Path, resume: bool = False, **changes: Any) -> None:
    train(toys.recipe(**changes), out=out, base=people, resume=resume)


def test_a_run_that_finishes_while_another_reads_its_data_is_kept(people, tmp_path, monkeypatch):
    """Two `train` into one new folder: the slower one finds the faster one's run when it would begin to write."""
    before: dict[str, bytes] = {}

    def slow(*arguments: Any) -> Any:
        monkeypatch.undo()
        run(people, tmp_path / "run", training__steps=1)
        before.update(toys.tree(tmp_path / "run"))
        return prepare(*arguments)

    monkeypatch.setattr("perceivers.training.run.prepare", slow)
    with pytest.raises(TrainingError, match=r"exists\. Go on with it by --resume"):
        run(people, tmp_path / "run", training__steps=2)
    assert before
    assert toys.tree(tmp_path / "run") == before


def test_threads_and_random_states_are_given_back(people, tmp_path):
    def draws() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    first = draws()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    run(people, tmp_path / "run", training__steps=1, training__threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert draws() == first
    with pytest.raises(TrainingError):
        run(people, tmp_path / "run", training__threads=threads + 1)
    assert torch.get_num_threads() == threads


def test_resuming_leaves_an_evaluation_on_its_way_alone(people, tmp_path):
    run(people, tmp_path / "run", training__steps=2)
    ours, evaluation = (tmp_path / "run" / f".{name}.0123abcd.new" for name in ("model", "evaluation-test"))
    for folder in (ours, evaluation):
        folder.mkdir()
    run(people, tmp_path / "run", resume=True, training__steps=3)
    assert evaluation.is_dir()
    assert not ours.exists()


def test_more_steps_lay_the_schedule_out_anew_and_that_is_said(people, tmp_path, capfd):
    changes = {"training__lr": 0.01, "training__schedule": {"kind": "cosine"}}
    run(people, tmp_path / "run", training__steps=4, **changes)
    assert "schedule" not in capfd.readouterr().err
    run(people, tmp_path / "run", resume=True, training__steps=8, **changes)
    assert (
        "the run was to have 4 steps and now has 8: its cosine schedule is laid out anew, and the learning rate goes "
        "from 0.00146 in step 4 to 0.005 in step 5.\n"
    ) in capfd.readouterr().err


def test_the_same_length_on_the_same_machine_says_nothing(people, tmp_path, capfd):
    run(people, tmp_path / "run", training__steps=4)
    found = latest_checkpoint(tmp_path / "run" / "checkpoints", pytest.fail)
    assert found is not None
    from perceivers.training.recipe import read_recipe

    recipe = read_recipe(tmp_path / "run" / "recipe.yaml")
    assert resumption.told_changes(found[1], recipe, 4, torch.device("cpu")) == []


def test_another_torch_or_number_of_threads_is_said(people, tmp_path, capfd, monkeypatch):
    run(people, tmp_path / "run", training__steps=4)
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    capfd.readouterr()
    run(people, tmp_path / "run", resume=True, training__steps=5)
    said = capfd.readouterr().err
    assert "→ 9.9.9, threads 1 → 77; the last bits will not be those of a run without a stop." in said
    assert "device" not in said
