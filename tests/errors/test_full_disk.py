"""A disk that takes no more: one error that says what could not be written, and all that was there before stays."""

import resource
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import toys

from perceivers.errors import DataError, ModelError, TrainingError
from perceivers.predictor import predict
from perceivers.training.evaluate import evaluate
from perceivers.training.run import train


@pytest.fixture
def people(tmp_path) -> Path:
    folder = tmp_path / "people"
    toys.write_people(folder)
    return folder


@contextmanager
def small_disk(limit: int):
    """No file may grow beyond `limit` bytes: the system itself fails the write, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class TestFullDisk:
    def begun(self, people: Path, **changes: Any) -> Path:
        """A run of four steps, of which checkpoint and model are there; more steps are to be made."""
        train(toys.recipe(training__steps=4, **changes), out=people / "run", base=people, quiet=True)
        return people / "run"

    def goes_on(self, people: Path, steps: int = 8, **changes: Any) -> Any:
        return train(
            toys.recipe(training__steps=steps, **changes), out=people / "run", base=people, quiet=True, resume=True
        )

    # What cannot be written: recipe.yaml, or the checkpoint; the model of the first look is the best and stays.
    @pytest.mark.parametrize(
        ("limit", "said"), [(200, "recipe.yaml': File too large."), (30_000, "cannot write the checkpoint")]
    )
    def test_full_while_going_on(self, people, limit, said):
        run = self.begun(people, training__lr=1e-30)
        before = toys.tree(run)
        with small_disk(limit), pytest.raises(TrainingError) as caught:
            self.goes_on(people, training__lr=1e-30)
        assert said in str(caught.value)
        assert "resume" in str(caught.value)
        after = toys.tree(run)
        kept = [name for name in before if name.startswith(("checkpoints/", "model/"))]
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert not list(run.rglob(".*")), "nothing half-written is left"
        assert self.goes_on(people, training__lr=1e-30).steps == 8

    def test_full_where_the_model_goes(self, people):
        with small_disk(10_000), pytest.raises(ModelError) as caught:
            train(toys.recipe(), out=people / "run", base=people, quiet=True)
        said = str(caught.value)
        assert said.startswith(f"the model could not be written to '{people / 'run' / 'model'}': ")
        assert "File too large" in said
        assert said.endswith("Nothing was changed.")
        assert not list((people / "run").rglob(".*"))
        assert self.goes_on(people).steps == 8

    def test_the_journal_too(self, people):
        run = self.begun(people)
        size = (run / "metrics.jsonl").stat().st_size
        recipe = (run / "recipe.yaml").stat().st_size
        changes = {"training__evaluate_every": 4}
        with small_disk(max(size, recipe) + 300), pytest.raises(TrainingError) as caught:
            self.goes_on(people, steps=400, **changes)
        assert "File too large" in str(caught.value)
        assert self.goes_on(people, **changes).steps == 8

    def test_a_place_that_cannot_be(self, people):
        """Told before any data are read: they are not there."""
        (people / "file").write_text("precious")
        with pytest.raises(TrainingError) as caught:
            train(toys.recipe(data__source="none.csv"), out=people / "file" / "run", base=people, quiet=True)
        assert str(caught.value).startswith(f"'{people / 'file' / 'run'}': Not a directory.")
        assert (people / "file").read_text() == "precious"

    def test_evaluate(self, trained, tmp_path):
        with small_disk(200), pytest.raises(TrainingError) as caught:
            evaluate(trained / "run", out=tmp_path / "scores", quiet=True)
        assert str(caught.value) == f"the evaluation could not be written to '{tmp_path / 'scores'}': File too large."
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
    def test_predict(self, trained, tmp_path, suffix):
        out = tmp_path / f"answers{suffix}"
        out.write_bytes(b"of before")
        with small_disk(300), pytest.raises(DataError) as caught:
            predict(trained / "run", trained / "people.csv", out=out, overwrite=True)
        assert (
            str(caught.value) == f"{out}: nothing was written: File too large. The '{out.name}' of before is unchanged."
        )
        assert toys.tree(tmp_path) == {out.name: b"of before"}
