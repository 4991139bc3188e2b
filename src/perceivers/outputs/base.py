"""The contract of an output kind: settings, queries, head, loss, metrics and `answer`, in one file a kind.

`answer` is the same code in evaluate, predict and everything later that serves: there is no second way to an answer.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from perceivers.nn.initialisers import plain_linear
from perceivers.nn.position import LearnedPosition
from perceivers.settings import Settings

if TYPE_CHECKING:
    from torchmetrics import Metric


class LearnedQuery(Settings):
    """A trainable query array [P2 §3.2]."""

    kind: Literal["learned"] = "learned"
    channels: PositiveInt | None = None
    """E; None: as many as the latents have."""
    init_std: float = Field(default=0.02, gt=0)


class OutputSettings(Settings, ABC):
    """What every output kind has."""

    mixable: ClassVar[bool] = False
    """A target can be shared out among several answers, as MixUp and CutMix do: `soft` gives the shares."""
    curves: ClassVar[tuple[str, ...]] = ()
    """The scores, of those that the metrics give, that the picture of a run shows; all on one scale up to 1."""
    query: LearnedQuery = LearnedQuery()
    weight: float = Field(default=1.0, gt=0)
    """Weight of this output's loss in the sum."""

    @property
    def reads_columns(self) -> bool:
        """Whether it names its table columns itself."""
        return False

    def table_columns(self, name: str) -> list[str]:
        """The table columns that hold the target when the recipe maps none: its own name."""
        return [name]

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """The raw target of one sample, checked; the kind's own missing value if there is none. Raises `DataError`."""

    @abstractmethod
    def fit(self, targets: Iterable[Any]) -> Self:
        """These settings, completed from the training split's parsed targets."""

    @abstractmethod
    def completed(self, name: str) -> tuple[Self, str | None]:
        """These settings with neutral values for what training would learn, so that an output `name` builds.

        With it, in words, what that assumes where it changes a count, else None.
        """

    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes, in order; None for a kind without classes, or while they are not known."""
        return None

    def with_labels(self, labels: Sequence[str]) -> Self:
        """These settings with those classes where they have none yet; a kind without classes returns itself."""
        return self

    @abstractmethod
    def collate(self, targets: Sequence[Any]) -> Tensor:
        """Parsed targets as a tensor with B rows."""

    def soft(self, target: Tensor) -> Tensor:
        """A collated target as shares (B, K) that the loss takes too; a row of zeros where it is not known."""
        raise AssertionError(f"targets of {type(self).__name__} have no shares")

    @abstractmethod
    def build(self, query_channels: int, read_channels: int, averaging: bool = False) -> "Output":
        """The module: its query has `query_channels` (E), its head reads `read_channels`.

        `averaging`: the head reads the mean of the latents, asks no query and starts at zero.
        """

    @property
    @abstractmethod
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """The metric that chooses the best checkpoint, and which way is better."""


class Output(nn.Module, ABC):
    """The module of an output kind: one learned query, a linear head, a loss, metrics and answers."""

    def __init__(
        self, query: LearnedQuery, query_channels: int, read_channels: int, width: int, averaging: bool
    ) -> None:
        super().__init__()
        self.query = None if averaging else LearnedPosition((1,), query_channels, query.init_std)
        self.head = plain_linear(read_channels, width, zero=averaging)

    def queries(self, batch: int) -> Tensor:
        """(B, O, E)."""
        assert self.query is not None, "an averaging decoder asks no queries"
        return self.query(grid=(1,)).expand(batch, -1, -1)

    @property
    def count(self) -> int:
        """O: how many queries it asks; an averaging decoder answers one without asking."""
        return 1 if self.query is None else self.queries(1).shape[1]

    def flops(self) -> int:
        """Multiplications and additions of the head for one sample."""
        return 2 * self.head.in_features * self.head.out_features

    def predict(self, answers: Tensor) -> Tensor:
        """Decoder answers (B, O, E) → this output's prediction (B, width)."""
        return self.head(answers[:, 0])

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Per-example loss (B,) in float32 and which examples have a target (B,) bool. The unit is the kind's."""

    @abstractmethod
    def metrics(self) -> "dict[str, Metric]":
        """New metric objects by name."""

    @abstractmethod
    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch to the metrics; examples without a target are left out."""

    def scores(self, metrics: "Mapping[str, Metric]") -> dict[str, float]:
        """What the metrics that were updated say, by name. What too few samples cannot tell is NaN."""
        return {name: metric_value(metric) for name, metric in metrics.items()}

    def confusion(self, metrics: "Mapping[str, Metric]") -> list[list[int]] | None:
        """Counts of the classes, rows true and columns predicted; None for kinds without, or where none was updated."""
        return None

    @abstractmethod
    def answer(self, name: str, prediction: Tensor) -> list[dict[str, Any]]:
        """One flat row of plain values a sample, keys headed by `name`."""


def metric_value(metric: "Metric") -> float:
    """The number that a metric says; NaN where it refuses, since too few samples cannot tell (R² of one)."""
    try:
        return float(metric.compute())
    except ValueError:
        return math.nan


def masked_mean(losses: Tensor, known: Tensor) -> Tensor:
    """The mean over examples with a target; 0, with a gradient of 0, when there is none."""
    total = torch.where(known, losses, losses.new_zeros(())).sum()
    return total / known.sum().clamp(min=1)
