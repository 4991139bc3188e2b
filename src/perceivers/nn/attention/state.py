"""The state of reading: what a query row needs to know of a run of elements, and how two runs become one."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from perceivers.nn.lifted import Lifted

# Scores up to this need no running maximum: exp stays well within float32, and so does a sum of 10⁹ of them.
SAFE_SCORE = 40.0
# Scores are counted in powers of two: torch's exp2 takes a third of the time of its exp [measured].
LOG2_E = 1 / math.log(2)
# Scores alive at once: they stay in the cache of a core or two.
CHUNK_SCORES = 2**18
SMALLEST_CHUNK, LARGEST_CHUNK = 256, 8192
# Of the factorised path, 4 MB in float32: smaller tiles spend more on calls than they save on the cache [measured].
TILE_SCORES = 2**20


class State(NamedTuple):
    """What rows read of a run of elements, in float64.

    lse: log Σ exp(score), −inf where nothing was read. read: Σ softmax(score)·y, zero where nothing was read; y is the
    normalised element x̂ on the paths without keys and values, and the head's value on the projected path.
    """

    lse: Float[Tensor, "B Q"]
    read: Float[Tensor, "B Q W"]


class Gradients(NamedTuple):
    """Of the rows; where asked for, of content and position; and of the maps (see `projected`), where there are."""

    rows: Tensor
    content: Tensor | None
    position: tuple[Tensor, ...]
    maps: tuple[Tensor, ...] = ()


def merged(states: list[State]) -> State:
    """The state of all runs together, differentiable; log-sum-exp is associative, so any grouping gives the same."""
    assert states, "at least one run"
    if len(states) == 1:
        return states[0]
    lses = torch.stack([state.lse for state in states])
    # −inf − (−inf) is no number; where nothing at all was read every weight is 1/k, of reads that are zero.
    lowest = torch.finfo(lses.dtype).min / 4
    clamped = lses.clamp(min=lowest)
    read = (clamped.softmax(0)[..., None] * torch.stack([state.read for state in states])).sum(0)
    lse = torch.where((lses > lowest).any(0), clamped.logsumexp(0), float("-inf"))
    return State(lse, read)


class Running:
    """The running (max, Σ 2^s, Σ 2^s·y) of an online softmax over scores in powers of two, sums in float64.

    |s| ≤ ‖a‖·√C whatever the data, since x̂ is no longer than √C: where that is small the maximum stays 0 and is never
    looked for. bound: the largest ‖a‖·√C. Partial sums of a chunk are formed from zero and added in float64: a float32
    sum that long is wrong by 3e-4 at 10⁸ elements.
    """

    def __init__(self, rows: Float[Tensor, "B Q _"], width: int, bound: float) -> None:
        self.bounded = bound <= SAFE_SCORE
        self.max = rows.new_full(rows.shape[:2], 0.0 if self.bounded else float("-inf"))
        self.total = torch.zeros_like(self.max, dtype=torch.float64)
        self.read = self.total.new_zeros(*rows.shape[:2], width)

    def exp2_(self, scores: Float[Tensor, "B Q m"]) -> Float[Tensor, "B Q m"]:
        """2^(scores − max), in place; what was summed before is scaled to the new maximum."""
        if self.bounded:
            return scores.exp2_()
        highest = torch.maximum(self.max, scores.amax(-1))
        # While all that was seen is masked the maximum is −inf: any finite number serves, every weight is zero.
        shift = torch.where(highest.isinf(), torch.zeros_like(highest), highest)
        scale = (self.max - shift).exp2().double()
        self.total *= scale
        self.read *= scale[..., None]
        self.max = highest
        return scores.sub_(shift[..., None]).exp2_()

    def result(self) -> State:
        """The state of all chunks."""
        empty = self.total == 0
        total = torch.where(empty, 1.0, self.total)
        lse = torch.where(empty, float("-inf"), self.max.double() / LOG2_E + total.log())
        return State(lse, self.read / total[..., None])


class ElementGradients:
    """Collects the gradients of normalised chunks as gradients of content and position."""

    def __init__(self, lifted: Lifted) -> None:
        self.lifted = lifted
        self.content = torch.empty_like(lifted.content)
        # Tables that need gradients are joined before; others get none.
        tensor = lifted.position if isinstance(lifted.position, Tensor) else None
        self.position = None if tensor is None else torch.zeros_like(tensor)

    def put(self, start: int, stop: int, dx: Tensor, x: Tensor, rstd: Tensor) -> None:
        """`dx`: of the normalised elements `x` of a chunk; worked on in place."""
        dx -= dx.mean(-1, keepdim=True) + x * (dx * x).mean(-1, keepdim=True)
        dx *= rstd
        self.content[:, start:stop] = dx[..., : self.content.shape[-1]]
        if self.position is not None:
            own = dx if self.lifted.add else dx[..., self.content.shape[-1] :]
            self.position[..., start:stop, :] = own if self.position.ndim == 3 else own.sum(0)

    def found(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Of content and of position."""
        return self.content, () if self.position is None else (self.position,)


def moments(table: Float[Tensor, "n P"]) -> tuple[Tensor, Tensor]:
    """Of each row its mean and the sum of squares about it; zeros for a table without channels."""
    mean = table.sum(1) / max(table.shape[1], 1)
    return mean, (table - mean[:, None]).square().sum(1)


def normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x̂ of a chunk and 1/√(var + ε)."""
    found, _, rstd = torch.native_layer_norm(x, [x.shape[-1]], None, None, eps)
    return found, rstd


def chunk_length(rows: int) -> int:
    """Elements of a chunk that `rows` query rows, over batch and heads, read at once."""
    return min(max(CHUNK_SCORES // max(rows, 1), SMALLEST_CHUNK), LARGEST_CHUNK)


def chunks(rows: Tensor, count: int) -> list[tuple[int, int]]:
    """First and last (exclusive) element of each chunk of `count` elements that `rows` (B, Q, _) read."""
    size = chunk_length(rows.shape[0] * rows.shape[1])
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def log2_lse(state: State, like: Tensor) -> Float[Tensor, "B Q 1"]:
    """The state's log Σ in powers of two, +∞ where nothing was read: the weights there are 2^(s − ∞) = 0."""
    return torch.where(state.lse.isinf(), float("inf"), state.lse * LOG2_E)[..., None].to(like.dtype)
