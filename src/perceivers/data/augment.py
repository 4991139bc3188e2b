"""Augmentation: seeded changes of training samples. The same seed gives the same change in any process and any order.

Only the seed decides: every global random state is as it was after a call. Image changes come from torchvision v2.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Shaped
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from perceivers.errors import DataError, SpecError, missing_extra
from perceivers.settings import Settings

Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Sequence[int]

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


class SeriesAugmentation(Settings):
    """What is done to a training series; the default is nothing."""

    kind: Literal["series"] = "series"
    jitter: NonNegativeFloat = 0.0
    """Standard deviation of the normal noise on each value, as a share of the channel's own in this sample."""
    scaling: NonNegativeFloat = 0.0
    """Each channel is multiplied by exp(normal noise of this standard deviation): 0.1 is about ± 10 %."""


class MixSettings(Settings):
    """Mixing two samples of a batch; 0 is off. With both, one half of the batch is for each [models.md §4.4]."""

    mixup: NonNegativeFloat = 0.0
    """α of the Beta(α, α) that the shares of two whole images come from (Zhang et al. 2018); Perceiver IO: 0.2."""
    cutmix: NonNegativeFloat = 0.0
    """α of the Beta(α, α) that the box from the other image takes its area from (Yun et al. 2019); Perceiver IO: 1."""


def check_channels(settings: ImageAugmentation, channels: int) -> None:
    """Raises `SpecError` when an operation of `settings` cannot work on images of `channels` channels."""
    if settings.rand_augment is not None and channels not in (1, 3):
        raise SpecError(
            f"rand_augment works on images of 1 or 3 channels, but these have {channels}. Leave it out; "
            "crop, flip and erase work on any number of channels."
        )


