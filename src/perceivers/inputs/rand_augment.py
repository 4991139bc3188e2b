"""RandAugment as Perceiver IO was trained with it: sixteen operations, one magnitude (Cubuk et al. 2020).

The operations and what a magnitude means for each are those of DeepMind's training code [models.md §4.4]. One is
another: contrast there is about a grey of pixels / 256, a slip; here it is about the mean grey, as in Pillow, whose
operation it was meant to be. At magnitude 5, the published one, neither changes an image.
"""

import math
from collections.abc import Callable

import numpy as np

# What is filled in where an image is moved away or cut out.
GREY = 128
# Of magnitude 10: degrees, share of a side, pixels, half the side of a square in pixels, what is added to dark pixels.
_DEGREES, _SHEAR, _PIXELS, _HALF, _ADDED = 30.0, 0.3, 100.0, 40, 110
# Red, green and blue in the grey of a pixel (ITU-R BT.601).
_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)

Operation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def rand_augment(image: np.ndarray, layers: int, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """(H, W, C) uint8 of 1 or 3 channels after `layers` operations, each drawn from all, at `magnitude` of 10."""
    for _ in range(layers):
        operation = OPERATIONS[int(random.integers(len(OPERATIONS)))]
        image = operation(image, magnitude / 10, random)
    return image


def auto_contrast(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Each channel stretched to 0–255; one of a single value stays."""
    low, high = (reduce(axis=(0, 1)).astype(np.float32) for reduce in (image.min, image.max))
    scale = np.divide(255, high - low, out=np.ones_like(low), where=high > low)
    return ((image - low) * scale + np.where(high > low, 0, low)).clip(0, 255).astype(np.uint8)


def equalize(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Each channel with a histogram as even as a table of 256 values makes it, as in Pillow."""
    found = np.empty_like(image)
    for channel in range(image.shape[-1]):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        table = np.arange(256)
        if step:
            table = np.concatenate([[0], ((counts.cumsum() + step // 2) // step)[:-1]]).clip(0, 255)
        found[..., channel] = table.astype(np.uint8)[image[..., channel]]
    return found


def invert(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """255 − x."""
    return 255 - image


def rotate(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """About the middle, either way, by up to 30°."""
    angle = math.radians(_either(random) * _DEGREES * share)
    sine, cosine = math.sin(angle), math.cos(angle)
    bottom, right = image.shape[0] - 1, image.shape[1] - 1
    x = (right - (cosine * right - sine * bottom)) / 2
    y = (bottom - (sine * right + cosine * bottom)) / 2
    return moved(image, ((cosine, -sine, x), (sine, cosine, y)))


def posterize(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """The highest bits of each value, four at magnitude 10: a larger magnitude changes less."""
    lost = 8 - int(share * 4)
    return ((image.astype(np.int16) >> lost) << lost).astype(np.uint8)


def solarize(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Values from a threshold on inverted; it is 256 at magnitude 10: a larger magnitude changes less."""
    return np.where(image < int(share * 256), image, 255 - image)


def solarize_add(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Up to 110 added to values below 128."""
    added = (image.astype(np.int16) + int(share * _ADDED)).clip(0, 255).astype(np.uint8)
    return np.where(image < 128, added, image)


def colour(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Between grey and twice the colour; a grey image stays."""
    if image.shape[-1] == 1:
        return image
    return _away_from(np.broadcast_to(_grey(image)[..., None], image.shape), image, share)


def contrast(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Between the mean grey and twice the distance from it."""
    return _away_from(np.rint(_grey(image).mean()), image, share)


def brightness(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Between black and twice as bright."""
    return _away_from(0.0, image, share)


def sharpness(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Between smooth (the middle of 3 × 3 pixels counting five times) and twice as sharp; the border stays."""
    if min(image.shape[:2]) < 3:
        return image
    height, width = image.shape[:2]
    exact = image.astype(np.float32)
    around = sum(exact[y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3))
    smooth = exact.copy()
    smooth[1:-1, 1:-1] = np.trunc((around + 4 * exact[1:-1, 1:-1]) / 13)
    return _away_from(smooth, image, share)


def shear_x(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Rows moved by up to 0.3 of their number, either way."""
    return moved(image, ((1.0, _either(random) * _SHEAR * share, 0.0), (0.0, 1.0, 0.0)))


def shear_y(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Columns moved by up to 0.3 of their number, either way."""
    return moved(image, ((1.0, 0.0, 0.0), (_either(random) * _SHEAR * share, 1.0, 0.0)))


def translate_x(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """To the left or right by up to 100 pixels, whatever the size."""
    return moved(image, ((1.0, 0.0, _either(random) * _PIXELS * share), (0.0, 1.0, 0.0)))


def translate_y(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Up or down by up to 100 pixels, whatever the size."""
    return moved(image, ((1.0, 0.0, 0.0), (0.0, 1.0, _either(random) * _PIXELS * share)))


def cutout(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """A grey square of up to 80 × 80 pixels about a random one, cut at the edges (DeVries and Taylor 2017)."""
    half = int(share * _HALF)
    y, x = (int(random.integers(length)) for length in image.shape[:2])
    found = image.copy()
    found[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = GREY
    return found


OPERATIONS: tuple[Operation, ...] = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    colour,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    cutout,
    solarize_add,
)


def moved(image: np.ndarray, places: tuple[tuple[float, float, float], tuple[float, float, float]]) -> np.ndarray:
    """Pixel (x, y) of the new image is that nearest to (a·x + b·y + c, d·x + e·y + f) of the old, or grey outside."""
    height, width = image.shape[:2]
    x, y = np.arange(width, dtype=np.float64)[None], np.arange(height, dtype=np.float64)[:, None]
    column, row = (np.floor(a * x + b * y + c + 0.5).astype(np.int64) for a, b, c in places)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = image[row.clip(0, height - 1), column.clip(0, width - 1)]
    found[~inside] = GREY
    return found


def _either(random: np.random.Generator) -> float:
    return 1.0 if random.integers(2) else -1.0


def _grey(image: np.ndarray) -> np.ndarray:
    return image[..., 0].astype(np.float32) if image.shape[-1] == 1 else np.rint(image @ _LUMA)


def _away_from(plain: np.ndarray | float, image: np.ndarray, share: float) -> np.ndarray:
    """From `plain`, which is 0, over the image, which is 1, to as far on the other side: by 0.1 + 1.8 · share."""
    factor = 0.1 + 1.8 * share
    if factor == 1.0:
        return image
    exact = image.astype(np.float32)
    return (plain + factor * (exact - plain)).clip(0, 255).astype(np.uint8)
