"""Attention, blocks and functions equal the official code's.

The recording does not say how many heads its blocks have; of all that divide the widths only the ones here agree.
"""

import pytest
import torch
from haiku_names import CROSS_NORMS, SELF_NORMS, Golden, Names, agree, load_golden
from torch.nn import functional as F

from perceivers.nn import MLP, Attention, CrossAttend, SelfAttend
from perceivers.nn.attention import attend, attend_plain
from perceivers.nn.blocks import ACTIVATIONS, LAYER_NORM_EPS
from perceivers.nn.stem import space_to_depth
from perceivers.positions import fourier_channels, fourier_features, linear_positions


@pytest.fixture(scope="module")
def blocks() -> Golden:
    return load_golden("dm_blocks")


@pytest.fixture(scope="module")
def functional() -> Golden:
    return load_golden("dm_functional")


def under(golden: Golden, module: str) -> Names:
    """The names of one of the file's modules, which are unrelated to each other."""
    return Names({path: array for path, array in golden.params.items() if path.startswith(f"{module}/")})


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("self", SelfAttend(24, heads=4, mlp=MLP(24, 4))),
        ("self_qkv", SelfAttend(24, heads=2, qk_channels=8, v_channels=24, mlp=MLP(24, 2))),
    ],
)
@torch.no_grad()
def test_self_attends(blocks, name, module):
    names = under(blocks, name)
    names.attend("", name, SELF_NORMS)
    names.into(module)
    agree(module(blocks.inputs["x"]), blocks.outputs[name])


@pytest.mark.parametrize(
    ("name", "output", "module"),
    [
        ("cross_kv", "cross_kv", CrossAttend(24, 13)),
        ("cross_q", "cross_q", CrossAttend(24, 13, heads=4, qk_channels=24)),
        (
            "cross_m",
            "cross_noresid_mask",
            CrossAttend(24, 13, heads=2, qk_channels=12, v_channels=20, mlp=MLP(24, 3), query_residual=False),
        ),
    ],
)
@torch.no_grad()
def test_cross_attends(blocks, name, output, module):
    names = under(blocks, name)
    names.attend("", name, CROSS_NORMS)
    names.into(module)
    mask = blocks.inputs["mask"].bool() if output.endswith("mask") else None
    agree(module(blocks.inputs["x"], blocks.inputs["kv"], mask), blocks.outputs[output])


@pytest.mark.parametrize("path", [attend, attend_plain])
@torch.no_grad()
def test_attention_with_a_row_that_may_read_nothing(blocks, path, monkeypatch):
    module = Attention(24, 13, qk_channels=8, v_channels=12, output_channels=7, heads=2)
    names = under(blocks, "att")
    names.linears("", "att", {"query": "linear", "key": "linear_1", "value": "linear_2", "output": "linear_3"})
    names.into(module)
    monkeypatch.setattr("perceivers.nn.attention.module.attend", path)
    mask = blocks.inputs["mask"].bool()
    assert not mask[0, 2].any(), "the row that the recording is about"
    agree(module(blocks.inputs["x"], blocks.inputs["kv"], mask), blocks.outputs["attention_masked"])


@torch.no_grad()
def test_mlp(blocks):
    module = MLP(24, 4)
    names = under(blocks, "mlp")
    names.linears("", "mlp", {"hidden": "linear", "output": "linear_1"})
    names.into(module)
    agree(module(blocks.inputs["x"]), blocks.outputs["mlp"])


def test_layer_norm(blocks):
    scale, offset = blocks.params["ln/scale"], blocks.params["ln/offset"]
    agree(F.layer_norm(blocks.inputs["x"], (24,), scale, offset, LAYER_NORM_EPS), blocks.outputs["layer_norm"])


def test_gelu_is_the_tanh_form(functional):
    x, official = functional.inputs["gelu"], functional.outputs["gelu"]
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
    agree(ours, functional.outputs[name])
    assert ours.shape[-1] == fourier_channels(len(grid), bands, concat, sine_only)


def test_linear_positions(functional):
    torch.testing.assert_close(
        linear_positions((3, 5)).unflatten(0, (3, 5)), functional.outputs["linear_positions_3x5"]
    )


def test_space_to_depth(functional):
    image, video = functional.inputs["image"], functional.inputs["video"]
    assert torch.equal(space_to_depth(image, (4, 4)), functional.outputs["s2d_image_b4"])
    assert torch.equal(space_to_depth(video, (2, 4, 4)), functional.outputs["s2d_video_t2_b4"])