class ImageAugmenter:
    """`augmenter(image, seed)`: one training image, changed.

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
        self._flip, self._crop, self._resize = functional.horizontal_flip, functional.crop, functional.resize
        crop, ops, erase = settings.crop, settings.rand_augment, settings.erase
        inception = isinstance(crop, InceptionCrop)
        self._area = v2.RandomResizedCrop(size, crop.scale, crop.ratio) if inception else None
        self._ops = v2.RandAugment(ops.layers, ops.magnitude, _LEVELS, fill=_GREY) if ops else None
        self._erase = v2.RandomErasing(erase) if erase else None

    def __call__(self, image: Shaped[np.ndarray, "h w C"], seed: Seed) -> Shaped[np.ndarray, "H W C"]:
        """A new image of the same shape and type: uint8 or, without RandAugment, float32.

        `seed`: whole numbers ≥ 0, as (run seed, epoch, sample index). With an Inception crop the image may have another
        height and width than `size`; the result has `size`. RandAugment, erasing and Inception crops borrow torch's
        global random state for the call: no other thread of the process may draw from it meanwhile. Raises `DataError`
        for images of another shape or type.
        """
        self._check(image)
        # torch takes no mirrored views, and warns about read-only memory such as that of a memory map.
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        random = np.random.default_rng(seed)
        if self._area or self._ops or self._erase:
            with _seeded(seed):
                pixels = self._all(pixels, random)
        else:
            pixels = self._moved_and_flipped(pixels, random)
        return pixels.permute(1, 2, 0).clone(memory_format=torch.contiguous_format).numpy()

    def _check(self, image: np.ndarray) -> None:
        types = (np.uint8,) if self._ops else (np.uint8, np.float32)
        free = self._area is not None and image.ndim == 3 and image.size > 0
        fits = image.shape[2] == self.shape[2] if free else image.shape == self.shape
        if image.dtype not in types or not fits:
            raise DataError(
                f"augmentation wants images of shape {self.shape} and type {' or '.join(t.__name__ for t in types)}, "
                f"got {image.shape} {image.dtype}."
            )

    def _moved_and_flipped(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        if isinstance(self.settings.crop, PadCrop):
            most = self.settings.crop.padding
            top, left = random.integers(-most, most, endpoint=True, size=2).tolist()
            pixels = self._crop(pixels, top, left, *self.shape[:2])
        return self._flip(pixels) if random.random() < self.settings.flip else pixels

    def _all(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        if self._area:
            pixels = self._crop(pixels, **self._area.make_params([pixels]))
        pixels = self._moved_and_flipped(pixels, random)
        if self._ops:
            pixels = self._ops(pixels)
        if self._area:
            pixels = self._resize(pixels, list(self.shape[:2]), antialias=True)
        return self._erase(pixels) if self._erase else pixels


def augment_series(
    values: Float32[np.ndarray, "T C"], settings: SeriesAugmentation, seed: Seed
) -> Float32[np.ndarray, "T C"]:
    """A new series: jittered about its values, then scaled per channel. NaN stays NaN, infinity infinity.

    `seed`: whole numbers ≥ 0, as (run seed, epoch, sample index). Series that must not share their noise, such as two
    inputs of one sample, need one more number each.
    """
    random = np.random.default_rng(seed)
    changed = values.copy()
    if settings.jitter:
        scale = (settings.jitter * _deviation(values)).astype(np.float32)
        changed += random.standard_normal(values.shape, dtype=np.float32) * scale
    if settings.scaling:
        changed *= np.exp(settings.scaling * random.standard_normal(values.shape[1], dtype=np.float32))
    return changed


def _deviation(values: Float32[np.ndarray, "T C"]) -> Float64[np.ndarray, " C"]:
    """Standard deviation of each channel over its finite values: one NaN must not make the whole channel NaN."""
    wide = np.ascontiguousarray(values.T, dtype=np.float64)  # channels first: sums along memory take a quarter
    if len(values) and np.isfinite(total := wide.sum(1)).all():  # the sum of a channel is finite only if all of it is
        wide -= total[:, None] / len(values)
        return np.sqrt(np.square(wide, out=wide).sum(1) / len(values))
    finite = np.isfinite(wide)
    count = np.maximum(finite.sum(1, keepdims=True), 1)
    centred = np.where(finite, wide - np.where(finite, wide, 0).sum(1, keepdims=True) / count, 0)
    return np.sqrt((centred**2).sum(1) / count[:, 0])


def mix_images(
    values: Float[Tensor, "B H W C"],
    targets: Mapping[str, Float[Tensor, "B K"]],
    settings: MixSettings,
    seed: Seed,
) -> tuple[Float[Tensor, "B H W C"], dict[str, Float[Tensor, "B K"]]]:
    """Each image and its soft targets mixed with those of its neighbour in the batch; new tensors.

    With only one of the two on, all of the batch is mixed by it; with both, the first half by MixUp and the second by
    CutMix. Each image has a share (or box) of its own, as in DeepMind's training code; torchvision's MixUp and CutMix
    draw one per batch and know one target. `seed`: whole numbers ≥ 0, as (run seed, step). The batch must be shuffled.
    """
    random = np.random.default_rng(seed)
    batch, height, width, _ = values.shape
    half = batch // 2 if settings.mixup and settings.cutmix else batch if settings.mixup else 0
    exact = torch.promote_types(values.dtype, torch.float32)
    kept = torch.ones(batch, height, width, dtype=exact, device=values.device)
    if half:
        shares = random.beta(settings.mixup, settings.mixup, half)
        kept[:half] = torch.from_numpy(shares).to(kept)[:, None, None]
    if settings.cutmix and half < batch:
        boxes = _outside_boxes(random, settings.cutmix, batch - half, height, width)
        kept[half:] = torch.from_numpy(boxes).to(kept)
    # Neighbours within each part, so that a share never reaches over from one kind of mixing to the other.
    other = torch.cat([torch.arange(half).roll(1), half + torch.arange(batch - half).roll(1)]).to(values.device)
    mixed = _blend(values, values[other], kept[..., None])
    share = kept.mean((1, 2))[:, None]
    return mixed, {name: _blend(target, target[other], share) for name, target in targets.items()}


def _blend(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    # `where` keeps what is wholly from one image exact, even beside a NaN in the other.
    both = share * one + (1 - share) * other
    return torch.where(share == 1, one, torch.where(share == 0, other, both)).to(one.dtype)


def _outside_boxes(random: np.random.Generator, alpha: float, count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width) True outside a box of area 1 − λ, λ ~ Beta(α, α), about a uniform centre, cut at edges."""
    side = np.sqrt(1 - random.beta(alpha, alpha, count))[:, None]
    inside = []
    for length in (height, width):
        centre = random.integers(length, size=count)[:, None]
        reach = (0.5 * side * length).astype(np.int64)
        position = np.arange(length)
        inside.append((position >= centre - reach) & (position < centre + reach))
    return ~(inside[0][:, :, None] & inside[1][:, None, :])


@contextmanager
def _seeded(seed: Seed) -> Iterator[None]:
    """torch's global CPU generator seeded for the block, then as it was. No device's state is touched."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
    try:
        yield
    finally:
        torch.set_rng_state(before)
