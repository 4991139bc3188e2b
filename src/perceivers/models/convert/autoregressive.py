"""Perceiver AR's own configurations and parameters ↔ ours [perceiver_ar_model.py; models.md §5 and §10].

spec_of_config     the official settings as a spec
from_official      haiku parameters → a state dict of our model; complete, or the first that does not fit is named
to_official        the way back
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from perceivers.errors import ModelError, near_miss
from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.convert.deepmind import attention, feed_forward, linear, norm, numbered
from perceivers.models.convert.mapping import Entry, same
from perceivers.models.spec import Spec, as_spec
from perceivers.models.spec_autoregressive import AutoregressiveSpec

INPUT, OUTPUT = "tokens", "next"
_CROSS_NORMS, _SELF_NORMS = ("query_norm", "element_norm", "mlp_norm"), ("norm", "mlp_norm")
_ROOT, _INSIDE = "perceiver_ar", "perceiver_ar/~"

# The defaults of the official class; those named None must be given.
_DEFAULTS: dict[str, Any] = {
    "vocab": None,
    "input_idx_size": None,
    "max_context_length": None,
    "position_encoding_type": None,
    "input_embed_dim": 1024,
    "position_encoding": "sinusoidal",
    "learnable_position_embeddings": False,
    "num_transformers_per_block": 12,
    "z_index_dim": 1024,
    "num_z_channels": 1024,
    "num_cross_attend_heads": 1,
    "num_transformer_heads": 8,
    "cross_attend_widening_factor": 1,
    "transformer_widening_factor": 1,
    "initial_query_offsetting": False,
    "initial_query_embed_style": "none",
    "share_learned_initial_query": False,
    "initial_query_embed_activation_name": "sq_relu",
    "initial_query_embed_num_layers": 2,
    "include_initial_cross_attention": True,
    "additional_cross_attend_after_layers": (),
    "dropout_prob": 0.0,
    "cross_attention_shape_for_attn": "kv",
    "encoder_use_query_residual": True,
    "mask_style": "final_block",
    "latent_dropout_prob": 0.0,
    "encoder_dropout_prob": 0.0,
    "num_latents_per_position": 1,
    "activation_name": "sq_relu",
    "fraction_to_rotate": 0.25,
    "fraction_heads_to_rotate": 1.0,
    "max_wavelength": 8192,
    "use_positions_from_data": False,
    "train_input_positions": 0,
    "use_negative_rotary_positions": False,
}
# What a trained model does not depend on: ways to compute, first draws, and what recordings say of themselves.
_WITHOUT_EFFECT = {
    *("cross_attention_head_group_size", "chunked_cross_attention", "chunked_cross_query_size"),
    *("chunked_cross_key_size", "concat_pos", "z_pos_enc_init_scale", "final_layer_init_zeros", "name"),
    *("note", "source", "start", "memory_mask_fill", "self_memory_fill_after_each_step"),
}
_ACTIVATIONS = {"sq_relu": "relu_squared", "gelu": "gelu_tanh"}
_STYLES = {"none": "token", "mlp": "mlp", "learned": "learned"}
_CODES = ("sinusoidal", "random", "fourier")


def spec_of_config(config: Mapping[str, Any]) -> Spec:
    """The spec of a model with these official settings, whose input is called `tokens` and its output `next`.

    Raises `ModelError` for a setting that is missing, unknown or of a model that cannot be expressed.
    """
    given = dict(config)
    if "num_classes" in given:
        given["vocab"] = given.pop("num_classes")
    for name in given:
        if name not in _DEFAULTS and name not in _WITHOUT_EFFECT:
            raise ModelError(f"the configuration has '{name}', which Perceiver AR has not.{near_miss(name, _DEFAULTS)}")
    c = {**_DEFAULTS, **{name: value for name, value in given.items() if name in _DEFAULTS}}
    for name, value in c.items():
        if value is None and name != "additional_cross_attend_after_layers":
            raise ModelError(f"the configuration lacks '{name}'.")
    _one_of(c, "mask_style", ("final_block",))
    _one_of(c, "train_input_positions", (0,))
    _one_of(c, "cross_attention_shape_for_attn", ("kv", "q"))
    query = {
        "style": _one_of(c, "initial_query_embed_style", _STYLES),
        "ahead": c["initial_query_offsetting"],
        "per_token": c["num_latents_per_position"],
    }
    if query["style"] == "mlp":
        query["layers"] = c["initial_query_embed_num_layers"]
        query["activation"] = _one_of(c, "initial_query_embed_activation_name", _ACTIVATIONS)
    if query["style"] == "learned":
        query["shared"] = c["share_learned_initial_query"]
    encoder = {
        "kind": "autoregressive",
        "layers": c["num_transformers_per_block"],
        "cross": {
            "heads": c["num_cross_attend_heads"],
            "qk_channels": c["num_z_channels"] if c["cross_attention_shape_for_attn"] == "q" else None,
            "widening": c["cross_attend_widening_factor"],
            "query_residual": c["encoder_use_query_residual"],
            "first": c["include_initial_cross_attention"],
            "after": sorted(c["additional_cross_attend_after_layers"] or ()),
        },
        "self_attend": {"heads": c["num_transformer_heads"], "widening": c["transformer_widening_factor"]},
        "query": query,
        "activation": _one_of(c, "activation_name", _ACTIVATIONS),
        "dropout": c["dropout_prob"],
        "token_dropout": c["encoder_dropout_prob"],
        "latent_dropout": c["latent_dropout_prob"],
    }
    tokens = {
        "kind": "tokens",
        "encoding": "ids",
        "vocabulary": c["vocab"],
        "length": c["max_context_length"],
        "channels": c["input_embed_dim"],
        **_position(c),
    }
    plain = {
        "inputs": {INPUT: tokens},
        "latents": {"count": c["z_index_dim"], "channels": c["num_z_channels"]},
        "encoder": encoder,
        "outputs": {OUTPUT: {"kind": "next_token", "encoding": "ids", "vocabulary": c["vocab"]}},
    }
    return as_spec(plain, "the configuration")


def _position(c: Mapping[str, Any]) -> dict[str, Any]:
    from_data = c["use_positions_from_data"]
    if _one_of(c, "position_encoding_type", ("rotary", "absolute")) == "rotary":
        backwards = "negative_end" if c["use_negative_rotary_positions"] else "end"
        position = {
            "kind": "rotary",
            "fraction": c["fraction_to_rotate"],
            "head_fraction": c["fraction_heads_to_rotate"],
            "longest": c["max_wavelength"],
            "count": "start" if from_data else backwards,
        }
        return {"position": position}
    sizes = [c["max_context_length"] if size == -1 else size for size in c["input_idx_size"]]
    position = {
        "kind": "absolute",
        "code": _one_of(c, "position_encoding", _CODES),
        "sizes": sizes,
        "learnable": c["learnable_position_embeddings"],
        "count": "start" if from_data else "end",
    }
    if len(sizes) != 3:
        return {"position": position}
    # The only data with three indices are images: a row for padding, and one for the start.
    width, height, channels = sizes
    return {"position": position, "image": [height - 2, width - 2, channels - 2]}


def _one_of(config: Mapping[str, Any], name: str, known: Mapping[str, str] | tuple[Any, ...]) -> Any:
    value = config[name]
    if value not in known:
        listed = ", ".join(str(each) for each in known)
        raise ModelError(f"the configuration's {name} is {value!r}; what can be expressed is {listed}.")
    return known[value] if isinstance(known, Mapping) else value


def autoregressive_entries(model: AutoregressiveModel) -> list[Entry]:
    """Every tensor of `model` and its official name."""
    e, (name,), (answer,) = model.spec.encoder, model.inputs, model.outputs
    assert isinstance(e, AutoregressiveSpec), "the encoder is autoregressive"
    if e.activation not in _ACTIVATIONS.values():
        raise ModelError(f"the official MLPs have no {e.activation}; wanted one of {', '.join(_ACTIVATIONS.values())}.")
    embedding = f"inputs.{name}.embedding."
    found = [Entry(f"{embedding}tokens.weight", f"params/{_INSIDE}/embed/embeddings", same)]
    for number in range(len(model.core.embedding.tables)):
        found.append(Entry(f"{embedding}tables.{number}", f"params/{_INSIDE}/embed_{number + 1}/embeddings", same))
    found += _query(e)
    for number in range(len(e.reads)):
        official = f"{_INSIDE}/{numbered('cross_attention', number)}"
        found += _layer(f"encoder.cross_attends.{number}.", official, _CROSS_NORMS)
    for number in range(e.layers):
        official = f"{_INSIDE}/{numbered('self_attention', number)}"
        found += _layer(f"encoder.self_attends.{number}.", official, _SELF_NORMS)
    found += norm(f"outputs.{answer}.next.norm.", f"{_ROOT}/layer_norm")
    found += linear(f"outputs.{answer}.next.linear.", f"{_INSIDE}/logits")
    return found


def to_official(model: AutoregressiveModel) -> dict[str, np.ndarray]:
    """The model's weights by their official names (`params/perceiver_ar/~/…/w`), as the official code has them."""
    state = model.state_dict()
    # Each change is its own inverse: none, or the transposition of a linear's weight.
    entries = autoregressive_entries(model)
    return {e.theirs: np.ascontiguousarray(e.change(state[e.ours].detach().cpu().numpy())) for e in entries}


def _query(e: AutoregressiveSpec) -> Iterator[Entry]:
    if e.query.style == "learned":
        yield Entry("encoder.query.learned", f"params/{_ROOT}/q_embed_learned", same)
        return
    # The MLP's linears are made first, and are numbered first.
    layers = e.query.layers if e.query.style == "mlp" else 0
    for number in range(layers):
        yield from linear(f"encoder.query.layers.{number}.", f"{_INSIDE}/{numbered('linear', number)}")
    yield from linear("encoder.query.linear.", f"{_INSIDE}/{numbered('linear', layers)}")
    if e.query.per_token > 1:
        yield Entry("encoder.query.vectors", f"params/{_INSIDE}/z_pos_enc/pos_embs", same)


def _layer(ours: str, official: str, norms: tuple[str, ...]) -> Iterator[Entry]:
    yield from attention(f"{ours}attention.", f"{official}/attention")
    yield from feed_forward(f"{ours}mlp.", f"{official}/dense")
    for index, part in enumerate(norms):
        yield from norm(f"{ours}{part}.", f"{official}/{numbered('layer_norm', index)}")
