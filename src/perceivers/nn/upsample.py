"""Up-convolutions: dense answers on a grid made finer (models.md §3 of the plan)."""

import itertools
import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from perceivers.nn.initialisers import truncated_normal_

KERNEL = 4
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
