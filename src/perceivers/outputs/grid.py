"""`grid`: numbers on a regular grid, such as an image, a video or a sound, asked for cell by cell [P2 §4.3]."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from perceivers.cells import is_missing
from perceivers.elements import Elements
from perceivers.errors import DataError, missing_extra
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.lifted import Lifted
from perceivers.nn.position import FourierPosition
from perceivers.nn.stem import depth_to_space
from perceivers.npy import load_npy
from perceivers.outputs.base import Context, Output, OutputSettings, Sizes
from perceivers.settings import Settings

if TYPE_CHECKING:
    from torchmetrics import Metric


class FourierQuery(Settings):
    """Queries that are the Fourier features of where they ask."""

    kind: Literal["fourier"] = "fourier"
    bands: PositiveInt = 16
    """K."""
    resolution: tuple[PositiveFloat, ...] | None = None
    """μ per axis; None: the cells of that axis."""
    end: bool = True
    """The last cell of an axis is at 1. Without it cell i of n is at −1 + 2·i/n, as the released autoencoder asks."""


class GridOutput(OutputSettings):
    """Numbers (n1, …, nA, channels) in their own units; each query answers for one cell, or for a patch of cells."""

    kind: Literal["grid"] = "grid"
    size: tuple[PositiveInt, ...] = Field(min_length=1, max_length=4)
    """Cells per axis: height and width, or steps."""
    channels: PositiveInt = 1
    """Numbers in a cell."""
    patch: tuple[PositiveInt, ...] | None = None
    """Cells per axis that one query answers for; None: one."""
    query: FourierQuery = FourierQuery()
    loss: Literal["l1", "l2"] = "l1"
    mean: float = 0.0
    """The loss is taken of (value − mean) / std."""
    std: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _axes_agree(self) -> Self:
        for name, given in (("patch", self.patch), ("query.resolution", self.query.resolution)):
            if given is not None and len(given) != len(self.size):
                raise ValueError(f"{name} has {len(given)} numbers for the {len(self.size)} axes of size")
        if any(n % p for n, p in zip(self.size, self.patch or self.size, strict=True)):
            raise ValueError(f"patches of {self.patch} do not tile {self.size}; every side must be a multiple")
        return self

    @property
    def cells(self) -> tuple[int, ...]:
        """The grid of the queries."""
        return tuple(n // p for n, p in zip(self.size, self.patch or (1,) * len(self.size), strict=True))

    @property
    def parted(self) -> bool:
        """Any of the queries alone."""
        return True

    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> int:
        """Those of the Fourier features."""
        return self.position().channels

    def position(self) -> FourierPosition:
        """The features that the queries are."""
        return FourierPosition(self.query.resolution or self.cells, self.query.bands, end=self.query.end)

    def parse(self, value: Any) -> np.ndarray | None:
        """An array (n1, …, nA[, channels]), or the path of one in a .npy file. Raises `DataError`."""
        if is_missing(value):
            return None
        if isinstance(value, (str, Path)):
            value = load_npy(Path(value))
        array = np.asarray(value, np.float32)
        if array.shape == self.size and self.channels == 1:
            array = array[..., None]
        if array.shape != (*self.size, self.channels):
            raise DataError(f"the target has the shape {array.shape}; wanted {(*self.size, self.channels)}.")
        return array

    def fit(self, targets: Iterable[Any]) -> Self:
        """Nothing is learned from targets."""
        return self

    def completed(self, name: str) -> tuple[Self, str | None]:
        """Nothing is missing."""
        return self, None

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B, n1, …, nA, channels) float32; NaN is unknown."""
        unknown = np.full((*self.size, self.channels), np.nan, np.float32)
        return torch.from_numpy(np.stack([unknown if target is None else target for target in targets]))

    def build(self, sizes: Sizes) -> "GridHead":
        """The module."""
        return GridHead(self, sizes)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """Mean absolute error, the lower the better."""
        return "mae", "min"


class GridHead(Output):
    """Numbers (B, n1, …, nA, channels) on the standardised scale; of some points (B, points, numbers of a query)."""

    def __init__(self, settings: GridOutput, sizes: Sizes) -> None:
        super().__init__()
        self.grid = settings.cells
        self.patch = settings.patch or (1,) * len(settings.size)
        self.mean, self.std = settings.mean, settings.std
        self.squared = settings.loss == "l2"
        self.position = settings.position()
        self.head = plain_linear(sizes.read, math.prod(self.patch) * settings.channels)

    def queries(self, context: Context) -> Tensor | Lifted:
        """The features of every cell as tables, or of the points as an array."""
        if context.points is None:
            content = context.like.new_zeros(context.batch, math.prod(self.grid), 0)
            return Lifted(content, self.position.tables(self.grid, context.like))
        cells = math.prod(self.grid)
        outside = context.points[(context.points < 0) | (context.points >= cells)]
        if outside.numel() or context.points.ndim != 1:
            given = int(outside[0]) if outside.numel() else f"an array of {context.points.ndim} axes"
            raise DataError(f"points are numbers of cells from 0 to {cells - 1:,}; got {given}.")
        return self.position.places(self.grid, context.points, context.like).expand(context.batch, -1, -1)

    def count(self, elements: Mapping[str, int]) -> int:
        """One a cell, or a patch of cells."""
        return math.prod(self.grid)

    def flops(self, elements: Mapping[str, int]) -> int:
        """Those of the linear."""
        return 2 * math.prod(self.grid) * self.head.in_features * self.head.out_features

    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """(B, n1, …, nA, channels), or of points (B, points, numbers of a query)."""
        numbers = self.head(answers)
        return numbers if context.points is not None else depth_to_space(numbers.unflatten(1, self.grid), self.patch)

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The mean absolute or squared error of an example's known cells, on the standardised scale."""
        known = target.isfinite()
        wanted = torch.where(known, (target.float() - self.mean) / self.std, 0.0)
        errors = torch.where(known, prediction.float() - wanted, 0.0)
        errors = errors.square() if self.squared else errors.abs()
        counts = known.flatten(1).sum(-1)
        return errors.flatten(1).sum(-1) / counts.clamp(min=1), counts > 0

    def metrics(self) -> "dict[str, Metric]":
        """Mean absolute and root mean squared error over all known numbers, in their own units."""
        try:
            from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        return {"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)}

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch; what is not known is left out."""
        known = target.isfinite()
        if bool(known.any()):
            for metric in metrics.values():
                metric.update(self._physical(prediction)[known], target.float()[known])

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: array (n1, …, nA, channels) in its own units} a sample."""
        return [{name: numbers} for numbers in self._physical(prediction).cpu().numpy()]

    def _physical(self, prediction: Tensor) -> Tensor:
        return prediction.float() * self.std + self.mean
