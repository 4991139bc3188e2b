"""`grid`: numbers on a regular grid, such as an image, a video or a sound, asked for cell by cell [P2 §4.3]."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from perceivers.cells import is_missing
from perceivers.elements import Elements
from perceivers.errors import DataError, missing_extra
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.lifted import Lifted
from perceivers.nn.linear import Affine
from perceivers.nn.position import FourierPosition
from perceivers.nn.stem import depth_to_space, space_to_depth
from perceivers.nn.upsample import Conv2DUpsample, Conv3DUpsample, UpConvolutions
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
    exact: bool = True
    """Computed in float64; false: in float32, as other libraries do, for weights made with them."""


class GridOutput(OutputSettings):
    """Numbers (n1, …, nA, channels) in their own units; each query answers for one cell, or for a patch of cells."""

    reads_files: ClassVar[bool] = True
    kind: Literal["grid"] = "grid"
    input: str | None = None
    """Autoencoding: the input on the same grid whose own values are the target; it then reads no column."""
    size: tuple[PositiveInt, ...] = Field(min_length=1, max_length=4)
    """Cells per axis: height and width, or steps."""
    channels: PositiveInt = 1
    """Numbers in a cell."""
    patch: tuple[PositiveInt, ...] | None = None
    """Cells per axis that one query answers for; None: one."""
    upsample: tuple[NonNegativeInt, ...] | None = None
    """How often up-convolutions behind the answers double each axis: [2, 2], or of a video [time, space, space]."""
    query: FourierQuery = FourierQuery()
    sampled: PositiveInt | None = None
    """In training so many of its queries are asked of each sample, drawn anew for each; None: all."""
    loss: Literal["l1", "l2"] = "l1"
    mean: float = 0.0
    """The loss is taken of (value − mean) / std."""
    std: PositiveFloat = 1.0
    peak: PositiveFloat | None = None
    """From the smallest to the largest value that there is: then `psnr` is scored too; None: it is not."""

    @model_validator(mode="after")
    def _axes_agree(self) -> Self:
        several = (("patch", self.patch), ("upsample", self.upsample), ("query.resolution", self.query.resolution))
        for name, given in several:
            if given is not None and len(given) != len(self.size):
                raise ValueError(f"{name} has {len(given)} numbers for the {len(self.size)} axes of size")
        if any(n % p for n, p in zip(self.size, self.patch or self.size, strict=True)):
            raise ValueError(f"patches of {self.patch} do not tile {self.size}; every side must be a multiple")
        return self

    @model_validator(mode="after")
    def _is_upsampled(self) -> Self:
        if self.upsample is None:
            return self
        if len(self.size) == 2 and self.upsample != (2, 2):
            raise ValueError(f"two axes are doubled twice, upsample: [2, 2], not {list(self.upsample)}")
        if len(self.size) not in (2, 3) or self.upsample[-2] != self.upsample[-1] or not max(self.upsample):
            raise ValueError("upsample is [2, 2] of height and width, or [time, space, space] of a video, not all 0")
        if self.patch is not None or self.sampled is not None:
            name = "sampled" if self.patch is None else "patch"
            raise ValueError(f"upsample reads all answers beside each other, so it cannot be had with {name}")
        if any(n % 2**times for n, times in zip(self.size, self.upsample, strict=True)):
            raise ValueError(f"{self.size} cannot be doubled {list(self.upsample)} times from a whole number of cells")
        return self

    @property
    def cells(self) -> tuple[int, ...]:
        """The grid of the queries."""
        finer = self.patch or (1,) * len(self.size) if self.upsample is None else (2**n for n in self.upsample)
        return tuple(n // p for n, p in zip(self.size, finer, strict=True))

    @property
    def parted(self) -> bool:
        """Any of the queries alone, unless up-convolutions read them all."""
        return self.upsample is None

    @property
    def of_input(self) -> str | None:
        """The input, if one is named."""
        return self.input

    def unlike(self, grid: tuple[int, ...] | None, numbers: int) -> str | None:
        """Another grid, or another number of channels."""
        if grid == self.size and numbers == math.prod(self.size) * self.channels:
            return None
        theirs = f"{grid} with {numbers // math.prod(grid)} channels" if grid else "no grid"
        return f"the output's grid is {self.size} with {self.channels} channels, the input's is {theirs}"

    def table_columns(self, name: str) -> list[str]:
        """Its own name, or none where the target is an input."""
        return [name] if self.input is None else []

    def target_of(self, elements: Elements) -> Tensor:
        """(B, n1, …, nA, channels) in the input's own units; NaN where a cell is masked."""
        values = elements.values
        if elements.mask is not None:
            values = torch.where(elements.mask[..., None], values.float(), math.nan)
        return values.unflatten(1, self.size)

    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> int:
        """Those of the Fourier features."""
        return self.position().channels

    def position(self) -> FourierPosition:
        """The features that the queries are."""
        query = self.query
        return FourierPosition(query.resolution or self.cells, query.bands, end=query.end, exact=query.exact)

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


