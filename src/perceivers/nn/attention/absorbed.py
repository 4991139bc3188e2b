"""The absorbed path: elements themselves serve as keys and values of all heads, chunk by chunk.

With x̂ = (x − mean)/√(var + ε) and a = γ∘(W_Kᵀ q)/√d per head, a score is s = x̂·a: the norm's β and the key's bias shift
every score of a query alike, and the softmax does not see it. With r = Σ softmax(s) x̂ the value is W_V (γ∘r + β) + b_V.
So there are no keys and no values, and of what grows with M only one chunk of x̂ and of scores is alive; the backward
pass computes them again. All of it is algebra, no approximation. Partial sums of a chunk are formed from zero and added
in float64: a float32 sum that long is wrong by 3e-4 at 10⁸ elements.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

# Scores up to this need no running maximum: exp stays well within float32, and so does a sum of 10⁹ of them.
SAFE_SCORE = 40.0
# Scores alive at once: they stay in the cache of a core or two.
CHUNK_SCORES = 2**18
SMALLEST_CHUNK, LARGEST_CHUNK = 256, 8192


def attend_absorbed(
    query: Float[Tensor, "B O F"],
    elements: Float[Tensor, "B M C"],
    norm: nn.LayerNorm,
    key: nn.Linear,
    value: nn.Linear,
    heads: int,
    mask: Bool[Tensor, "B M"] | None = None,
) -> Float[Tensor, "B O V"]:
    """The same result as `attend` over `key(norm(elements))` and `value(norm(elements))`, which are never made.

    A sample with nothing to read gives zeros. Its gradients reach all arguments; the key's bias has none (exactly 0).
    """
    count, width = query.shape[1:]
    split = query.unflatten(-1, (heads, -1)) * (width // heads) ** -0.5
    a = torch.einsum("bohd,hdc->bhoc", split, key.weight.unflatten(0, (heads, -1))) * norm.weight
    read = _Read.apply(a.flatten(1, 2), elements, mask, norm.eps).unflatten(1, (heads, count))
    affine = read * norm.weight + norm.bias
    values = torch.einsum("bhoc,hvc->bohv", affine, value.weight.unflatten(0, (heads, -1)))
    values = values.flatten(2) + value.bias
    if mask is None:
        return values
    return torch.where(mask.any(-1)[:, None, None], values, values.new_zeros(()))


class _Read(torch.autograd.Function):
    """r (B, Q, C) = Σ softmax(a·x̂) x̂ over the elements that the mask leaves; zero where it leaves none."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, elements: Tensor, mask: Tensor | None, eps: float) -> Tensor:
        running = _Running(a)
        for start, stop in _chunks(a, elements):
            x, _ = _normalised(elements[:, start:stop], eps)
            weights = running.exp_(_scores(a, x, mask, start, stop))
            running.total += weights.sum(-1)
            running.read += weights @ x
        lse, read = running.result()
        ctx.save_for_backward(a, elements, mask, lse, read)
        ctx.eps = eps
        return read

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dread: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, elements, mask, lse, read = ctx.saved_tensors
        # ds = p∘(dp − Σ p dp), and Σ p dp = ⟨dread, read⟩.
        offset = (dread.double() * read.double()).sum(-1, keepdim=True).to(a.dtype)
        da = torch.zeros_like(a, dtype=torch.float64)
        delements = torch.empty_like(elements) if ctx.needs_input_grad[1] else None
        for start, stop in _chunks(a, elements):
            x, rstd = _normalised(elements[:, start:stop], ctx.eps)
            weights = _scores(a, x, mask, start, stop).sub_(lse[..., None]).exp_()
            dscores = (dread @ x.mT).sub_(offset).mul_(weights)
            da += dscores @ x
            if delements is not None:
                dx = dscores.mT @ a + weights.mT @ dread
                dx -= dx.mean(-1, keepdim=True) + x * (dx * x).mean(-1, keepdim=True)
                delements[:, start:stop] = dx * rstd
        return da.to(a.dtype), delements, None, None


class _Running:
    """The running (max, Σ exp, Σ exp·x̂) of an online softmax, sums in float64.

    |s| ≤ ‖a‖·√C whatever the data, since x̂ is no longer than √C: where that is small the maximum stays 0 and is never
    looked for.
    """

    def __init__(self, a: Float[Tensor, "B Q C"]) -> None:
        self.bounded = bool((a.norm(dim=-1) * a.shape[-1] ** 0.5 <= SAFE_SCORE).all())
        self.max = a.new_full(a.shape[:2], 0.0 if self.bounded else float("-inf"))
        self.total = torch.zeros_like(self.max, dtype=torch.float64)
        self.read = torch.zeros_like(a, dtype=torch.float64)

    def exp_(self, scores: Float[Tensor, "B Q m"]) -> Float[Tensor, "B Q m"]:
        """exp(scores − max), in place; what was summed before is scaled to the new maximum."""
        if self.bounded:
            return scores.exp_()
        highest = torch.maximum(self.max, scores.amax(-1))
        # While all that was seen is masked the maximum is −inf: any finite number serves, every weight is zero.
        shift = torch.where(highest.isinf(), torch.zeros_like(highest), highest)
        scale = (self.max - shift).exp().double()
        self.total *= scale
        self.read *= scale[..., None]
        self.max = highest
        return scores.sub_(shift[..., None]).exp_()

    def result(self) -> tuple[Float[Tensor, "B Q"], Float[Tensor, "B Q C"]]:
        """log Σ exp, +inf where nothing was read so that the backward pass weighs all elements 0; and the read."""
        dtype, empty = self.max.dtype, self.total == 0
        total = torch.where(empty, 1.0, self.total)
        lse = torch.where(empty, float("inf"), self.max.double() + total.log())
        return lse.to(dtype), (self.read / total[..., None]).to(dtype)


def _chunks(a: Tensor, elements: Tensor) -> Iterator[tuple[int, int]]:
    size = CHUNK_SCORES // max(a.shape[0] * a.shape[1], 1)
    size = min(max(size, SMALLEST_CHUNK), LARGEST_CHUNK)
    for start in range(0, elements.shape[1], size):
        yield start, min(start + size, elements.shape[1])


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x̂ of a chunk and 1/√(var + ε)."""
    normalised, _, rstd = torch.native_layer_norm(x, [x.shape[-1]], None, None, eps)
    return normalised, rstd


def _scores(a: Tensor, x: Tensor, mask: Tensor | None, start: int, stop: int) -> Tensor:
    scores = a @ x.mT
    return scores if mask is None else scores.masked_fill_(~mask[:, None, start:stop], float("-inf"))
