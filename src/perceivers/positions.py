"""Position codes as functions of coordinates: no parameters, no state.

Conventions [deepmind-research perceiver/position_encoding.py]: coordinates lie in [−1, 1]; the axes of a grid come in
array order, (y, x) for images and (t, y, x) for video; flattened row-major.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def axis_positions(cells: int, start: int = 0, stop: int | None = None, end: bool = True) -> Float[Tensor, " m"]:
    """Positions of the cells `start` to `stop` of an axis of `cells`: `linspace(−1, 1, cells)`; float64.

    Any cut of an axis gives the same numbers, so a grid can be read in parts. end: as in `cell_positions`.
    """
    return cell_positions(torch.arange(start, cells if stop is None else stop), cells, end)


def cell_positions(index: Shaped[Tensor, "*m"], cells: int, end: bool = True) -> Float[Tensor, "*m"]:
    """Positions of the cells of those numbers on an axis of `cells`; float64.

    end: the last cell is at 1; without it cell i is at −1 + 2·i/n, as the official code places queries that are some
    of a grid [models.md §2].
    """
    steps = max(cells - 1, 1) if end else cells
    return (2 * index.double() - steps) / steps


def linear_positions(grid: Sequence[int], dtype: torch.dtype = torch.float32) -> Float[Tensor, "M A"]:
    """Cell positions of a grid: per axis `linspace(−1, 1, n)`, both ends included; (M, A), row-major."""
    axes = [axis_positions(n).to(dtype) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def fourier_channels(axes: int, bands: int, concat_position: bool = True, sine_only: bool = False) -> int:
    """Channels of `fourier_features`: A·K·(2, or 1 with sine only) + A when the raw position is kept."""
    return axes * bands * (1 if sine_only else 2) + (axes if concat_position else 0)


def fourier_features(
    positions: Float[Tensor, "*M A"],
    bands: int,
    resolution: Sequence[float],
    concat_position: bool = True,
    sine_only: bool = False,
) -> Float[Tensor, "*M P"]:
    """Fourier features of positions in [−1, 1] [P1 §3.2; order as in the official code].

    With μ_a = `resolution[a]`, frequencies are f_{a,k} = linspace(1, μ_a/2, K) (both ends). The channels are
    [position (A)] ++ [sin(π f p): axis outer, band inner] ++ [cos(π f p), same order; absent when `sine_only`].
    Computed in float64 when `positions` is, so that a model in float64 loses nothing to π·f of several hundred.
    """
    assert positions.shape[-1] == len(resolution), "one resolution an axis"
    scales = [torch.linspace(1.0, mu / 2, bands, dtype=positions.dtype, device=positions.device) for mu in resolution]
    angles = math.pi * torch.cat([positions[..., a : a + 1] * f for a, f in enumerate(scales)], dim=-1)
    parts = [positions] if concat_position else []
    parts.append(torch.sin(angles))
    if not sine_only:
        parts.append(torch.cos(angles))
    return torch.cat(parts, dim=-1)


def sinusoidal_features(index: Float[Tensor, "*M"], channels: int, longest: float = 10_000.0) -> Float[Tensor, "*M P"]:
    """Transformer sinusoids of a position counted in steps [Vaswani et al. 2017 §3.5, halves form of Perceiver AR].

    The first half of the channels is sin(p·w_i), the second cos(p·w_i), with w_i = exp(−i·ln(longest)/(P/2 − 1)).
    """
    assert channels % 2 == 0, "sinusoids come in pairs"
    half = channels // 2
    steps = torch.arange(half, dtype=index.dtype, device=index.device)
    rates = torch.exp(-steps * math.log(longest) / max(half - 1, 1))
    angles = index[..., None] * rates
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
