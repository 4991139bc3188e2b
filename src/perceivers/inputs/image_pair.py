"""`image_pair`: two images of one size, read together pixel by pixel, as for optical flow [P2 §4.2]."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt

from perceivers.cells import cells_of, is_missing
from perceivers.elements import Elements
from perceivers.errors import DataError
from perceivers.inputs.augment_pair import PairAugmentation, PairAugmenter
from perceivers.inputs.base import Input, InputSettings, Sample, collate_grid
from perceivers.inputs.decode import read_image
from perceivers.inputs.grid import GridInput
from perceivers.inputs.lift import Lift, PairLift, Windows
from perceivers.inputs.position import Fourier, NoPosition, Position
from perceivers.settings import Settings

# From 0–255 to −1–1.
_HALF = 127.5


class ImagePairInput(InputSettings):
    """A first and a second image, height × width × channels each, values from 0 to 255."""

    reads_columns: ClassVar[bool] = True
    augmentation: ClassVar[type[Settings] | None] = PairAugmentation
    augments_targets: ClassVar[bool] = True
    kind: Literal["image_pair"] = "image_pair"
    size: tuple[PositiveInt, PositiveInt]
    """Height and width that the model sees."""
    channels: PositiveInt = 3
    """Of one image."""
    columns: tuple[str, str] = ("first", "second")
    """The table columns that hold the two images."""
    overflow: Literal["error", "middle"] = "error"
    """Larger images: an error, or all but their middle is cut off, and of flow between them too."""
    frames: Literal["joined", "separate"] = "joined"
    """An element is a pixel of both images at once, or of one of them: the images then lie one behind the other on a
    grid of two × height × width [P2 Table 16]."""
    lift: PairLift = Windows()
    """The surroundings of a pixel; or a convolution stem, of each image for itself [P2 Table 16]."""
    position: Position = Field(default_factory=lambda: Fourier(bands=64))
    mean: float = _HALF
    std: PositiveFloat = _HALF

    def table_columns(self, name: str) -> list[str]:
        """The two columns."""
        return list(self.columns)

    def resolved(self, cell: Any, base: Path) -> Any:
        """Each of the two."""
        return [self._resolved(part, base) for part in cells_of(cell, self.columns)]

    def _resolved(self, part: Any, base: Path) -> Any:
        return str(base / part) if isinstance(part, (str, Path)) and not is_missing(part) else part

    def parse(self, value: Any) -> Sample:
        """[first, second] or {first: …, second: …}: paths, bytes or arrays (H, W[, C]). Raises `DataError`."""
        whole = self._read(value)
        joined = self.aligned(whole)
        if joined.shape[:2] != self.size:
            larger = min(given - wanted for given, wanted in zip(joined.shape[:2], self.size, strict=True)) >= 0
            hint = " Set overflow: middle on the input to cut them." if larger else ""
            raise DataError(
                f"the images are {joined.shape[0]}×{joined.shape[1]}, but the input takes "
                f"{self.size[0]}×{self.size[1]}.{hint} perceivers.optical_flow reads pairs of any size, tile by tile."
            )
        cut_from = whole.shape[:2] if whole.shape != joined.shape else None
        return Sample(joined, mask=self.checked(joined, "the pair"), cut_from=cut_from)

    def parse_some(self, value: Any) -> Sample:
        """The same for a pair of images of any one size."""
        joined = self._read(value)
        return Sample(joined, mask=self.checked(joined, "the pair"))

    def aligned(self, target: np.ndarray) -> np.ndarray:
        """The middle of something larger (H, W, …), where that is what is read."""
        rest = [given - wanted for given, wanted in zip(target.shape[:2], self.size, strict=True)]
        if self.overflow == "error" or min(rest) < 0:
            return target
        top, left = rest[0] // 2, rest[1] // 2
        return target[top : top + self.size[0], left : left + self.size[1]]

    def augmenter(self, setting: PairAugmentation) -> PairAugmenter:
        """What changes pairs as `setting` says."""
        return PairAugmenter(setting, self.size, self.channels)

    def augments_whole(self, setting: PairAugmentation) -> bool:
        """Where a random part is cut out of them."""
        return setting.crop

    def _read(self, value: Any) -> np.ndarray:
        """The two images (H, W, 2·C) as they are stored."""
        first, second = (self._image(cell, name) for cell, name in zip(self._cells(value), self.columns, strict=True))
        if first.shape != second.shape:
            raise DataError(
                f"the {self.columns[0]} image is {first.shape[0]}×{first.shape[1]}, the {self.columns[1]} one "
                f"{second.shape[0]}×{second.shape[1]}; wanted one size."
            )
        return np.concatenate([first, second], axis=-1)

    def _cells(self, value: Any) -> Sequence[Any]:
        if isinstance(value, np.ndarray):
            if len(value) != 2:
                raise DataError(f"a pair of images is an array (2, H, W, C); got {value.shape}.")
            return list(value)
        return cells_of(value, self.columns)

    def _image(self, cell: Any, name: str) -> np.ndarray:
        if is_missing(cell):
            raise DataError(f"the pair has no {name} image; give both, or leave the input out.")
        return read_image(cell, self.channels)

    def fit(self, samples: Iterable[Sample]) -> Self:
        """Nothing is learned."""
        return self

    def elements(self) -> int:
        """M after the lift: of windows one a pixel, of both images or of each."""
        with torch.device("meta"):
            return math.prod(self._lift().cells(self._grid()))

    def raw_grid(self) -> tuple[int, ...]:
        """Height and width, behind the number of the image where they are separate."""
        return self._grid()

    def of_size(self, size: tuple[int, ...]) -> Self:
        """With that size."""
        return self.with_changes(size=size)

    def raw_numbers(self, elements: int) -> int:
        """Every channel of every pixel of both."""
        return 2 * self.channels * math.prod(self.size)

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, H·W, 2·C) on the grid (H, W): the channels of the first, then of the second; or (B, 2·H·W, C)."""
        if self.frames == "separate":
            samples = [sample and self._apart(sample) for sample in samples]
        return collate_grid(samples, self._grid(), self._width())

    def _apart(self, sample: Sample) -> Sample:
        """(H, W, 2·C) → (2, H, W, C); a pixel that is masked is so in both."""
        values = np.moveaxis(sample.values.reshape(*self.size, 2, self.channels), 2, 0)
        mask = None if sample.mask is None else np.broadcast_to(sample.mask.reshape(self.size), self._grid())
        return replace(sample, values=values, mask=mask)

    def _grid(self) -> tuple[int, ...]:
        return self.size if self.frames == "joined" else (2, *self.size)

    def _width(self) -> int:
        """Channels of an element."""
        return self.channels * (2 if self.frames == "joined" else 1)

    def build(self) -> Input:
        """The module."""
        lift, width = self._lift(), self._width()
        position = None if isinstance(self.position, NoPosition) else self.position.build(lift.cells(self._grid()))
        add = not isinstance(self.position, NoPosition) and self.position.join == "add"
        return GridInput([self.mean] * width, [self.std] * width, lift, position, add)

    def _lift(self) -> Lift:
        return self.lift.build(len(self._grid()), self._width(), images=2 if self.frames == "joined" else 1)
