"""The contract of an output kind: settings, queries, head, loss, metrics and `answer`, in one file a kind.

`answer` is the same code in evaluate, predict and everything later that serves: there is no second way to an answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

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

    query: LearnedQuery = LearnedQuery()
    weight: float = Field(default=1.0, gt=0)
    """Weight of this output's loss in the sum."""

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
    def collate(self, targets: Sequence[Any]) -> Tensor:
        """Parsed targets as a tensor with B rows."""

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

    @abstractmethod
    def answer(self, name: str, prediction: Tensor) -> list[dict[str, Any]]:
        """One flat row of plain values a sample, keys headed by `name`."""


def masked_mean(losses: Tensor, known: Tensor) -> Tensor:
    """The mean over examples with a target; 0, with a gradient of 0, when there is none."""
    total = torch.where(known, losses, losses.new_zeros(())).sum()
    return total / known.sum().clamp(min=1)
