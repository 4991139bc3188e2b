"""Seeded changes of training pairs of images, and of the flow between them with them.

After the augmentation of RAFT (Teed and Deng 2020, official code), which optical flow networks share, without its
random scaling. Only the seed decides.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from perceivers.errors import DataError, SpecError
from perceivers.inputs.base import Sample, Seed
from perceivers.settings import Settings

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, lt=1)]

# What grey is made of [ITU-R BT.601].
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
# To brightness and two axes of colour (YIQ), in whose plane a hue is turned.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_ERASED = (50, 100)  # pixels of a side of what is erased


class PairColour(Settings):
    """How much colours change: factors from 1 − s to 1 + s, and hues turn by up to so many whole circles."""

    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: Strength = 0.16
    """RAFT: 0.5 / π."""
    apart: Probability = 0.2
    """Probability that each of the two images changes by its own draws."""


class PairAugmentation(Settings):
    """What is done to a training pair, and to flow that lies on it; the default is nothing."""

    kind: Literal["image_pair"] = "image_pair"
    crop: bool = False
    """A random part of pairs that are larger than the input, instead of their middle."""
    flip: Probability = 0.0
    """Probability of a left-right flip."""
    flip_vertical: Probability = 0.0
    """Probability of an upside-down flip."""
    colour: PairColour | None = None
    """For images from 0 to 255 of 1 or 3 channels."""
    erase: Probability = 0.0
    """Probability that one or two rectangles of the second image, 50 to 100 pixels a side, take its mean colour."""
    plain_epochs: NonNegativeInt = 0
    """In so many epochs at first nothing is done but `crop` and `reverse` [P2 App. H]."""
    reverse: Probability = 0.0
    """In those epochs, probability that the second image comes first; the output needs the flow `backward`."""


class PairAugmenter:
    """`augmenter(sample, seed)`: one training pair, changed. `with_targets`: what lies on its pixels with it.

    size: height and width of the input; with `crop` samples may be larger. channels: of one image. Raises `SpecError`.
    """

    def __init__(self, settings: PairAugmentation, size: tuple[int, int], channels: int) -> None:
        if settings.colour is not None and channels not in (1, 3):
            raise SpecError(f"colour changes images of 1 or 3 channels, but these have {channels}; leave it out.")
        if settings.reverse and not settings.plain_epochs:
            raise SpecError("pairs are reversed in the plain epochs only; set plain_epochs, or reverse: 0.")
        self.settings, self.size, self.channels = settings, size, channels

    @property
    def reverses(self) -> bool:
        """Whether pairs are reversed at some time."""
        return self.settings.reverse > 0

    def __call__(self, sample: Sample, seed: Seed) -> Sample:
        """A new pair (H, W, 2·C), its mask moved, flipped and cut with it."""
        return self.with_targets(sample, seed, [])[0]

    def with_targets(
        self, sample: Sample, seed: Seed, targets: Sequence[np.ndarray | None]
    ) -> tuple[Sample, list[np.ndarray | None]]:
        """The pair and flows (H, W, 2), or (H, W, 4) with those backward, changed alike; None stays unknown.

        `seed`: whole numbers ≥ 0, as (run seed, epoch, sample index). A pair is reversed only where all its flows are
        known backward. Raises `DataError` for a flow of another size than the pair's.
        """
        random, settings = np.random.default_rng(seed), self.settings
        values, mask, flows = sample.values, sample.mask, list(targets)
        for flow in flows:
            if flow is not None and flow.shape[:2] != values.shape[:2]:
                raise DataError(f"the pair is {_shown(values)}, but the flow on it {_shown(flow)}; wanted one size.")
        plain = seed[1] < settings.plain_epochs
        if plain and random.random() < settings.reverse and all(_known_backward(flow) for flow in flows):
            values = np.concatenate([values[..., self.channels :], values[..., : self.channels]], axis=-1)
            flows = [None if flow is None else np.concatenate([flow[..., 2:], flow[..., :2]], -1) for flow in flows]
        if settings.crop:
            place = self._place(values, random)
            values, mask = values[place], None if mask is None else mask[place]
            flows = [None if flow is None else flow[place] for flow in flows]
        if not plain:
            # Of a flow the part along the axis turns round with it.
            for axis, chance in ((1, settings.flip), (0, settings.flip_vertical)):
                if random.random() < chance:
                    values, mask = np.flip(values, axis), None if mask is None else np.flip(mask, axis)
                    flows = [None if flow is None else _flipped(flow, axis) for flow in flows]
            values = self._seen(values, random)
        return replace(sample, values=np.ascontiguousarray(values), mask=mask), flows

    def _place(self, values: np.ndarray, random: np.random.Generator) -> Any:
        rest = [given - wanted for given, wanted in zip(values.shape[:2], self.size, strict=True)]
        if min(rest) < 0:
            raise DataError(f"the pair is {_shown(values)}, smaller than the {self.size[0]}×{self.size[1]} to cut out.")
        top, left = (int(random.integers(most + 1)) for most in rest)
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def _seen(self, values: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """With other colours, and part of the second image erased."""
        settings = self.settings
        images = [values[..., : self.channels], values[..., self.channels :]]
        if settings.colour is not None:
            first = _draws(settings.colour, random)
            second = _draws(settings.colour, random) if random.random() < settings.colour.apart else first
            images = [_coloured(image, draws) for image, draws in zip(images, (first, second), strict=True)]
        if random.random() < settings.erase:
            images[1] = _erased(images[1], random)
        return np.concatenate(images, axis=-1)


def _shown(array: np.ndarray) -> str:
    return f"{array.shape[0]}×{array.shape[1]}"


def _known_backward(flow: np.ndarray | None) -> bool:
    return flow is None or (flow.shape[-1] == 4 and bool(np.isfinite(flow[..., 2:]).any()))


def _flipped(flow: np.ndarray, axis: int) -> np.ndarray:
    """Numbers go right, down, right, down: those along the axis change their sign."""
    flipped = np.flip(flow, axis).copy()
    flipped[..., (1 - axis) :: 2] *= -1
    return flipped


def _draws(colour: PairColour, random: np.random.Generator) -> tuple[float, float, float, float]:
    """Factors of brightness, contrast and saturation, and the angle of hues."""
    factors = [random.uniform(1 - s, 1 + s) for s in (colour.brightness, colour.contrast, colour.saturation)]
    return factors[0], factors[1], factors[2], 2 * np.pi * random.uniform(-colour.hue, colour.hue)


def _coloured(image: np.ndarray, draws: tuple[float, float, float, float]) -> np.ndarray:
    """In that order: brightness, contrast about the mean grey, saturation about each pixel's, hue; from 0 to 255."""
    brightness, contrast, saturation, angle = draws
    found = image.astype(np.float32) * np.float32(brightness)
    grey = found @ _GREY if found.shape[-1] == 3 else found[..., 0]
    # Of what is known: one NaN must not become all of them.
    mean = np.float32(grey[np.isfinite(grey)].mean()) if np.isfinite(grey).any() else np.float32(0)
    found = np.float32(contrast) * (found - mean) + mean
    if found.shape[-1] == 3:
        grey = (found @ _GREY)[..., None]
        found = np.float32(saturation) * (found - grey) + grey
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        found = found @ (np.linalg.inv(_YIQ) @ turn @ _YIQ).T.astype(np.float32)
    found = found.clip(0, 255)
    return np.rint(found).astype(np.uint8) if image.dtype == np.uint8 else found


def _erased(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    erased = image.copy()
    cells = image.reshape(-1, image.shape[-1])
    known = cells[np.isfinite(cells).all(-1)]
    mean = known.mean(0) if len(known) else np.zeros(image.shape[-1])
    for _ in range(int(random.integers(1, 3))):
        top, left = int(random.integers(image.shape[0])), int(random.integers(image.shape[1]))
        height, width = random.integers(*_ERASED, size=2).tolist()
        erased[top : top + height, left : left + width] = mean
    return erased
