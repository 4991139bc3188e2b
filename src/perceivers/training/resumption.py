"""Whether a run folder can be begun or gone on with: nothing is overwritten, and nothing goes on as something else."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from perceivers.atomic import clean_temporary
from perceivers.data.digest import split_digest
from perceivers.data.prepare import Prepared
from perceivers.data.table import TRAIN
from perceivers.errors import TrainingError
from perceivers.models.spec import as_spec
from perceivers.training.checkpoints import latest_checkpoint
from perceivers.training.recipe import Recipe, read_recipe
from perceivers.training.reporter import Reporter
from perceivers.training.schedules import lr_factor
from perceivers.training.start import LEARNED

# Settings that a resumed run may have changed: they say how long, where and how it is reported, not what was done.
MAY_CHANGE = {f"training.{n}" for n in ("epochs", "steps", "patience", "log_every", "save_every", "accelerator")}
MAY_CHANGE |= {"data.source", "data.splits.train", "data.splits.validation", "data.splits.test"}
MAY_CHANGE |= {"data.workers", "data.keep_bytes", "evaluation.split", "evaluation.batch_size"}
# What training writes into a run folder by way of temporary files.
WRITTEN = ("recipe.yaml", "metrics.jsonl", "curves.png", "skipped.csv", "model")


def check_free(run: Path) -> None:
    """Raise `TrainingError` when something is in the folder `run` of a new run, or in its place."""
    # What begins with a dot is what a kill left of a run that had not begun.
    if run.exists() and (not run.is_dir() or any(not path.name.startswith(".") for path in run.iterdir())):
        if not (run / "recipe.yaml").is_file():
            raise TrainingError(f"'{run}' exists and is not a run folder; give another folder by --out (out=…).")
        raise TrainingError(
            f"'{run}' exists. Go on with it by --resume (resume=True), or give another folder by --out (out=…)."
        )

    _check_writable(run)


def _check_writable(run: Path) -> None:
    """Raise `OSError` where no folder `run` can be made: now, not after all data are read. Nothing is left there."""
    there = next(folder for folder in (run.absolute(), *run.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=there):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(run)) from None


def open_run(run: Path, recipe: Recipe, reporter: Reporter) -> dict[str, Any] | None:
    """The state to go on from; None when the run has no checkpoint yet.

    Raises `TrainingError` for a folder that holds no run, or one that was begun with another recipe or is complete.
    """
    stored = run / "recipe.yaml"
    if not stored.is_file():
        raise TrainingError(f"there is no run to resume in '{run}': recipe.yaml is missing.")
    _check_same(read_recipe(stored), recipe, run)
    # Only what training writes there itself: an evaluation may be on its way into the same folder.
    clean_temporary(run, WRITTEN)
    clean_temporary(run / "checkpoints")
    found = latest_checkpoint(run / "checkpoints", reporter.note)
    if found is None:
        reporter.note(f"no checkpoint had been written in '{run}'; beginning at step 0.")
        return None
    path, state = found
    _check_incomplete(state, recipe, run)
    reporter.note(f"going on from {path.name}")
    return state


def _check_same(stored: Recipe, given: Recipe, run: Path) -> None:
    changed = [
        f"{place} {old!r} → {new!r}"
        for place, old, new in _differences(stored.model_dump(), given.model_dump())
        if place not in MAY_CHANGE and not (new is None and place.rpartition(".")[2] in LEARNED)
    ]
    if changed:
        raise TrainingError(
            f"'{run}' was begun with another recipe ({', '.join(changed)}); resume with that one, or begin a new run."
        )


def _check_incomplete(state: Mapping[str, Any], recipe: Recipe, run: Path) -> None:
    """Before any data is read: a run that has ended has nothing to go on with."""
    settings, done, waited = recipe.training, int(state["step"]), int(state["history"]["waited"])
    steps = settings.total_steps(int(state["samples"]))
    if done >= steps:
        raise TrainingError(f"'{run}' is complete: {done} of {steps} steps. Raise training.epochs or steps to go on.")
    if settings.patience is not None and waited >= settings.patience:
        raise TrainingError(
            f"'{run}' is complete: it stopped early at step {done}, {waited} looks without a better score. "
            "Raise training.patience to go on."
        )


def check_same_data(state: Mapping[str, Any], recipe: Recipe, prepared: Prepared, run: Path) -> None:
    """Raise `TrainingError` when the data is not the one that the run was begun with."""
    spec = as_spec(state["spec"])
    changed = [place for place, _, _ in _differences(spec.model_dump(), recipe.model.model_dump(), "model")]
    samples = len(prepared.splits[TRAIN])
    if state["samples"] != samples:
        changed.append(f"{state['samples']:,} training samples → {samples:,}")
    elif state["splits"] != {name: split_digest(split) for name, split in prepared.splits.items()}:
        changed.append("other rows or files, or the same in another order")
    if changed:
        raise TrainingError(
            f"the data has changed since '{run}' was begun ({', '.join(changed)}). "
            "Resume with the data of then, or begin a new run."
        )


def made_with(device: torch.device) -> dict[str, Any]:
    """What the last bits of a run hang on besides recipe and data: it goes into every checkpoint."""
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device.type}


def told_changes(state: Mapping[str, Any], recipe: Recipe, steps: int, device: torch.device) -> list[str]:
    """A line for each allowed change since the checkpoint `state` that makes the run another: its length, its machine.

    `steps`, `device`: those from here on.
    """
    lines = []
    was = state.get("steps", steps)
    if was != steps:
        settings, done = recipe.training, int(state["step"])
        before = settings.lr * lr_factor(max(done - 1, 0), was, settings.schedule)
        after = settings.lr * lr_factor(done, steps, settings.schedule)
        lines.append(
            f"the run was to have {was} steps and now has {steps}: its {settings.schedule.kind} schedule is laid out "
            f"anew, and the learning rate goes from {before:.3g} in step {done} to {after:.3g} in step {done + 1}."
        )
    now = made_with(device)
    other = {name: old for name, old in state.get("made_with", {}).items() if now.get(name) != old}
    if other:
        changes = ", ".join(f"{name} {old} → {now.get(name)}" for name, old in other.items())
        lines.append(
            f"other than at the checkpoint: {changes}; the last bits will not be those of a run without a stop."
        )
    return lines


def _differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted place, old and new value of everything in which two trees of plain data differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys():
        for key in old:
            yield from _differences(old[key], new[key], f"{place}.{key}" if place else str(key))
    elif old != new:
        yield place, old, new
