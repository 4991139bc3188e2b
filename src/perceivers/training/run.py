"""`train`: a recipe in, a run folder with the best model out."""

import importlib
import logging
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perceivers.atomic import replace_file
from perceivers.data.digest import split_digest
from perceivers.data.doubts import warn_of_few
from perceivers.data.faults import SHOWN, FaultyRowsError, write_faults
from perceivers.data.loader import Augmenter, Batches, Order, training_loader
from perceivers.data.prepare import Prepared, Split, prepare
from perceivers.data.table import TRAIN, VALIDATION
from perceivers.errors import DataError, PerceiversError, SpecError, TrainingError, missing_extra
from perceivers.models.build import build
from perceivers.models.model import Model, Trained
from perceivers.models.plan import completed
from perceivers.models.weights import save
from perceivers.training import rng
from perceivers.training.card import model_card
from perceivers.training.lock import RunLock
from perceivers.training.plan import plan
from perceivers.training.recipe import Recipe, as_recipe, read_recipe, recipe_text, with_overrides
from perceivers.training.reporter import Reporter, clock
from perceivers.training.resumption import check_free, check_same_data, open_run
from perceivers.training.schedules import lr_factor
from perceivers.training.scoring import Scores
from perceivers.training.start import begin_with, inputs_of, located, read_start


@dataclass(frozen=True)
class TrainingResult:
    """Where a run lies and how it ended. `model`: the directory of the best model. `best`: its validation score."""

    run: Path
    model: Path
    steps: int
    metric: str
    best: float | None
    seconds: float
    stopped_by: str | None


def train(
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
    base: str | Path | None = None,
) -> TrainingResult:
    """Train by a recipe (a file, plain data or a `Recipe`) into the folder `out` (default: runs/<recipe's name>).

    overrides: `["training.lr=3e-4", …]`. resume: go on from the newest good checkpoint in `out`, bit for bit as if the
    run had never stopped (same machine and thread count). base: what relative data paths are relative to (default: the
    recipe file's folder, or the working folder). Raises `PerceiversError`s that say what to do; a run folder that
    exists is never overwritten.
    """
    started = time.monotonic()
    recipe, name, base = _recipe(recipe, overrides, base)
    run = Path(out) if out is not None else Path("runs") / name
    with _callers_state(), RunLock(run) as lock:
        training = _train(recipe, base, resume, lock, Reporter(quiet))
    seconds = time.monotonic() - started
    best = training.history
    result = TrainingResult(run, run / "model", training.done, best.metric, best.best, seconds, training.stopped_by)
    _close(result, training.steps, training.reporter)
    return result


def _train(recipe: Recipe, base: Path, resume: bool, lock: RunLock, reporter: Reporter) -> Any:
    """The finished `Training`. The lock is taken at once to resume, for a new run when its folder is made."""
    run = lock.run
    _check_packages()
    recipe = located(recipe, base)
    if recipe.training.accelerator == "gpu" and not torch.accelerator.is_available():
        raise TrainingError("training.accelerator is gpu, but torch finds none here; set auto or cpu.")
    with _disk(run):
        if resume:
            if run.is_dir():
                lock.take()
            state = open_run(run, recipe, reporter)
        else:
            check_free(run)
            state = None
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    # Parts that do not fit each other are told of before the data is read, which may take hours.
    build(completed(recipe.model)[0], device="meta")
    # A run that goes on has those weights in it already.
    begun = read_start(Path(recipe.training.start_from)) if recipe.training.start_from and state is None else None
    try:
        inputs, outputs = inputs_of(recipe, begun, state), recipe.model.outputs
        prepared = prepare(recipe.data, inputs, outputs, base, reporter.advance, recipe.model.hidden)
    except FaultyRowsError as error:
        raise _all_listed(error, run.with_name(f"{run.name}-bad-rows.csv")) from None
    finally:
        reporter.close()
    _tell(prepared, reporter)
    recipe = recipe.with_changes(
        model={**dict(recipe.model), "inputs": prepared.inputs, "outputs": prepared.outputs},
        data=_absolute(recipe, base),
    )
    model = build(recipe.model, seed=recipe.training.seed)
    _save_memory(model, recipe, reporter)
    told = ()
    if state is not None:
        check_same_data(state, recipe, prepared, run)
        model.load_state_dict(state["model"])
        told = tuple(state.get("begun_with", ()))
    elif begun is not None:
        told = begin_with(model, begun)
        for line in told:
            reporter.note(line)
    model.trained = _trained(recipe, prepared, told)
    with _disk(run):
        return _fit(model, recipe, lock, prepared, reporter, resume, state)


