"""The state of reading: what a query row needs to know of a run of elements, and how two runs become one."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Scores up to this need no running maximum: exp stays well within float32, and so does a sum of 10⁹ of them.
SAFE_SCORE = 40.0
# Scores are counted in powers of two: torch's exp2 takes a third of the time of its exp [measured].
LOG2_E = 1 / math.log(2)


class State(NamedTuple):
    """lse: log Σ exp(score), −inf where nothing was read. read: Σ softmax(score)·x̂, zero where nothing was read."""

    lse: Float[Tensor, "B Q"]
    read: Float[Tensor, "B Q C"]


class Gradients(NamedTuple):
    """Of the rows `a` and, where asked for, of content and position."""

    a: Tensor
    content: Tensor | None
    position: tuple[Tensor, ...]


def merged(states: list[State]) -> State:
    """The state of all runs together, differentiable; log-sum-exp is associative, so any grouping gives the same."""
    assert states, "at least one run"
    if len(states) == 1:
        return states[0]
    lses = torch.stack([state.lse for state in states])
    # −inf − (−inf) is no number; where nothing at all was read every weight is 1/k, of reads that are zero.
    shares = lses.clamp(min=torch.finfo(lses.dtype).min / 4).softmax(0)
    read = (shares[..., None] * torch.stack([state.read for state in states])).sum(0)
    return State(lses.logsumexp(0), read)
