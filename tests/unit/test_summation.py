"""10⁸ elements are summed as exactly as a few: where float32 sums stand still, or drift by a part in 10⁵."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from perceivers.nn.attention import attend, attend_lifted
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.streamed import Streamed

CHANNELS, GRID, RUNS = 4, (128, 1024), 763
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
@pytest.mark.parametrize("path", ["absorbed", "projected", "factorised"])
def test_one_run_over_and_over_is_that_run(reader, path):
    """Softmax over k copies of a set reads what it reads of the set: an exact answer without 10⁸ float64 numbers."""
    query, norm, key, value = reader
    # Few levels and a mean: the same roundings again and again do not average out.
    run = torch.randint(0, 7, (1, RUN, CHANNELS), generator=torch.Generator().manual_seed(1)).float() + 3

    part, columns = Lifted(run), None
    if path == "factorised":
        # The same run as a grid: two channels of content, and one of position an axis.
        columns = GRID[1]
        tables = tuple(torch.arange(size) % 7.0 + 3 for size in GRID)
        part = Lifted(run[..., :2], AxisTables(tuple(table[:, None] for table in tables), (0, 1)))
        run = part.joined()

    def runs() -> Iterator[Lifted]:
        return (part for _ in range(RUNS))

    source = Streamed(ELEMENTS, CHANNELS, part.content.shape[-1], columns, runs, ())
    mine = found(attend_lifted(query, (source,), (path,), norm, key, value, 1), reader)
    exact = [module.double() for module in (norm, key, value)]
    wide = query.detach().double().requires_grad_()
    x = exact[0](run.double())
    theirs = found(attend(wide, exact[1](x), exact[2](x), 1), (wide, *exact))
    largest = max(float(gradient.abs().max()) for gradient in theirs[1:])
    assert float((mine[0] - theirs[0]).abs().max() / theirs[0].abs().max()) <= 2e-6
    for one, other in zip(mine[1:], theirs[1:], strict=True):
        assert float((one - other).abs().max()) <= 2e-6 * largest