def _head(settings: GridOutput, read: int) -> nn.Linear | UpConvolutions:
    if settings.upsample is None:
        return plain_linear(read, math.prod(settings.patch or (1,)) * settings.channels)
    if len(settings.size) == 2:
        return Conv2DUpsample(read, settings.channels)
    time, space, _ = settings.upsample
    return Conv3DUpsample(read, settings.channels, time, space)


class GridHead(Output):
    """Numbers (B, n1, …, nA, channels) on the standardised scale; of some points (B, points, numbers of a query)."""

    def __init__(self, settings: GridOutput, sizes: Sizes) -> None:
        super().__init__()
        self.grid = settings.cells
        self.patch = settings.patch or (1,) * len(settings.size)
        self.mean, self.std, self.peak = settings.mean, settings.std, settings.peak
        self._sampled = settings.sampled
        self.squared = settings.loss == "l2"
        self.position = settings.position()
        self.head = _head(settings, sizes.read)

    def queries(self, context: Context) -> Tensor | Lifted:
        """The features of every cell as tables, or of the points as an array."""
        if context.points is None:
            content = context.like.new_zeros(context.batch, math.prod(self.grid), 0)
            return Lifted(content, self.position.tables(self.grid, context.like))
        cells = math.prod(self.grid)
        points = context.points
        outside = points[(points < 0) | (points >= cells)]
        if outside.numel():
            raise DataError(f"points are numbers of cells from 0 to {cells - 1:,}; got {int(outside[0])}.")
        if points.ndim not in (1, 2) or points.shape[:-1] not in ((), (context.batch,)):
            raise DataError(
                f"points have the shape {tuple(points.shape)}; wanted (points,), or (samples, points) of "
                f"{context.batch} samples."
            )
        return self.position.places(self.grid, points, context.like).expand(context.batch, -1, -1)

    def count(self, elements: Mapping[str, int]) -> int:
        """One a cell, or a patch of cells."""
        return math.prod(self.grid)

    @property
    def sampled(self) -> int | None:
        """As the settings say; all where there are no more."""
        return self._sampled if self._sampled is not None and self._sampled < math.prod(self.grid) else None

    def at_points(self, target: Tensor, points: Tensor) -> Tensor:
        """(B, n, numbers of a query)."""
        patches = space_to_depth(target, self.patch).flatten(1, -2)
        return patches.take_along_dim(points[..., None], dim=1)

    def flops(self, elements: Mapping[str, int]) -> int:
        """Those of the linear, or of the up-convolutions."""
        if isinstance(self.head, UpConvolutions):
            return self.head.flops(self.grid)
        return 2 * math.prod(self.grid) * self.head.in_features * self.head.out_features

    def reader(self, context: Context) -> Affine | None:
        """To (B, o, numbers of a query); None where neighbours are read too."""
        return Affine.of(self.head) if isinstance(self.head, nn.Linear) else None

    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """(B, n1, …, nA, channels), or of points (B, points, numbers of a query)."""
        if isinstance(self.head, UpConvolutions):
            return self.head(answers.unflatten(1, self.grid))
        return answers if context.points is not None else depth_to_space(answers.unflatten(1, self.grid), self.patch)

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

    def scores(self, metrics: "Mapping[str, Metric]") -> dict[str, float]:
        """With a `peak` also the peak signal-to-noise ratio in dB, 20·log10(peak / rmse) over all known numbers."""
        found = super().scores(metrics)
        if self.peak is not None and "rmse" in found:
            found["psnr"] = 20 * math.log10(self.peak / found["rmse"]) if found["rmse"] > 0 else math.inf
        return found

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
