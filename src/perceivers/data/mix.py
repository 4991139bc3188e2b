"""MixUp and CutMix: two samples of a batch and their targets made one, seeded. Only the seed decides."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from perceivers.inputs.base import Seed
from perceivers.settings import Settings


class MixSettings(Settings):
    """Mixing two samples of a batch; 0 is off. With both, one half of the batch is for each [models.md §4.4]."""

    mixup: NonNegativeFloat = 0.0
    """α of the Beta(α, α) that the shares of two whole images come from (Zhang et al. 2018); Perceiver IO: 0.2."""
    cutmix: NonNegativeFloat = 0.0
    """α of the Beta(α, α) that the box from the other image takes its area from (Yun et al. 2019); Perceiver IO: 1."""


def mix_images(
    values: Float[Tensor, "B H W C"],
    targets: Mapping[str, Float[Tensor, "B K"]],
    settings: MixSettings,
    seed: Seed,
) -> tuple[Float[Tensor, "B H W C"], dict[str, Float[Tensor, "B K"]]]:
    """Each image and its soft targets mixed with those of its neighbour in the batch; new tensors.

    With only one of the two on, all of the batch is mixed by it; with both, the first half by MixUp and the second by
    CutMix. Each image has a share (or box) of its own, as in DeepMind's training code; torchvision's MixUp and CutMix
    draw one per batch and know one target. `seed`: whole numbers ≥ 0, as (run seed, step). The batch must be shuffled.
    """
    random = np.random.default_rng(seed)
    batch, height, width, _ = values.shape
    half = batch // 2 if settings.mixup and settings.cutmix else batch if settings.mixup else 0
    exact = torch.promote_types(values.dtype, torch.float32)
    kept = torch.ones(batch, height, width, dtype=exact, device=values.device)
    if half:
        shares = random.beta(settings.mixup, settings.mixup, half)
        kept[:half] = torch.from_numpy(shares).to(kept)[:, None, None]
    if settings.cutmix and half < batch:
        boxes = _outside_boxes(random, settings.cutmix, batch - half, height, width)
        kept[half:] = torch.from_numpy(boxes).to(kept)
    # Neighbours within each part, so that a share never reaches over from one kind of mixing to the other.
    other = torch.cat([torch.arange(half).roll(1), half + torch.arange(batch - half).roll(1)]).to(values.device)
    mixed = _blend(values, values[other], kept[..., None])
    share = kept.mean((1, 2))[:, None]
    return mixed, {name: _blend(target, target[other], share) for name, target in targets.items()}


def _blend(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    # `where` keeps what is wholly from one image exact, even beside a NaN in the other.
    both = share * one + (1 - share) * other
    return torch.where(share == 1, one, torch.where(share == 0, other, both)).to(one.dtype)


def _outside_boxes(random: np.random.Generator, alpha: float, count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width) True outside a box of area 1 − λ, λ ~ Beta(α, α), about a uniform centre, cut at edges."""
    side = np.sqrt(1 - random.beta(alpha, alpha, count))[:, None]
    inside = []
    for length in (height, width):
        centre = random.integers(length, size=count)[:, None]
        reach = (0.5 * side * length).astype(np.int64)
        position = np.arange(length)
        inside.append((position >= centre - reach) & (position < centre + reach))
    return ~(inside[0][:, :, None] & inside[1][:, None, :])
