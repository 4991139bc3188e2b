"""10⁸ elements are summed as exactly as a few: where float32 sums stand still, or drift by a part in 10⁵."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from perceivers.nn.attention import attend, attend_lifted
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.streamed import Streamed

CHANNELS, GRID, RUNS = 4, (8, 1024), 12_208
RUN = GRID[0] * GRID[1]
ELEMENTS = RUN * RUNS
"""100,007,936."""


@pytest.fixture
def reader() -> tuple[torch.Tensor, nn.LayerNorm, nn.Linear, nn.Linear]:
    """Nearly equal weights for all elements, the worst there is, and values that do not cancel."""
    torch.manual_seed(0)
    query = (0.01 * torch.randn(1, 2, CHANNELS)).requires_grad_()
    return query, nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)


def found(answer, arguments):
    """The answer and the gradients of its sum of squares, but for the key's bias, whose gradient is 0."""
    query, norm, key, value = arguments
    wanted = [query, *norm.parameters(), key.weight, *value.parameters()]
    return [answer.detach(), *torch.autograd.grad((answer**2).sum(), wanted)]


@pytest.mark.slow  # 10⁸ elements, three times a path
# A chunk's products are summed in float32: here always the same ones, whose roundings never cancel. Heads of 4 channels
# are summed one after the other. (With float32 sums over the runs all three paths are off by 2e-5 to 2e-4.)
@pytest.mark.parametrize(("path", "bound"), [("absorbed", 2e-6), ("projected", 1e-5), ("factorised", 2e-6)])
def test_two_runs_over_and_over_are_those_two(reader, path, bound):
    """Softmax over k copies of a set reads what it reads of the set: an exact answer without 10⁸ float64 numbers.

    All copies of the one come first, so that every error of the sums' weights moves the answer towards one of the two.
    """
    query, norm, key, value = reader
    both = [part_of(path, seed) for seed in (1, 2)]

    def runs() -> Iterator[Lifted]:
        return (both[2 * place // RUNS] for place in range(RUNS))

    columns = GRID[1] if path == "factorised" else None
    source = Streamed(ELEMENTS, CHANNELS, both[0].content.shape[-1], columns, runs, ())
    mine = found(attend_lifted(query, (source,), (path,), norm, key, value, 1), reader)
    exact = [module.double() for module in (norm, key, value)]
    wide = query.detach().double().requires_grad_()
    x = exact[0](torch.cat([part.joined() for part in both], dim=1).double())
    theirs = found(attend(wide, exact[1](x), exact[2](x), 1), (wide, *exact))
    largest = max(float(gradient.abs().max()) for gradient in theirs[1:])
    assert float((mine[0] - theirs[0]).abs().max() / theirs[0].abs().max()) <= bound
    for one, other in zip(mine[1:], theirs[1:], strict=True):
        assert float((one - other).abs().max()) <= bound * largest


def part_of(path, seed):
    """A run of few levels and a mean: the same roundings again and again do not average out. Seeds differ much."""
    draw = torch.Generator().manual_seed(seed)
    run = torch.randint(0, 7, (1, RUN, CHANNELS), generator=draw).float() + torch.arange(CHANNELS) * (
        3 - 4 * (seed == 1)
    )
    if path != "factorised":
        return Lifted(run)
    tables = tuple((torch.arange(size) % 7.0 + seed)[:, None] for size in GRID)
    return Lifted(run[..., :2], AxisTables(tables, (0, 1)))
