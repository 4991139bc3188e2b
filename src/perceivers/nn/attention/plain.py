"""The plain twin: attention written out from its definition. Every faster path is tested against this one."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# The official code replaces masked scores by this number (float16 cannot hold it and takes −1e4).
MASKED_SCORE = -1e30


def attend_plain(
    query: Float[Tensor, "B O F"],
    key: Float[Tensor, "B M F"],
    value: Float[Tensor, "B M V"],
    heads: int,
    mask: Bool[Tensor, "B #O M"] | None = None,
) -> Float[Tensor, "B O V"]:
    """softmax(q kᵀ / √(F/H)) v per head, heads concatenated; head index outermost in the channels.

    `mask` is True where a query may read an element. Masked scores are replaced, not added to; a query with nothing to
    read gets zeros [deepmind-research perceiver.py `attend`]. Keys and values must be finite, also where masked: the
    Encoder zero-fills masked elements.
    """
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = torch.where(mask[:, None], scores, scores.new_full((), MASKED_SCORE))
    weights = scores.softmax(-1)
    if mask is not None:
        weights = torch.where(mask[:, None], weights, weights.new_zeros(()))
    return (weights @ v).transpose(1, 2).flatten(2)
