"""Which path reads elements: decided from shapes and a budget alone, so that the same model on the same data takes the
same path, on a machine that is busy too.

The cost of a path is counted in multiply-adds of a large product; what is not a product (exp, norms, calls) is counted
as so many of them, by measurement on two cores [benchmarks/planner.py].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.streamed import Streamed

Path = Literal["plain", "absorbed", "factorised", "projected"]

# Below so many elements keys and values are small, and one fused kernel beats several calls a chunk [benchmarks].
FEWEST_ELEMENTS = 4096
# The last axis of a grid must be so long, or tiles are many and narrow.
FEWEST_COLUMNS = 32
# What a score costs in the factorised path besides its two narrow products, in multiply-adds of a large product:
# exp, two passes for the columns, a tile's grid rows [measured on two cores; benchmarks/attention.py].
TILE_PRODUCTS = 90


@dataclass(frozen=True)
class PartShape:
    """What the choice of a path needs to know of one input.

    content: c, without position where that is tables. columns: n_A of a grid of two axes or more whose position is
    tables, else None. streamed: the elements are never in memory at once.
    """

    elements: int
    content: int
    columns: int | None = None
    streamed: bool = False


def shape_of(part: Lifted | Streamed) -> PartShape:
    """The shape of a part."""
    if isinstance(part, Streamed):
        return PartShape(part.elements, part.content, part.columns, streamed=True)
    grid = part.position.grid if isinstance(part.position, AxisTables) and not part.add else ()
    columns = grid[-1] if len(grid) > 1 else None
    return PartShape(part.content.shape[1], part.content.shape[-1], columns)


def projected_products(queries: int, elements: int, channels: int, qk: int, v: int) -> int:
    """Multiply-adds with keys and values: their projections, the scores and the weighted sum."""
    return elements * (qk + v) * (channels + queries)


def part_products(part: PartShape, path: Path, rows: int, channels: int) -> int:
    """Multiply-adds of `rows` queries over heads, each as wide as the elements, that read one part without keys."""
    width = 2 * part.content + TILE_PRODUCTS if path == "factorised" else 2 * channels
    return rows * part.elements * width


def part_path(part: PartShape, channels: int) -> Path:
    """The cheaper path of one part: tables pay where they stand for many channels of a large grid."""
    if part.columns is None or part.columns < FEWEST_COLUMNS or part.elements < FEWEST_ELEMENTS:
        return "absorbed"
    cheaper = part_products(part, "factorised", 1, channels) < part_products(part, "absorbed", 1, channels)
    return "factorised" if cheaper else "absorbed"


def choose_paths(
    parts: Sequence[PartShape], queries: int, channels: int, qk: int, v: int, heads: int, training: bool = False
) -> tuple[Path, ...] | None:
    """A path for each part, or None: all joined, with keys and values, by the plain path."""
    elements = sum(part.elements for part in parts)
    streamed = any(part.streamed for part in parts)
    if elements < FEWEST_ELEMENTS and not streamed:
        return None
    paths: tuple[Path, ...] = tuple(part_path(part, channels) for part in parts)
    apart = sum(part_products(part, path, heads * queries, channels) for part, path in zip(parts, paths, strict=True))
    apart += queries * (qk + v) * channels
    if streamed:
        return paths
    return paths if apart < projected_products(queries, elements, channels, qk, v) else None


def reads_apart(query: Tensor) -> bool:
    """Whether the paths without keys serve: float32 and float64 with data, outside autocast and tracing."""
    if query.is_meta or query.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return False
    return not torch.is_autocast_enabled(query.device.type)
