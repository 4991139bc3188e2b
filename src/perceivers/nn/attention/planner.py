"""Which path reads elements: decided from shapes alone, so that the same model on the same data takes the same path."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Path = Literal["plain", "absorbed"]

# Below so many elements keys and values are small, and one fused kernel beats several calls a chunk [benchmarks].
FEWEST_ELEMENTS = 4096


def projected_products(queries: int, elements: int, channels: int, qk: int, v: int) -> int:
    """Multiply-adds with keys and values: their projections, the scores and the weighted sum."""
    return elements * (qk + v) * (channels + queries)


def absorbed_products(queries: int, elements: int, channels: int, qk: int, v: int, heads: int) -> int:
    """Multiply-adds with elements as keys and values: every head's queries are as wide as the elements."""
    return 2 * heads * queries * elements * channels + queries * (qk + v) * channels


def absorbs(queries: int, elements: int, channels: int, qk: int, v: int, heads: int) -> bool:
    """Whether so many elements are read without keys and values."""
    if elements < FEWEST_ELEMENTS:
        return False
    absorbed = absorbed_products(queries, elements, channels, qk, v, heads)
    return absorbed < projected_products(queries, elements, channels, qk, v)


def choose_path(
    query: Float[Tensor, "B O F"],
    elements: Float[Tensor, "B M C"],
    v_channels: int,
    heads: int,
    mask: Bool[Tensor, "B #O M"] | None,
) -> Path:
    """`absorbed` where it has fewer products than `plain` and many elements; float32 and float64 outside autocast only.

    A mask that differs from query to query, shapes without data and tracing take the plain path.
    """
    (_, queries, qk), (_, count, channels) = query.shape, elements.shape
    if mask is not None and mask.shape[1] != 1:
        return "plain"
    if elements.is_meta or elements.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return "plain"
    if torch.is_autocast_enabled(elements.device.type):
        return "plain"
    return "absorbed" if absorbs(queries, count, channels, qk, v_channels, heads) else "plain"
