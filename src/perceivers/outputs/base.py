"""The contract of an output kind: settings, queries, head, loss, metrics and `answer`, in one file a kind.

`answer` is the same code in evaluate, predict and everything later that serves: there is no second way to an answer.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from perceivers.elements import Elements
from perceivers.errors import DataError
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.lifted import Lifted
from perceivers.nn.linear import Affine
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


class LinearHead(Settings):
    """A linear reads the answer."""

    kind: Literal["linear"] = "linear"


class MlpHead(Settings):
    """Two linears with tanh between them read the answer [P2 App. F, GLUE]."""

    kind: Literal["mlp"] = "mlp"
    channels: PositiveInt | None = None
    """Hidden width; None: as wide as the answer (E)."""


class Context(NamedTuple):
    """What an output may ask with and answer by, besides its own weights.

    batch: B. inputs: the model's input modules. read: of the inputs that the output `asks_with`, the elements as the
    encoder reads them, before inputs are fused. points: the numbers of the queries to ask, where not all are.
    like: a tensor of the dtype and on the device of the queries.
    """

    batch: int
    inputs: Mapping[str, nn.Module]
    read: Mapping[str, Lifted]
    points: Tensor | None
    like: Tensor


class OutputSettings(Settings, ABC):
    """What every output kind has."""

    mixable: ClassVar[bool] = False
    """A target can be shared out among several answers, as MixUp and CutMix do: `soft` gives the shares."""
    curves: ClassVar[tuple[str, ...]] = ()
    """The scores, of those that the metrics give, that the picture of a run shows; all on one scale up to 1."""
    apart: ClassVar[str] = ""
    """What else can be done where the input that it is of reads its target column; begins with a blank."""
    continues: ClassVar[bool] = False
    """It says how the model's one input goes on, for `encoder.kind: autoregressive`: it reads that input's column."""
    reads_files: ClassVar[bool] = False
    """A target may be the path of a file, which is relative to its table."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of this output's loss in the sum."""

    @property
    def asks_with(self) -> tuple[str, ...]:
        """The inputs whose own elements it asks with, or whose mask says which queries ask."""
        return ()

    @property
    def parted(self) -> bool:
        """Whether some of its queries can be asked without the others."""
        return False

    @property
    def averaged(self) -> bool:
        """Whether the mean of the latents can answer it: it asks nothing of its own."""
        return False

    @abstractmethod
    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> int:
        """E, the width of its queries, over these input modules. Raises `SpecError` where they do not fit."""

    @property
    def names_columns(self) -> bool:
        """Whether it names its table columns itself."""
        return False

    @property
    def of_input(self) -> str | None:
        """The input whose own values are the target, which is then in no column; None: the target is in columns."""
        return None

    @property
    def again(self) -> str | None:
        """The input whose every element a hierarchy gives back, asked for by the input's positions; None: it asks."""
        return None

    @property
    def hides(self) -> bool:
        """Some elements of `of_input` are hidden, in training and scoring; what they were is the target (`hidden`)."""
        return False

    @property
    def laid_on(self) -> str | None:
        """The input on whose pixels or points the target lies, and must move with them; None: it lies on none."""
        return None

    @property
    def both_ways(self) -> bool:
        """Whether its target also tells what it would be with the two images of `laid_on` exchanged."""
        return False

    def resolved(self, cell: Any, base: Path) -> Any:
        """A table's `cell` for `parse`, with a path in it made relative to the table's folder `base`."""
        return str(base / cell) if self.reads_files and isinstance(cell, (str, Path)) else cell

    def check_laid(self, target: Any, given: tuple[int, ...]) -> None:
        """Raise `DataError` for a parsed target that is not of a sample of `laid_on` with that grid, or (rows,)."""

    def matched(self, target: Any, sample: Any, aligned: Callable[[Any], Any]) -> Any:
        """A parsed target as far as the model reads the `sample` of `laid_on` (None: absent); `aligned` cuts it so."""
        return None if target is None else aligned(target)

    def unlike(self, grid: tuple[int, ...] | None, numbers: int) -> str | None:
        """Why it cannot be `of_input`, in words, of one whose raw samples hold so many numbers, on `grid` if any."""
        return None

    def table_columns(self, name: str) -> list[str]:
        """The table columns that hold the target when the recipe maps none: its own name."""
        return [name]

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """The raw target of one sample, checked; the kind's own missing value if there is none. Raises `DataError`."""

    def following(self, target: Any, length: int) -> Any:
        """A parsed target for an input of which `length` elements are read. Asked only of kinds that `continue`."""
        return target

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

    def target_of(self, elements: Elements) -> Tensor:
        """The target of a kind that has it from an input (`of_input`) and hides nothing, with B rows."""
        raise AssertionError(f"targets of {type(self).__name__} are in columns")

    def hidden(self, values: np.ndarray, mask: np.ndarray | None, seed: Sequence[int] | None) -> tuple[np.ndarray, Any]:
        """Of a kind that `hides`: the values of one sample with some hidden, and the target.

        seed: whole numbers ≥ 0, which alone decide; None: the values do, so that they are always scored alike.
        """
        raise AssertionError(f"{type(self).__name__} hides nothing")

    def soft(self, target: Tensor) -> Tensor:
        """A collated target as shares (B, K) that the loss takes too; a row of zeros where it is not known."""
        raise AssertionError(f"targets of {type(self).__name__} have no shares")

    @abstractmethod
    def build(self, sizes: "Sizes") -> "Output":
        """The module. Raises `SpecError` when something that training learns is still unknown."""

    @property
    @abstractmethod
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """The metric that chooses the best checkpoint, and which way is better."""


