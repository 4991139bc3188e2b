"""Vectors of single blocks (`dm_blocks`), which belong to no model."""

import numpy as np
import torch
from torch import Tensor, nn

from perceivers.models.convert.deepmind import attention, cross_attend, feed_forward, norm, self_attend
from perceivers.models.convert.mapping import tensors_of
from perceivers.models.convert.stored import Stored
from perceivers.nn import MLP, Attention, CrossAttend, SelfAttend
from perceivers.nn.blocks import LAYER_NORM_EPS


def recomputed_blocks(stored: Stored) -> dict[str, Tensor]:
    """Attention with an all-masked row, an MLP, a layer norm, self-attends and cross-attends.

    The recording does not say how many heads they have; of all that divide the widths only these agree.
    """
    x, kv, mask = (torch.from_numpy(np.array(stored.arrays[f"input/{n}"].read())) for n in ("x", "kv", "mask"))
    wide, narrow = x.shape[-1], kv.shape[-1]

    def filled(module: nn.Module, entries: object) -> nn.Module:
        module.load_state_dict(tensors_of(stored, [*entries]))  # pyright: ignore[reportGeneralTypeIssues]
        return module

    blocks = {
        "self": filled(SelfAttend(wide, 4, mlp=MLP(wide, 4)), self_attend("", "self")),
        "self_qkv": filled(SelfAttend(wide, 2, 8, wide, MLP(wide, 2)), self_attend("", "self_qkv")),
        "mlp": filled(MLP(wide, 4), feed_forward("", "mlp")),
        "layer_norm": filled(nn.LayerNorm(wide, LAYER_NORM_EPS), norm("", "ln")),
    }
    cross = {
        "cross_kv": filled(CrossAttend(wide, narrow), cross_attend("", "cross_kv")),
        "cross_q": filled(CrossAttend(wide, narrow, 4, wide), cross_attend("", "cross_q")),
    }
    widened = CrossAttend(wide, narrow, 2, 12, 20, MLP(wide, 3), query_residual=False)
    masked = {
        "cross_noresid_mask": filled(widened, cross_attend("", "cross_m")),
        "attention_masked": filled(Attention(wide, narrow, 8, 12, 7, 2), attention("", "att")),
    }
    found = {name: block(x) for name, block in blocks.items()}
    found |= {name: block(x, kv) for name, block in cross.items()}
    return found | {name: block(x, kv, mask.bool()) for name, block in masked.items()}
