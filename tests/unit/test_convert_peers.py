"""State dicts of other libraries: recognised, imported where a spec can say them, refused with the reason where not."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from foreign_pickles import foreign
from torch.nn import functional as F

import perceivers
from perceivers.errors import ModelError, SpecError
from perceivers.models.convert import import_weights, read_weights
from perceivers.plain_yaml import yaml_text

DRAW = torch.Generator().manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=DRAW)


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, torch.Tensor]:
    weight = randn(outputs, inputs) * inputs**-0.5
    return {f"{name}.weight": weight, **({f"{name}.bias": randn(outputs) / 5} if bias else {})}


def norm(name: str, channels: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + randn(channels) / 5, f"{name}.bias": randn(channels) / 5}


# krasserm's perceiver-io: a state dict by its names, and its forward pass in plain torch.


def attention(name: str, queries: int, read: int, width: int) -> dict[str, torch.Tensor]:
    sizes = {"q": (queries, width), "k": (read, width), "v": (read, width), "o": (width, queries)}
    parts = [linear(f"{name}.attention.{key}_proj", *size) for key, size in sizes.items()]
    return {key: tensor for part in parts for key, tensor in part.items()}


def mlp(name: str, channels: int, widening: int) -> dict[str, torch.Tensor]:
    hidden = widening * channels
    return norm(f"{name}.0", channels) | linear(f"{name}.1", channels, hidden) | linear(f"{name}.3", hidden, channels)


def cross(name: str, queries: int, read: int, width: int, residual: bool = True) -> dict[str, torch.Tensor]:
    own = f"{name}.0.module" if residual else f"{name}.0"
    norms = norm(f"{own}.q_norm", queries) | norm(f"{own}.kv_norm", read)
    return norms | attention(own, queries, read, width) | mlp(f"{name}.1.module", queries, 1)


def block(name: str, channels: int, layers: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for layer in range(layers):
        own = f"{name}.{layer}"
        state |= norm(f"{own}.0.module.norm", channels) | attention(f"{own}.0.module", channels, channels, channels)
        state |= mlp(f"{own}.1.module", channels, 2)
    return state


def normed(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def applied(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def attended(state, name, queries, read, heads, pad=None):
    q, k, v = (applied(state, f"{name}.attention.{p}_proj", x) for p, x in (("q", queries), ("k", read), ("v", read)))
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if pad is not None:
        scores = scores.masked_fill(pad[:, None, None], -torch.finfo(scores.dtype).max)
    return applied(state, f"{name}.attention.o_proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def thought(state, name, x):
    x, hidden = x, applied(state, f"{name}.1", normed(state, f"{name}.0", x))
    return x + applied(state, f"{name}.3", F.gelu(hidden))


def crossed(state, name, queries, read, heads, pad=None):
    residual = f"{name}.0.module.q_norm.weight" in state
    own = f"{name}.0.module" if residual else f"{name}.0"
    found = attended(
        state, own, normed(state, f"{own}.q_norm", queries), normed(state, f"{own}.kv_norm", read), heads, pad
    )
    return thought(state, f"{name}.1.module", queries + found if residual else found)


def looped(state, name, x, heads):
    layer = 0
    while f"{name}.{layer}.0.module.norm.weight" in state:
        own = f"{name}.{layer}"
        y = normed(state, f"{own}.0.module.norm", x)
        x = thought(state, f"{own}.1.module", x + attended(state, f"{own}.0.module", y, y, heads))
        layer += 1
    return x


def forward(state, elements, crosses, blocks, heads, pad=None):
    """Latents → answers, of (cross, self, decoder) heads. Later ones have weights of their own where there are some."""
    latents = state.get("0.latent", state.get("0.latent_provider._query"))
    x = latents.expand(len(elements), -1, -1)
    for number in range(blocks):
        if number < crosses:
            name = (
                "0.cross_attn_n" if number and any(n.startswith("0.cross_attn_n") for n in state) else "0.cross_attn_1"
            )
            x = crossed(state, name, x, elements, heads[0], pad)
        name = "0.self_attn_n" if number and any(n.startswith("0.self_attn_n") for n in state) else "0.self_attn_1"
        x = looped(state, name, x, heads[1])
    queries = state.get("1.output_adapter._output_query", state.get("1.output_query_provider._query"))
    return crossed(state, "1.cross_attn", queries.expand(len(elements), -1, -1), x, heads[2])


HALF = 127.5
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 1), np.uint8)
BANDS, CHANNELS = 3, 1 + 2 * 7


def image_state(new: bool, own: bool, residual: bool) -> dict[str, torch.Tensor]:
    """Of an image classifier. new: names since 0.8. own: later layers have weights of their own."""
    names = ("0.latent_provider._query", "1.output_query_provider._query")
    latents, queries = names if new else ("0.latent", "1.output_adapter._output_query")
    buffer = "0.input_adapter.position_encoding" + (".position_encoding" if new else "")
    state = {latents: randn(4, 8), queries: randn(1, 6), buffer: randn(30, CHANNELS - 1)}
    for number in ("1", "n") if own else ("1",):
        state |= cross(f"0.cross_attn_{number}", 8, CHANNELS, CHANNELS) | block(f"0.self_attn_{number}", 8, 2)
    return state | cross("1.cross_attn", 6, 8, 6, residual) | linear("1.output_adapter.linear", 6, 3)


def checkpoint(monkeypatch, state, encoder, decoder) -> dict[str, Any]:
    kinds = [foreign(monkeypatch, "perceiver.model.core.config", name) for name in ("EncoderConfig", "DecoderConfig")]
    made = [kind() for kind in kinds]
    for one, values in zip(made, (encoder, decoder), strict=True):
        one.__dict__.update(values)
    named = {f"model.{name}": tensor for name, tensor in state.items()}
    settings = {"encoder": made[0], "decoder": made[1], "num_latents": 4}
    return {"state_dict": named, "hyper_parameters": settings, "epoch": 2, "callbacks": {"best": torch.tensor(1.0)}}


@pytest.mark.parametrize(("new", "own", "residual"), [(False, False, True), (True, True, True), (True, False, False)])
def test_an_image_classifier_of_a_checkpoint_that_holds_its_settings(monkeypatch, tmp_path, new, own, residual):
    state = image_state(new, own, residual)
    encoder = {
        "image_shape": (5, 6, 1),
        "num_frequency_bands": BANDS,
        "num_cross_attention_heads": 3,
        "num_cross_attention_layers": 2,
        "num_self_attention_heads": 4,
        "num_self_attention_blocks": 3,
    }
    path = tmp_path / "some.ckpt"
    torch.save(checkpoint(monkeypatch, state, encoder, {"num_cross_attention_heads": 2}), path)
    stored = read_weights(path)
    assert stored.family == "image classification of krasserm's perceiver-io"
    assert stored.extra["hyper_parameters"]["encoder"]["image_shape"] == [5, 6, 1]
    assert stored.extra["left out"] == ["callbacks"]
    model = perceivers.load(import_weights(path, tmp_path / "model"))
    pixels = (torch.from_numpy(PICTURES).float() - HALF) / HALF
    axes = [torch.linspace(-1, 1, n) for n in (5, 6)]
    where = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    angles = [where[..., a : a + 1] * torch.linspace(1, n / 2, BANDS) * math.pi for a, n in enumerate((5, 6))]
    waves = [torch.sin(angle) for angle in angles] + [torch.cos(angle) for angle in angles]
    positions = torch.cat([where, *waves], -1).expand(2, -1, -1, -1)
    elements = torch.cat([pixels, positions], -1).flatten(1, 2)
    wanted = applied(state, "1.output_adapter.linear", forward(state, elements, 2, 3, (3, 4, 2)))[:, 0]
    found = model([{"image": picture} for picture in PICTURES])["label"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


TEXTS = ("a text", "another one")
HEADS = {"encoder": {"cross_attends": 1, "blocks": 2, "cross": {"heads": 4}, "self_attend": {"heads": 2}}}


def text_state(tied: bool, vocabulary: int = 262, queries: int = 12) -> dict[str, torch.Tensor]:
    state = {"0.latent_provider._query": randn(4, 8), "0.input_adapter.txt_embedding.weight": randn(vocabulary, 16)}
    state |= {"0.input_adapter.pos_embedding.weight": randn(12, 16)}
    state |= cross("0.cross_attn_1", 8, 16, 8) | block("0.self_attn_1", 8, 2)
    if tied:
        state |= {"1.output_query_provider._query": randn(queries, 16), "1.output_adapter.bias": randn(vocabulary)}
        return state | cross("1.cross_attn", 16, 8, 8)
    state |= {"1.output_query_provider._query": randn(1, 6)}
    return state | cross("1.cross_attn", 6, 8, 4) | linear("1.output_adapter.linear", 6, 3)


def text_answers(state, heads=(4, 2, 2)):
    lengths = torch.tensor([len(text) for text in TEXTS])
    ids = torch.zeros(2, 12, dtype=torch.long)
    for row, text in enumerate(TEXTS):
        ids[row, : len(text)] = torch.tensor(list(text.encode())) + 6
    elements = state["0.input_adapter.txt_embedding.weight"][ids] + state["0.input_adapter.pos_embedding.weight"]
    return forward(state, elements, 1, 2, heads, torch.arange(12) >= lengths[:, None])


def test_a_text_classifier(tmp_path):
    state = text_state(tied=False)
    torch.save({f"backend_model.{name}": tensor for name, tensor in state.items()}, tmp_path / "some.bin")
    spec = {**HEADS, "decoder": {"heads": 2}, "outputs": {"mood": {"kind": "category", "classes": ["a", "b", "c"]}}}
    spec["outputs"]["mood"]["query"] = {"kind": "learned", "channels": 6}
    model = perceivers.load(import_weights(tmp_path / "some.bin", tmp_path / "model", spec=spec))
    wanted = applied(state, "1.output_adapter.linear", text_answers(state))[:, 0]
    torch.testing.assert_close(model([{"text": t} for t in TEXTS])["mood"], wanted, rtol=1e-5, atol=1e-5)


def test_masked_text(tmp_path):
    state = text_state(tied=True)
    torch.save(state, tmp_path / "some.pt")
    (tmp_path / "heads.yaml").write_text(yaml_text({**HEADS, "decoder": {"heads": 2}}))
    model = perceivers.load(import_weights(tmp_path / "some.pt", tmp_path / "model", spec=tmp_path / "heads.yaml"))
    embedding = state["0.input_adapter.txt_embedding.weight"]
    wanted = text_answers(state) @ embedding.T + state["1.output_adapter.bias"]
    torch.testing.assert_close(model([{"text": t} for t in TEXTS])["guess"], wanted, rtol=1e-5, atol=1e-5)


# Refusals. Nothing is written.


def refused(tmp_path, state, spec=None, preset=None) -> str:
    torch.save(state, tmp_path / "some.pt")
    with pytest.raises((ModelError, SpecError)) as caught:
        import_weights(tmp_path / "some.pt", tmp_path / "model", spec=spec, preset=preset)
    assert not (tmp_path / "model").exists()
    return str(caught.value)


def changed(spec: dict[str, Any], **encoder: Any) -> dict[str, Any]:
    return {**spec, "encoder": {**spec["encoder"], **encoder}, "decoder": {"heads": 2}}


def test_what_the_weights_do_not_tell_must_be_given(tmp_path):
    said = refused(tmp_path, text_state(tied=True))
    assert "do not tell encoder.cross.heads (num_cross_attention_heads there), encoder.self_attend.heads" in said
    assert "encoder.blocks (num_self_attention_blocks there)" in said
    assert "--spec FILE" in said


def test_what_is_given_must_not_contradict(tmp_path):
    said = refused(tmp_path, text_state(tied=True), changed(HEADS, layers=5))
    assert "encoder.layers is given as 5, but the weights say 2; leave it out" in said
    assert "leave it out" in refused(tmp_path, text_state(tied=True), preset="perceiver-io-language")


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (text_state(tied=True, vocabulary=300), "it has 300 kinds of tokens"),
        (text_state(tied=True, queries=10), "it reads 12 tokens and answers 10"),
        (text_state(tied=False) | {"1.output_query_provider._query": randn(12, 6)}, "it asks 12 queries"),
        (
            {"cross_attention.0.module.q_norm.weight": randn(4), "input_adapter.frq_pos_encoding.inv_freq": randn(2)},
            "its latents start as the tokens",
        ),
        ({"token_emb.weight": randn(9, 4), "perceiver_io.latents": randn(3, 4)}, "queries are the embedded tokens"),
        (
            {
                "0.cross_attn_1.x": randn(1),
                "0.input_adapter.position_encoding.x": randn(1),
                "0.input_adapter.linear.weight": randn(1),
            },
            "its weights are DeepMind's",
        ),
    ],
    ids=["vocabulary", "lengths", "queries", "autoregressive", "language model", "flow"],
)
def test_models_that_no_spec_can_say(tmp_path, state, why):
    said = refused(tmp_path, state, changed(HEADS))
    assert "cannot be imported: " in said
    assert why in said


def test_cross_attends_that_are_not_spread_evenly(tmp_path):
    said = refused(tmp_path, text_state(tied=True), changed(HEADS, cross_attends=2, blocks=6))
    assert "2 cross-attends stand before the first 2 of 6 blocks there" in said
    assert "encoder.cross_attends is 3 and encoder.blocks 2" in refused(
        tmp_path, text_state(tied=True), changed(HEADS, cross_attends=3)
    )


@pytest.mark.parametrize("crosses", ["2", 2.0])
def test_numbers_are_read_as_a_spec_reads_them(tmp_path, crosses):
    # What is spread evenly is another network, however its numbers are written.
    said = refused(tmp_path, text_state(tied=True), changed(HEADS, cross_attends=crosses, blocks="6"))
    assert "2 cross-attends stand before the first 2 of 6 blocks there" in said
    said = refused(tmp_path, text_state(tied=True), changed(HEADS, cross_attends="two", blocks=6))
    assert "encoder.cross_attends: input should be a valid integer" in said


def test_no_latents_and_no_embedding(tmp_path):
    state = text_state(tied=True)
    del state["0.latent_provider._query"]
    said = refused(tmp_path, state, changed(HEADS))
    assert "lacks '0.latent' or '0.latent_provider._query', so it is no whole masked text of krasserm's" in said
    state = text_state(tied=True)
    state["x.0.input_adapter.txt_embedding.weight"] = state.pop("0.input_adapter.txt_embedding.weight")
    assert "lacks '0.input_adapter.txt_embedding.weight'" in refused(tmp_path, state, changed(HEADS))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"encoder": 3}, "encoder is given as 3; wanted a mapping of names to values"),
        ({"encoder": None}, "encoder is given as None; wanted a mapping"),
        ({"inputs": "text"}, "inputs is given as 'text'; wanted a mapping"),
        ({"inputs": {"image": "pixels"}}, "inputs.image is given as 'pixels'; wanted a mapping"),
        ({"outputs": ["label"]}, "outputs is given as ['label']; wanted a mapping"),
    ],
)
def test_what_is_given_is_made_of_mappings(tmp_path, given, said):
    assert said in refused(tmp_path, text_state(tied=True), given)
    assert said in refused(tmp_path, pytorch_state(), given)


def test_a_missing_and_an_extra_array(tmp_path):
    state = text_state(tied=True)
    del state["0.self_attn_1.1.1.module.3.bias"]
    assert "'0.self_attn_1.1.1.module.3.bias'" in refused(tmp_path, state, changed(HEADS))
    state = text_state(tied=True) | {"0.more.weight": randn(2, 2)}
    assert "1 array is too many, the first '0.more.weight'" in refused(tmp_path, state, changed(HEADS))


# perceiver-pytorch's names; the arithmetic is compared with the package itself in tests/parity.


def pytorch_state(depth: int = 2, old: bool = False) -> dict[str, torch.Tensor]:
    """Of a `Perceiver` of a picture of 1 channel, 2 bands: 11 channels an element."""
    state = {"latents": randn(4, 8)} | norm("to_logits.1", 8) | linear("to_logits.2", 8, 3)
    for layer in range(depth):
        first, second, own = ("0", "1", "2.0") if old else ("cross_attn", "cross_ff", "self_attns.0")
        at = f"layers.{layer}"
        parts = ((f"{at}.{first}", 11, 6), (f"{at}.{own}.0", 8, 10))
        for name, read, width in parts:
            state |= norm(f"{name}.norm", 8) | linear(f"{name}.fn.to_q", 8, width, bias=False)
            state |= linear(f"{name}.fn.to_kv", read, 2 * width, bias=False) | linear(f"{name}.fn.to_out", width, 8)
        state |= norm(f"{at}.{first}.norm_context", 11)
        for name in (f"{at}.{second}", f"{at}.{own}.1"):
            state |= norm(f"{name}.norm", 8) | linear(f"{name}.fn.net.0", 8, 64) | linear(f"{name}.fn.net.2", 32, 8)
    return state


POSITION = {"kind": "fourier", "bands": 2, "resolution": [10, 10]}
PICTURE = {"kind": "image", "size": [5, 6], "channels": 1, "mean": [0], "std": [1], "position": POSITION}
PYTORCH = {"inputs": {"image": PICTURE}, "encoder": {"cross": {"heads": 2}, "self_attend": {"heads": 5}}}


@pytest.mark.parametrize("old", [False, True])
def test_a_perceiver_of_perceiver_pytorch(tmp_path, old):
    state = pytorch_state(old=old)
    torch.save(state, tmp_path / "some.pth")
    assert read_weights(tmp_path / "some.pth").family == "Perceiver of perceiver-pytorch"
    model = perceivers.load(import_weights(tmp_path / "some.pth", tmp_path / "model", spec=PYTORCH))
    e = model.spec.perceiver
    assert (e.cross_attends, e.blocks, e.interleaved, e.block_sharing) == (2, 2, True, "none")
    assert (e.activation, e.cross.qk_channels, e.cross.widening, e.cross.qkv_bias) == ("geglu", 6, 4, False)
    assert model.spec.decoder.norm
    assert sum(p.numel() for p in model.parameters()) == sum(tensor.numel() for tensor in state.values())
    # Ours of an element: data, both positions, sines of both axes, cosines of both.
    order = [0, 5, 10, 1, 2, 6, 7, 3, 4, 8, 9]
    fused = state[f"layers.1.{0 if old else 'cross_attn'}.fn.to_kv.weight"][:, order]
    attention = model.encoder.cross_attends[1].attention
    torch.testing.assert_close(torch.cat([attention.key.weight, attention.value.weight]), fused)


def test_layers_with_equal_numbers_were_tied(tmp_path):
    state = pytorch_state(depth=4)
    for name in [name for name in state if name.startswith("layers.1.")]:
        for layer in (2, 3):
            state[name.replace("layers.1.", f"layers.{layer}.")] = state[name]
    torch.save(state, tmp_path / "some.pt")
    model = perceivers.load(import_weights(tmp_path / "some.pt", tmp_path / "model", spec=PYTORCH))
    assert (model.spec.perceiver.cross_sharing, len(model.encoder.cross_attends)) == ("after_first", 2)


@pytest.mark.parametrize(
    ("changes", "spec", "why"),
    [
        ({}, {}, "do not tell encoder.cross.heads (cross_heads there), encoder.self_attend.heads (latent_heads there)"),
        ({"attn_residuals.0.x": randn(2)}, PYTORCH, "its layers have attention residuals ('attn_residuals.0.x')"),
        ({"to_logits.2.weight": None}, PYTORCH, "it has no to_logits"),
        ({"latents": randn(8)}, PYTORCH, "has the shape (8,) for 'latents'"),
        ({}, {**PYTORCH, "inputs": {"image": {**PICTURE, "position": {"kind": "fourier", "bands": 2}}}}, "max_freq"),
        (
            {},
            {**PYTORCH, "inputs": {"image": {**PICTURE, "lift": {"kind": "patches", "size": [1, 1], "channels": 4}}}},
            "holds nothing for inputs.image.lift.linear.weight of this spec",
        ),
        (
            {},
            {**PYTORCH, "inputs": {"image": {**PICTURE, "position": {**POSITION, "bands": 3}}}},
            "of another shape, the first 'layers.0.cross_attn.norm_context.weight'",
        ),
    ],
    ids=["heads", "residuals", "no head", "one axis", "max_freq", "a lift", "bands"],
)
def test_what_is_wrong_with_weights_or_spec_of_perceiver_pytorch(tmp_path, changes, spec, why):
    state = {name: tensor for name, tensor in {**pytorch_state(), **changes}.items() if tensor is not None}
    assert why in refused(tmp_path, state, spec)
