"""Learning-rate schedules: pure functions from the step to a share of the peak learning rate."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator

from perceivers.errors import TrainingError
from perceivers.settings import Settings


def _whole_or_share(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"{value:g} is neither a share below 1 nor a whole number of steps")
    return value


class _Schedule(Settings):
    warmup_steps: float = Field(default=0, ge=0, description="steps of linear warm-up; below 1, a share of all steps")

    @field_validator("warmup_steps")
    @classmethod
    def _check_warmup(cls, value: float) -> float:
        return _whole_or_share(value)


class Constant(_Schedule):
    """The peak learning rate all along, after the warm-up."""

    kind: Literal["constant"] = "constant"


class Cosine(_Schedule):
    """Warm-up, then half a cosine from 1 down to `final`."""

    kind: Literal["cosine"] = "cosine"
    final: float = Field(default=0.0, ge=0, le=1, description="share of the peak at the end")


class FlatCosine(_Schedule):
    """Constant, then half a cosine down to 0. Without warm-up it is Perceiver IO's on ImageNet (appendix A.1)."""

    kind: Literal["flat_cosine"] = "flat_cosine"
    flat: float = Field(default=0.5, ge=0, description="when the cosine begins: a share of all steps, or from 1 a step")

    @field_validator("flat")
    @classmethod
    def _check_flat(cls, value: float) -> float:
        return _whole_or_share(value)


class Steps(_Schedule):
    """Multiplied by `factor` at each of the steps `at`: how Perceiver was trained on ImageNet."""

    kind: Literal["steps"] = "steps"
    at: tuple[float, ...] = Field(min_length=1, description="rising steps; below 1, shares of all steps")
    factor: float = Field(default=0.1, gt=0, le=1)

    @field_validator("at")
    @classmethod
    def _check_at(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(point <= 0 for point in value):
            raise ValueError("every one must be above 0")
        shares = {_whole_or_share(point) < 1 for point in value}
        if len(shares) > 1:
            raise ValueError("give either shares below 1 or whole steps, not both")
        if list(value) != sorted(set(value)):
            raise ValueError("each must be larger than the one before")
        return value


ScheduleSettings = Annotated[Constant | Cosine | FlatCosine | Steps, Field(discriminator="kind")]


def lr_factor(step: int, total_steps: int, settings: Constant | Cosine | FlatCosine | Steps) -> float:
    """The share of the peak learning rate, in [0, 1], at which update number `step` (the first is 0) is made.

    In a warm-up of w steps update i has (i + 1)/w of what it would have without, so that no update is wasted on a rate
    of 0. From `total_steps` on it stays at the final value. Raises `TrainingError` for points beyond the end.
    """
    warmup = _steps("warmup_steps", settings.warmup_steps, total_steps)
    factor = _after_warmup(min(step, total_steps), total_steps, warmup, settings)
    return factor * min(1.0, (step + 1) / warmup) if warmup else factor


def _after_warmup(step: int, total: int, warmup: int, settings: Constant | Cosine | FlatCosine | Steps) -> float:
    match settings:
        case Constant():
            return 1.0
        case Cosine():
            return settings.final + (1 - settings.final) * _half_cosine(step, warmup, total)
        case FlatCosine():
            return _half_cosine(step, max(warmup, _steps("flat", settings.flat, total)), total)
        case Steps():
            return settings.factor ** _passed(step, [_steps("at", point, total) for point in settings.at])


def _half_cosine(step: int, start: int, end: int) -> float:
    """1 up to `start`, 0 from `end`, and half a cosine between them."""
    if step <= start:
        return 1.0
    return (1 + math.cos(math.pi * (step - start) / (end - start))) / 2


def _passed(step: int, points: Iterable[int]) -> int:
    return sum(step >= point for point in points)


def _steps(name: str, value: float, total: int) -> int:
    """A whole number of steps from a number of steps or, below 1, a share of `total`."""
    steps = round(value * total) if value < 1 else int(value)
    if steps > total:
        raise TrainingError(
            f"the schedule's {name} is {steps}, but the whole training has {total} steps. "
            f"Give a smaller number, or a share below 1."
        )
    return steps
