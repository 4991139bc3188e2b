"""Pictures of any height and width made those of the input: an error, stretched, or scaled and cut.

Three ways cut the central part out first, as everyone does who reads ImageNet with the published models; they differ in
the kernel behind the cut, and so in the last grey levels:

    centre_clamped      OpenCV's bicubic: DeepMind's notebook of the released models
    centre_unclamped    TensorFlow's bicubic: the code that trained and scored them
    centre_antialiased  transformers' image processor

`cut_first` is for video: all of the middle, then bilinear without antialiasing, as DeepMind's video notebook (OpenCV).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch

from perceivers.errors import DataError

Resize = Literal["none", "stretch", "crop", "cut_first", "centre_clamped", "centre_unclamped", "centre_antialiased"]

# The side of the cut is 224 of 256 of the shorter side, exactly.
_CUT = (7, 8)
# TensorFlow looks its weights up, at the nearest of so many steps between two pixels.
_TENSORFLOW_STEPS = 1024


def resized(pixels: np.ndarray, size: tuple[int, int], how: Resize, what: str) -> np.ndarray:
    """(…, H, W, C) as (…, *size, C), bicubic; uint8 stays, but for `centre_unclamped`, which gives float32.

    stretch, crop: with antialiasing; crop scales by the side that needs it more, and cuts in the middle. cut_first,
    centre_…: see above; the latter cut whatever the size. Raises `DataError` when `how` is none. what: heads the
    message: "the image".
    """
    height, width = pixels.shape[-3:-1]
    if how in _KERNELS:
        return scaled(central(pixels, size, round_up=how != "centre_antialiased"), size, how)
    if (height, width) == size:
        return pixels
    if how == "none":
        raise DataError(
            f"{what} is {height}×{width}, but the input takes {size[0]}×{size[1]}. "
            "Set resize: crop, cut_first or stretch on the input, or change its size."
        )
    if how == "cut_first":
        return _bilinear(_largest(pixels, size), size)
    target = size
    if how == "crop":
        scale = max(size[0] / height, size[1] / width)
        target = (max(round(height * scale), size[0]), max(round(width * scale), size[1]))
    return _middle(_antialiased(pixels, target), size, round_up=False)


def scaled(pixels: np.ndarray, size: tuple[int, int], how: Resize) -> np.ndarray:
    """All of (…, H, W, C) as (…, *size, C), by the kernel of `how`; what a training image's random part goes through.

    A picture that has the size is scaled too, which changes nothing in it but rounding.
    """
    return _KERNELS.get(how, _antialiased)(pixels, size)


def central(pixels: np.ndarray, size: tuple[int, int], round_up: bool) -> np.ndarray:
    """7/8 of the largest middle part of (…, H, W, C) that has the shape of `size` (official: a square, 224 of 256).

    round_up: the half pixel that is left over where the middle lies between two; up in DeepMind's code.
    """
    height, width = pixels.shape[-3:-1]
    part, whole = _CUT
    if height * size[1] <= width * size[0]:
        cut = part * height // whole, part * height * size[1] // (whole * size[0])
    else:
        cut = part * width * size[0] // (whole * size[1]), part * width // whole
    return _middle(pixels, (max(cut[0], 1), max(cut[1], 1)), round_up)


def _middle(pixels: np.ndarray, size: tuple[int, int], round_up: bool) -> np.ndarray:
    height, width = pixels.shape[-3:-1]
    top, left = (height - size[0] + round_up) // 2, (width - size[1] + round_up) // 2
    return pixels[..., top : top + size[0], left : left + size[1], :]


def _largest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest middle part that has the shape of `size`; half of each side is rounded down apart, as there."""
    height, width = pixels.shape[-3:-1]
    scale = min(height / size[0], width / size[1])
    rows, columns = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    return pixels[..., top : top + rows, left : left + columns, :]


