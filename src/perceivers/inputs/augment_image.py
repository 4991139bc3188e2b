"""Seeded changes of training images. The same seed gives the same change in any process and any order.

Only the seed decides: every global random state is as it was after a call. The changes come from torchvision v2.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from jaxtyping import Shaped
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from perceivers.errors import DataError, SpecError, missing_extra
from perceivers.inputs.base import Sample, Seed
from perceivers.settings import Settings

Probability = Annotated[float, Field(ge=0, le=1)]

_GREY = 128  # what DeepMind's training code fills with where RandAugment moves the image away [models.md §4.4]
_LEVELS = 11  # magnitudes 0 to 10, the scale of the same code


class NoCrop(Settings):
    """The image as it is."""

    kind: Literal["none"] = "none"


class PadCrop(Settings):
    """The image moved by up to `padding` pixels each way; what comes in from outside is 0."""

    kind: Literal["pad"] = "pad"
    padding: PositiveInt


class InceptionCrop(Settings):
    """A random part of the image, resized to the whole: its area from `scale` of the image, its width / height from
    `ratio` (Szegedy et al. 2015, "Going deeper with convolutions"; the Perceiver papers' crop)."""

    kind: Literal["inception"] = "inception"
    scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.scale[0] > self.scale[1] or self.scale[1] > 1:
            raise ValueError(f"scale must be (smallest, largest) with largest at most 1, got {self.scale}")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio must be (smallest, largest), got {self.ratio}")
        return self


class RandAugment(Settings):
    """`layers` operations, each drawn from torchvision's 14, at `magnitude` of 10 (Cubuk et al. 2020, RandAugment).

    Perceiver IO used 4 layers at magnitude 5. torchvision's own default, 9 of 30, is 3 here.
    """

    layers: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0, le=_LEVELS - 1)] = 5


class ImageAugmentation(Settings):
    """What is done to a training image, in this order; the default is nothing."""

    kind: Literal["image"] = "image"
    crop: Annotated[NoCrop | PadCrop | InceptionCrop, Field(discriminator="kind")] = NoCrop()
    flip: Probability = 0.0
    """Probability of a left-right flip."""
    rand_augment: RandAugment | None = None
    """For 8-bit images of 1 or 3 channels. On the crop before it is resized, as the Perceiver papers do."""
    erase: Probability = 0.0
    """Probability that a random rectangle of 2 % to 33 % of the image becomes 0 (Zhong et al. 2017)."""


def check_channels(settings: ImageAugmentation, channels: int) -> None:
    """Raises `SpecError` when an operation of `settings` cannot work on images of `channels` channels."""
    if settings.rand_augment is not None and channels not in (1, 3):
        raise SpecError(
            f"rand_augment works on images of 1 or 3 channels, but these have {channels}. Leave it out; "
            "crop, flip and erase work on any number of channels."
        )