def _trained(recipe: Recipe, prepared: Prepared, begun_with: tuple[str, ...]) -> Trained:
    """What is known of the training before it begins."""
    split, dropout = prepared.splits[TRAIN], recipe.training.input_dropout
    absent = {name: _absent(split, name, dropout.get(name, 0.0)) for name in sorted(prepared.inputs)}
    return Trained(absent, {name: split_digest(part) for name, part in prepared.splits.items()}, begun_with)


def _check_packages() -> None:
    """What training needs from its first step to its last picture is asked for before any data is read."""
    for name in ("lightning.pytorch", "torchmetrics", "tensorboard", "matplotlib"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or name, "train", "training") from None


def _recipe(
    recipe: "Recipe | Mapping[str, Any] | str | Path", overrides: Sequence[str], base: str | Path | None
) -> tuple[Recipe, str, Path]:
    if isinstance(recipe, (str, Path)):
        path = Path(recipe)
        return read_recipe(path, overrides), path.stem, Path(base) if base is not None else path.parent
    data = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else recipe
    changed = with_overrides(data, overrides) if overrides else data
    return as_recipe(changed), "run", Path(base) if base is not None else Path()


@contextmanager
def _callers_state() -> Iterator[None]:
    """Threads and random states are the whole process's: whoever calls `train` finds them as they were."""
    threads, states = torch.get_num_threads(), rng.collect()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        rng.restore(states)


