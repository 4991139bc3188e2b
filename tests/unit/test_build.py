"""Spec → Model: widths, sharing, seeds, devices."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import perceivers
from perceivers.errors import SpecError
from perceivers.models.build import build
from perceivers.models.device import checked_device
from perceivers.nn import AverageDecoder, CrossAttend
from perceivers.nn.blocks import ACTIVATIONS

NUMBER = {"kind": "number", "columns": ["a", "b"], "mean": [0, 0], "std": [1, 1], "channels": 6}
TEXT = {"kind": "text", "length": 4, "channels": 10, "position": {"kind": "learned", "channels": 10, "join": "add"}}
LABEL = {"kind": "category", "classes": ["x", "y", "z"]}
AGE = {"kind": "number", "mean": [0], "std": [1]}
ROW = {"a": 1.0, "b": -2.0}


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "inputs": {"row": NUMBER},
        "latents": {"count": 5, "channels": 8},
        "encoder": {"layers": 2, "self_attend": {"heads": 2}},
        "outputs": {"label": LABEL},
        **changes,
    }


def test_build_is_public():
    assert perceivers.build is build


def test_one_input_is_read_at_its_own_width():
    model = build(spec())
    assert model.fusion is None
    assert model.encoder.cross_attends[0].attention.key.in_features == 6


def test_several_inputs_are_padded_to_one_width_by_embeddings_of_their_own():
    model = build(spec(inputs={"row": NUMBER, "note": TEXT}))
    assert model.fusion.channels == 14
    assert {n: tuple(p.shape) for n, p in model.fusion.embeddings.items()} == {"note": (1, 4), "row": (1, 8)}
    tight = build(spec(inputs={"row": NUMBER, "note": TEXT}, encoder={"padding": 0}))
    assert tight.fusion.channels == 10
    assert tight.fusion.embeddings["note"].numel() == 0


def test_several_outputs_ask_queries_of_one_width():
    label = {**LABEL, "query": {"kind": "learned", "channels": 12}}
    model = build(spec(outputs={"label": label, "age": AGE}))
    assert model.query_fusion.channels == 14, "the widest and the decoder's padding of two"
    assert model.outputs["label"].query.table.shape == (1, 12)
    assert model.outputs["age"].query.table.shape == (1, 8)
    assert model.outputs["label"].head.weight.shape == (3, 14)
    assert model.decoder.cross_attend.attention.query.in_features == 14
    one = build(spec(outputs={"label": label}))
    assert one.query_fusion is None
    assert one.outputs["label"].head.weight.shape == (3, 12)


def test_the_average_decoder_reads_latents_and_has_no_queries():
    model = build(spec(decoder={"kind": "average"}, outputs={"label": LABEL, "age": AGE}))
    assert isinstance(model.decoder, AverageDecoder)
    assert model.query_fusion is None
    assert not [name for name, _ in model.named_parameters() if "query" in name and not name.startswith("encoder")]
    assert model.outputs["label"].head.weight.shape == (3, 8)


def test_the_mean_has_a_norm_where_the_spec_says_so():
    model = build(spec(decoder={"kind": "average", "norm": True}, outputs={"label": LABEL}))
    assert model.decoder.norm.weight.shape == (8,)
    model([{"row": ROW}] * 2)["label"].sum().backward()
    assert model.decoder.norm.weight.grad is not None


INPUTS = {
    "numbers": {"row": NUMBER},
    "a grid": {"photo": {"kind": "image", "size": [24, 24], "channels": 1, "mean": [0], "std": [1]}},
}


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_without_biases_of_queries_keys_and_values_all_is_as_with_zeros(inputs):
    outputs = {"map": {"kind": "grid", "size": [4, 4]}}
    raw = {"row": ROW, "photo": np.arange(576).astype(np.uint8).reshape(24, 24, 1)}
    sample = {name: raw[name] for name in inputs}
    without = {"cross": {"qkv_bias": False}, "self_attend": {"heads": 4, "qkv_bias": False}}
    asked = {"kind": "cross_attend", "qkv_bias": False}
    bare = build(spec(inputs=inputs, encoder=without, decoder=asked, outputs=outputs), seed=0).double()
    whole = build(spec(inputs=inputs, encoder={"self_attend": {"heads": 4}}, outputs=outputs), seed=0).double()
    missing = whole.state_dict().keys() - bare.state_dict().keys()
    assert len(missing) == 3 * (2 + len(bare.encoder.blocks[0]))
    assert all(name.rpartition(".")[0].endswith(("query", "key", "value")) for name in missing)
    assert not any(whole.state_dict()[name].any() for name in missing), "biases begin as zeros"
    whole.load_state_dict(bare.state_dict(), strict=False)
    torch.testing.assert_close(bare([sample, {}])["map"], whole([sample, {}])["map"], rtol=0, atol=1e-12)


def test_every_number_of_the_spec_arrives():
    encoder = {
        "cross_attends": 2,
        "interleaved": True,
        "cross_sharing": "none",
        "blocks": 3,
        "layers": 2,
        "block_sharing": "after_first",
        "cross": {"heads": 3, "qk_channels": 9, "v_channels": 12, "widening": 2, "query_residual": False},
        "self_attend": {"heads": 2, "qk_channels": 4, "v_channels": 6, "widening": 3},
        "activation": "relu_squared",
        "dropout": 0.25,
    }
    decoder = {"heads": 2, "qk_channels": 4, "v_channels": 6, "widening": 5, "query_residual": False}
    model = build(
        spec(encoder=encoder, decoder={"kind": "cross_attend", **decoder}, latents={"count": 5, "channels": 8})
    )
    assert model.encoder.order == (("cross", 0), ("block", 0), ("cross", 1), ("block", 1), ("block", 1))
    assert len(model.encoder.cross_attends) == len(model.encoder.blocks) == 2
    cross, self_attend = model.encoder.cross_attends[1], model.encoder.blocks[1][1]
    asked = model.decoder.cross_attend
    for block, heads, qk, v, hidden in ((cross, 3, 9, 12, 16), (self_attend, 2, 4, 6, 24), (asked, 2, 4, 6, 40)):
        sizes = (block.attention.heads, block.attention.key.out_features, block.attention.value.out_features)
        assert sizes == (heads, qk, v)
        assert block.mlp.hidden.out_features == hidden
        assert block.mlp.activation is ACTIVATIONS["relu_squared"]
    assert [b.query_residual for b in model.modules() if isinstance(b, CrossAttend)] == [False] * 3
    dropped = {m.p for m in model.encoder.modules() if isinstance(m, nn.Dropout)}
    assert dropped == {0.25}
    assert model.decoder.cross_attend.dropout.p == 0.0


def test_initial_scales_arrive():
    wide = spec(latents={"count": 64, "channels": 64, "init_std": 1.0})
    wide["outputs"] = {"label": {**LABEL, "query": {"kind": "learned", "channels": 256, "init_std": 0.5}}}
    model = build(wide, seed=0)
    assert model.encoder.latents.std().item() == pytest.approx(0.88, abs=0.05)
    assert model.outputs["label"].query.table.std().item() == pytest.approx(0.44, abs=0.08)


def test_a_seed_fixes_the_draw_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second, third = build(spec(), seed=1), build(spec(), seed=1), build(spec(), seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.encoder.latents, third.encoder.latents)
    assert not torch.equal(build(spec()).encoder.latents, build(spec()).encoder.latents)


def test_the_order_of_names_in_the_spec_does_not_matter():
    inputs, outputs = {"row": NUMBER, "note": TEXT}, {"label": LABEL, "age": AGE}
    forward = build(spec(inputs=inputs, outputs=outputs), seed=0)
    backward = build(
        spec(inputs=dict(reversed(inputs.items())), outputs=dict(reversed(outputs.items()))),
        seed=0,
    )
    assert list(forward.state_dict()) == list(backward.state_dict())
    for name, tensor in forward.state_dict().items():
        assert torch.equal(tensor, backward.state_dict()[name]), name


def test_meta_takes_no_memory_and_has_the_same_shapes():
    meta = build(spec(), device="meta")
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    real = build(spec())
    assert [(n, p.shape) for n, p in meta.named_parameters()] == [(n, p.shape) for n, p in real.named_parameters()]


def test_an_incomplete_spec_is_not_built():
    with pytest.raises(SpecError, match="number: mean and std are not known yet"):
        build(spec(inputs={"row": {"kind": "number", "columns": ["a"]}}))
    with pytest.raises(
        SpecError, match=r"encoder\.self_attend\.heads is 3, which does not divide latents\.channels = 8"
    ):
        build(spec(encoder={"self_attend": {"heads": 3}}))
    with pytest.raises(SpecError, match="unknown preset 'perceiver'"):
        build("perceiver")
    with pytest.raises(SpecError, match="spec: expected a mapping"):
        build(["perceiver"])


@pytest.mark.parametrize("device", ["metta", "cuda:99", "cup"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(SpecError, match=f"there is no device '{device}' here"):
        build("perceiver-io-language", device=device)
    assert checked_device("cpu:0") == torch.device("cpu")
