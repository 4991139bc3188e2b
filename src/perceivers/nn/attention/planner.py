"""Which path reads elements: decided from shapes and the kind of device alone, so that the same model on the same data
takes the same path.

A path's time is estimated from what it does (products, scores, elements, chunks, calls) and what each cost on two
cores; only the ratios matter, and they are much the same on other processors [benchmarks/planner.py measures the
choice]. An accelerator is quickest with few large kernels: there keys and values of all elements are made while they
have room [benchmarks/accelerator.py].
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from perceivers.nn.attention.state import TILE_SCORES, chunk_length
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.streamed import Streamed

Path = Literal["plain", "absorbed", "factorised", "projected"]

# Below so many elements keys and values are small, and one fused kernel is as good as several calls [benchmarks].
FEWEST_ELEMENTS = 512
WITHOUT_FLOAT64 = ("mps",)
# Elements, keys, values and scores have room on an accelerator while a cross-attend takes no more of its whole memory:
# in use, and in training, where those of every cross-attend are kept until the backward pass.
ROOM = {False: 1 / 8, True: 1 / 16}

# Nanoseconds on two cores (AVX-512, float32) of: a multiply-add of projections (factorised: of the tables), one of the
# attention, a score, an element's number that is read and written, a chunk (factorised: a tile), the call.
# Forward, and forward with the backward pass of the weights. Fitted to `benchmarks/planner.py`: its choices first, then
# its times.
Costs = tuple[float, float, float, float, float, float]
COSTS: dict[tuple[Path, bool], Costs] = {
    ("plain", False): (0.0125, 0.0128, 1.12, 2.48, 0.0, 0.0),
    ("projected", False): (0.00946, 0.0261, 1.2, 2.41, 0.0, 809000),
    ("absorbed", False): (0.0, 0.0136, 0.994, 4.8, 0.0, 2.15e06),
    ("factorised", False): (0.377, 0.0452, 1.33, 4.71, 284000, 1.8e06),
    ("plain", True): (0.033, 0.0669, 2.68, 8.14, 0.0, 0.0),
    ("projected", True): (0.0506, 0.0459, 6.82, 6.29, 0.0, 1.76e06),
    ("absorbed", True): (0.0, 0.0567, 1.69, 11.5, 0.0, 2.44e06),
    ("factorised", True): (1.07, 0.0826, 2.77, 11.9, 2.08e06, 2.68e06),
}


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


@dataclass(frozen=True)
class Asking:
    """Who reads: N queries of H heads, query/key width F and value width V over all heads, elements of C channels."""

    queries: int
    channels: int
    qk: int
    v: int
    heads: int
    training: bool = False


def shape_of(part: Lifted | Streamed) -> PartShape:
    """The shape of a part."""
    if isinstance(part, Streamed):
        return PartShape(part.elements, part.content, part.columns, streamed=True)
    grid = part.position.grid if isinstance(part.position, AxisTables) and not part.add else ()
    columns = grid[-1] if len(grid) > 1 else None
    return PartShape(part.content.shape[1], part.content.shape[-1], columns)


def work(part: PartShape, path: Path, asking: Asking) -> Costs:
    """How much a path does, in the order of `COSTS`."""
    m, c, wide, rows = part.elements, asking.channels, asking.qk + asking.v, asking.queries * asking.heads
    scores = m * rows
    if path == "plain":
        return m * c * wide, m * asking.queries * wide, scores, m * (c + wide), 0, 1
    if path == "factorised":
        columns = part.columns or 1
        tables = 2 * rows * (columns + m / columns) * (c - part.content) / 2
        # The norm's sums are taken in float64, over the content and two numbers an axis.
        return tables, 2 * scores * part.content, scores, m * (part.content + 6), max(scores / TILE_SCORES, 1), 1
    chunks = max(m / chunk_length(rows), 1)
    if path == "projected":
        return m * c * wide, m * asking.queries * wide, scores, m * (c + wide), chunks, 1
    return 0, 2 * scores * c, scores, m * c, chunks, 1


def nanoseconds(part: PartShape, path: Path, asking: Asking) -> float:
    """The estimated time of one sample by one path, on two cores as fast as those of `COSTS`."""
    return sum(a * b for a, b in zip(COSTS[path, asking.training], work(part, path, asking), strict=True))


def part_paths(part: PartShape) -> tuple[Path, ...]:
    """The paths that can read a part and make no array of all keys and values."""
    return ("factorised", "absorbed", "projected") if part.columns is not None else ("absorbed", "projected")


def part_path(part: PartShape, asking: Asking) -> Path:
    """The cheapest of `part_paths`."""
    cheapest: Path = min(part_paths(part), key=lambda path: nanoseconds(part, path, asking))
    return cheapest


def choose_paths(
    parts: Sequence[PartShape], asking: Asking, flat: bool = False, roomy: bool = False
) -> tuple[Path, ...] | None:
    """A path for each part, or None: all joined, with keys and values, by the plain path.

    flat: never the plain path, so that memory does not grow with keys and values of all elements. roomy: the device is
    an accelerator that has room for them, see `has_room`.
    """
    elements = sum(part.elements for part in parts)
    must = flat or any(part.streamed for part in parts)
    if (elements < FEWEST_ELEMENTS or roomy) and not must:
        return None
    paths: tuple[Path, ...] = tuple(part_path(part, asking) for part in parts)
    if must:
        return paths
    apart = sum(nanoseconds(part, path, asking) for part, path in zip(parts, paths, strict=True))
    return paths if apart < nanoseconds(PartShape(elements, asking.channels), "plain", asking) else None


def has_room(like: Tensor, elements: int, asking: Asking) -> bool:
    """Whether the device of `like` (B, …) is an accelerator on which reading so many elements plainly takes little.

    Counted are the elements, joined and normed, their keys and values, and scores twice, as torch's plain kernel makes
    them.
    """
    if like.device.type == "cpu":
        return False
    each = 2 * asking.channels + asking.qk + asking.v + 2 * asking.heads * asking.queries
    numbers = like.shape[0] * elements * each
    return numbers * like.element_size() <= ROOM[asking.training] * device_memory(like.device)


@functools.cache
def device_memory(device: torch.device) -> int:
    """Bytes of the accelerator `device`, used or not; 0 for kinds that do not say."""
    kind = getattr(torch, device.type, None)
    if kind is None or not hasattr(kind, "get_device_properties"):
        return 0
    return int(kind.get_device_properties(device).total_memory)


def reads_apart(query: Tensor) -> bool:
    """Whether the paths without keys serve: float32 and float64 with data, outside autocast and torch.compile."""
    if query.is_meta or query.dtype not in (torch.float32, torch.float64):
        return False
    # Sums are in float64, which not every kind of device has.
    if query.device.type in WITHOUT_FLOAT64 or torch.compiler.is_compiling():
        return False
    return not torch.is_autocast_enabled(query.device.type)