class Sizes(NamedTuple):
    """What an output's module is built with.

    query: E. read: channels of the answers that its head reads. averaging: these are the mean of the latents, so it
    asks no query and its head starts at zero. inputs: the model's input modules. grids: their raw grids, where they
    have any.
    """

    query: int
    read: int
    averaging: bool
    inputs: Mapping[str, nn.Module]
    grids: Mapping[str, tuple[int, ...] | None] = {}


class Output(nn.Module, ABC):
    """The module of an output kind: its queries, head, loss, metrics and answers."""

    @abstractmethod
    def queries(self, context: Context) -> Tensor | Lifted:
        """(B, O, E). Queries that lie on a grid, or that a mask leaves out, are `Lifted`; they are decoded alone."""

    @abstractmethod
    def count(self, elements: Mapping[str, int]) -> int:
        """O: how many queries it asks of one sample, with so many elements in each input."""

    @property
    def sampled(self) -> int | None:
        """How many of its queries are asked of each sample in training; None: all."""
        return None

    def at_points(self, target: Tensor, points: Tensor) -> Tensor:
        """The target of the queries of those numbers alone, (B, n), of an output that has `sampled` ones."""
        raise AssertionError(f"{type(self).__name__} asks all its queries")

    @abstractmethod
    def flops(self, elements: Mapping[str, int]) -> int:
        """Multiplications and additions of the head for one sample."""

    def reader(self, context: Context) -> Affine | None:
        """The linear that every decoder answer (B, o, E) goes through before `predict`; None: there is none.

        So the answers of a million queries need not be kept, and the decoder may draw it into its own last product.
        """
        return None

    @abstractmethod
    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """Decoder answers (B, O, E), or what the `reader` made of them → this output's prediction (B, …)."""

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

    def per_class(self, metrics: "Mapping[str, Metric]") -> dict[str, dict[str, float]] | None:
        """Scores of each class by its name, of a kind of classes without a confusion matrix; None for all others."""
        return None

    @abstractmethod
    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """One flat row of plain values a sample, keys headed by `name`. inputs: what was read."""


class AskingSettings(OutputSettings, ABC):
    """What the kinds have that the elements of an input ask, each for what lies on it."""

    input: str
    """The input whose elements, content and position, are the queries."""

    @property
    def asks_with(self) -> tuple[str, ...]:
        """The input."""
        return (self.input,)

    @property
    def laid_on(self) -> str | None:
        """The input."""
        return self.input


class OneQuerySettings(OutputSettings, ABC):
    """What the kinds have that ask one learned query."""

    query: LearnedQuery = LearnedQuery()
    head: Annotated[LinearHead | MlpHead, Field(discriminator="kind")] = LinearHead()

    @property
    def averaged(self) -> bool:
        """As long as nothing is said of its query."""
        return self.query == LearnedQuery()

    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> int:
        """Its own, or as many as the latents have."""
        return self.query.channels or latent_channels


class OneQuery(Output, ABC):
    """The module of a kind that asks one learned query and reads its answer by a head that gives `width` numbers."""

    def __init__(self, settings: OneQuerySettings, sizes: Sizes, width: int) -> None:
        super().__init__()
        query = settings.query
        self.query = None if sizes.averaging else LearnedPosition((1,), sizes.query, query.init_std)
        if isinstance(settings.head, LinearHead):
            self.head = plain_linear(sizes.read, width, zero=sizes.averaging)
        else:
            hidden = settings.head.channels or sizes.read
            last = plain_linear(hidden, width, zero=sizes.averaging)
            self.head = nn.Sequential(plain_linear(sizes.read, hidden), nn.Tanh(), last)

    def queries(self, context: Context) -> Tensor:
        """(B, 1, E)."""
        assert self.query is not None, "an averaging decoder asks no queries"
        return self.query(grid=(1,)).expand(context.batch, -1, -1)

    def count(self, elements: Mapping[str, int]) -> int:
        """One, which an averaging decoder answers without being asked."""
        return 1

    def flops(self, elements: Mapping[str, int]) -> int:
        """Those of the linears."""
        linears = [part for part in self.head.modules() if isinstance(part, nn.Linear)]
        return sum(2 * linear.in_features * linear.out_features for linear in linears)

    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """(B, width)."""
        return self.head(answers[:, 0])


def cell_numbers(name: str, cells: Any) -> Tensor:
    """The numbers of the cells of an output to ask for. Raises `DataError` for what holds no whole numbers."""
    try:
        found = torch.as_tensor(cells)
    except (TypeError, ValueError, RuntimeError):
        found = None
    whole = found is not None and (found.numel() == 0 or not (found.is_floating_point() or found.is_complex()))
    if found is None or not whole or found.dtype == torch.bool:
        raise DataError(f"points of output '{name}' are numbers of cells, such as [0, 17]; got {cells!r:.80}.")
    return found.long()


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


def with_top(answer: Mapping[str, Any], key: str, count: int) -> dict[str, Any]:
    """`answer` with only the largest of the probabilities by class under `key`, largest first; all else as it is."""
    if not isinstance(answer.get(key), Mapping):
        return dict(answer)
    ranked = sorted(answer[key].items(), key=lambda item: item[1], reverse=True)
    return {**answer, key: dict(ranked[:count])}
