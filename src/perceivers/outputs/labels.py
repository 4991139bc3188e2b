"""`labels` as an output: any number of several classes at once, as the sounds in a clip [P1 §4.2, AudioSet]."""

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from perceivers.cells import class_name, is_missing
from perceivers.elements import Elements
from perceivers.errors import DataError, missing_extra
from perceivers.outputs.base import OneQuery, Sizes
from perceivers.outputs.classes import ClassesOutput

if TYPE_CHECKING:
    from torchmetrics import Metric

_MAP = "map"


class LabelsOutput(ClassesOutput):
    """Which of `classes` are true of a sample, each by itself: sigmoid cross-entropy, mean average precision."""

    curves: ClassVar[tuple[str, ...]] = (_MAP,)
    kind: Literal["labels"] = "labels"

    def parse(self, value: Any) -> tuple[str, ...] | tuple[int, ...] | None:
        """Class names as indices, or as names before `fit`; () where none is true, None where it is not known.

        A list, JSON text of one, or names with | between them, or with ;. A known class whose name has these in it is
        itself. Raises `DataError` for a new class.
        """
        whole = class_name(value) if isinstance(value, str) and self.classes else None
        if whole is not None and self.classes and whole in self.classes:
            return (self.index(whole),)
        found = _names(value)
        if found is None or self.classes is None:
            return found
        return tuple(self.index(name) for name in found)

    def fit(self, targets: Iterable[Any]) -> Self:
        """With the sorted class names of the training split, when the recipe gives none."""
        if self.classes is not None:
            return self
        found = sorted({str(name) for target in targets if target is not None for name in target})
        if not found:
            raise DataError(
                "no row of the training split has a class, so there is nothing to learn. "
                "Check the target column and how the table is split."
            )
        if len(found) < 2:
            raise DataError(
                f"the training split holds only the class '{found[0]}', and labels are two classes at least. For one "
                "thing that is true or not, write a word for either in its column and set kind: category on the output."
            )
        return self.with_changes(classes=tuple(found))

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B, K) float32: 1 where the class is true, else 0; a row of NaN is unknown."""
        assert self.classes is not None, "classes are known here"
        table = torch.zeros(len(targets), len(self.classes))
        for row, target in enumerate(targets):
            table[row, [] if target is None else list(target)] = 1.0
            if target is None:
                table[row] = float("nan")
        return table

    def build(self, sizes: Sizes) -> "LabelsHead":
        """The module."""
        return LabelsHead(self, sizes)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """Mean average precision, the higher the better."""
        return _MAP, "max"


class LabelsHead(OneQuery):
    """Logits (B, K), one a class."""

    def __init__(self, settings: LabelsOutput, sizes: Sizes) -> None:
        classes = settings.known_classes()
        super().__init__(settings, sizes, len(classes))
        self.classes = classes

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sigmoid cross-entropy in nats, the mean over the classes."""
        known = target.isfinite().all(-1)
        wanted = torch.where(known[:, None], target.float(), 0.0)
        losses = F.binary_cross_entropy_with_logits(prediction.float(), wanted, reduction="none")
        return losses.mean(-1), known

    def metrics(self) -> "dict[str, Metric]":
        """Average precision of each class, of which `map` is the mean."""
        try:
            from torchmetrics.classification import MultilabelAveragePrecision
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        return {_MAP: MultilabelAveragePrecision(len(self.classes), average="none")}

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch; unknown targets are left out."""
        known = target.isfinite().all(-1)
        if bool(known.any()):
            metrics[_MAP].update(prediction[known].float().sigmoid(), target[known].long())

    def scores(self, metrics: "Mapping[str, Metric]") -> dict[str, float]:
        """`map`: the mean over the classes that any sample has; nothing can be said of one that none has."""
        if _MAP not in metrics:
            return {}
        found = [p for p in _average_precisions(metrics[_MAP]) if not math.isnan(p)]
        return {_MAP: sum(found) / len(found) if found else math.nan}

    def per_class(self, metrics: "Mapping[str, Metric]") -> dict[str, dict[str, float]] | None:
        """Of each class its average precision, its support, and precision, recall and F1 of answers above 0.5.

        Of a class that no sample has, all but the support are NaN.
        """
        if _MAP not in metrics:
            return None
        scores, true = _state(metrics[_MAP])
        answers, wanted = scores > 0.5, true == 1
        counts = zip(*(n.sum(0).tolist() for n in (answers & wanted, answers, wanted)), strict=True)
        table = {}
        for name, precision, (right, answered, support) in zip(
            self.classes, _average_precisions(metrics[_MAP]), counts, strict=True
        ):
            none = 0.0 if support else math.nan
            table[name] = {
                "average_precision": precision,
                "precision": right / answered if answered and support else none,
                "recall": right / support if support else none,
                "f1": 2 * right / (answered + support) if support else none,
                "support": support,
            }
        return table

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: the classes above 0.5, likeliest first, name_probabilities: {class: p}} a sample."""
        rows = []
        for row in prediction.float().sigmoid().tolist():
            probabilities = dict(zip(self.classes, row, strict=True))
            over = sorted((c for c, p in probabilities.items() if p > 0.5), key=lambda c: -probabilities[c])
            rows.append({name: over, f"{name}_probabilities": probabilities})
        return rows


def _state(metric: "Metric") -> tuple[Tensor, Tensor]:
    """All probabilities (n, K) that the metric was given, and what was true (n, K)."""
    from torchmetrics.utilities import dim_zero_cat

    return dim_zero_cat(metric.preds), dim_zero_cat(metric.target)  # pyright: ignore[reportArgumentType]


def _average_precisions(metric: "Metric") -> list[float]:
    """Of each class; NaN of one that no sample has. The metric keeps what it computed until it is updated again."""
    with warnings.catch_warnings():
        # torchmetrics takes the recall of a class that no sample has for 1.
        warnings.filterwarnings("ignore", message="No positive samples")
        found = metric.compute().tolist()
    support = _state(metric)[1].sum(0).tolist()
    return [precision if count else math.nan for precision, count in zip(found, support, strict=True)]


def _names(value: Any) -> tuple[str, ...] | None:
    """The class names in a cell, each once, in their order; None where it is empty. Raises `DataError`."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"the labels are not valid JSON: {error}.") from None
    if isinstance(value, str):
        value = value.split("|" if "|" in value else ";") if not is_missing(value) else None
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        raise DataError(f"got a {type(value).__name__}; wanted a list of class names, or names with | between them.")
    cells = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if any(isinstance(cell, (list, tuple, Mapping)) for cell in cells):
        raise DataError("the labels are lists in a list; wanted one list of class names.")
    return tuple(dict.fromkeys(name for cell in cells if (name := class_name(cell)) is not None))
