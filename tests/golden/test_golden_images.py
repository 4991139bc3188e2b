"""Whole image models built from a spec equal the official code: encoder input, latents and logits."""

from typing import Any

import pytest
import torch
from haiku_names import Golden, Names, agree, batch_norm_state, load_golden
from torch import Tensor

from perceivers.elements import Batch, Elements
from perceivers.models.build import build
from perceivers.models.model import Model
from perceivers.nn.position import FourierPosition

STEM = "image_preprocessor/~/conv2_d_downsample/~"
PLAIN = {"kind": "image", "mean": [0, 0, 0], "std": [1, 1, 1]}
LABEL = {"kind": "category", "classes": [f"class_{i}" for i in range(10)]}


def spec(golden: Golden, image: dict[str, Any], decoder: dict[str, Any]) -> dict[str, Any]:
    """Our spec of an official config."""
    theirs = golden.config["encoder"]
    width = theirs["num_z_channels"]
    by_query = theirs["cross_attention_shape_for_attn"] == "q"
    return {
        "inputs": {"image": {**PLAIN, **image}},
        "latents": {"count": theirs["z_index_dim"], "channels": width},
        "encoder": {
            "blocks": theirs["num_blocks"],
            "layers": theirs["num_self_attends_per_block"],
            "block_sharing": "all",
            "cross": {
                "heads": theirs["num_cross_attend_heads"],
                "widening": theirs["cross_attend_widening_factor"],
                "qk_channels": width if by_query else None,
                "query_residual": theirs["use_query_residual"],
            },
            "self_attend": {
                "heads": theirs["num_self_attend_heads"],
                "widening": theirs["self_attend_widening_factor"],
            },
        },
        "decoder": decoder,
        "outputs": {"label": LABEL},
    }


def fourier(golden: Golden) -> dict[str, Any]:
    theirs = golden.config["input_preprocessor"]["fourier_position_encoding_kwargs"]
    return {
        "kind": "fourier",
        "bands": theirs["num_bands"],
        "resolution": theirs["max_resolution"],
        "concat_position": theirs["concat_pos"],
        "sine_only": theirs["sine_only"],
    }


def elements(images: Tensor) -> Elements:
    return Elements(images.flatten(1, 2), grid=tuple(images.shape[1:3]))


@torch.no_grad()
def agree_all_through(model: Model, golden: Golden, suffix: str = "") -> None:
    """Encoder input, latents and logits of `images<suffix>`."""
    images = elements(golden.inputs[f"images{suffix}"])
    latents = model.encode(Batch({"image": images}, len(images.values)))
    agree(model.inputs["image"](images).joined(), golden.outputs[f"encoder_input{suffix}"])
    agree(latents, golden.outputs[f"latents{suffix}"])
    agree(model.decode(latents)["label"], golden.outputs[f"logits{suffix}"])


def test_fourier_pixels():
    golden = load_golden("dm_image_fourier")
    image = {"size": [10, 14], "position": fourier(golden)}
    model = build(spec(golden, image, {"query_residual": True, "kind": "cross_attend"})).eval()
    names = Names(golden.params)
    names.encoder("encoder.")
    names.classification_decoder()
    names.into(model)
    agree_all_through(model, golden)
    agree_all_through(model, golden, "_othersize")


@pytest.fixture
def conv() -> tuple[Model, Golden]:
    golden = load_golden("dm_image_conv")
    image = {"size": [32, 24], "lift": {"kind": "conv", "channels": 64}, "position": fourier(golden)}
    model = build(spec(golden, image, {"query_residual": True, "kind": "cross_attend"})).eval()
    names = Names(golden.params)
    names.encoder("encoder.")
    names.classification_decoder()
    names.conv_stem("inputs.image.lift.stem.", STEM, golden.state)
    names.into(model)
    return model, golden


@pytest.mark.parametrize("suffix", ["", "_odd", "_odd2"])
def test_convolution_stem(conv, suffix):
    model, golden = conv
    agree_all_through(model, golden, suffix)


@torch.no_grad()
def test_convolution_stem_in_training_and_its_running_averages(conv):
    model, golden = conv
    model.train()
    images = elements(golden.inputs["images"])
    agree(model(Batch({"image": images}, 2))["label"], golden.outputs["logits_train_mode"])
    norm = model.get_submodule("inputs.image.lift.stem.norms.0")
    for name, value in batch_norm_state(STEM, golden.state_after_train).items():
        agree(norm.get_buffer(name), value)


@torch.no_grad()
def test_average_decoder_query_shaped_attention_and_sine_only_positions():
    golden = load_golden("dm_image_fourier_projection_decoder")
    image = {"size": [5, 7], "position": fourier(golden)}
    model = build(spec(golden, image, {"kind": "average"})).eval()
    # The official option to pass positions through a small residual network is not one of our spec's.
    extra = [f"image_preprocessor/~_build_network_inputs/linear{n}" for n in ("", "_1")]
    names = Names(golden.params)
    names.encoder("encoder.")
    names.linear("outputs.label.head", "projection_decoder/~/logits")
    names.into(model, frozenset(f"{path}/{name}" for path in extra for name in ("w", "b")))

    assert isinstance(model.get_submodule("inputs.image.position"), FourierPosition)
    pixels = golden.inputs["images"][:, ::2, ::2]
    lifted = model.inputs["image"](elements(pixels))
    position = lifted.position.joined()
    for last, path in enumerate(extra):
        position = position + position @ golden.params[f"{path}/w"] + golden.params[f"{path}/b"]
        position = position if last else position.relu()
    encoder_input = torch.cat([lifted.content, position.expand(2, -1, -1)], dim=-1)
    agree(encoder_input, golden.outputs["encoder_input"])
    latents = model.encoder(encoder_input)
    agree(latents, golden.outputs["latents"])
    agree(model.decode(latents)["label"], golden.outputs["logits"])
