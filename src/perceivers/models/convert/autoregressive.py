"""Perceiver AR's own configurations and parameters ↔ ours [perceiver_ar_model.py; models.md §5 and §10].

spec_of_config     the official settings as a spec
from_official      haiku parameters → a state dict of our model; complete, or the first that does not fit is named
to_official        the way back
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceivers.errors import ModelError, near_miss
from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.build import build
from perceivers.models.spec import Spec, as_spec
from perceivers.models.spec_autoregressive import AutoregressiveSpec

INPUT, OUTPUT = "tokens", "next"
_ATTENTION = {"query": "linear", "key": "linear_1", "value": "linear_2", "output": "linear_3"}
_MLP = {"hidden": "linear", "output": "linear_1"}
_CROSS_NORMS = {"query_norm": "layer_norm", "element_norm": "layer_norm_1", "mlp_norm": "layer_norm_2"}
_SELF_NORMS = {"norm": "layer_norm", "mlp_norm": "layer_norm_1"}
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


def from_official(spec: Spec, params: Mapping[str, np.ndarray], where: str = "the parameters") -> dict[str, Tensor]:
    """The state dict of `build(spec)` from haiku parameters by their whole names (`perceiver_ar/~/…/w`).

    Raises `ModelError` that names the first array that is missing, too much or of another shape. where: heads it.
    """
    wanted = build(spec, device="meta").state_dict()
    names = official_names(spec)
    assert set(names) == set(wanted), "every parameter has an official name"
    state = {}
    for ours, (theirs, transposed) in names.items():
        shape = tuple(wanted[ours].shape)
        shape = shape[::-1] if transposed else shape
        if theirs not in params:
            raise ModelError(f"{where}: '{theirs}' is missing; wanted {shape}, for {ours}.{near_miss(theirs, params)}")
        array = params[theirs]
        if tuple(array.shape) != shape:
            raise ModelError(f"{where}: '{theirs}' is {tuple(array.shape)}, wanted {shape}, for {ours}.")
        tensor = torch.from_numpy(np.array(array, np.float32))
        state[ours] = tensor.T.contiguous() if transposed else tensor
    known = {theirs for theirs, _ in names.values()}
    extra = sorted(set(params) - known)
    if extra:
        raise ModelError(f"{where}: '{extra[0]}' has no place in the model ({len(extra)} arrays have none).")
    return state


def to_official(spec: Spec, state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Haiku parameters by their whole names from a state dict of `build(spec)`."""
    found = {}
    for ours, (theirs, transposed) in official_names(spec).items():
        tensor = state[ours].detach().cpu()
        found[theirs] = (tensor.T if transposed else tensor).contiguous().numpy()
    return found


def official_names(spec: Spec) -> dict[str, tuple[str, bool]]:
    """Our name of every parameter → its official one, and whether that is transposed ([in, out] there)."""
    return dict(_names(spec))


def _names(spec: Spec) -> Iterator[tuple[str, tuple[str, bool]]]:
    e, (name, read), (answer,) = spec.encoder, *spec.inputs.items(), tuple(spec.outputs)
    assert isinstance(e, AutoregressiveSpec), "the encoder is autoregressive"
    embedding = f"inputs.{name}.embedding"
    yield f"{embedding}.tokens.weight", (f"{_INSIDE}/embed/embeddings", False)
    sizes = read.position.sizes or (0,) if read.position.kind == "absolute" else ()  # pyright: ignore[reportAttributeAccessIssue]
    for number in range(len(sizes)):
        yield f"{embedding}.tables.{number}", (f"{_INSIDE}/embed_{number + 1}/embeddings", False)
    yield from _query_names(e)
    for number in range(len(e.reads)):
        official = f"{_INSIDE}/{_numbered('cross_attention', number)}"
        yield from _layer_names(f"encoder.cross_attends.{number}", official, _CROSS_NORMS)
    for number in range(e.layers):
        official = f"{_INSIDE}/{_numbered('self_attention', number)}"
        yield from _layer_names(f"encoder.self_attends.{number}", official, _SELF_NORMS)
    yield from _norm(f"outputs.{answer}.next.norm", f"{_ROOT}/layer_norm")
    yield from _linear(f"outputs.{answer}.next.linear", f"{_INSIDE}/logits")


def _query_names(e: AutoregressiveSpec) -> Iterator[tuple[str, tuple[str, bool]]]:
    if e.query.style == "learned":
        yield "encoder.query.learned", (f"{_ROOT}/q_embed_learned", False)
        return
    # The MLP's linears are made first, and are numbered first.
    layers = e.query.layers if e.query.style == "mlp" else 0
    for number in range(layers):
        yield from _linear(f"encoder.query.layers.{number}", f"{_INSIDE}/{_numbered('linear', number)}")
    yield from _linear("encoder.query.linear", f"{_INSIDE}/{_numbered('linear', layers)}")
    if e.query.per_token > 1:
        yield "encoder.query.vectors", (f"{_INSIDE}/z_pos_enc/pos_embs", False)


def _layer_names(ours: str, official: str, norms: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, bool]]]:
    for mine, theirs in norms.items():
        yield from _norm(f"{ours}.{mine}", f"{official}/{theirs}")
    for mine, theirs in _ATTENTION.items():
        yield from _linear(f"{ours}.attention.{mine}", f"{official}/attention/{theirs}")
    for mine, theirs in _MLP.items():
        yield from _linear(f"{ours}.mlp.{mine}", f"{official}/dense/{theirs}")


def _linear(ours: str, official: str) -> Iterator[tuple[str, tuple[str, bool]]]:
    yield f"{ours}.weight", (f"{official}/w", True)
    yield f"{ours}.bias", (f"{official}/b", False)


def _norm(ours: str, official: str) -> Iterator[tuple[str, tuple[str, bool]]]:
    yield f"{ours}.weight", (f"{official}/scale", False)
    yield f"{ours}.bias", (f"{official}/offset", False)


def _numbered(name: str, number: int) -> str:
    """haiku's names of modules of one kind: `linear`, `linear_1`, `linear_2`, …"""
    return f"{name}_{number}" if number else name


def official_model(config: Mapping[str, Any], params: Mapping[str, np.ndarray], where: str) -> AutoregressiveModel:
    """The model of these official settings with these parameters, in evaluation mode."""
    spec = spec_of_config(config)
    state = from_official(spec, params, where)
    model = build(spec, device="meta")
    model.load_state_dict(state, assign=True)
    assert isinstance(model, AutoregressiveModel), "its encoder is autoregressive"
    return model.eval()