def _bilinear(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    found = _along(pixels.astype(np.float32), -3, _bilinear_taps(pixels.shape[-3], size[0]))
    found = _along(found, -2, _bilinear_taps(pixels.shape[-2], size[1]))
    return np.rint(found).astype(np.uint8) if pixels.dtype == np.uint8 else found


def _antialiased(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    found = _torch(pixels.astype(np.float32), size)
    return np.clip(np.rint(found), 0, 255).astype(np.uint8) if pixels.dtype == np.uint8 else found


def _torch(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased in the numbers' own type: 8-bit rows are rounded before they are columns, as in torchvision."""
    *lead, height, width, channels = pixels.shape
    # torch takes no mirrored views, and warns about read-only memory such as that of a memory map.
    planes = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).movedim(-1, -3)
    planes = planes.reshape(-1, channels, height, width)
    planes = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True, align_corners=False)
    return planes.movedim(-3, -1).contiguous().numpy().reshape(*lead, *size, channels)


class _Taps(NamedTuple):
    """Of each of n new cells on an axis the old ones that it is made of: numbers and weights, both (n, 4 or 2)."""

    cells: np.ndarray
    weights: np.ndarray


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' (1981) kernel: |x| < 1 between the two nearest cells, |x| < 2 the next two; float32."""
    x = np.abs(distance).astype(np.float32)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0)).astype(np.float32)


def _tensorflow_taps(old: int, new: int) -> _Taps:
    """a = −0.5 at the nearest of 1024 steps; cells beyond the edge weigh nothing, and the others sum to one.

    `tf.image.resize(…, BICUBIC)` of TensorFlow 2 with antialias off: half-pixel centres, all in float32.
    """
    place = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
    first = np.floor(place)
    step = np.rint((place - first) * _TENSORFLOW_STEPS) / _TENSORFLOW_STEPS
    cells = first.astype(np.int64)[:, None] + np.arange(-1, 3)
    weights = _cubic(step[:, None] - np.arange(-1, 3), -0.5)
    weights = np.where((cells >= 0) & (cells < old), weights, np.float32(0))
    return _Taps(cells.clip(0, old - 1), weights / weights.sum(1, keepdims=True))


def _opencv_taps(old: int, new: int) -> _Taps:
    """a = −0.75; a cell beyond the edge is the one at the edge. `cv2.resize(…, INTER_CUBIC)`."""
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(place)
    cells = first.astype(np.int64)[:, None] + np.arange(-1, 3)
    weights = _cubic((place - first)[:, None] - np.arange(-1, 3), -0.75)
    return _Taps(cells.clip(0, old - 1), weights)


def _bilinear_taps(old: int, new: int) -> _Taps:
    """Half-pixel centres; a cell beyond the edge is the one at the edge. `cv2.resize(…, INTER_LINEAR)`."""
    place = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
    cells = np.floor(place).astype(np.int64)[:, None] + np.arange(2)
    far = (place - cells[:, 0]).astype(np.float32)
    return _Taps(cells.clip(0, old - 1), np.stack([1 - far, far], axis=1))


def _along(pixels: np.ndarray, axis: int, taps: _Taps) -> np.ndarray:
    """The weighted sums of `pixels` along an axis that is counted from the end."""
    found = 0
    for cells, weights in zip(taps.cells.T, taps.weights.T, strict=True):
        found = found + np.take(pixels, cells, axis) * weights.reshape(-1, *[1] * (-axis - 1))
    return np.asarray(found)


def _tensorflow(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = _along(pixels.astype(np.float32), -3, _tensorflow_taps(pixels.shape[-3], size[0]))
    return _along(rows, -2, _tensorflow_taps(pixels.shape[-2], size[1]))


def _opencv(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = _opencv_taps(pixels.shape[-3], size[0]), _opencv_taps(pixels.shape[-2], size[1])
    found = _along(_along(pixels.astype(np.float32), -2, columns), -3, rows)
    return np.rint(found).clip(0, 255).astype(np.uint8) if pixels.dtype == np.uint8 else found


_KERNELS: dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "centre_clamped": _opencv,
    "centre_unclamped": _tensorflow,
    "centre_antialiased": _torch,
}