@contextmanager
def _disk(run: Path) -> Iterator[None]:
    """A disk that is full, slow to answer or not ours is an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"'{error.filename or run}': {error.strerror or error}. What was saved before is untouched. Free some "
            "space, make the folder writable or choose another; a run that had begun goes on by --resume (resume=True)."
        ) from error


def _save_memory(model: Model, recipe: Recipe, reporter: Reporter) -> None:
    """What the memory budget asks for; a `TrainingError` where no change is enough."""
    budget = recipe.training.memory_budget
    if budget is None:
        return
    if recipe.model.encoder.kind == "autoregressive":
        raise SpecError(
            "training.memory_budget makes an autoregressive model no smaller. "
            "Leave it out, and choose training.batch_size by perceivers plan."
        )
    made = plan(recipe)
    if not made.fits:
        most = made.largest_batch
        cure = f"set training.batch_size to {most} or less" if most else "no batch fits: take a smaller model"
        raise TrainingError(
            f"training needs {made.memory.training / 1e9:.3g} GB by estimate, more than training.memory_budget = "
            f"{budget:g} GB, even with all that can be computed again; {cure}, or raise the budget."
        )
    # The estimate is of a processor's paths; an accelerator would make keys and values where it has room for them.
    flat = made.flat or _accelerator(recipe.training.accelerator) == "gpu"
    model.encoder.save_memory(flat, made.recompute)
    changes = [*["keys and values by chunks"] * flat, *["latent blocks computed again"] * made.recompute]
    reporter.note(
        f"memory: {made.memory.training / 1e9:.3g} of {budget:g} GB by estimate; {', '.join(changes) or 'as is'}"
    )


def _all_listed(error: FaultyRowsError, path: Path) -> DataError:
    """`error`, and where all its faults are listed when there are more than a message can hold."""
    if len(error.faults) <= SHOWN:
        return error
    try:
        write_faults(error.faults, path)
    except DataError as other:
        return DataError(f"{error}\nThe whole list could not be written: {other}")
    return DataError(f"{error}\nThe whole list: {path}")


def _tell(prepared: Prepared, reporter: Reporter) -> None:
    for name, split in prepared.splits.items():
        skipped = f", {prepared.skipped[name]} bad rows left out" if prepared.skipped[name] else ""
        reporter.note(f"{name}: {len(split):,} sample{'s' if len(split) > 1 else ''}{skipped}")
        for line in split.missing.lines():
            reporter.note(line)
    if VALIDATION in prepared.splits:
        warn_of_few(len(prepared.splits[VALIDATION]))


def _absolute(recipe: Recipe, base: Path) -> dict[str, Any]:
    """The data settings with paths that do not depend on where the recipe lay."""
    data = recipe.data.model_dump()
    if data["source"] is not None and (base / data["source"]).exists():
        data["source"] = str((base / data["source"]).resolve())
    if data["splits"] is not None and data["splits"]["kind"] == "files":
        for name in ("train", "validation", "test"):
            if data["splits"][name] is not None:
                data["splits"][name] = str((base / data["splits"][name]).resolve())
    return data


def _begin_run(run: Path, recipe: Recipe) -> None:
    run.mkdir(parents=True, exist_ok=True)
    text = recipe_text(recipe).encode()
    replace_file(run / "recipe.yaml", lambda stream: stream.write(text))


def _fit(
    model: Model,
    recipe: Recipe,
    lock: RunLock,
    prepared: Prepared,
    reporter: Reporter,
    resume: bool,
    state: dict[str, Any] | None,
) -> Any:
    from perceivers.training.module import Training

    run, settings, split = lock.run, recipe.training, prepared.splits[TRAIN]
    steps = settings.total_steps(len(split))
    text = recipe_text(recipe)

    def save_best(best: Model, scores: Scores | None, step: int) -> None:
        save(best, run / "model", model_card(best, recipe, len(split), scores, step), text)

    training = Training(model, recipe, run, steps, prepared, reporter, state, save_best)
    order = Order(len(split), settings.batch_size, settings.seed, training.done, steps)
    if settings.patience is not None and training.validation is None:
        raise TrainingError("training.patience needs a validation split to look at; leave it out, or give one.")
    batches = Batches(
        split, Augmenter(prepared.inputs, settings.augment, settings.seed, prepared.outputs), settings.mix
    )
    lr_factor(0, steps, settings.schedule)
    # Whatever does not fit has been found by now; from here on there is a run folder.
    lock.take()
    if not resume:
        # Again: while the data was read another process may have trained here, and finished.
        check_free(run)
    _begin_run(run, recipe)
    if prepared.faults:
        write_faults(prepared.faults, run / "skipped.csv")
        reporter.note(f"what was wrong with the rows left out: {run / 'skipped.csv'}")
    rng.seed_everything(settings.seed)
    with _quiet_engine():
        trainer = _trainer(steps - training.done, settings.accelerator)
        try:
            trainer.fit(training, train_dataloaders=training_loader(batches, order, recipe.data.workers))
        except BaseException as error:
            # The error on its way is the one to report, not what it makes of the closing.
            with suppress(OSError):
                training.close()
            raise _plain(error) from error.__cause__
        training.close()
    return training


def _trainer(steps: int, accelerator: str) -> Any:
    """Lightning's engine, and nothing else of it."""
    import lightning.pytorch as pl

    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=_accelerator(accelerator),
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _absent(split: Split, name: str, dropout: float) -> float:
    """The share of training samples that the model sees without an input: they lack it, or dropout takes it."""
    share = split.missing.absent[name] / len(split)
    return share + (1 - share) * dropout


def _plain(error: BaseException) -> BaseException:
    """What lightning and torch make of an interrupt, and of an error in a worker process, as it was."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        return KeyboardInterrupt()
    if isinstance(error, PerceiversError) and "DataLoader worker" in str(error):
        return type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip())
    return error


def _accelerator(wanted: str) -> str:
    """`auto` is CUDA when there is one, else the CPU; others, as Apple's, lack the float64 of some inputs."""
    return wanted if wanted != "auto" else "gpu" if torch.cuda.is_available() else "cpu"


@contextmanager
def _quiet_engine() -> Iterator[None]:
    """Lightning's advice about loaders and its banners are about choices that are made here on purpose."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        try:
            yield
        finally:
            logger.setLevel(level)


def _close(result: TrainingResult, steps: int, reporter: Reporter) -> None:
    if result.stopped_by in {s.name for s in (signal.SIGINT, signal.SIGTERM)}:
        reporter.note(
            f"stopped at step {result.steps} of {steps}; a checkpoint is saved. "
            "Go on with the same command and --resume (resume=True)."
        )
        return
    why = f" ({result.stopped_by})" if result.stopped_by else ""
    score = f"best {result.metric} {result.best:.4f} on validation; " if result.best is not None else ""
    reporter.note(f"trained {result.steps} steps in {clock(result.seconds)}{why}; {score}model: {result.model}")
