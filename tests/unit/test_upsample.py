"""Up-convolutions: their grids, first draws and gradients; their numbers are in tests/golden. RAFT's upsampling."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.optical_flow._utils import upsample_flow

from perceivers.nn import Conv2DUpsample, Conv3DUpsample, ConvexUpsample


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


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_convex_upsampling_is_that_of_raft(factor):
    torch.manual_seed(factor)
    module = ConvexUpsample(6, factor, channels=5).double()
    flow, features = torch.randn(2, 3, 4, 2).double(), torch.randn(2, 3, 4, 6).double()
    hidden = torch.nn.functional.conv2d(features.movedim(-1, 1), module.around.weight, module.around.bias, padding=1)
    weights = torch.nn.functional.conv2d(hidden.relu(), module.weights.weight, module.weights.bias)
    # Theirs is also multiplied by the factor: in RAFT flow is counted in coarse cells.
    theirs = upsample_flow(flow.movedim(-1, 1), 0.25 * weights, factor).movedim(1, -1) / factor
    torch.testing.assert_close(module(flow, features), theirs, rtol=1e-12, atol=1e-12)


def test_convex_upsampling_by_hand():
    module = ConvexUpsample(3, 2).double()
    values, features = torch.randn(1, 4, 5, 2).double(), torch.randn(1, 4, 5, 3).double()
    found = module(values, features)
    weights = 0.25 * module.weights(module.around(features.movedim(-1, 1)).relu())[0]
    padded = torch.nn.functional.pad(values[0], (0, 0, 1, 1, 1, 1))
    for row, column in ((0, 0), (3, 6), (7, 9)):
        cell, inside = (row // 2, column // 2), (row % 2) * 2 + column % 2
        shares = weights[inside::4, cell[0], cell[1]].softmax(0)
        around = padded[cell[0] : cell[0] + 3, cell[1] : cell[1] + 3].reshape(9, 2)
        torch.testing.assert_close(found[0, row, column], shares @ around)
    inner = module(torch.ones(1, 4, 5, 1).double(), features)[0, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.ones_like(inner), msg="shares add up to 1 away from the edges")


def test_convex_upsampling_learns_and_is_counted():
    module = ConvexUpsample(3, 4, channels=8)
    values, features = torch.randn(2, 3, 5, 2, requires_grad=True), torch.randn(2, 3, 5, 3, requires_grad=True)
    module(values, features).square().sum().backward()
    assert all(part.grad.isfinite().all() and part.grad.any() for part in (values, features, *module.parameters()))
    with FlopCounterMode(display=False) as counter:
        module(values.detach(), features.detach())
    assert counter.get_total_flops() == 2 * module.flops((3, 5), 2)
