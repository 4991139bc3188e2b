"""Position codes: exact orders, ends and channel counts [models.md §2 of the plan]."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.positions import fourier_channels, fourier_features, linear_positions, sinusoidal_features


def test_grid_positions_are_y_then_x_row_major_with_both_ends():
    positions = linear_positions((2, 3), torch.float64)
    wanted = [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    assert positions.tolist() == wanted


def test_an_axis_of_one_cell_lies_at_minus_one():
    assert linear_positions((1, 2)).tolist() == [[-1, -1], [-1, 1]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_grid_positions_by_numpy(grid):
    axes = np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.array([-1.0]) for n in grid], indexing="ij")
    wanted = np.stack(axes, -1).reshape(-1, len(grid))
    np.testing.assert_allclose(linear_positions(grid, torch.float64).numpy(), wanted, atol=1e-15)


@pytest.mark.parametrize(("axes", "bands", "count"), [(2, 64, 258), (3, 32, 195), (1, 192, 385)])
def test_the_published_channel_counts(axes, bands, count):
    assert fourier_channels(axes, bands) == count
    assert fourier_features(torch.zeros(1, axes), bands, (10.0,) * axes).shape == (1, count)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.integers(2, 300)), min_size=1, max_size=3),
    st.integers(1, 6),
    st.booleans(),
    st.booleans(),
)
def test_fourier_features_one_by_one(axes, bands, concat, sine_only):
    """[raw] ++ [sin: axis outer, band inner] ++ [cos, same order], frequencies linspace(1, μ/2, K) with both ends."""
    positions, resolution = [p for p, _ in axes], [mu for _, mu in axes]
    angles = [math.pi * f * p for p, mu in axes for f in (np.linspace(1, mu / 2, bands) if bands > 1 else [1.0])]
    wanted = positions * concat + [math.sin(a) for a in angles] + [math.cos(a) for a in angles] * (not sine_only)
    ours = fourier_features(torch.tensor([positions], dtype=torch.float64), bands, resolution, concat, sine_only)
    np.testing.assert_allclose(ours[0].numpy(), wanted, atol=1e-12)
    assert len(wanted) == fourier_channels(len(axes), bands, concat, sine_only)


def test_one_band_is_the_lowest_frequency():
    assert fourier_features(torch.tensor([[0.5]]), 1, (100,), concat_position=False, sine_only=True).item() == 1.0


def test_fourier_features_of_a_batch_of_coordinates_equal_those_of_each():
    coordinates = torch.rand(2, 5, 3, dtype=torch.float64) * 2 - 1
    features = fourier_features(coordinates, 4, (8, 9, 10))
    assert features.shape == (2, 5, 27)
    assert features.dtype == torch.float64
    assert torch.equal(features[1], fourier_features(coordinates[1], 4, (8, 9, 10)))


@given(st.floats(0, 5000), st.integers(1, 8))
def test_sinusoids_one_by_one(place, half):
    rates = [math.exp(-i * math.log(10_000) / max(half - 1, 1)) for i in range(half)]
    wanted = [math.sin(place * w) for w in rates] + [math.cos(place * w) for w in rates]
    ours = sinusoidal_features(torch.tensor([place], dtype=torch.float64), 2 * half)
    np.testing.assert_allclose(ours[0].numpy(), wanted, atol=1e-9)


def test_sinusoids_run_from_one_radian_a_step_to_the_longest_wave():
    features = sinusoidal_features(torch.tensor([1.0], dtype=torch.float64), 6, longest=50.0)
    assert features[0, 0].item() == pytest.approx(math.sin(1.0))
    assert features[0, 2].item() == pytest.approx(math.sin(1 / 50.0))
    with pytest.raises(AssertionError, match="pairs"):
        sinusoidal_features(torch.tensor([1.0]), 5)
