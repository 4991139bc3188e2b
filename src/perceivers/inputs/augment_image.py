"""Seeded changes of training images. The same seed gives the same change in any process and any order.

Only the seed decides: every global random state is as it was after a call. Erasing is torchvision's.
"""

import math
from collections.abc import Callable, Iterator
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
from perceivers.inputs.rand_augment import rand_augment
from perceivers.inputs.resize import Resize, central, scaled
from perceivers.settings import Settings

Probability = Annotated[float, Field(ge=0, le=1)]

# How often a random part is drawn that then has to be within its limits, as in TensorFlow.
_ATTEMPTS = 10


class NoCrop(Settings):
    """The image as it is."""

    kind: Literal["none"] = "none"


class PadCrop(Settings):
    """The image moved by up to `padding` pixels each way; what comes in from outside is 0."""

    kind: Literal["pad"] = "pad"
    padding: PositiveInt


class InceptionCrop(Settings):
    """A random part of the image as it is stored, scaled to `size` as `resize` of the input says: its area from `scale`
    of the image, its width / height from `ratio` (Szegedy et al. 2015, "Going deeper with convolutions").

    Drawn as by TensorFlow's `sample_distorted_bounding_box`, with which the Perceivers were trained: the ratio evenly,
    then the height evenly between the least and the most that the area allows. Where ten draws are none that is
    allowed it is the middle of the image, 7/8 of each side.
    """

    kind: Literal["inception"] = "inception"
    scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    covers: Probability = 0.0
    """A part with less of the image than this share is drawn again (DeepMind's code: 0.1)."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.scale[0] > self.scale[1] or self.scale[1] > 1:
            raise ValueError(f"scale must be (smallest, largest) with largest at most 1, got {self.scale}")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio must be (smallest, largest), got {self.ratio}")
        return self


class RandAugment(Settings):
    """`layers` operations, each drawn from sixteen, at `magnitude` of 10 (Cubuk et al. 2020; see `rand_augment`).

    Perceiver IO used 4 layers at magnitude 5.
    """

    layers: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0, le=10)] = 5


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

    Made once for images of one `size` (height, width) and number of `channels`. An Inception crop takes images of any
    size; its part is scaled by the kernel of `resize`, whose numbers the result has: float32 of `centre_unclamped`.
    Raises `SpecError` as `check_channels`, and `PerceiversError` when torchvision is missing and erasing needs it.
    """

    def __init__(
        self, settings: ImageAugmentation, size: tuple[int, int], channels: int, resize: Resize = "none"
    ) -> None:
        check_channels(settings, channels)
        self.settings, self.shape = settings, (*size, channels)
        self.resize: Resize = resize
        self.cuts = isinstance(settings.crop, InceptionCrop)
        if settings.rand_augment is not None and resize == "centre_unclamped" and not self.cuts:
            raise SpecError(
                "rand_augment works on 8-bit images, and resize: centre_unclamped gives others. Set resize: "
                "centre_clamped, or cut out of the images as they are stored with crop: {kind: inception}."
            )
        self._erase = _erasing(settings.erase) if settings.erase else None

    def __call__(self, image: Shaped[np.ndarray, "h w C"], seed: Seed) -> Shaped[np.ndarray, "H W C"]:
        """A new image of the shape (*size, channels): uint8 or, without RandAugment, float32.

        `seed`: whole numbers ≥ 0, as (run seed, epoch, sample index). Erasing borrows torch's global random state for
        the call: no other thread of the process may draw from it meanwhile. Raises `DataError` for images of another
        shape or type.
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
        # One more channel, 1 where a pixel is masked: of a pixel that is made of a masked one it is then not 0.
        lost = (~sample.mask[..., None]).astype(np.float32)
        changed = self._changed(np.concatenate([image, lost], axis=-1), seed)
        mask = changed[..., -1] == 0
        return replace(sample, values=np.ascontiguousarray(changed[..., :-1]), mask=None if mask.all() else mask)

    def _check(self, image: np.ndarray) -> None:
        types = (np.uint8,) if self.settings.rand_augment else (np.uint8, np.float32)
        fits = image.ndim == 3 and image.shape[-1] == self.shape[-1] if self.cuts else image.shape == self.shape
        if image.dtype not in types or not fits:
            wanted = f"(height, width, {self.shape[-1]})" if self.cuts else self.shape
            raise DataError(
                f"augmentation wants images of shape {wanted} and type {' or '.join(t.__name__ for t in types)}, "
                f"got {image.shape} {image.dtype}."
            )

    def _changed(self, image: np.ndarray, seed: Seed) -> np.ndarray:
        """In numpy: for small images torchvision's checks take most of the time that preparing a batch takes."""
        random = _generator(seed)
        if isinstance(self.settings.crop, InceptionCrop):
            image = _part(image, self.settings.crop, random)
        elif isinstance(self.settings.crop, PadCrop):
            most = self.settings.crop.padding
            # Two numbers, not an array of two: the same ones in half the time.
            image = moved(image, int(random.integers(-most, most + 1)), int(random.integers(-most, most + 1)))
        flip = self.settings.flip
        if flip and random.random() < flip:
            image = image[:, ::-1]
        if (ops := self.settings.rand_augment) is not None:
            image = rand_augment(image, ops.layers, ops.magnitude, random)
        if self.cuts:
            image = scaled(image, self.shape[:2], self.resize)
        if self._erase is None:
            return np.array(image, order="C")
        # torch takes no mirrored views, and warns about read-only memory such as that of a memory map.
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        with _seeded(seed):
            pixels = self._erase(pixels)
        return pixels.permute(1, 2, 0).clone(memory_format=torch.contiguous_format).numpy()


def _erasing(probability: float) -> Callable[[Tensor], Tensor]:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise missing_extra("torchvision", "data", "Erasing parts of images") from error
    return v2.RandomErasing(probability)


def _part(image: np.ndarray, crop: InceptionCrop, random: np.random.Generator) -> np.ndarray:
    """A random part of (H, W, C), as `crop` says."""
    height, width = image.shape[:2]
    least, most = (share * height * width for share in crop.scale)
    for _ in range(_ATTEMPTS):
        ratio = random.uniform(*crop.ratio)
        rows = _rows(height, width, least, most, ratio, random)
        columns = round(rows * ratio)
        if rows * columns < least:
            rows, columns = rows + 1, round((rows + 1) * ratio)
        if rows * columns > most:
            rows, columns = rows - 1, round((rows - 1) * ratio)
        fits = 0 < rows <= height and 0 < columns <= width and least <= rows * columns <= most
        if fits and rows * columns >= crop.covers * height * width:
            # The last place of all is never drawn there either.
            top = int(random.integers(height - rows)) if rows < height else 0
            left = int(random.integers(width - columns)) if columns < width else 0
            return image[top : top + rows, left : left + columns]
    return central(image, (height, width), round_up=True)


def _rows(height: int, width: int, least: float, most: float, ratio: float, random: np.random.Generator) -> int:
    """A height drawn evenly from those that give an area between `least` and `most`, in so far as they fit."""
    lowest, highest = round(math.sqrt(least / ratio)), round(math.sqrt(most / ratio))
    if round(highest * ratio) > width:
        highest = int((width + 0.5 - 1e-7) / ratio)
        highest -= round(highest * ratio) > width
    highest = min(highest, height)
    return lowest + int(random.integers(highest - lowest + 1)) if lowest < highest else highest


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
