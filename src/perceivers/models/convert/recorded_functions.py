"""Vectors of functions (`dm_functional`) and of postprocessors (`dm_upsample`), which belong to no model."""

import re

import numpy as np
import torch
from torch import Tensor, nn

from perceivers.models.convert.deepmind import up_convolutions
from perceivers.models.convert.mapping import Entry, one_by_one, same, tensors_of
from perceivers.models.convert.stored import Stored
from perceivers.nn import Conv2DUpsample, Conv3DUpsample
from perceivers.nn.blocks import ACTIVATIONS
from perceivers.nn.stem import depth_to_space, extract_patches, space_to_depth, windows_around
from perceivers.positions import fourier_features, linear_positions

# What a recorded output of Fourier features is called: grid, resolution, bands, and two switches.
_FOURIER = re.compile(r"output/(ff_dims([\dx]+)_res([\dx]+)_bands(\d+)_concat([01])_sine([01]))")


def recomputed_postprocessors(stored: Stored) -> dict[str, Tensor]:
    """Up-convolutions in two and three axes, cells out of patches, and a 1×1 convolution."""
    x2, x3 = (_input(stored, name) for name in ("x2", "x3"))
    linear = nn.Linear(x2.shape[-1], stored.arrays["params/p1/~/conv2_d/b"].size)
    weight, bias = (f"params/p1/~/conv2_d/{name}" for name in ("w", "b"))
    _fill(stored, linear, [Entry("weight", weight, one_by_one), Entry("bias", bias, same)])
    return {
        "conv2d_upsample": _upsampled(stored, "up2", x2),
        "post_conv": _upsampled(stored, "pc/~/conv2_d_upsample", x2),
        # The recording does not say how often; of its two layers time is doubled in one.
        "conv3d_upsample": _upsampled(stored, "up3", x3, time=1, space=2),
        "post_patches": depth_to_space(x2, (2, 2)),
        "post_conv1x1": linear(x2),
    }


def recomputed_functions(stored: Stored) -> dict[str, Tensor]:
    """GELU, positions, Fourier features, and patches of images and videos."""
    image, video = (_input(stored, name) for name in ("image", "video"))
    found = {
        "gelu": ACTIVATIONS["gelu_tanh"](_input(stored, "gelu")),
        "linear_positions_3x5": linear_positions((3, 5)).unflatten(0, (3, 5)),
        "s2d_image_b4": space_to_depth(image, (4, 4)),
        "s2d_video_t2_b4": space_to_depth(video, (2, 4, 4)),
        "d2s_video": depth_to_space(space_to_depth(video, (2, 4, 4)), (2, 4, 4)),
        "extract_patches_valid": extract_patches(image, (3, 2), (2, 1)),
        # The recording tells no rate; of 1 to 3 an axis only these agree.
        "extract_patches_same": extract_patches(image, (3, 3), (2, 2), same=True, rate=(2, 1)),
        "patches_for_flow": torch.stack([windows_around(frame, 3) for frame in video[:, :2].unbind(1)], dim=1),
    }
    for name in stored.arrays:
        if match := _FOURIER.fullmatch(name):
            grid, resolution = ([int(n) for n in match[part].split("x")] for part in (2, 3))
            switches = match[5] == "1", match[6] == "1"
            found[match[1]] = fourier_features(linear_positions(grid), int(match[4]), resolution, *switches)
    return found


def _input(stored: Stored, name: str) -> Tensor:
    return torch.from_numpy(np.array(stored.arrays[f"input/{name}"].read()))


def _fill(stored: Stored, module: nn.Module, entries: list[Entry]) -> None:
    module.load_state_dict(tensors_of(stored, entries))


def _upsampled(stored: Stored, theirs: str, x: Tensor, **doublings: int) -> Tensor:
    """What the official up-convolutions of that name give, as wide as their last bias."""
    axes = x.ndim - 2
    layers = max(doublings.values(), default=2)
    entries = list(up_convolutions(theirs, axes, layers))
    channels = stored.arrays[entries[-1].theirs].size
    inputs = x.shape[-1]
    module = Conv2DUpsample(inputs, channels) if axes == 2 else Conv3DUpsample(inputs, channels, **doublings)
    _fill(stored, module, entries)
    return module(x)
