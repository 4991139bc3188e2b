"""Patches that overlap, and patches made cells again."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.nn.stem import depth_to_space, extract_patches, space_to_depth

AXES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3)


@given(AXES, st.integers(1, 3))
def test_cells_that_were_made_channels_come_back(axes, channels):
    grid, patch = [n * p for n, p in axes], [p for _, p in axes]
    x = torch.arange(2 * math.prod(grid) * channels).reshape(2, *grid, channels)
    assert torch.equal(depth_to_space(space_to_depth(x, patch), patch), x)


@given(AXES, st.integers(1, 2))
def test_windows_that_tile_are_patches(axes, channels):
    grid, patch = [n * p for n, p in axes], [p for _, p in axes]
    x = torch.arange(2 * math.prod(grid) * channels).reshape(2, *grid, channels)
    assert torch.equal(extract_patches(x, patch, patch), space_to_depth(x, patch))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_a_window_a_stride_with_zeros_beyond_the_border(height, width, stride):
    x = torch.arange(1.0, height * width + 1).reshape(1, height, width, 1)
    windows = extract_patches(x, (3, 3), (stride, stride), same=True)
    assert windows.shape == (1, -(-height // stride), -(-width // stride), 9)
    if stride == 1:
        assert torch.equal(windows[..., 4:5], x), "the middle is the cell itself"
        assert not windows[0, 0, 0, :4].any(), "above and left of the first cell is nothing"
