"""`pointwise`: numbers for each point of an input, which asks with itself [P2 §4.5, StarCraft II's entities]."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from perceivers.cells import is_missing, real_spread, rectangle
from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError, missing_extra
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.lifted import Lifted
from perceivers.nn.linear import Affine
from perceivers.npy import load_npy
from perceivers.outputs.base import AskingSettings, Context, Output, Sizes

if TYPE_CHECKING:
    from torchmetrics import Metric

_LOSSES = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


class PointwiseOutput(AskingSettings):
    """Numbers of each point, standardised by the training split: the loss on that scale, answers in their own units."""

    reads_files: ClassVar[bool] = True
    curves: ClassVar[tuple[str, ...]] = ("r2",)
    kind: Literal["pointwise"] = "pointwise"
    channels: PositiveInt = 1
    """Numbers for each point."""
    project: PositiveInt | None = None
    """Width of a linear that makes queries of the elements; None: they ask as they are."""
    loss: Literal["l2", "l1", "huber"] = "l2"
    mean: tuple[float, ...] | None = None
    """Per channel. None: learned from the training split."""
    std: tuple[PositiveFloat, ...] | None = None

    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> int:
        """`project`, or those of the input's elements. Raises `SpecError` where these are no points."""
        module = inputs[self.input]
        if not getattr(module, "pointwise", False):
            raise SpecError(f"pointwise output: input '{self.input}' is of another kind than points.")
        return self.project or int(module.channels)  # pyright: ignore[reportArgumentType]

    def resolved(self, cell: Any, base: Path) -> Any:
        """A path relative to `base`; JSON text as it is."""
        return cell if _is_inline(cell) else super().resolved(cell, base)

    def parse(self, value: Any) -> np.ndarray | None:
        """(M, channels) float64, NaN where it is not known: an array, a list, JSON text, or the path of a .npy file.

        Of one channel (M,) will do. Raises `DataError`.
        """
        if is_missing(value):
            return None
        if _is_inline(value):
            value = _from_json(value)
        if isinstance(value, (str, Path)):
            value = load_npy(Path(value))
        numbers = rectangle(value, "the target")
        if numbers.ndim == 1 and self.channels == 1:
            numbers = numbers[:, None]
        if numbers.size == 0:
            numbers = numbers.reshape(0, self.channels)
        if numbers.ndim != 2 or numbers.shape[1] != self.channels:
            raise DataError(f"the target has the shape {numbers.shape}; wanted (points, {self.channels}).")
        if np.isinf(numbers).any():
            raise DataError("the target is infinite; leave a number empty (null, NaN) when it is not known.")
        return numbers

    def check_laid(self, target: Any, given: tuple[int, ...]) -> None:
        """It has a row for each point. Raises `DataError`."""
        if len(target) != given[0]:
            raise DataError(
                f"the target has {len(target):,} rows, but '{self.input}' has {given[0]:,} points; wanted a row "
                "for each."
            )

    def matched(self, target: Any, sample: Any, aligned: Callable[[Any], Any]) -> np.ndarray | None:
        """The rows of the points that are read; not known of masked ones, which ask nothing; None without a sample."""
        if target is None or sample is None:
            return None
        rows = aligned(target)
        return rows if sample.mask is None else np.where(sample.mask[:, None], rows, np.nan)

    def fit(self, targets: Iterable[Any]) -> Self:
        """With mean and standard deviation per channel of the training targets, where the recipe gives none."""
        if self.mean is not None and self.std is not None:
            return self
        # Sums are taken about a channel's first number, or a large offset would swallow the variance.
        shift, (count, total, square) = np.full(self.channels, np.nan), np.zeros((3, self.channels))
        for target in targets:
            if target is None or not len(target):
                continue
            real = np.isfinite(target)
            first = target[real.argmax(0), np.arange(self.channels)]
            shift = np.where(np.isnan(shift), first, shift)
            apart = np.where(real, target - shift, 0.0)
            count, total, square = count + real.sum(0), total + apart.sum(0), square + (apart**2).sum(0)
        if not count.all():
            which = ", ".join(str(channel + 1) for channel in np.flatnonzero(count == 0))
            raise DataError(f"channel {which} has no number in the training split; there is nothing to learn.")
        mean = shift + total / count
        std = real_spread(mean, np.sqrt(np.maximum(square / count - (total / count) ** 2, 0.0)), np.float64)
        if not (std > 0).any():
            raise DataError(f"the target is {mean.tolist()} for all points of the training split: nothing to learn.")
        return self.with_changes(mean=self.mean or mean.tolist(), std=self.std or np.where(std > 0, std, 1.0).tolist())

    def completed(self, name: str) -> tuple[Self, str | None]:
        """With mean 0 and standard deviation 1 where they are not known; no count depends on them."""
        width = self.channels
        return self.with_changes(mean=self.mean or (0.0,) * width, std=self.std or (1.0,) * width), None

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B, the longest, channels) float64; NaN is unknown, and behind the end."""
        length = max((len(target) for target in targets if target is not None), default=0)
        found = np.full((len(targets), length, self.channels), np.nan)
        for row, target in enumerate(targets):
            if target is not None:
                found[row, : len(target)] = target
        return torch.from_numpy(found)

    def build(self, sizes: Sizes) -> "PointwiseHead":
        """The module."""
        if self.mean is None or self.std is None:
            raise SpecError(
                "pointwise output: mean and std are not known yet. perceivers.train learns them from the training "
                "split; to build without training give both, one number a channel."
            )
        for name, given in (("mean", self.mean), ("std", self.std)):
            if len(given) != self.channels:
                raise SpecError(f"pointwise output: {name} has {len(given)} numbers for {self.channels} channels.")
        return PointwiseHead(self, sizes, self.mean, self.std)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """Mean absolute error on the scale of the training split, the lower the better."""
        return "standardised_mae", "min"


class PointwiseHead(Output):
    """Numbers (B, count, channels) on the standardised scale, a row for each point that the input can hold."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, settings: PointwiseOutput, sizes: Sizes, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.input = settings.input
        self.criterion = _LOSSES[settings.loss]
        elements = int(sizes.inputs[self.input].channels)  # pyright: ignore[reportArgumentType]
        self.project = None if settings.project is None else plain_linear(elements, settings.project)
        self.head = plain_linear(sizes.read, settings.channels)
        # Not in the state dict: the spec holds them, and it travels with the weights.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64), persistent=False)

    def queries(self, context: Context) -> Lifted:
        """The elements as the encoder reads them, through the linear if there is one; masked ones ask nothing."""
        read = context.read[self.input].cleared()
        return read if self.project is None else Lifted(self.project(read.joined()), None, read.mask)

    def count(self, elements: Mapping[str, int]) -> int:
        """One a point."""
        return elements[self.input]

    def flops(self, elements: Mapping[str, int]) -> int:
        """Those of the linears."""
        linears = [linear for linear in (self.project, self.head) if linear is not None]
        return sum(2 * self.count(elements) * linear.in_features * linear.out_features for linear in linears)

    def reader(self, context: Context) -> Affine:
        """To (B, o, channels)."""
        return Affine.of(self.head)

    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """What is read of the answers."""
        return answers

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen loss on the standardised scale, averaged over an example's known numbers."""
        guessed, wanted, real = self._known(prediction, target)
        losses = self.criterion(guessed, wanted, reduction="none") * real
        counts = real.sum((1, 2))
        return losses.sum((1, 2)) / counts.clamp(min=1), counts > 0

    def metrics(self) -> "dict[str, Metric]":
        """Mean absolute and root mean squared error over all known numbers, in standard deviations and own units.

        And R² of all channels together, each in its standard deviations.
        """
        try:
            from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        found = {"standardised_mae": MeanAbsoluteError(), "mae": MeanAbsoluteError()}
        found |= {"rmse": MeanSquaredError(squared=False), "r2": R2Score()}
        return {name: metric.set_dtype(torch.float64) for name, metric in found.items()}

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch; unknown numbers are left out."""
        guessed, wanted, real = (part.double() for part in self._known(prediction, target))
        known = real.bool()
        if bool(known.any()):
            for name in ("standardised_mae", "r2"):
                metrics[name].update(guessed[known], wanted[known])
            for name in ("mae", "rmse"):
                metrics[name].update((guessed * self.std)[known], (wanted * self.std)[known])

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: lists (points, channels) in their own units} a sample; a point that is masked has None for numbers."""
        numbers, read = prediction.double() * self.std + self.mean, inputs.get(self.input)
        if read is None:
            return [{name: []} for _ in numbers]
        assert read.coords is not None, "points have coordinates, if none"
        real = read.finite().present
        # Behind a sample's end there are zeros; NaN is a point that is masked.
        given = real | ~read.values.isfinite().all(-1) | ~read.coords.isfinite().all(-1)
        nothing = [None] * prediction.shape[-1]
        return [
            {name: [number if there else nothing for number, there in zip(some, shown, strict=True)][: _length(places)]}
            for some, shown, places in zip(numbers.tolist(), real.tolist(), given.tolist(), strict=True)
        ]

    def _known(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The prediction of the targets' points, the targets on its scale, and which are known; float32."""
        if target.shape[1] > prediction.shape[1]:
            given, wanted = target.shape[1], prediction.shape[1]
            raise DataError(f"the targets have {given} rows, but the model reads {wanted} points.")
        real = target.isfinite()
        wanted = torch.where(real, (target.double() - self.mean) / self.std, 0.0)
        return prediction[:, : target.shape[1]].float(), wanted.float(), real


def _length(places: Sequence[bool]) -> int:
    """How many there are up to the last one that is True."""
    return max((place + 1 for place, there in enumerate(places) if there), default=0)


def _is_inline(cell: Any) -> bool:
    return isinstance(cell, str) and cell.lstrip().startswith("[")


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the target is not valid JSON: {error}.") from None
