"""Seeded changes of training points. The same seed gives the same change in any process and any order."""

from dataclasses import replace
from typing import Literal, Self

import numpy as np
from pydantic import PositiveFloat, model_validator

from perceivers.inputs.base import Sample, Seed
from perceivers.settings import Settings


class PointsAugmentation(Settings):
    """What is done to a training cloud of points; the default is nothing."""

    kind: Literal["points"] = "points"
    scaling: tuple[PositiveFloat, PositiveFloat] | None = None
    """The coordinates of each point are multiplied by a number drawn evenly between these two, before the cloud is
    normalised; Perceiver on ModelNet40 had 0.99 and 1.01 [P1 §4.3]."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.scaling is not None and self.scaling[0] > self.scaling[1]:
            raise ValueError(f"scaling must be (smallest, largest), got {self.scaling}")
        return self


def augment_points(sample: Sample, seed: Seed, settings: PointsAugmentation) -> Sample:
    """`sample` with its points moved as the settings say; their features stay as they are."""
    assert sample.coords is not None, "points have coordinates"
    if settings.scaling is None:
        return sample
    draws = np.random.default_rng(seed).uniform(*settings.scaling, (len(sample.coords), 1))
    return replace(sample, coords=(sample.coords * draws).astype(np.float32))
