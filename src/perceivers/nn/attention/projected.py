"""The projected path: keys and values of one chunk of elements at a time, for many heads.

Where the heads are many, giving each the whole element as key and value costs more than projecting it. `maps` are the
key's and value's weights with the norm's scale in them, (F, C) and (V, C): k = x̂·W_Kᵀ and v = x̂·W_Vᵀ are made for one
chunk, and made again in the backward pass. The constant parts of key and value are left out: in the scores the softmax
does not see them, and `read` adds the value's. Rows are queries (B, H·N, F/H), the head outermost.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from perceivers.nn.attention import state as states
from perceivers.nn.attention.absorbed import score_bound
from perceivers.nn.attention.state import LOG2_E, ElementGradients, Gradients, Running, State
from perceivers.nn.lifted import Lifted


def projected_state(q: Float[Tensor, "B Q d"], lifted: Lifted, eps: float, maps: tuple[Tensor, ...]) -> State:
    """What queries read of the elements; see `State`."""
    key, value = maps
    heads = key.shape[0] // q.shape[-1]
    # The same queries on the elements' side of the key's weights say how large a score can be.
    wide = torch.einsum("bhnd,hdc->bhnc", _by_head(q, heads), key.unflatten(0, (heads, -1)))
    running, scaled = Running(q, value.shape[0] // heads, score_bound(wide.flatten(1, 2))), _by_head(q * LOG2_E, heads)
    for start, stop in states.chunks(q, lifted.content.shape[1]):
        x, _ = states.normalised(lifted.rows(start, stop), eps)
        k, v = _split(x @ key.mT, heads), _split(x @ value.mT, heads)
        weights = running.exp2_(_scores(scaled, k, lifted.mask, start, stop).flatten(1, 2))
        running.total += weights.sum(-1)
        running.read += (_by_head(weights, heads) @ v).flatten(1, 2)
    return running.result()


def projected_gradients(
    q: Float[Tensor, "B Q d"],
    lifted: Lifted,
    eps: float,
    maps: tuple[Tensor, ...],
    state: State,
    dread: Float[Tensor, "B Q w"],
    offset: Float[Tensor, "B Q"],
    to_elements: bool,
) -> Gradients:
    """Gradients for `q` and both maps and, if asked, for content and position."""
    key, value = maps
    heads = key.shape[0] // q.shape[-1]
    queries, dread = _by_head(q, heads), _by_head(dread, heads)
    lse, offset = _by_head(states.log2_lse(state, q), heads), _by_head(offset[..., None], heads)
    dq, dkey, dvalue = (torch.zeros_like(t, dtype=torch.float64) for t in (queries, key, value))
    elements = ElementGradients(lifted) if to_elements else None
    for start, stop in states.chunks(q, lifted.content.shape[1]):
        x, rstd = states.normalised(lifted.rows(start, stop), eps)
        k, v = _split(x @ key.mT, heads), _split(x @ value.mT, heads)
        weights = _scores(queries * LOG2_E, k, lifted.mask, start, stop).sub_(lse).exp2_()
        dscores = (dread @ v.mT).sub_(offset).mul_(weights)
        dq += dscores @ k
        dk, dv = _joined(dscores.mT @ queries), _joined(weights.mT @ dread)
        dkey += torch.einsum("bmf,bmc->fc", dk, x)
        dvalue += torch.einsum("bmf,bmc->fc", dv, x)
        if elements is not None:
            elements.put(start, stop, dk @ key + dv @ value, x, rstd)
    content, position = elements.found() if elements else (None, ())
    found = dkey.to(key.dtype), dvalue.to(value.dtype)
    return Gradients(dq.flatten(1, 2).to(q.dtype), content, position, found)


def _by_head(x: Float[Tensor, "B Q _"], heads: int) -> Float[Tensor, "B H N _"]:
    return x.unflatten(1, (heads, -1))


def _split(x: Float[Tensor, "B m _"], heads: int) -> Float[Tensor, "B H m _"]:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(x: Float[Tensor, "B H m _"]) -> Float[Tensor, "B m _"]:
    return x.transpose(1, 2).flatten(2)


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, start: int, stop: int) -> Float[Tensor, "B H N m"]:
    scores = q @ k.mT
    return scores if mask is None else scores.masked_fill_(~mask[:, None, None, start:stop], float("-inf"))
