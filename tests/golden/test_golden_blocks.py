"""Functions equal the official code's; attention's plain twin too."""

from pathlib import Path

import numpy as np
import pytest
import torch

from perceivers.models.convert import compare
from perceivers.nn.attention import attend_plain
from perceivers.nn.blocks import ACTIVATIONS
from perceivers.nn.stem import space_to_depth
from perceivers.positions import fourier_channels, fourier_features, linear_positions

DATA = Path(__file__).parent / "data"
# The vectors are float32 from another framework, whose sums run in another order.
OTHER_FRAMEWORK = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def functional() -> dict[str, torch.Tensor]:
    with np.load(DATA / "dm_functional.npz", allow_pickle=False) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files if name != "config"}


def test_blocks_by_the_plain_twin(monkeypatch):
    monkeypatch.setattr("perceivers.nn.attention.module.attend", attend_plain)
    found = compare(DATA / "dm_blocks.npz")
    assert len(found) == 8
    assert all(comparison.within for comparison in found.values())


def test_gelu_is_the_tanh_form(functional):
    x, official = functional["input/gelu"], functional["output/gelu"]
    torch.testing.assert_close(ACTIVATIONS["gelu_tanh"](x), official, rtol=0, atol=1e-6)
    assert (ACTIVATIONS["gelu"](x) - official).abs().max() > 1e-4, "the recording tells the two forms apart"


@pytest.mark.parametrize(
    ("name", "grid", "resolution", "bands", "concat", "sine_only"),
    [
        ("ff_dims7_res20_bands4_concat1_sine0", (7,), (20,), 4, True, False),
        ("ff_dims3x5_res9x4_bands3_concat1_sine0", (3, 5), (9, 4), 3, True, False),
        ("ff_dims2x3x4_res2x7x5_bands2_concat1_sine0", (2, 3, 4), (2, 7, 5), 2, True, False),
        ("ff_dims3x5_res9x4_bands3_concat0_sine0", (3, 5), (9, 4), 3, False, False),
        ("ff_dims3x5_res9x4_bands3_concat1_sine1", (3, 5), (9, 4), 3, True, True),
        ("ff_dims1x4_res6x6_bands1_concat1_sine0", (1, 4), (6, 6), 1, True, False),
    ],
)
def test_fourier_features(functional, name, grid, resolution, bands, concat, sine_only):
    ours = fourier_features(linear_positions(grid), bands, resolution, concat, sine_only)
    torch.testing.assert_close(ours, functional[f"output/{name}"], **OTHER_FRAMEWORK)
    assert ours.shape[-1] == fourier_channels(len(grid), bands, concat, sine_only)


def test_linear_positions(functional):
    ours = linear_positions((3, 5)).unflatten(0, (3, 5))
    torch.testing.assert_close(ours, functional["output/linear_positions_3x5"])


def test_space_to_depth(functional):
    image, video = functional["input/image"], functional["input/video"]
    assert torch.equal(space_to_depth(image, (4, 4)), functional["output/s2d_image_b4"])
    assert torch.equal(space_to_depth(video, (2, 4, 4)), functional["output/s2d_video_t2_b4"])
