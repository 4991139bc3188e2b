"""Seeded changes of training series. The same seed gives the same change in any process and any order."""

from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64
from pydantic import NonNegativeFloat

from perceivers.inputs.base import Sample, Seed
from perceivers.settings import Settings


class SeriesAugmentation(Settings):
    """What is done to a training series; the default is nothing."""

    kind: Literal["series"] = "series"
    jitter: NonNegativeFloat = 0.0
    """Standard deviation of the normal noise on each value, as a share of the channel's own in this sample."""
    scaling: NonNegativeFloat = 0.0
    """Each channel is multiplied by exp(normal noise of this standard deviation): 0.1 is about ± 10 %."""


def augment_series_sample(sample: Sample, seed: Seed, settings: SeriesAugmentation) -> Sample:
    """`sample` with its values changed as `augment_series` says. Masked steps stay masked, and become 0."""
    if sample.mask is None:
        return replace(sample, values=augment_series(sample.values, settings, seed))
    # Masked steps must not count in the deviation that jitter takes its scale from.
    real = np.where(sample.mask[:, None], sample.values, np.float32(np.nan))
    return replace(sample, values=np.nan_to_num(augment_series(real, settings, seed), nan=0.0))


def augment_series(
    values: Float32[np.ndarray, "T C"], settings: SeriesAugmentation, seed: Seed
) -> Float32[np.ndarray, "T C"]:
    """A new series: jittered about its values, then scaled per channel. NaN stays NaN, infinity infinity.

    `seed`: whole numbers ≥ 0, as (run seed, epoch, sample index). Series that must not share their noise, such as two
    inputs of one sample, need one more number each.
    """
    random = np.random.default_rng(seed)
    changed = values.copy()
    if settings.jitter:
        scale = (settings.jitter * _deviation(values)).astype(np.float32)
        changed += random.standard_normal(values.shape, dtype=np.float32) * scale
    if settings.scaling:
        changed *= np.exp(settings.scaling * random.standard_normal(values.shape[1], dtype=np.float32))
    return changed


def _deviation(values: Float32[np.ndarray, "T C"]) -> Float64[np.ndarray, " C"]:
    """Standard deviation of each channel over its finite values: one NaN must not make the whole channel NaN."""
    wide = np.ascontiguousarray(values.T, dtype=np.float64)  # channels first: sums along memory take a quarter
    if len(values) and np.isfinite(total := wide.sum(1)).all():  # the sum of a channel is finite only if all of it is
        wide -= total[:, None] / len(values)
        return np.sqrt(np.square(wide, out=wide).sum(1) / len(values))
    finite = np.isfinite(wide)
    count = np.maximum(finite.sum(1, keepdims=True), 1)
    centred = np.where(finite, wide - np.where(finite, wide, 0).sum(1, keepdims=True) / count, 0)
    return np.sqrt((centred**2).sum(1) / count[:, 0])
