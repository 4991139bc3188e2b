"""How raw grid cells become elements: one by one, in patches or windows, convolved, or as a spectrum of sound."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from perceivers.errors import SpecError
from perceivers.inputs.base import linear_flops
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.mel import LogMelSpectrum, kept_of_spectrum
from perceivers.nn.stem import ConvStem, Padding, any_in_patch, space_to_depth, windows_around
from perceivers.settings import Settings


class Lift(nn.Module, ABC):
    """From (B, n1, …, C) normalised cells with masked ones zero to (B, M, c) elements, and their mask."""

    channels: int
    unit: int | None
    """Raw rows of the first axis that one row of elements is made of; None: it also reads beyond them."""
    called: ClassVar[str] = "this lift"
    """In messages, where it reads beyond them."""

    def units(self, axes: int) -> tuple[int, ...] | None:
        """`unit`, for each of `axes` axes."""
        return None if self.unit is None else (self.unit,) * axes

    def apart(self, axes: int) -> tuple[int, ...]:
        """Raw cells from one element to the next, for each of `axes` axes."""
        return self.units(axes) or (1,) * axes

    @abstractmethod
    def cells(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The grid of elements that a grid of raw cells gives."""

    def flops(self, elements: int, grid: Sequence[int] | None) -> int:
        """Multiplications and additions for one sample with a `grid` of raw cells: its linears, once an element."""
        return linear_flops(self, elements)

    def kept(self, grid: Sequence[int]) -> list[int]:
        """Numbers of one sample that each layer keeps for its backward pass, beside the elements themselves."""
        return []

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, n1, …, C), mask (B, n1, …) → content (B, M, c), mask (B, M)."""


class _Cells(Lift):
    """Every stride-th raw cell of each axis is an element."""

    def __init__(self, inputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.channels = inputs
        self.stride = tuple(stride)
        self.unit = self.stride[0]

    def units(self, axes: int) -> tuple[int, ...] | None:
        return self.stride

    def cells(self, grid: Sequence[int]) -> tuple[int, ...]:
        return tuple(-(-n // step) for n, step in zip(grid, self.stride, strict=True))

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        every = (slice(None), *(slice(None, None, step) for step in self.stride))
        return x[every].flatten(1, -2), None if mask is None else mask[every].flatten(1)


class _Patches(Lift):
    """Patches of cells; a patch with a masked cell is masked."""

    def __init__(self, inputs: int, patch: Sequence[int], channels: int | None) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.unit = self.patch[0]
        raw = math.prod(patch) * inputs
        self.linear = plain_linear(raw, channels) if channels else None
        self.channels = channels or raw

    def units(self, axes: int) -> tuple[int, ...] | None:
        return self.patch

    def cells(self, grid: Sequence[int]) -> tuple[int, ...]:
        if len(grid) != len(self.patch) or any(n % p for n, p in zip(grid, self.patch, strict=True)):
            raise SpecError(
                f"patches of {self.patch} do not tile a grid of {tuple(grid)}; "
                "every side must be a multiple of its patch."
            )
        return tuple(n // p for n, p in zip(grid, self.patch, strict=True))

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        content = space_to_depth(x, self.patch).flatten(1, -2)
        if mask is not None:
            mask = space_to_depth(mask[..., None], self.patch).flatten(1, -2).all(-1)
        return (content if self.linear is None else self.linear(content)), mask


class _Conv1x1(_Cells):
    """A 1×1 convolution with a stride: a linear on every stride-th cell [official `conv1x1`]."""

    def __init__(self, inputs: int, channels: int, stride: Sequence[int]) -> None:
        super().__init__(channels, stride)
        self.linear = plain_linear(inputs, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        cells, mask = super().forward(x, mask)
        return self.linear(cells), mask


class _Windows(Lift):
    """The cells around each cell through a linear: of several images on one grid, side by side, or of each frame.

    A cell is masked when it is itself; a masked cell in a window is zero.
    """

    unit = None
    called = "a window around a pixel"

    def __init__(self, inputs: int, size: int, images: int, channels: int | None) -> None:
        super().__init__()
        self.size, self.images = size, images
        raw = size * size * inputs
        self.linear = plain_linear(raw, channels) if channels else None
        self.channels = channels or raw

    def cells(self, grid: Sequence[int]) -> tuple[int, ...]:
        return tuple(grid)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # Frames, where there is an axis of them, are images of their own.
        frames = x.flatten(0, -4)
        around = torch.cat([windows_around(image, self.size) for image in frames.chunk(self.images, dim=-1)], dim=-1)
        content = around.reshape(x.shape[0], -1, around.shape[-1])
        return (content if self.linear is None else self.linear(content)), None if mask is None else mask.flatten(1)


class _Conv(Lift):
    """A convolution stem. Masked cells read as zero at every layer; an element is masked when its whole stride is.

    images: of so many on one grid, side by side in the channels, or of each frame, where the grid has an axis of them
    before the stem's own, each is convolved for itself, with the same weights.
    """

    unit = None
    called = "a convolution stem"

    def __init__(self, stem: ConvStem, images: int = 1) -> None:
        super().__init__()
        self.stem, self.images = stem, images
        self.channels = images * stem.channels

    def cells(self, grid: Sequence[int]) -> tuple[int, ...]:
        return (*grid[: -self.stem.axes], *self.stem.cells(grid[-self.stem.axes :]))

    def apart(self, axes: int) -> tuple[int, ...]:
        return (1,) * (axes - self.stem.axes) + (self.stem.apart,) * self.stem.axes

    def flops(self, elements: int, grid: Sequence[int] | None) -> int:
        assert grid is not None, "a stem lies on a grid"
        return self._times(grid) * self.stem.flops(grid[-self.stem.axes :])

    def kept(self, grid: Sequence[int]) -> list[int]:
        return [self._times(grid) * count for count in self.stem.kept(grid[-self.stem.axes :])]

    def _times(self, grid: Sequence[int]) -> int:
        """How many images there are to convolve."""
        return self.images * math.prod(grid[: -self.stem.axes])

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        batch, *grid, _ = x.shape
        frames = x.flatten(0, -2 - self.stem.axes)
        masks = None if mask is None else mask.flatten(0, -1 - self.stem.axes)
        if self.images > 1:
            frames = torch.cat(frames.chunk(self.images, dim=-1))
            masks = None if masks is None else masks.repeat(self.images, *[1] * self.stem.axes)
        content = self.stem(frames, masks).flatten(1, -2)
        if self.images > 1:
            content = torch.cat(content.chunk(self.images), dim=-1)
        cells = self.cells(grid)
        content = content.reshape(batch, math.prod(cells), self.channels)
        if mask is None:
            return content, None
        # Beside SAME padding the last cells of the mask may have no element.
        kept = (slice(None), *(slice(n) for n in cells[-self.stem.axes :]))
        real = any_in_patch(mask.flatten(0, -1 - self.stem.axes), self.stem.apart)[kept]
        return content, real.reshape(batch, math.prod(cells))


class _LogMel(Lift):
    """A log-mel spectrum: time steps become (frames, bins); an element is masked when all its hop covers is."""

    unit = None
    called = "a log-mel spectrum"

    def __init__(self, spectrum: LogMelSpectrum, inputs: int, hide: "SpecAugment | None") -> None:
        super().__init__()
        self.spectrum = spectrum
        self.hide = hide
        self.channels = inputs

    def apart(self, axes: int) -> tuple[int, ...]:
        return (self.spectrum.hop,)

    def cells(self, grid: Sequence[int]) -> tuple[int, ...]:
        return -(-grid[0] // self.spectrum.hop), self.spectrum.bins

    def flops(self, elements: int, grid: Sequence[int] | None) -> int:
        assert grid is not None, "a spectrum is of a grid of time steps"
        return self.spectrum.flops(grid[0]) * self.channels

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        spectra = self.spectrum(x)
        if mask is not None:
            mask = any_in_patch(mask, self.spectrum.hop).repeat_interleave(self.spectrum.bins, dim=1)
        if self.hide is not None and self.training:
            kept = kept_of_spectrum(spectra, self.hide.times, self.hide.frequencies, self.hide.dropout).flatten(1)
            mask = kept if mask is None else mask & kept
        return spectra.flatten(1, 2), mask


class Pixels(Settings):
    """Every pixel is an element."""

    kind: Literal["pixels"] = "pixels"
    stride: PositiveInt | tuple[PositiveInt, ...] = 1
    """Of each axis only every stride-th, or one number an axis [official `pixels` with spatial_downsample]."""

    def build(self, axes: int, inputs: int) -> Lift:
        """The module for `inputs` channels on a grid of `axes` axes."""
        stride = (self.stride,) * axes if isinstance(self.stride, int) else self.stride
        if len(stride) != axes:
            raise SpecError(f"pixels' stride {stride} has {len(stride)} axes, the input has {axes}.")
        return _Cells(inputs, stride)


class Windows(Settings):
    """Every pixel with those around it, of both images of a pair, through a linear [official optical flow model]."""

    kind: Literal["windows"] = "windows"
    size: int = Field(default=3, ge=1, json_schema_extra={"not": {"multipleOf": 2}})
    """Pixels on a side; odd."""
    channels: PositiveInt | None = 64
    """Width of the linear; None: the raw windows."""

    @field_validator("size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"a window around a pixel has an odd side; use {size - 1} or {size + 1}")
        return size

    def build(self, axes: int, inputs: int, images: int) -> Lift:
        """The module for `inputs` channels of `images` images together, or with a third axis of frames."""
        assert axes in (2, 3), "of images"
        return _Windows(inputs, self.size, images, self.channels)


class Samples(Settings):
    """Every time step is an element."""

    kind: Literal["samples"] = "samples"

    def build(self, axes: int, inputs: int) -> Lift:
        """The module for `inputs` channels on a grid of `axes` axes."""
        return _Cells(inputs, (1,) * axes)


class Patches(Settings):
    """Patches of cells, channel order (axes…, channel), and optionally a linear behind them."""

    kind: Literal["patches"] = "patches"
    size: tuple[PositiveInt, ...]
    """Cells an axis: [4, 4] for an image, [1, 4, 4] for a video, [10] for a series."""
    channels: PositiveInt | None = None
    """Width of the linear; None: the raw patch."""

    def build(self, axes: int, inputs: int) -> Lift:
        """The module for `inputs` channels on a grid of `axes` axes."""
        if len(self.size) != axes:
            raise SpecError(f"patches of {self.size} have {len(self.size)} axes, the input has {axes}.")
        return _Patches(inputs, self.size, self.channels)


class Conv1x1(Settings):
    """A 1×1 convolution [P2 ImageNet with learned positions]."""

    kind: Literal["conv1x1"] = "conv1x1"
    channels: PositiveInt = 256
    stride: PositiveInt = 1

    def build(self, axes: int, inputs: int) -> Lift:
        """The module for `inputs` channels on a grid of `axes` axes."""
        return _Conv1x1(inputs, self.channels, (self.stride,) * axes)


class Conv(Settings):
    """A convolution stem: (convolution, batch norm, ReLU, max-pool) × layers [P2 ImageNet with conv preprocessing]."""

    kind: Literal["conv"] = "conv"
    channels: PositiveInt = 64
    kernel: PositiveInt = 7
    stride: PositiveInt = 2
    layers: int = Field(default=1, ge=1, le=16)
    pool: bool = True
    """Max-pool 3, stride 2, after every layer."""
    padding: Padding = "same"
    """Of convolution and pool: TensorFlow's SAME, or as the library transformers pads, for weights made with it."""

    def build(self, axes: int, inputs: int, images: int = 1) -> Lift:
        """The module for `inputs` channels on a grid of `axes` axes, of `images` images together; of 3 the first is
        of frames."""
        sizes = (self.channels, self.kernel, self.stride, self.layers, self.pool, self.padding)
        return _Conv(ConvStem(min(axes, 2), inputs // images, *sizes), images)


class SpecAugment(Settings):
    """What is hidden of a spectrum in training (Park et al. 2019): masked, where the paper sets it to zero."""

    kind: Literal["spec_augment"] = "spec_augment"
    times: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    """How many runs of frames, and the most frames of one."""
    frequencies: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    """How many runs of bins, and the most bins of one."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Chance that a value is hidden by itself [P1 §4.2: 10 % in place of the runs]."""


class LogMel(Settings):
    """A log-mel spectrum, each value of it an element [P1 §4.2, AudioSet]."""

    kind: Literal["log_mel"] = "log_mel"
    bins: PositiveInt = 64
    """Frequencies, equally far apart on the mel scale."""
    window: PositiveInt = 1024
    """Samples that a frame looks at."""
    hop: PositiveInt = 512
    """Samples from one frame to the next."""
    hide: SpecAugment | None = None
    """In training only; None: nothing is hidden."""

    @model_validator(mode="after")
    def _every_sample_is_seen(self) -> Self:
        if self.window < self.hop:
            raise ValueError(f"window is {self.window}, shorter than the hop of {self.hop}: samples would go unseen")
        return self

    def build(self, rate: float, inputs: int) -> Lift:
        """The module for `inputs` channels of `rate` samples a second."""
        return _LogMel(LogMelSpectrum(rate, self.bins, self.window, self.hop), inputs, self.hide)


PairLift = Annotated[Windows | Conv, Field(discriminator="kind")]
ImageLift = Annotated[Pixels | Patches | Conv1x1 | Conv, Field(discriminator="kind")]
VideoLift = Annotated[Pixels | Patches, Field(discriminator="kind")]
SeriesLift = Annotated[Samples | Patches | Conv, Field(discriminator="kind")]
AudioLift = Annotated[Samples | Patches | Conv | LogMel, Field(discriminator="kind")]


def plain_patch(lift: Pixels | Samples | Patches | Conv1x1 | Conv, axes: int) -> tuple[int, ...] | None:
    """Raw cells an axis of an element, of a lift that only rearranges cells; None: it computes with weights."""
    if isinstance(lift, Patches):
        return lift.size if lift.channels is None else None
    return (1,) * axes if isinstance(lift, (Pixels, Samples)) else None
