"""`attend`: scaled-dot-product attention with the rules of the house about masks and nothing to read."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(
    query: Float[Tensor, "B O F"],
    key: Float[Tensor, "B M F"],
    value: Float[Tensor, "B M V"],
    heads: int,
    mask: Bool[Tensor, "B #O M"] | None = None,
) -> Float[Tensor, "B O V"]:
    """The same result as `attend_plain`, by torch's fused kernel.

    A row with nothing to read (all masked, or M = 0) gives zeros and sends no gradient. F and V must divide by `heads`;
    V may differ from F.
    """
    if key.shape[1] == 0:
        return query.new_zeros(*query.shape[:2], value.shape[-1])
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    if mask is None:
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    readable = mask.any(-1, keepdim=True)
    # A row that may read nothing reads everything instead, and its result is put to zero: finite forward and backward.
    allowed = (mask | ~readable)[:, None]
    read = scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
    return torch.where(readable, read, read.new_zeros(()))
