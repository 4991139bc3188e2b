"""`evaluate`: a model directory and a split in, metrics.json and pictures out, with each input removed in turn."""

import json
import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from perceivers.atomic import replace_folder
from perceivers.data.digest import split_digest
from perceivers.data.faults import SplitFaults, write_faults
from perceivers.data.files import has_splits, read_table
from perceivers.data.prepare import Split, open_source, read_split
from perceivers.data.reader import Reader
from perceivers.data.settings import DataSettings
from perceivers.data.splits import ColumnSplits, FractionSplits, split_table
from perceivers.data.table import TEST, TRAIN, Table
from perceivers.errors import DataError, TrainingError, missing_extra, near_miss
from perceivers.models.model import Model
from perceivers.models.weights import RECIPE, find_model, load
from perceivers.training.recipe import Recipe, read_recipe
from perceivers.training.reporter import Reporter
from perceivers.training.scoring import Scores, score

METRICS = "metrics.json"
# The name of the one split of a table that was given by hand.
ALL = "all"
SKIPPED = "skipped.csv"


def evaluate(
    model: str | Path,
    *,
    out: str | Path | None = None,
    source: str | None = None,
    split: str | None = None,
    bad_rows: Literal["stop", "skip"] | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """Score a model directory (or a run folder) and write the result to the folder `out` (default: beside the model).

    source: a named data set, table or folder, all of whose rows are scored; default: the recipe's data. split: which of
    the recipe's splits (default: the recipe's, usually test). bad_rows: what is done with rows that cannot be read
    (default: as the recipe says). Returns what metrics.json holds:

        {"model", "split", "samples", "skipped", "same_rows", "absent", "masked", "padded", "loss",
         "scores": {output: {metric: value}},
         "classes": {output: {class: {precision, recall, f1, support}}},
         "without": {input: {output: {metric: value}}}}     only for models with several inputs

    `skipped` are rows left out as `bad_rows: skip` says, which skipped.csv lists; `absent` counts samples
    without an input and `masked` an input's cells that are NaN, infinite or empty, `padded` those that fill up its
    length. `same_rows`: whether the split is row for row the one of training (None: not known); with a warning when it
    is not, since it may then hold training rows. A `source` that holds the training split as it was is told of by a
    warning too. Inputs and outputs without a column in `source` are absent, and not scored. A score that the data
    cannot tell, as R² of one sample or the average precision of a class that none has, is None. A confusion matrix is
    drawn for each output of classes. Raises `ModelError`, `DataError`, or `TrainingError` when `out` is something else
    than an earlier evaluation.
    """
    folder = find_model(Path(model))
    if folder.name in ("", ".."):
        folder = folder.resolve()
    reporter = Reporter(quiet)
    loaded = load(folder, device)
    recipe = read_recipe(folder / RECIPE) if (folder / RECIPE).is_file() else None
    samples, faults = _split(loaded, recipe, folder, source, split, bad_rows, reporter)
    if source is not None and _trained_on(loaded, recipe, samples):
        warnings.warn(
            f"{samples.table.name}: the model was trained on rows of this table, so the scores are better than those "
            "of new rows. Leave source (--data) out to score the recipe's own test split.",
            UserWarning,
            stacklevel=2,
        )
    target = Path(out) if out is not None else _beside(folder, samples.name)
    _check_target(target)
    if any(output.labels() is not None for output in loaded.spec.outputs.values()):
        _drawing()  # asked for before anything is computed
    size = batch_size or (recipe.evaluation.batch_size if recipe else 256)
    whole = score(loaded, samples, size, advance=lambda d, t: reporter.advance("evaluating", d, t))
    without = _without_each(loaded, samples, size, reporter)
    result = {
        "model": folder.name if folder.name != "model" else f"{folder.resolve().parent.name}/model",
        "split": samples.name,
        "samples": len(samples),
        "skipped": faults.bad,
        "same_rows": _same_rows(loaded, samples, source),
        **_scored(loaded, samples, whole),
        "without": without,
    }
    _write(target, result, whole, loaded, faults)
    reporter.close()
    if faults.bad:
        place = "table" if samples.name == ALL else f"{samples.name} split"
        warnings.warn(
            f"{faults.bad} of {faults.rows} rows of the {place} could not be read and are not scored. The first: "
            f"{faults.kept[0]} All: {target / SKIPPED}",
            UserWarning,
            stacklevel=2,
        )
    reporter.note(f"scores and pictures: {target}")
    return result


def _scored(model: Model, samples: Split, whole: Scores) -> dict[str, Any]:
    """Of the result what the pass over all samples tells."""
    return {
        "absent": samples.missing.absent,
        "masked": samples.missing.masked,
        "padded": samples.missing.padded,
        "loss": _known(whole.loss),
        "scores": _plain(whole.values),
        "classes": {name: _per_class(model, name, counts) for name, counts in whole.confusion.items()}
        | {name: _plain(classes) for name, classes in whole.classes.items()},
    }


def _beside(folder: Path, split: str) -> Path:
    """Where the evaluation of a model goes by default; models that lie side by side have one each."""
    return folder.parent / (f"evaluation-{split}" if folder.name == "model" else f"evaluation-{folder.name}-{split}")


def _split(
    model: Model,
    recipe: Recipe | None,
    folder: Path,
    source: str | None,
    split: str | None,
    bad_rows: Literal["stop", "skip"] | None,
    reporter: Reporter,
) -> tuple[Split, SplitFaults]:
    """The samples to score, and what was wrong with the rows left out."""
    if source is None and recipe is None:
        raise DataError(f"'{folder}' holds no recipe, so it is not known what to score it on; give a source (--data).")
    if source is None:
        assert recipe is not None, "checked above"
        settings, tables = recipe.data, open_source(recipe.data, Path())
    else:
        own = {"source": source, "splits": None}
        settings = recipe.data.with_changes(**own) if recipe else DataSettings(source=source)
        tables = _whole(Path(source)) if _is_table(Path(source)) else open_source(settings, Path())
    settings = settings.with_changes(bad_rows=bad_rows) if bad_rows else settings
    name = split or (ALL if ALL in tables else recipe.evaluation.split if recipe else TEST)
    if name not in tables or not len(tables[name]):
        raise DataError(f"there is no split '{name}'.{near_miss(name, tables)} Splits: {', '.join(tables)}.")
    return read_split(name, tables[name], _reader(model, settings, tables[name], reporter), settings, reporter.advance)


def _reader(model: Model, settings: DataSettings, table: Table, reporter: Reporter) -> Reader:
    """What of the model this table can be read for: an input without a column is absent, an output is not scored."""
    whole = Reader(model.spec.inputs, model.spec.outputs, settings.columns)
    reader = whole.present(table)
    # Nothing to read or to score, or only some columns of an input or output: a slip, not an absence.
    (reader if reader.inputs and reader.outputs else whole).check_columns(table)
    for name in [*whole.inputs, *whole.outputs]:
        if name not in reader.inputs and name not in reader.outputs:
            what = "absent" if name in whole.inputs else "not scored"
            reporter.note(f"{table.name}: no column {', '.join(whole.columns_of(name))}; '{name}' is {what}")
    return reader


def _same_rows(model: Model, samples: Split, source: str | None) -> bool | None:
    """Whether the split is the one of training; a table that has grown is split anew, and mixes."""
    if source is not None or model.trained is None or samples.name not in model.trained.splits:
        return None
    same = model.trained.splits[samples.name] == split_digest(samples)
    if not same:
        warnings.warn(
            f"the {samples.name} split is not the one of training: rows or files were added, removed, changed or "
            "reordered, so it may hold rows that the model was trained on. Score a table of new rows by source "
            "(--data) instead.",
            UserWarning,
            stacklevel=3,
        )
    return same


def _trained_on(model: Model, recipe: Recipe | None, samples: Split) -> bool:
    """Whether a given table, or what the recipe's splits draw from it for training, is the training split of the model.

    Known by its digest, so by content: a copy is the same table; one with rows added, changed or left out is not.
    """
    if model.trained is None or TRAIN not in model.trained.splits:
        return False
    candidates = [samples.table]
    settings = (recipe.data.splits or FractionSplits()) if recipe else None
    if samples.name == ALL and isinstance(settings, ColumnSplits | FractionSplits):
        # A table that cannot be split as that of training was is another one.
        with suppress(DataError):
            candidates.append(split_table(samples.table, settings)[TRAIN])
    return any(split_digest(replace(samples, table=t)) == model.trained.splits[TRAIN] for t in candidates)


def _is_table(path: Path) -> bool:
    return path.exists() and not has_splits(path)


def _whole(path: Path) -> dict[str, Table]:
    """A table given by hand is scored whole, whatever splits the recipe made of its own."""
    return {ALL: read_table(path)}


def _without_each(model: Model, samples: Split, batch_size: int, reporter: Reporter) -> dict[str, Any]:
    """The scores with each input removed in turn, but for those that are never read in use.

    Nothing for a model of one such input, which then has nothing to read.
    """
    if len(model.spec.read_in_use) < 2:
        return {}
    found = {}
    for name in sorted(model.spec.read_in_use):
        label = f"evaluating without {name}"
        scores = score(model, samples, batch_size, [name], lambda d, t, label=label: reporter.advance(label, d, t))
        found[name] = _plain(scores.values)
    return found


def _plain(groups: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Scores by the output or class that they are of."""
    return {name: {score: _known(value) for score, value in group.items()} for name, group in groups.items()}


def _known(value: float) -> float | None:
    """JSON has no word for NaN and infinity."""
    return value if math.isfinite(value) else None


def _per_class(model: Model, name: str, counts: list[list[int]]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class, from the confusion counts (rows true, columns predicted)."""
    table = {}
    for i, label in enumerate(model.spec.outputs[name].labels() or ()):
        right = counts[i][i]
        support, predicted = sum(counts[i]), sum(row[i] for row in counts)
        precision = right / predicted if predicted else 0.0
        recall = right / support if support else 0.0
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        table[label] = {"precision": precision, "recall": recall, "f1": f1, "support": support}
    return table


def _check_target(target: Path) -> None:
    """An earlier evaluation is replaced; a folder with anything else in it is not ours to replace."""
    names = [p.name for p in target.iterdir() if not p.name.startswith(".")] if target.is_dir() else []
    foreign = [
        n for n in names if n not in (METRICS, SKIPPED) and not (n.startswith("confusion-") and n.endswith(".png"))
    ]
    if (target.exists() and not target.is_dir()) or foreign or (names and METRICS not in names):
        raise TrainingError(f"'{target}' exists and is not an evaluation; give another folder by --out (out=…).")


def _write(target: Path, result: Mapping[str, Any], scores: Scores, model: Model, faults: SplitFaults) -> None:
    try:
        with replace_folder(target) as folder:
            text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            (folder / METRICS).write_text(text, encoding="utf-8")
            if faults.bad:
                write_faults(faults.kept, folder / SKIPPED)
            for name, counts in scores.confusion.items():
                labels = model.spec.outputs[name].labels() or ()
                _draw_confusion(folder / f"confusion-{name}.png", counts, labels, name)
    except OSError as error:
        raise TrainingError(f"the evaluation could not be written to '{target}': {error.strerror}.") from None


def _drawing() -> tuple[Any, Any]:
    """Matplotlib's canvas and figure, which know nothing of pyplot's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "matplotlib", "train", "drawing a confusion matrix") from None
    return FigureCanvasAgg, Figure


def _draw_confusion(path: Path, counts: list[list[int]], classes: tuple[str, ...], name: str) -> None:
    canvas, figure_class = _drawing()
    side = min(max(3.5, 0.45 * len(classes)), 20.0)
    figure = figure_class(figsize=(side + 1.5, side + 1.0), layout="constrained")
    canvas(figure)
    axes = figure.subplots()
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true", title=name)
    if len(classes) <= 40:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    colour = "white" if shares[i][j] > 0.5 else "black"
                    axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
    figure.savefig(path, format="png", dpi=110)
