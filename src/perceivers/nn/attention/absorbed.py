"""The absorbed path: elements themselves serve as keys and values of all heads, chunk by chunk.

With x̂ = (x − mean)/√(var + ε) a score is s = x̂·a, and what is read is r = Σ softmax(s) x̂ (see `read`). Of what grows
with M only one chunk of x̂ and of scores is alive; the backward pass computes them again. Algebra, no approximation.
Partial sums of a chunk are formed from zero and added in float64: a float32 sum that long is wrong by 3e-4 at 10⁸
elements.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from perceivers.nn.attention.state import LOG2_E, SAFE_SCORE, Gradients, State
from perceivers.nn.lifted import AxisTables, Lifted

# Scores alive at once: they stay in the cache of a core or two.
CHUNK_SCORES = 2**18
SMALLEST_CHUNK, LARGEST_CHUNK = 256, 8192


def absorbed_state(a: Float[Tensor, "B Q C"], lifted: Lifted, eps: float) -> State:
    """What rows `a` read of the elements; see `State`."""
    running, scaled = _Running(a), a * LOG2_E
    for start, stop in _chunks(a, lifted.content):
        x, _ = _normalised(lifted.rows(start, stop), eps)
        weights = running.exp2_(_scores(scaled, x, lifted.mask, start, stop))
        running.total += weights.sum(-1)
        running.read += weights @ x
    return running.result()


def absorbed_gradients(
    a: Float[Tensor, "B Q C"],
    lifted: Lifted,
    eps: float,
    state: State,
    dread: Float[Tensor, "B Q C"],
    offset: Float[Tensor, "B Q"],
    to_elements: bool,
) -> Gradients:
    """Gradients for `a` and, if asked, for content and position; `state` is that of all that the softmax runs over."""
    position = lifted.position
    assert not (to_elements and isinstance(position, AxisTables)), "tables are joined where they need gradients"
    # Where nothing was read the weights are exp(s − ∞) = 0.
    lse = torch.where(state.lse.isinf(), float("inf"), state.lse * LOG2_E)[..., None]
    scaled = a * LOG2_E
    da = torch.zeros_like(a, dtype=torch.float64)
    dcontent = torch.empty_like(lifted.content) if to_elements else None
    dposition = torch.zeros_like(position) if to_elements and isinstance(position, Tensor) else None
    for start, stop in _chunks(a, lifted.content):
        x, rstd = _normalised(lifted.rows(start, stop), eps)
        weights = _scores(scaled, x, lifted.mask, start, stop).sub_(lse).exp2_()
        # ds = p∘(dp − Σ p dp), and Σ p dp = ⟨dread, read⟩ − dlse, the offset.
        dscores = (dread @ x.mT).sub_(offset[..., None]).mul_(weights)
        da += dscores @ x
        if dcontent is not None:
            dx = dscores.mT @ a + weights.mT @ dread
            dx -= dx.mean(-1, keepdim=True) + x * (dx * x).mean(-1, keepdim=True)
            dx *= rstd
            dcontent[:, start:stop] = dx[..., : dcontent.shape[-1]]
            if dposition is not None:
                own = dx if lifted.add else dx[..., dcontent.shape[-1] :]
                dposition[..., start:stop, :] = own if dposition.ndim == 3 else own.sum(0)
    return Gradients(da.to(a.dtype), dcontent, () if dposition is None else (dposition,))


class _Running:
    """The running (max, Σ 2^s, Σ 2^s·x̂) of an online softmax over scores in powers of two, sums in float64.

    |s| ≤ ‖a‖·√C whatever the data, since x̂ is no longer than √C: where that is small the maximum stays 0 and is never
    looked for.
    """

    def __init__(self, a: Float[Tensor, "B Q C"]) -> None:
        self.bounded = bool((a.norm(dim=-1) * a.shape[-1] ** 0.5 <= SAFE_SCORE).all())
        self.max = a.new_full(a.shape[:2], 0.0 if self.bounded else float("-inf"))
        self.total = torch.zeros_like(self.max, dtype=torch.float64)
        self.read = torch.zeros_like(a, dtype=torch.float64)

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
        dtype, empty = self.max.dtype, self.total == 0
        total = torch.where(empty, 1.0, self.total)
        lse = torch.where(empty, float("-inf"), self.max.double() / LOG2_E + total.log())
        return State(lse.to(dtype), (self.read / total[..., None]).to(dtype))


def _chunks(a: Tensor, content: Tensor) -> Iterator[tuple[int, int]]:
    size = CHUNK_SCORES // max(a.shape[0] * a.shape[1], 1)
    size = min(max(size, SMALLEST_CHUNK), LARGEST_CHUNK)
    for start in range(0, content.shape[1], size):
        yield start, min(start + size, content.shape[1])


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x̂ of a chunk and 1/√(var + ε)."""
    normalised, _, rstd = torch.native_layer_norm(x, [x.shape[-1]], None, None, eps)
    return normalised, rstd


def _scores(a: Tensor, x: Tensor, mask: Tensor | None, start: int, stop: int) -> Tensor:
    scores = a @ x.mT
    return scores if mask is None else scores.masked_fill_(~mask[:, None, start:stop], float("-inf"))
