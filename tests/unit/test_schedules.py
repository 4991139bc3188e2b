"""Schedules have exact corners, stay in [0, 1] and jump only where they say so."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceivers.errors import SpecError, TrainingError
from perceivers.settings import Settings, parse_settings
from perceivers.training.schedules import Constant, Cosine, FlatCosine, ScheduleSettings, Steps, lr_factor


class Recipe(Settings):
    schedule: ScheduleSettings


def factors(settings, total: int) -> list[float]:
    return [lr_factor(step, total, settings) for step in range(total + 1)]


def test_constant():
    assert factors(Constant(), 3) == [1, 1, 1, 1]
    assert factors(Constant(warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert factors(Constant(warmup_steps=0.5), 4) == [0.5, 1, 1, 1, 1]


def test_cosine():
    assert factors(Cosine(), 4) == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0])
    assert factors(Cosine(), 1000)[1000] == 0
    assert factors(Cosine(final=0.2), 2) == pytest.approx([1, 0.6, 0.2])
    assert factors(Cosine(warmup_steps=2), 6) == pytest.approx(
        [0.5, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    )


def test_flat_cosine():
    """Perceiver IO on ImageNet: constant for the first half, then to 0, no warm-up."""
    values = factors(FlatCosine(), 8)
    assert values[:5] == [1] * 5
    assert values[5:] == pytest.approx([(1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0])
    assert factors(FlatCosine(flat=4), 8) == values
    assert factors(FlatCosine(flat=0, warmup_steps=2), 6) == factors(Cosine(warmup_steps=2), 6)
    assert factors(FlatCosine(flat=0.5, warmup_steps=2), 8)[:3] == [0.5, 1, 1]


def test_steps():
    """Perceiver on ImageNet: a tenth at epochs 84, 102 and 114 of 120."""
    values = factors(Steps(at=(84, 102, 114)), 120)
    assert values[83] == 1
    assert values[84:102] == [0.1] * 18
    assert values[102] == pytest.approx(0.01)
    assert values[114:] == pytest.approx([0.001] * 7)
    assert factors(Steps(at=(0.7, 0.85, 0.95)), 120) == values
    assert factors(Steps(at=(2,), factor=0.5, warmup_steps=2), 3) == [0.5, 1, 0.5, 0.5]


def test_after_the_end_it_stays():
    for settings in (Constant(), Cosine(final=0.1), FlatCosine(), Steps(at=(0.5,))):
        assert lr_factor(1000, 10, settings) == lr_factor(10, 10, settings)


def test_training_that_is_warm_up_only():
    assert factors(Cosine(warmup_steps=4), 4) == [0.25, 0.5, 0.75, 1, 1]
    assert factors(FlatCosine(flat=4), 4) == [1] * 5


warmups = st.just(0.0) | st.floats(0.001, 0.999) | st.integers(1, 50).map(float)
smooth = (
    st.builds(Constant, warmup_steps=warmups)
    | st.builds(Cosine, warmup_steps=warmups, final=st.floats(0, 1))
    | st.builds(FlatCosine, warmup_steps=warmups, flat=st.floats(0, 0.99))
)
jumping = st.builds(
    Steps,
    warmup_steps=warmups,
    at=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4, unique=True).map(lambda at: tuple(sorted(at))),
    factor=st.floats(0.01, 1),
)


@given(smooth | jumping, st.integers(50, 3000))
def test_a_share_of_the_peak_that_rises_once_and_then_falls(settings, total):
    values = factors(settings, total)
    assert all(0 <= value <= 1 for value in values)
    warmup = settings.warmup_steps * total if settings.warmup_steps < 1 else settings.warmup_steps
    tail = values[math.ceil(warmup) :]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(tail))
    assert values[0] > 0


@given(smooth, st.integers(50, 3000))
def test_smooth_ones_have_no_jump(settings, total):
    values = factors(settings, total)

    def length(point: float) -> int:
        return round(point * total) if point < 1 else int(point)

    warmup = length(settings.warmup_steps)
    begin = max(warmup, length(settings.flat)) if isinstance(settings, FlatCosine) else warmup
    steepest = max(1 / warmup if warmup else 0, math.pi / 2 / max(total - begin, 1))
    jumps = [abs(later - earlier) for earlier, later in itertools.pairwise(values)]
    assert max(jumps) <= min(steepest, 1) + 1e-9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Cosine(warmup_steps=11), "warmup_steps is 11, but the whole training has 10 steps"),
        (FlatCosine(flat=12), "flat is 12, but the whole training has 10 steps"),
        (Steps(at=(5, 20)), "at is 20, but the whole training has 10 steps"),
    ],
)
def test_points_beyond_the_end(settings, message):
    with pytest.raises(TrainingError, match=message):
        lr_factor(0, 10, settings)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "cosin"}, "schedule: unknown kind 'cosin'. Did you mean 'cosine'?"),
        ({"warmup_steps": 5}, "schedule: needs a 'kind'"),
        ({"kind": "cosine", "warmup_step": 5}, "Did you mean 'warmup_steps'?"),
        ({"kind": "cosine", "final": 2}, "schedule.final: input should be less than or equal to 1 (got 2)"),
        ({"kind": "constant", "warmup_steps": 1.5}, "1.5 is neither a share below 1 nor a whole number of steps"),
        ({"kind": "constant", "warmup_steps": -1}, "greater than or equal to 0"),
        ({"kind": "flat_cosine", "flat": 2.5}, "2.5 is neither a share below 1 nor a whole number of steps"),
        ({"kind": "steps"}, "schedule.at: is missing"),
        ({"kind": "steps", "at": []}, "at least 1 item"),
        ({"kind": "steps", "at": [0, 5]}, "every one must be above 0"),
        ({"kind": "steps", "at": [5, 5]}, "each must be larger than the one before"),
        ({"kind": "steps", "at": [0.5, 9]}, "either shares below 1 or whole steps, not both"),
    ],
)
def test_settings_that_make_no_sense(data, message):
    with pytest.raises(SpecError) as error:
        parse_settings(Recipe, {"schedule": data}, "recipe")
    assert message in str(error.value)


def test_settings_go_to_json_and_back():
    for settings in (Constant(warmup_steps=3), Cosine(final=0.1), FlatCosine(flat=0.25), Steps(at=(0.5, 0.75))):
        recipe = Recipe(schedule=settings)
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
