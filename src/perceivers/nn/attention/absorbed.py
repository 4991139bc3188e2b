"""The absorbed path: elements themselves serve as keys and values of all heads, chunk by chunk.

With x̂ = (x − mean)/√(var + ε) a score is s = x̂·a, and what is read is r = Σ softmax(s) x̂ (see `read`). Of what grows
with M only one chunk of x̂ and of scores is alive; the backward pass computes them again. Algebra, no approximation.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from perceivers.nn.attention import state as states
from perceivers.nn.attention.state import LOG2_E, ElementGradients, Gradients, Running, State
from perceivers.nn.lifted import Lifted


def absorbed_state(a: Float[Tensor, "B Q C"], lifted: Lifted, eps: float, maps: tuple[Tensor, ...] = ()) -> State:
    """What rows `a` read of the elements; see `State`."""
    running, scaled = Running(a, a.shape[-1], score_bound(a)), a * LOG2_E
    for start, stop in states.chunks(a, lifted.content.shape[1]):
        x, _ = states.normalised(lifted.rows(start, stop), eps)
        weights = running.exp2_(_scores(scaled, x, lifted.mask, start, stop))
        running.total += weights.sum(-1)
        running.read += weights @ x
    return running.result()


def absorbed_gradients(
    a: Float[Tensor, "B Q C"],
    lifted: Lifted,
    eps: float,
    maps: tuple[Tensor, ...],
    state: State,
    dread: Float[Tensor, "B Q C"],
    offset: Float[Tensor, "B Q"],
    to_elements: bool,
) -> Gradients:
    """Gradients for `a` and, if asked, for content and position; `state` is that of all that the softmax runs over."""
    lse, scaled = states.log2_lse(state, a), a * LOG2_E
    da = torch.zeros_like(a, dtype=torch.float64)
    elements = ElementGradients(lifted) if to_elements else None
    for start, stop in states.chunks(a, lifted.content.shape[1]):
        x, rstd = states.normalised(lifted.rows(start, stop), eps)
        weights = _scores(scaled, x, lifted.mask, start, stop).sub_(lse).exp2_()
        # ds = p∘(dp − Σ p dp), and Σ p dp = ⟨dread, read⟩ − dlse, the offset.
        dscores = (dread @ x.mT).sub_(offset[..., None]).mul_(weights)
        da += dscores @ x
        if elements is not None:
            elements.put(start, stop, dscores.mT @ a + weights.mT @ dread, x, rstd)
    content, position = elements.found() if elements else (None, ())
    return Gradients(da.to(a.dtype), content, position)


def score_bound(a: Float[Tensor, "B Q C"]) -> float:
    """The largest ‖a‖·√C: no score is larger."""
    return float(a.norm(dim=-1).max()) * a.shape[-1] ** 0.5 if a.numel() else 0.0


def _scores(a: Tensor, x: Tensor, mask: Tensor | None, start: int, stop: int) -> Tensor:
    scores = a @ x.mT
    return scores if mask is None else scores.masked_fill_(~mask[:, None, start:stop], float("-inf"))
