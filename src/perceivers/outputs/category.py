"""`category` as an output: one of several classes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from perceivers.cells import class_name
from perceivers.elements import Elements
from perceivers.errors import DataError, missing_extra
from perceivers.outputs.base import OneQuery, Sizes
from perceivers.outputs.classes import ClassesOutput

if TYPE_CHECKING:
    from torchmetrics import Metric

# The target of a sample whose class is not known.
UNKNOWN = -1
# The metric that is no score.
_CONFUSION = "confusion"
# With more classes than these, all of them numbers, a new one is taken for a number rather than for a slip.
_MOST_NUMBERS = 20


class CategoryOutput(ClassesOutput):
    """One class of `classes`: cross-entropy, accuracy, probabilities with names."""

    mixable: ClassVar[bool] = True
    curves: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    kind: Literal["category"] = "category"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """s in (1−s)·y + s/K, in training only."""

    def parse(self, value: Any) -> int | str:
        """A class name as an index, or as a name before `fit`. Empty: unknown. Raises `DataError` for a new class."""
        name = class_name(value)
        if self.classes is None:
            return "" if name is None else name
        if name is None:
            return UNKNOWN
        numbers = len(self.classes) > _MOST_NUMBERS and name not in self.classes
        if numbers and all(map(_is_number, [name, *self.classes])):
            raise DataError(
                f"'{name}' is not one of the {len(self.classes):,} classes of the training split, which are all "
                "numbers: the target looks like a number. Set kind: number on the output."
            )
        return self.index(name)

    def fit(self, targets: Iterable[Any]) -> Self:
        """With the sorted class names of the training split, when the recipe gives none."""
        if self.classes is not None:
            return self
        found = sorted({str(t) for t in targets} - {""}, key=_natural)
        if len(found) < 2:
            what = f"only the class '{found[0]}'" if found else "no class at all"
            raise DataError(
                f"the target holds {what} in the training split; there is nothing to tell apart. "
                "Check the target column and how the table is split."
            )
        return self.with_changes(classes=tuple(found))

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B,) int64; −1 is unknown."""
        return torch.tensor(targets, dtype=torch.int64)

    def soft(self, target: Tensor) -> Tensor:
        """(B, K): 1 for the class, zeros where it is unknown."""
        assert self.classes is not None, "classes are known here"
        return F.one_hot(target.clamp(min=0), len(self.classes)).float() * (target >= 0)[:, None]

    def build(self, sizes: Sizes) -> "CategoryHead":
        """The module."""
        return CategoryHead(self, sizes)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """Accuracy, the higher the better."""
        return "accuracy", "max"


class CategoryHead(OneQuery):
    """Logits (B, K) over the classes."""

    def __init__(self, settings: CategoryOutput, sizes: Sizes) -> None:
        classes = settings.known_classes()
        super().__init__(settings, sizes, len(classes))
        self.classes = classes
        self.label_smoothing = settings.label_smoothing

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats; targets are indices (B,), or probabilities (B, K) of the classes.

        Unknown are −1 and a row of zeros.
        """
        logits = prediction.float()
        smoothing = self.label_smoothing if self.training else 0.0
        if target.ndim == 2:
            losses = F.cross_entropy(logits, target.float(), reduction="none", label_smoothing=smoothing)
            return losses, target.sum(-1) > 0
        known = target >= 0
        losses = F.cross_entropy(logits, target.clamp(min=0), reduction="none", label_smoothing=smoothing)
        return losses, known

    def metrics(self) -> "dict[str, Metric]":
        """accuracy, macro F1, top-5 accuracy when there are more than five classes, and the confusion matrix."""
        try:
            from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        count = len(self.classes)
        metrics: dict[str, Metric] = {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "f1": MulticlassF1Score(count, average="macro"),
            _CONFUSION: MulticlassConfusionMatrix(count),
        }
        if count > 5:
            metrics["top5"] = MulticlassAccuracy(count, average="micro", top_k=5)
        return metrics

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch; unknown targets are left out."""
        known = target >= 0
        if not bool(known.any()):
            return
        for metric in metrics.values():
            metric.update(prediction[known].float(), target[known])

    def scores(self, metrics: "Mapping[str, Metric]") -> dict[str, float]:
        """All but the confusion matrix."""
        return super().scores({name: metric for name, metric in metrics.items() if name != _CONFUSION})

    def confusion(self, metrics: "Mapping[str, Metric]") -> list[list[int]] | None:
        """Counts, rows true and columns predicted."""
        return metrics[_CONFUSION].compute().tolist() if _CONFUSION in metrics else None

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: class, name_probability: p, name_probabilities: {class: p}} a sample."""
        rows = []
        for probabilities in prediction.float().softmax(-1).tolist():
            best = max(range(len(probabilities)), key=probabilities.__getitem__)
            rows.append(
                {
                    name: self.classes[best],
                    f"{name}_probability": probabilities[best],
                    f"{name}_probabilities": dict(zip(self.classes, probabilities, strict=True)),
                }
            )
        return rows


def _is_number(name: str) -> bool:
    return _natural(name)[0] == 0


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers in numeric order before words, so that 10 comes after 9."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
