"""The loss of next-token prediction [perceiver-ar losses.py, which is T5X's]."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def token_losses(
    logits: Float[Tensor, "*B K"], targets: Int[Tensor, "*B"], label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Float[Tensor, "*B"], Float[Tensor, "*B"]]:
    """Cross-entropy in nats, the z part included, and the z part alone; float32.

    label_smoothing (s): the target is 1 − s for the true token and s/(K − 1) for each other, and the entropy of that is
    taken off, so that 0 is still the least. z_loss: times log² of the softmax's normaliser, which keeps logits small.
    """
    logits = logits.float()
    log_z = logits.logsumexp(-1)
    true = log_z - logits.gather(-1, targets[..., None])[..., 0]
    losses = true
    if label_smoothing:
        others = logits.shape[-1] - 1
        share = label_smoothing / others
        rest = (log_z[..., None] - logits).sum(-1) - true
        entropy = -(1 - label_smoothing) * math.log(1 - label_smoothing) - others * share * math.log(share + 1e-20)
        losses = (1 - label_smoothing) * true + share * rest - entropy
    z = z_loss * log_z.square()
    return losses + z, z


def labels_at(
    targets: Int[Tensor, "B T"], places: Int[Tensor, "B n"]
) -> tuple[Int[Tensor, "B n"], Bool[Tensor, "B n"]]:
    """The targets of latents at `places`, and which are any: a place may be −1, and a target 0 (padding) or below.

    Targets that are none are 0.
    """
    found = targets.gather(1, places.clamp(min=0))
    valid = (places >= 0) & (found > 0)
    return torch.where(valid, found, 0), valid
