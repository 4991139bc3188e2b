"""Position encodings as modules: tables, coordinates, dtypes, and errors for what they cannot encode."""

import math

import pytest
import torch
from torch import nn

from perceivers.errors import DataError
from perceivers.nn.position import FourierPosition, LearnedPosition, RefinedPosition, SinusoidalPosition
from perceivers.positions import fourier_features, linear_positions, sinusoidal_features

LIKE = torch.zeros(1, dtype=torch.float64)


def test_fourier_table_is_that_of_the_functions_at_its_own_resolution():
    position = FourierPosition((9, 4), 3)
    wanted = fourier_features(linear_positions((3, 5), torch.float64), 3, (9, 4))
    assert torch.equal(position(grid=(3, 5), like=LIKE), wanted)
    assert position.channels == wanted.shape[-1] == 14
    assert not list(position.parameters())
    assert not position.state_dict()


def test_fourier_table_follows_grid_and_dtype():
    position = FourierPosition((9,), 3)
    first = position(grid=(4,), like=LIKE)
    assert position.tables((4,), LIKE) is position.tables((4,), LIKE), "the same for every batch"
    assert position(grid=(5,), like=LIKE).shape == (5, 7)
    assert position(grid=(4,), like=LIKE.float()).dtype == torch.float32
    half = position(grid=(4,), like=LIKE.bfloat16())
    torch.testing.assert_close(half, first.bfloat16())


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("sine_only", [True, False])
@pytest.mark.parametrize("grid", [(4,), (3, 5), (2, 1, 4)])
def test_fourier_tables_joined_are_the_features_of_the_grid(grid, sine_only, concat):
    position = FourierPosition([9.0, 7.0, 5.0][: len(grid)], 3, concat, sine_only)
    wanted = fourier_features(linear_positions(grid, torch.float64), 3, position.resolution, concat, sine_only)
    tables = position.tables(grid, LIKE)
    assert tables.grid == grid
    assert tables.channels == position.channels
    assert torch.equal(position(grid=grid, like=LIKE), wanted)
    assert torch.equal(tables.rows(1, 3), wanted[1:3])
    extended = tables.extended(torch.tensor([[7.0, 8.0]], dtype=torch.float64)).joined()
    assert torch.equal(extended[:, :-2], wanted)
    assert extended[:, -2:].unique(dim=0).tolist() == [[7.0, 8.0]]


def test_a_table_made_in_inference_mode_serves_training():
    position, linear = FourierPosition((9,), 3).double(), torch.nn.LayerNorm(7).double()
    with torch.inference_mode():
        position(grid=(4,), like=LIKE)
    linear(position(grid=(4,), like=LIKE)).sum().backward()
    assert linear.weight.grad is not None


def test_fourier_of_coordinates():
    coordinates = torch.rand(2, 5, 1, dtype=torch.float64)
    assert torch.equal(FourierPosition((9,), 3)(coords=coordinates), fourier_features(coordinates, 3, (9,)))


def test_learned_table():
    position = LearnedPosition((2, 3), 4)
    assert torch.equal(position(grid=(2, 3)), position.table)
    assert position.table.shape == (6, 4)


@pytest.mark.parametrize(
    "encoding", [LearnedPosition((4, 3), 5), FourierPosition((4, 3), 2), SinusoidalPosition(6, 12)]
)
def test_what_stands_behind_a_position(encoding):
    grid = (12,) if isinstance(encoding, SinusoidalPosition) else (4, 3)
    position = RefinedPosition(encoding, project=7, extra=2)
    assert position.channels == 7
    nn.init.normal_(position.projection.bias)
    first, last = position.extra
    wanted = position.projection(encoding(grid=grid, like=torch.zeros(()))).detach()
    wanted = torch.relu(wanted + first(wanted))
    wanted = wanted + last(wanted)
    found = position(grid=grid, like=torch.zeros(()))
    torch.testing.assert_close(found, wanted)
    stop = 2 * math.prod(grid[1:])
    torch.testing.assert_close(position.window(grid, 0, 2, torch.zeros(())), wanted[:stop])
    assert RefinedPosition(encoding, None, 1).channels == encoding.channels


@pytest.mark.parametrize("end", [True, False])
def test_some_places_of_a_grid(end):
    position = FourierPosition((4, 9), 3, end=end)
    whole = position(grid=(4, 5), like=LIKE)
    cells = torch.tensor([19, 0, 7, 7])
    assert torch.equal(position.places((4, 5), cells, LIKE), whole[cells])
    assert whole[-1, :2].tolist() == ([1.0, 1.0] if end else [0.5, 0.6])


def test_learned_positions_have_one_size():
    position = LearnedPosition((2, 3), 4)
    with pytest.raises(DataError, match=r"a grid of \(2, 3\), but the input has a grid of \(3, 2\).*fourier"):
        position(grid=(3, 2))
    with pytest.raises(DataError, match="the input has coordinates"):
        position(coords=torch.zeros(1, 6, 2))


def test_sinusoidal_of_cells_and_of_the_same_places_as_coordinates():
    position = SinusoidalPosition(6, steps=5)
    cells = position(grid=(5,), like=LIKE)
    assert torch.equal(cells, sinusoidal_features(torch.arange(5.0, dtype=torch.float64), 6))
    coordinates = torch.linspace(-1, 1, 5, dtype=torch.float64)[None, :, None]
    torch.testing.assert_close(position(coords=coordinates)[0], cells)


def test_sinusoidal_in_bfloat16_is_computed_before_it_is_rounded():
    position = SinusoidalPosition(4, steps=2000)
    last = position(grid=(2000,), like=LIKE.bfloat16())[-1]
    assert last[0].item() == pytest.approx(math.sin(1999), abs=0.01), "bfloat16 cannot count to 1999"


def test_in_float32_the_features_are_those_of_other_libraries_bit_for_bit():
    """linspace, product, π and sine in float32, one after the other, over the whole grid."""
    rows, columns = torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 5)
    positions = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = torch.cat([positions[:, a : a + 1] * torch.linspace(1, 112, 16) for a in range(2)], dim=-1) * math.pi
    wanted = torch.cat([positions, angles.sin(), angles.cos()], dim=-1)
    position = FourierPosition((224, 224), 16, exact=False)
    assert torch.equal(position(grid=(9, 5), like=rows), wanted)
    assert torch.equal(position.window((9, 5), 3, 6, rows).joined(), wanted[15:30])
    exact = FourierPosition((224, 224), 16)(grid=(9, 5), like=rows)
    assert 0 < (exact - wanted).abs().max() < 1e-4


def test_a_learned_table_between_its_rows():
    position = LearnedPosition((4, 4), 3)
    assert torch.equal(position.resized((4, 4)).table, position.table)
    other = position.resized((6, 9))
    assert other.grid == (6, 9)
    assert other(grid=(6, 9)).shape == (54, 3)
    with torch.no_grad():
        # Cubic between cells of one value each is that value; beyond the edge the edge is repeated.
        position.table.copy_(torch.arange(3.0).expand(16, 3))
    torch.testing.assert_close(position.resized((7, 5)).table, torch.arange(3.0).expand(35, 3))
