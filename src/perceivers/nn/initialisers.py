"""The papers' initialisers (models.md §1 of the plan; dm-haiku source).

Truncated normals are cut at ±2σ. Every linear of the attention and MLP blocks uses variance scaling; plain linears and
convolutions (heads, projections, stems) use σ = 1/√fan_in *without* the truncation correction, as haiku's `Linear`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from perceivers.nn.linear import BlockLinear

# The standard deviation of a unit normal cut at ±2: variance scaling divides by it so that the true std is √(1/fan_in).
TRUNCATED_STD = 0.87962566103423978


_drawing = ContextVar("_drawing", default=True)


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Within it arrays hold whatever memory held: for modules whose weights are replaced at once, or never used."""
    token = _drawing.set(False)
    try:
        yield
    finally:
        _drawing.reset(token)


@torch.no_grad()
def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with a normal of scale `std` cut at ±2·std, in place. Latents and position arrays use std 0.02 [P1, P2]."""
    if tensor.is_meta or not _drawing.get():
        return tensor
    return nn.init.trunc_normal_(tensor, mean=0.0, std=std, a=-2 * std, b=2 * std)


def block_linear(inputs: int, outputs: int, bias: bool = True) -> BlockLinear:
    """A linear of an attention or MLP block: variance scaling (fan-in, truncated normal), zero bias or none."""
    layer = BlockLinear(inputs, outputs, bias=bias)
    truncated_normal_(layer.weight, 1 / math.sqrt(inputs) / TRUNCATED_STD)
    if bias and not layer.bias.is_meta:
        nn.init.zeros_(layer.bias)
    return layer


def plain_linear(inputs: int, outputs: int, zero: bool = False) -> nn.Linear:
    """A head or projection linear: truncated normal with σ = 1/√fan_in, or zeros; zero bias."""
    layer = nn.Linear(inputs, outputs)
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        truncated_normal_(layer.weight, 1 / math.sqrt(inputs))
    nn.init.zeros_(layer.bias)
    return layer


def learned_array(*shape: int, std: float = 0.02) -> nn.Parameter:
    """A trainable array (latents, queries, positions): truncated normal of scale `std`."""
    return nn.Parameter(truncated_normal_(torch.empty(*shape), std))


def scaled_array(rows: int, channels: int) -> nn.Parameter:
    """A trainable array by variance scaling, its rows being the fan-in: std 1/√rows [official HiP code]."""
    return learned_array(rows, channels, std=1 / math.sqrt(rows) / TRUNCATED_STD)
