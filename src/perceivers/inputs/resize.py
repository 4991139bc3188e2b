"""Pictures of any height and width made those of the input: an error, stretched, or scaled and cut."""

from typing import Literal

import numpy as np
import torch

from perceivers.errors import DataError

Resize = Literal["none", "stretch", "crop"]


def resized(pixels: np.ndarray, size: tuple[int, int], how: Resize, what: str) -> np.ndarray:
    """(…, H, W, C) as (…, *size, C), bicubic with antialiasing; uint8 stays. Raises `DataError` when `how` is none.

    crop: scaled by the side that needs it more, and cut in the middle. what: heads the message: "the image".
    """
    *lead, height, width, channels = pixels.shape
    if (height, width) == size:
        return pixels
    if how == "none":
        raise DataError(
            f"{what} is {height}×{width}, but the input takes {size[0]}×{size[1]}. "
            "Set resize: crop or resize: stretch on the input, or change its size."
        )
    target = size
    if how == "crop":
        scale = max(size[0] / height, size[1] / width)
        target = (max(round(height * scale), size[0]), max(round(width * scale), size[1]))
    planes = torch.from_numpy(pixels).movedim(-1, -3).reshape(-1, channels, height, width).float()
    planes = torch.nn.functional.interpolate(planes, target, mode="bicubic", antialias=True, align_corners=False)
    top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
    found = planes[..., top : top + size[0], left : left + size[1]].movedim(-3, -1).contiguous().numpy()
    found = found.reshape(*lead, *size, channels)
    return np.clip(np.rint(found), 0, 255).astype(np.uint8) if pixels.dtype == np.uint8 else found
