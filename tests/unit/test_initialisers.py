"""The papers' initialisers: how wide they are and where they are cut [models.md §1 of the plan]."""

import math

import pytest
import torch

from perceivers.nn.initialisers import (
    TRUNCATED_STD,
    block_linear,
    learned_array,
    nothing_drawn,
    plain_linear,
    truncated_normal_,
)
from perceivers.nn.stem import ConvStem

# Relative error of a standard deviation from 64,000 draws: 1/√(2·64000) = 0.28 %, five of those.
FIVE_SIGMA = 0.014


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def test_the_constant_is_the_spread_of_a_unit_normal_cut_at_two():
    density, mass = math.exp(-2.0) / math.sqrt(2 * math.pi), math.erf(2 / math.sqrt(2))
    assert pytest.approx(math.sqrt(1 - 2 * 2 * density / mass), rel=1e-12) == TRUNCATED_STD


def test_block_linears_have_the_true_spread_of_fan_in():
    weight = block_linear(160, 400).weight
    assert weight.std().item() == pytest.approx(math.sqrt(1 / 160), rel=FIVE_SIGMA)
    cut = 2 * math.sqrt(1 / 160) / TRUNCATED_STD
    assert 0.97 * cut < weight.abs().max().item() <= cut


def test_plain_linears_are_cut_without_correction():
    weight = plain_linear(160, 400).weight
    assert weight.std().item() == pytest.approx(TRUNCATED_STD * math.sqrt(1 / 160), rel=FIVE_SIGMA)
    assert 0.97 * 2 * math.sqrt(1 / 160) < weight.abs().max().item() <= 2 * math.sqrt(1 / 160)


def test_stem_convolutions_are_plain():
    weight = ConvStem(2, 10, channels=131).convolutions[0].weight
    assert weight.std().item() == pytest.approx(TRUNCATED_STD / math.sqrt(490), rel=FIVE_SIGMA)


def test_learned_arrays_are_small_and_cut_at_four_hundredths():
    array = learned_array(160, 400)
    assert array.std().item() == pytest.approx(TRUNCATED_STD * 0.02, rel=FIVE_SIGMA)
    assert 0.039 < array.abs().max().item() <= 0.04
    assert array.requires_grad
    assert learned_array(160, 400, std=1.0).std().item() == pytest.approx(TRUNCATED_STD, rel=FIVE_SIGMA)


def test_biases_and_zero_heads_are_zero():
    for layer in (block_linear(5, 6), plain_linear(5, 6), plain_linear(5, 6, zero=True)):
        assert not layer.bias.any()
    assert not plain_linear(5, 6, zero=True).weight.any()


def test_filling_is_in_place_and_follows_the_seed():
    first, second = torch.empty(3, 3), torch.empty(3, 3)
    torch.manual_seed(5)
    assert truncated_normal_(first, 1.0) is first
    torch.manual_seed(5)
    assert torch.equal(first, truncated_normal_(second, 1.0))


def test_nothing_drawn_leaves_arrays_and_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    array = torch.full((3, 4), 7.0)
    with nothing_drawn():
        truncated_normal_(array, 1.0)
    assert torch.equal(array, torch.full((3, 4), 7.0))
    assert torch.equal(torch.get_rng_state(), before)
    truncated_normal_(array, 1.0)
    assert not (array == 7.0).any()