class ImageAugmenter:
    """`augmenter(image, seed)`: one training image, changed. `augmenter.sample(sample, seed)`: its mask with it.

    Made once for images of one `size` (height, width) and number of `channels`. Raises `SpecError` as
    `check_channels`, and `PerceiversError` when torchvision is missing.
    """

    def __init__(self, settings: ImageAugmentation, size: tuple[int, int], channels: int) -> None:
        check_channels(settings, channels)
        try:
            from torchvision.transforms import v2
            from torchvision.transforms.v2 import functional
        except ImportError as error:
            raise missing_extra("torchvision", "data", "Augmenting images") from error
        self.settings, self.shape = settings, (*size, channels)
        self._crop, self._resize = functional.crop, functional.resize
        crop, ops, erase = settings.crop, settings.rand_augment, settings.erase
        inception = isinstance(crop, InceptionCrop)
        self._area = v2.RandomResizedCrop(size, crop.scale, crop.ratio) if inception else None
        self._ops = v2.RandAugment(ops.layers, ops.magnitude, _LEVELS, fill=_GREY) if ops else None
        self._erase = v2.RandomErasing(erase) if erase else None

    def __call__(self, image: Shaped[np.ndarray, "h w C"], seed: Seed) -> Shaped[np.ndarray, "H W C"]:
        """A new image of the same shape and type: uint8 or, without RandAugment, float32.

        `seed`: whole numbers ≥ 0, as (run seed, epoch, sample index). RandAugment, erasing and Inception crops borrow
        torch's global random state for the call: no other thread of the process may draw from it meanwhile. Raises
        `DataError` for images of another shape or type.
        """
        self._check(image)
        return self._changed(image, seed)

    def sample(self, sample: Sample, seed: Seed) -> Sample:
        """The image of `sample`, changed, and its mask moved, flipped and cut as the pixels are.

        What comes in from outside and what is erased is 0 and real, masked or not before. Raises as a call does; masked
        pixels are in images of float32, which RandAugment does not take.
        """
        if sample.mask is None:
            return replace(sample, values=self(sample.values, seed))
        image = np.where(sample.mask[..., None], sample.values, 0).astype(np.float32)
        self._check(image)
        # One more channel, 1 where a pixel is masked: a pixel that is resized from a masked one is then above 0.
        lost = (~sample.mask[..., None]).astype(np.float32)
        changed = self._changed(np.concatenate([image, lost], axis=-1), seed)
        mask = changed[..., -1] <= 0
        return replace(sample, values=np.ascontiguousarray(changed[..., :-1]), mask=None if mask.all() else mask)

    def _changed(self, image: np.ndarray, seed: Seed) -> np.ndarray:
        random = _generator(seed)
        if not (self._area or self._ops or self._erase):
            return np.array(self._moved_and_flipped(image, random), order="C")
        # torch takes no mirrored views, and warns about read-only memory such as that of a memory map.
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        with _seeded(seed):
            pixels = self._all(pixels, random)
        return pixels.permute(1, 2, 0).clone(memory_format=torch.contiguous_format).numpy()

    def _check(self, image: np.ndarray) -> None:
        types = (np.uint8,) if self._ops else (np.uint8, np.float32)
        if image.dtype not in types or image.shape != self.shape:
            raise DataError(
                f"augmentation wants images of shape {self.shape} and type {' or '.join(t.__name__ for t in types)}, "
                f"got {image.shape} {image.dtype}."
            )

    def _moved_and_flipped(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """In numpy: for small images torchvision's checks take most of the time that preparing a batch takes."""
        if isinstance(self.settings.crop, PadCrop):
            most = self.settings.crop.padding
            # Two numbers, not an array of two: the same ones in half the time.
            image = moved(image, int(random.integers(-most, most + 1)), int(random.integers(-most, most + 1)))
        flip = self.settings.flip
        return image[:, ::-1] if flip and random.random() < flip else image

    def _all(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        if self._area:
            pixels = self._crop(pixels, **self._area.make_params([pixels]))
        image = self._moved_and_flipped(pixels.permute(1, 2, 0).numpy(), random)
        pixels = torch.from_numpy(np.require(image, requirements="C")).permute(2, 0, 1)
        if self._ops:
            pixels = self._ops(pixels)
        if self._area:
            pixels = self._resize(pixels, list(self.shape[:2]), antialias=True)
        return self._erase(pixels) if self._erase else pixels


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Row r and column c of the new image are row r + `down` and column c + `right` of the old one, or 0 outside it."""
    height, width = image.shape[:2]
    moved = np.zeros(image.shape, image.dtype)
    rows, columns = max(height - abs(down), 0), max(width - abs(right), 0)
    top, left = max(down, 0), max(right, 0)
    part = image[top : top + rows, left : left + columns]
    moved[top - down : top - down + rows, left - right : left - right + columns] = part
    return moved


def _generator(seed: Seed) -> np.random.Generator:
    """`np.random.default_rng(seed)`: the same numbers, made sooner from an array, which numpy takes as it is."""
    return np.random.default_rng(np.array(seed, np.uint32) if max(seed) < 2**32 else seed)


@contextmanager
def _seeded(seed: Seed) -> Iterator[None]:
    """torch's global CPU generator seeded for the block, then as it was. No device's state is touched."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
    try:
        yield
    finally:
        torch.set_rng_state(before)
