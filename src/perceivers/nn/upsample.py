"""Dense answers on a grid made finer: up-convolutions (models.md §3 of the plan), and RAFT's convex upsampling."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from perceivers.nn.initialisers import truncated_normal_

KERNEL = 4
# Coarse cells on a side that a finer one is a mean of, and how strongly their weights are felt [RAFT's code].
_AROUND, _STRENGTH = 3, 0.25
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class UpConvolutions(nn.Module):
    """Transposed convolutions of kernel 4 with SAME padding, ReLU between; channels last in and out."""

    def __init__(self, widths: Sequence[int], strides: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        made = []
        for (inputs, outputs), stride in zip(itertools.pairwise(widths), strides, strict=True):
            # SAME is n·stride cells. Torch gives (n − 1)·stride + 4 − 2·padding: that many with stride 2 and padding 1;
            # with stride 1 three too many, of which the official code drops one before and two after.
            padding = [1 if step == 2 else 0 for step in stride]
            layer = _TRANSPOSED[len(stride)](inputs, outputs, KERNEL, stride, padding)
            truncated_normal_(layer.weight, 1 / math.sqrt(KERNEL ** len(stride) * inputs))
            nn.init.zeros_(layer.bias)
            made.append(layer)
        self.layers = nn.ModuleList(made)
        self.channels = widths[-1]

    def cells(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The grid that comes out for the `grid` that goes in."""
        return tuple(n * math.prod(stride[axis] for stride in self.strides) for axis, n in enumerate(grid))

    def flops(self, grid: Sequence[int]) -> int:
        """Multiplications and additions for the `grid` that goes in, with those that SAME padding drops."""
        found, cells = 0, list(grid)
        for layer, stride in zip(self.layers, self.strides, strict=True):
            found += 2 * math.prod(cells) * sum(p.numel() for p in layer.parameters() if p.ndim > 1)
            cells = [n * step for n, step in zip(cells, stride, strict=True)]
        return found

    def forward(self, x: Float[Tensor, "B *cells C"]) -> Float[Tensor, "B *grid P"]:
        """(B, n1, …, C) → (B, m1, …, channels)."""
        x = x.movedim(-1, 1)
        for place, (layer, stride) in enumerate(zip(self.layers, self.strides, strict=True)):
            x = layer(x.relu() if place else x)
            for axis, step in enumerate(stride, start=2):
                x = x if step == 2 else x.narrow(axis, 1, x.shape[axis] - KERNEL + 1)
        return x.movedim(1, -1)


class Conv2DUpsample(UpConvolutions):
    """Four times as many cells on both axes: two layers of stride 2, with 2·`channels` and `channels`.

    (B, h, w, `inputs`) → (B, 4h, 4w, `channels`). The `conv` postprocessor of Perceiver IO [official Conv2DUpsample].
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__((inputs, 2 * channels, channels), ((2, 2), (2, 2)))


class Conv3DUpsample(UpConvolutions):
    """2^`time` times as many cells in time and 2^`space` times as many in height and width.

    (B, t, h, w, `inputs`) → (B, t·2^time, h·2^space, w·2^space, `channels`). There are L = max(time, space) layers; the
    i-th has `channels`·2^(L−1−i) channels and stride 2 on the axes that are not yet fine enough, else 1
    [official Conv3DUpsample].
    """

    def __init__(self, inputs: int, channels: int, time: int = 2, space: int = 4) -> None:
        layers = max(time, space)
        widths = [channels * 2 ** (layers - 1 - i) for i in range(layers)]
        strides = [tuple(2 if i < doubled else 1 for doubled in (time, space, space)) for i in range(layers)]
        super().__init__((inputs, *widths), strides)


class ConvexUpsample(nn.Module):
    """`factor` times as many cells on both axes, each the mean of 3 × 3 coarse ones by weights that are computed.

    Each finer cell has weights of its own: a softmax of what a convolution of kernel 3 with `channels`, ReLU and one of
    kernel 1 make of features of the coarse cells. Beyond the edge values are zero [Teed & Deng 2020, RAFT, §3.3].
    """

    def __init__(self, inputs: int, factor: int, channels: int = 256) -> None:
        super().__init__()
        self.factor = factor
        self.around = nn.Conv2d(inputs, channels, _AROUND, padding=_AROUND // 2)
        self.weights = nn.Conv2d(channels, _AROUND**2 * factor**2, 1)
        for layer in (self.around, self.weights):
            truncated_normal_(layer.weight, 1 / math.sqrt(math.prod(layer.weight.shape[1:])))
            assert layer.bias is not None, "a convolution has a bias unless told otherwise"
            nn.init.zeros_(layer.bias)

    def flops(self, grid: Sequence[int], values: int) -> int:
        """Multiplications and additions for `values` numbers in each cell of the coarse `grid`."""
        weights = self.around.weight.numel() + self.weights.weight.numel()
        return 2 * math.prod(grid) * (weights + _AROUND**2 * self.factor**2 * values)

    def forward(self, values: Float[Tensor, "B h w V"], features: Float[Tensor, "B h w C"]) -> Float[Tensor, "B H W V"]:
        """(B, h, w, V) → (B, h·factor, w·factor, V)."""
        batch, height, width, _ = values.shape
        weights = self.weights(self.around(features.movedim(-1, 1)).relu())
        shape = (batch, _AROUND**2, self.factor, self.factor, height, width)
        weights = (_STRENGTH * weights).reshape(shape).softmax(dim=1)
        around = F.unfold(values.movedim(-1, 1), _AROUND, padding=_AROUND // 2)
        around = around.reshape(batch, values.shape[-1], _AROUND**2, height, width)
        finer = torch.einsum("bkyxhw,bvkhw->bhywxv", weights, around)
        return finer.reshape(batch, height * self.factor, width * self.factor, -1)
