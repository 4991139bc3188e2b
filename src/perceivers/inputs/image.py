"""`image`: any channel count and size, as pixels, patches, a 1×1 convolution or a convolution stem."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator

from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs.augment_image import ImageAugmentation, ImageAugmenter, InceptionCrop
from perceivers.inputs.base import Input, Sample, Seed, collate_grid
from perceivers.inputs.channels import ChannelInput
from perceivers.inputs.decode import read_image
from perceivers.inputs.grid import GridInput
from perceivers.inputs.held_grid import HeldGrid
from perceivers.inputs.lift import Conv, Conv1x1, ImageLift, Pixels, plain_patch
from perceivers.inputs.position import Fourier, Position
from perceivers.inputs.resize import Resize, resized
from perceivers.settings import Settings
from perceivers.sources import Source

# What `init` writes: the longest side for small data and for much; how unequal the sides of images of various sizes may
# be that become squares; pixels that are elements themselves, and pixels that patches may divide.
_SMALL_SIDE, _LARGE_SIDE, _MANY_ROWS = 64, 128, 20_000
_NEARLY_SQUARE = 1.25
_MOST_SINGLE, _MOST_IN_PATCHES = 400, 1024


class ImageInput(ChannelInput):
    """An image: height × width × channels, values in the file's own units (0–255 for 8-bit)."""

    units: ClassVar[str] = "the image's own units (0–255 for 8-bit)"
    reads_files: ClassVar[bool] = True
    whole_files: ClassVar[tuple[str, ...]] = (".tif", ".tiff", ".npy")
    augmentation: ClassVar[type[Settings] | None] = ImageAugmentation
    augmentation_idea: ClassVar[Mapping[str, Any]] = {
        "kind": "image",
        "crop": {"kind": "pad", "padding": 2},
        "flip": 0.5,
    }
    mixable: ClassVar[bool] = True
    statistics_from: ClassVar[int | None] = 2000  # means settle long before
    kind: Literal["image"] = "image"
    size: tuple[PositiveInt, PositiveInt]
    """Height and width that the model sees."""
    channels: PositiveInt = 3
    resize: Resize = "none"
    """Images of another size: an error, stretched, or scaled by the shorter side and cropped in the middle; bicubic."""
    lift: ImageLift = Pixels()
    position: Position = Field(default_factory=lambda: Fourier(bands=16))
    permute: int | None = Field(default=None, ge=0)
    """Seed of one fixed permutation of the pixels, behind any augmentation [P1 §4.1, permuted ImageNet]."""
    permute_positions: bool = False
    """Each permuted pixel keeps its own position, as in the paper; false: the places keep theirs."""

    @model_validator(mode="after")
    def _positions_of_pixels(self) -> Self:
        every = isinstance(self.lift, Pixels | Conv1x1) and self.lift.stride in (1, (1, 1))
        if self.permute_positions and (self.permute is None or not every):
            raise ValueError(
                "permute_positions goes with permute, and with every pixel as an element: lift kind pixels or conv1x1"
            )
        return self

    @classmethod
    def drafted(cls, why: str, facts: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
        """In their own size where they have one that is not too large; else scaled and cut.

        facts: size, channels, one_size.
        """
        height, width = facts["size"]
        most = _LARGE_SIDE if rows >= _MANY_ROWS else _SMALL_SIDE
        settings: dict[str, Any] = {"kind": "image", "size": [height, width], "channels": facts["channels"]}
        if not facts["one_size"] or max(height, width) > most:
            if max(height, width) <= _NEARLY_SQUARE * min(height, width):
                height = width = min(height, width)
            shrink = min(most / max(height, width), 1.0)
            # Sides in eights divide well; a side of fewer than 8 pixels is kept as it is.
            settings["size"] = [min(max(int(side * shrink) // 8 * 8, 8), side) for side in (height, width)]
            settings["resize"] = "crop"
            why += f"; scaled and cut to {settings['size'][0]}×{settings['size'][1]} (a larger size is slower)"
        return why, cls.sized(settings)

    @classmethod
    def sized(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels of a small image, small patches of a larger one, else a convolution stem; Fourier positions."""
        cells = list(settings["size"])
        if math.prod(cells) <= _MOST_SINGLE:
            lift: dict[str, Any] = {"kind": "pixels"}
        elif math.prod(cells) <= _MOST_IN_PATCHES and (patch := _patch(*cells)) is not None:
            lift = {"kind": "patches", "size": list(patch)}
            cells = [side // step for side, step in zip(cells, patch, strict=True)]
        else:
            lift = {"kind": "conv", "channels": 64}
            cells = [-(-side // 4) for side in cells]
        position = {"kind": "fourier", "bands": min(max(max(cells) // 2, 2), 16)}
        return {**settings, "lift": lift, "position": position}

    def parse(self, value: Any) -> Sample:
        """A path, bytes or array (H, W[, C]) as a Sample of shape (*size, channels)."""
        image = resized(read_image(value, self.channels, self.size), self.size, self.resize, "the image")
        return self._permuted(Sample(image, mask=self.checked(image, "the image")))

    def _order(self) -> np.ndarray:
        """Of each place the pixel that is put there."""
        assert self.permute is not None, "the pixels are permuted"
        return np.random.default_rng(self.permute).permutation(math.prod(self.size))

    def _permuted(self, sample: Sample) -> Sample:
        if self.permute is None:
            return sample
        image, mask, order = sample.values, sample.mask, self._order()
        image = image.reshape(-1, self.channels)[order].reshape(image.shape)
        return Sample(image, mask=None if mask is None else mask.reshape(-1)[order].reshape(mask.shape))

    def parse_some(self, value: Any) -> Sample:
        """A window of the image, of any height and width: what `parse` takes, but never resized."""
        window = read_image(value, self.channels)
        return Sample(window, mask=self.checked(window, "the window"))

    def held(self, module: GridInput, block: int) -> HeldGrid:
        """The image as a grid of cells that change."""
        if self.permute is not None:
            raise SpecError("permuted pixels have no windows, so such an image cannot be live; leave permute out.")
        return HeldGrid(module, self.size, self.channels, block)

    def source_axes(self) -> int | None:
        """Rows and columns, where each patch is read alone and pixels stay in their order."""
        return 2 if self.permute is None and not isinstance(self.lift, Conv) else None

    def source_grid(self, source: Source) -> tuple[int, ...]:
        """(height, width): those of the input, pixels in their own order."""
        if source.shape != (*self.size, self.channels):
            raise DataError(
                f"{source.name} has the shape {source.shape}, but the input takes {(*self.size, self.channels)}: "
                "height, width, channels. Resize it, or change size in the spec."
            )
        if self.permute is not None:
            raise DataError(f"{source.name}: permuted pixels cannot be read in order; leave permute out.")
        return self.size

    def augments_whole(self, setting: ImageAugmentation) -> bool:
        """Where a part is cut out of the image as it is stored, and where pixels are permuted behind all changes."""
        return self.permute is not None or (isinstance(setting.crop, InceptionCrop) and self.resize != "none")

    def augmenter(self, setting: ImageAugmentation) -> Callable[[Sample, Seed], Sample]:
        """Crops, flips, RandAugment and erasing. Raises `SpecError` for what the channels or `resize` do not allow."""
        change = ImageAugmenter(setting, self.size, self.channels, self.resize)
        return change.sample if self.permute is None else partial(self._changed_then_permuted, change)

    def _changed_then_permuted(self, change: ImageAugmenter, sample: Sample, seed: Seed) -> Sample:
        if not change.cuts:
            image = resized(sample.values, self.size, self.resize, "the image")
            sample = Sample(image, mask=self.checked(image, "the image"))
        return self._permuted(change.sample(sample, seed))

    def elements(self) -> int:
        """M after the lift."""
        return math.prod(self.lift.build(2, self.channels).cells(self.size))

    def raw_grid(self) -> tuple[int, ...]:
        """Height and width."""
        return self.size

    def of_size(self, size: tuple[int, ...]) -> Self:
        """With that size."""
        return self.with_changes(size=size)

    def plain_patch(self) -> tuple[int, ...] | None:
        """Of pixels, and of patches without a linear behind them."""
        return plain_patch(self.lift, 2)

    def raw_numbers(self, elements: int) -> int:
        """Every channel of every pixel."""
        return math.prod(self.size) * self.channels

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, H·W, C) on the grid (H, W)."""
        return collate_grid(samples, self.size, self.channels)

    def build(self) -> Input:
        """The module."""
        order = torch.from_numpy(self._order()) if self.permute_positions else None
        return self.on_grid(self.lift.build(2, self.channels), self.position, self.size, order)


def _patch(height: int, width: int) -> tuple[int, int] | None:
    """A patch of up to 4 × 4 pixels, square and small, that tiles the image into few enough; None: there is none."""
    sizes = [(a, b) for a in range(1, 5) for b in range(1, 5) if not height % a and not width % b]
    fits = [(a, b) for a, b in sizes if height * width <= _MOST_SINGLE * a * b]
    return min(fits, key=lambda size: (abs(size[0] - size[1]), size[0] * size[1]), default=None)
