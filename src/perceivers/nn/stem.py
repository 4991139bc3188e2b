"""Lifts: from raw grid cells to element channels. Patches, 1×1 and strided convolution stems, debiased batch norm."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from perceivers.errors import SpecError
from perceivers.nn.initialisers import truncated_normal_

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}
_POOLS = {1: F.max_pool1d, 2: F.max_pool2d}

Padding = Literal["same", "transformers"]


def space_to_depth(x: Shaped[Tensor, "B *grid C"], patch: Sequence[int]) -> Shaped[Tensor, "B *cells P"]:
    """Patches as channels: (B, n1, …, nA, C) → (B, n1/p1, …, nA/pA, p1·…·pA·C); channel order (p1, …, pA, c).

    The order is the official one, (dt, dh, dw, c) for video [deepmind-research io_processors.py].
    """
    axes = len(patch)
    batch, *grid, channels = x.shape
    split = [n for size, p in zip(grid, patch, strict=True) for n in (size // p, p)]
    x = x.reshape(batch, *split, channels)
    cells = [1 + 2 * a for a in range(axes)]
    inside = [2 + 2 * a for a in range(axes)]
    x = x.permute(0, *cells, *inside, 1 + 2 * axes)
    return x.reshape(batch, *[size // p for size, p in zip(grid, patch, strict=True)], math.prod(patch) * channels)


def depth_to_space(x: Shaped[Tensor, "B *cells P"], patch: Sequence[int]) -> Shaped[Tensor, "B *grid C"]:
    """The inverse of `space_to_depth`: (B, m1, …, mA, p1·…·pA·C) → (B, m1·p1, …, mA·pA, C)."""
    axes = len(patch)
    batch, *cells, _ = x.shape
    x = x.reshape(batch, *cells, *patch, -1)
    order = [n for a in range(axes) for n in (1 + a, 1 + axes + a)]
    x = x.permute(0, *order, 1 + 2 * axes)
    return x.reshape(batch, *[n * p for n, p in zip(cells, patch, strict=True)], x.shape[-1])


def windows_around(x: Float[Tensor, "B H W C"], size: int) -> Float[Tensor, "B H W P"]:
    """The size × size cells around each cell as channels, zeros beyond the edge; order (row, column, c); size odd.

    With size 3 it is the patches of the optical flow model [deepmind-research optical flow notebook].
    """
    return extract_patches(x, (size, size), (1, 1), same=True)


def extract_patches(
    x: Shaped[Tensor, "B *grid C"],
    size: Sequence[int],
    stride: Sequence[int],
    same: bool = False,
    rate: Sequence[int] | None = None,
) -> Shaped[Tensor, "B *cells P"]:
    """Windows of `size`, `stride` apart, as channels in the order (k1, …, kA, c) [official `extract_patches`].

    same: TensorFlow's SAME padding with zeros, one window a stride; else the windows that lie within the grid.
    rate: cells of a window are so far apart, as in dilated convolutions; None: they are neighbours.
    """
    axes = len(size)
    rate = rate or (1,) * axes
    extents = [(kernel - 1) * apart + 1 for kernel, apart in zip(size, rate, strict=True)]
    if same:
        # F.pad counts axes from the last one back, channels first.
        sides = [same_padding(n, k, s) for n, k, s in zip(x.shape[1:-1], extents, stride, strict=True)]
        x = F.pad(x, [0, 0, *(side for pair in reversed(sides) for side in pair)])
    for axis, (extent, step) in enumerate(zip(extents, stride, strict=True), start=1):
        x = x.unfold(axis, extent, step)
    # Now (B, cells, C, extents).
    x = x[(..., *(slice(None, None, apart) for apart in rate))]
    return x.movedim(1 + axes, -1).flatten(1 + axes)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: (before, after), the odd one after. On 224, kernel 7, stride 2: (2, 3)."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def any_in_patch(mask: Bool[Tensor, "B *grid"], patch: int) -> Bool[Tensor, "B *cells"]:
    """Where any cell of a patch of side `patch` is True; a patch that sticks out counts the cells that it has."""
    padding = [side for size in reversed(mask.shape[1:]) for side in (0, -size % patch)]
    padded = F.pad(mask, padding, value=False)
    return space_to_depth(padded[..., None], [patch] * (mask.ndim - 1)).any(-1)


def _pad(x: Tensor, padding: Iterable[tuple[int, int]], value: float) -> Tensor:
    """(B, C, n1, …) with cells of `value` before and after each axis."""
    # F.pad counts axes from the last one back.
    sides = [side for pair in reversed(list(padding)) for side in pair]
    return F.pad(x, sides, value=value) if any(sides) else x


def _cut(mask: Tensor, grid: Sequence[int]) -> Tensor:
    """The first cells of each axis of a mask (B, n1, …)."""
    return mask[(slice(None), *[slice(n) for n in grid])]


class DebiasedBatchNorm(nn.Module):
    """Batch norm as haiku's: eps 1e-5, biased variance, zero-debiased running averages of decay 0.9.

    hidden ← 0.9·hidden + 0.1·batch; average = hidden / (1 − 0.9^count); evaluation uses the averages. Before the first
    training batch they are mean 0 and variance 1. Input (B, C, n1, …); statistics over all but C, or with a mask
    (B, n1, …) over the real cells only. A batch with no real cell leaves the averages alone.
    """

    mean_hidden: Tensor
    mean_average: Tensor
    variance_hidden: Tensor
    variance_average: Tensor
    count: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, decay: float = 0.9) -> None:
        super().__init__()
        self.eps = eps
        self.decay = decay
        self.scale = nn.Parameter(torch.ones(channels))
        self.offset = nn.Parameter(torch.zeros(channels))
        for name in ("mean_hidden", "mean_average", "variance_hidden"):
            self.register_buffer(name, torch.zeros(channels))
        self.register_buffer("variance_average", torch.ones(channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(
        self, x: Float[Tensor, "B C *grid"], mask: Bool[Tensor, "B *grid"] | None = None
    ) -> Float[Tensor, "B C *grid"]:
        """Normalised over the batch in training, by the averages in evaluation."""
        if self.training and mask is not None and bool(mask.any()):
            return self._masked(x, mask)
        if self.training and mask is None and x.shape[0] > 0:
            over = [0, *range(2, x.ndim)]
            with torch.no_grad():
                variance, mean = torch.var_mean(x, dim=over, correction=0)
                self._update(mean, variance)
            return F.batch_norm(x, None, None, self.scale, self.offset, training=True, eps=self.eps)
        return F.batch_norm(
            x, self.mean_average, self.variance_average, self.scale, self.offset, training=False, eps=self.eps
        )

    def _masked(self, x: Tensor, mask: Tensor) -> Tensor:
        # Written out, since torch's batch norm knows no mask. In float32 at least: half sums lose their last terms.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        over = [0, *range(2, x.ndim)]
        real = mask[:, None].to(wide.dtype)
        count = real.sum()
        mean = (wide * real).sum(over, keepdim=True) / count
        centred = wide - mean
        variance = (centred.square() * real).sum(over, keepdim=True) / count
        with torch.no_grad():
            self._update(mean.flatten().to(self.mean_hidden.dtype), variance.flatten().to(self.mean_hidden.dtype))
        per_channel = (1, -1, *[1] * (x.ndim - 2))
        normal = centred * torch.rsqrt(variance + self.eps)
        return (normal * self.scale.view(per_channel) + self.offset.view(per_channel)).to(x.dtype)

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        self.count += 1
        debias = 1 - self.decay ** self.count.to(mean.dtype)
        for hidden, average, batch in (
            (self.mean_hidden, self.mean_average, mean),
            (self.variance_hidden, self.variance_average, variance),
        ):
            hidden.mul_(self.decay).add_(batch, alpha=1 - self.decay)
            average.copy_(hidden / debias)


class ConvStem(nn.Module):
    """Strided convolutions: [padding → conv (no bias) → batch norm → ReLU → max-pool 3, stride 2] × layers.

    With axes 2, kernel 7, stride 2, one layer, pooling and SAME padding it is the conv preprocessor of Perceiver IO:
    224 → 56 [models.md §3]. `pool=False` leaves the pooling out. Channels last in and out.

    padding: "same" is TensorFlow's. "transformers" is that library's, for weights that were trained with it: as many
    cells on both sides of the convolution whatever its stride, and none around the pool, 224 → 55 [models.md §7].

    With a mask (B, n1, …), True = real, masked cells read as zero at every layer and enter no batch statistics, so
    that padding changes nothing; a layer's cell is real when any cell of its stride is.
    """

    def __init__(
        self,
        axes: int,
        inputs: int,
        channels: int = 64,
        kernel: int = 7,
        stride: int = 2,
        layers: int = 1,
        pool: bool = True,
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        self.axes, self.kernel, self.stride, self.pool, self.padding = axes, kernel, stride, pool, padding
        widths = [inputs] + [channels] * layers
        convolutions = [_CONVOLUTIONS[axes](a, b, kernel, stride, bias=False) for a, b in itertools.pairwise(widths)]
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(DebiasedBatchNorm(channels) for _ in range(layers))
        for convolution in convolutions:
            fan_in = math.prod(convolution.weight.shape[1:])
            truncated_normal_(convolution.weight, 1 / math.sqrt(fan_in))
        self.channels = channels
        self.apart = (stride * (2 if pool else 1)) ** layers
        """Raw cells of an axis from one that comes out to the next."""

    def cells(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The grid that comes out for the `grid` that goes in. Raises `SpecError` where none comes out."""
        left = list(grid)
        for _ in self.convolutions:
            left = self._pooled([-(-n // self.stride) for n in left])
        if min(left) < 1:
            raise SpecError(f"a convolution stem makes no element of a grid of {tuple(grid)}; give a larger one.")
        return tuple(left)

    def _pooled(self, grid: Sequence[int]) -> list[int]:
        """The grid after the pool, where there is one, for that after the convolution."""
        if not self.pool:
            return list(grid)
        return [-(-n // 2) for n in grid] if self.padding == "same" else [max((n - 1) // 2, 0) for n in grid]

    def _around(self, grid: Sequence[int]) -> list[tuple[int, int]]:
        """Cells of padding before and after each axis of what a convolution reads. Both ways give ⌈n/stride⌉ cells."""
        if self.padding == "same":
            return [same_padding(n, self.kernel, self.stride) for n in grid]
        return [((self.kernel - 1) // 2, self.kernel // 2)] * len(grid)

    def flops(self, grid: Sequence[int]) -> int:
        """Multiplications and additions of the convolutions for one sample of that `grid`."""
        return sum(2 * math.prod(written) * layer.weight.numel() for layer, _, written in self._layers(grid))

    def kept(self, grid: Sequence[int]) -> list[int]:
        """Numbers that each layer keeps for one sample.

        Padded in, convolved, normalised and cut at zero; pooled, with int64 places.
        """
        found = []
        for layer, read, written in self._layers(grid):
            pooled = math.prod(self._pooled(written)) * 3 if self.pool else 0
            out = (2 * math.prod(written) + pooled) * layer.out_channels
            found.append(math.prod(read) * layer.in_channels + out)
        return found

    def _layers(self, grid: Sequence[int]) -> Iterator[tuple[nn.Conv1d | nn.Conv2d, list[int], list[int]]]:
        """Each convolution, the grid that it reads and the grid that it writes."""
        read = list(grid)
        for layer in self.convolutions:
            assert isinstance(layer, (nn.Conv1d, nn.Conv2d)), "made so"
            written = [-(-n // self.stride) for n in read]
            yield layer, read, written
            read = self._pooled(written)

    def forward(
        self, x: Float[Tensor, "B *grid C"], mask: Bool[Tensor, "B *grid"] | None = None
    ) -> Float[Tensor, "B *cells P"]:
        """(B, n1, …, C) → (B, m1, …, channels)."""
        x = _zeroed(x.movedim(-1, 1), mask)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            mask = None if mask is None else any_in_patch(mask, self.stride)
            x = _zeroed(torch.relu(norm(convolution(_pad(x, self._around(x.shape[2:]), 0.0)), mask)), mask)
            if self.pool:
                after = self._pooled(x.shape[2:])
                mask = None if mask is None else _cut(any_in_patch(mask, 2), after)
                x = _zeroed(_POOLS[self.axes](self._pad_pool(x), 3, 2), mask)
        return x.movedim(1, -1)

    def _pad_pool(self, x: Tensor) -> Tensor:
        return _pad(x, [same_padding(n, 3, 2) for n in x.shape[2:]], -math.inf) if self.padding == "same" else x


def _zeroed(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, C, n1, …) with masked cells zero."""
    return x if mask is None else torch.where(mask[:, None], x, x.new_zeros(()))
