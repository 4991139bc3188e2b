"""Up-convolutions: their grids, first draws and gradients; their numbers are in tests/golden."""

import math

import pytest
import torch

from perceivers.nn import Conv2DUpsample, Conv3DUpsample


@pytest.mark.parametrize(
    ("module", "grid", "finer"),
    [
        (Conv2DUpsample(3, 2), (1, 3), (4, 12)),
        (Conv3DUpsample(3, 2), (1, 1, 2), (4, 16, 32)),
        (Conv3DUpsample(3, 2, time=0, space=1), (3, 2, 2), (3, 4, 4)),
        (Conv3DUpsample(3, 2, time=2, space=1), (2, 1, 3), (8, 2, 6)),
    ],
)
def test_the_grid_that_comes_out(module, grid, finer):
    assert module.cells(grid) == finer
    answer = module(torch.randn(2, *grid, 3))
    assert answer.shape == (2, *finer, 2)
    answer.square().sum().backward()
    assert all(parameter.grad.any() for parameter in module.parameters())


def test_layers_halve_their_channels_down_to_the_answers():
    assert [layer.out_channels for layer in Conv3DUpsample(7, 3, time=1, space=4).layers] == [24, 12, 6, 3]
    assert [layer.out_channels for layer in Conv2DUpsample(7, 3).layers] == [6, 3]


def test_first_draws_are_of_the_fan_in():
    weight = Conv2DUpsample(64, 32).layers[0].weight
    assert weight.abs().max() <= 2 / math.sqrt(16 * 64)
    # A normal that is cut at two standard deviations has 0.88 of its own.
    torch.testing.assert_close(weight.std(), torch.tensor(0.88 / math.sqrt(16 * 64)), rtol=0.05, atol=0)
