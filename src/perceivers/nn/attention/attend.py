"""`attend`: scaled-dot-product attention with the rules of the house about masks and nothing to read.

On a processor torch has a fused kernel only for heads whose values are as wide as their keys; most Perceivers' are not.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# Scores of one sample's heads that a tile holds, 16 MB in float32, and below which torch's steps through all samples at
# once take fewer calls [docs/log.md, "Attention without a kernel"].
MOST_SCORES = 2**22
FEWEST_SCORES = 2**14


def attend(
    query: Float[Tensor, "B O F"],
    key: Float[Tensor, "B M F"],
    value: Float[Tensor, "B M V"],
    heads: int,
    mask: Bool[Tensor, "B #O M"] | None = None,
) -> Float[Tensor, "B O V"]:
    """The same result as `attend_plain`, by torch's fused kernel, or without gradients by tiles where it has none.

    A row with nothing to read (all masked, or M = 0) gives zeros and sends no gradient. F and V must divide by `heads`;
    V may differ from F.
    """
    if key.shape[1] == 0:
        return query.new_zeros(*query.shape[:2], value.shape[-1])
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    kernel = _by_tiles if _has_no_kernel(q, k, v) else scaled_dot_product_attention
    if mask is None:
        return kernel(q, k, v).transpose(1, 2).flatten(2)
    readable = mask.any(-1, keepdim=True)
    # A row that may read nothing reads everything instead, and its result is put to zero: finite forward and backward.
    allowed = (mask | ~readable)[:, None]
    read = kernel(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
    return torch.where(readable, read, read.new_zeros(()))


def _has_no_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether torch would go step by step through arrays of all scores, and tiles that keep none for it will do."""
    if query.device.type != "cpu" or query.dtype not in (torch.float32, torch.float64):
        return False
    if query.shape[-1] == value.shape[-1] or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return query.shape[1] * query.shape[2] * key.shape[2] >= FEWEST_SCORES


def _by_tiles(
    query: Float[Tensor, "B H O F"],
    key: Float[Tensor, "B H M F"],
    value: Float[Tensor, "B H M V"],
    attn_mask: Bool[Tensor, "B 1 #O M"] | None = None,
) -> Float[Tensor, "B H O V"]:
    """As torch's kernel, one sample and as many queries at once as `MOST_SCORES` of one buffer allow."""
    batch, heads, queries, wide = query.shape
    elements = key.shape[2]
    rows = max(min(MOST_SCORES // (heads * elements), queries), 1)
    scores = query.new_empty(heads, rows, elements)
    # Heads innermost but one, so that joining them is no copy.
    read = query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
    for sample in range(batch):
        for start in range(0, queries, rows):
            part = slice(start, start + rows)
            tile = scores[:, : min(rows, queries - start)]
            torch.baddbmm(tile, query[sample, :, part], key[sample].mT, beta=0, alpha=wide**-0.5, out=tile)
            if attn_mask is not None:
                allowed = attn_mask[sample] if attn_mask.shape[2] == 1 else attn_mask[sample, :, part]
                tile.masked_fill_(~allowed, float("-inf"))
            read[sample, :, part] = torch.bmm(torch.softmax(tile, -1, out=tile), value[sample])
    return read
