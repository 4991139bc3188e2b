"""The names of DeepMind's Perceiver and Perceiver IO [models.md §10 of the plan]: haiku's module paths for a model's.

What a model is called there follows from its spec, so a spec with other widths has names too.
"""

from collections.abc import Iterator
from typing import Any

from perceivers.errors import ModelError
from perceivers.models.convert.mapping import (
    Entry,
    channels_last_kernel,
    flat,
    one_by_one,
    same,
    transposed,
    transposed_kernel,
)
from perceivers.models.model import Model
from perceivers.models.spec import AverageDecoderSpec, EncoderSpec, Spec
from perceivers.nn.position import LearnedPosition, RefinedPosition

_IMAGE = "image_preprocessor"
_NETWORK_INPUTS = f"{_IMAGE}/~_build_network_inputs"
_STEM = f"{_IMAGE}/~/conv2_d_downsample/~"
_QUERY = "~/trainable_position_encoding"


def entries(model: Model) -> list[Entry]:
    """Every tensor of `model` and its official name. Raises `ModelError` for what the official code has no name for."""
    _check(model.spec)
    if model.fusion is not None and model.query_fusion is not None:
        return [*_fusion(model), *_encoder(model, "encoder/~"), *_multimodal_outputs(model)]
    if model.fusion is not None or model.query_fusion is not None:
        raise ModelError("DeepMind's files hold models of one input and one output, or of several of both.")
    return [*_input(model), *_encoder(model, "perceiver_encoder/~"), *_output(model)]


def _check(spec: Spec) -> None:
    """Raise `ModelError` for what the official blocks have not."""
    e, d = spec.encoder, spec.decoder
    averaged = isinstance(d, AverageDecoderSpec)
    if isinstance(e, EncoderSpec) and e.activation == "geglu":
        raise ModelError("DeepMind's MLPs have no geglu; their files hold none with encoder.activation: geglu.")
    if isinstance(e, EncoderSpec) and not (e.cross.qkv_bias and e.self_attend.qkv_bias and (averaged or d.qkv_bias)):
        raise ModelError("DeepMind's attentions have all biases; their files hold none with qkv_bias: false.")
    if averaged and d.norm:
        raise ModelError("DeepMind's average has no norm behind it; their files hold none with decoder.norm: true.")


# -- blocks ------------------------------------------------------------------------------------------------------------


def linear(ours: str, theirs: str) -> Iterator[Entry]:
    """Weight and bias. `ours` is empty or ends in a dot, as in all of these."""
    yield Entry(f"{ours}weight", f"params/{theirs}/w", transposed)
    yield Entry(f"{ours}bias", f"params/{theirs}/b", same)


def norm(ours: str, theirs: str) -> Iterator[Entry]:
    """Scale and offset of a layer norm."""
    yield Entry(f"{ours}weight", f"params/{theirs}/scale", same)
    yield Entry(f"{ours}bias", f"params/{theirs}/offset", same)


def array(ours: str, theirs: str) -> Iterator[Entry]:
    """A trainable position array: latents, queries, positions."""
    yield Entry(ours, f"params/{theirs}/pos_embs", same)


def numbered(name: str, index: int) -> str:
    """haiku numbers the modules of one name from the second on."""
    return name if index == 0 else f"{name}_{index}"


def attention(ours: str, theirs: str) -> Iterator[Entry]:
    """An `Attention`."""
    for index, part in enumerate(("query", "key", "value", "output")):
        yield from linear(f"{ours}{part}.", f"{theirs}/{numbered('linear', index)}")


def feed_forward(ours: str, theirs: str) -> Iterator[Entry]:
    """An `MLP`."""
    for index, part in enumerate(("hidden", "output")):
        yield from linear(f"{ours}{part}.", f"{theirs}/{numbered('linear', index)}")


def up_convolutions(theirs: str, axes: int, layers: int) -> Iterator[Entry]:
    """A `Conv2DUpsample`, whose layers are counted from 1 there, or a `Conv3DUpsample`, from 0."""
    name, first = ("~/transp_conv_", 1) if axes == 2 else ("conv3d_transpose_", 0)
    for layer in range(layers):
        yield Entry(f"layers.{layer}.weight", f"params/{theirs}/{name}{first + layer}/w", transposed_kernel)
        yield Entry(f"layers.{layer}.bias", f"params/{theirs}/{name}{first + layer}/b", same)


def _attend(ours: str, theirs: str, norms: tuple[str, ...]) -> Iterator[Entry]:
    yield from attention(f"{ours}attention.", f"{theirs}/attention")
    yield from feed_forward(f"{ours}mlp.", f"{theirs}/mlp")
    for index, part in enumerate(norms):
        yield from norm(f"{ours}{part}.", f"{theirs}/{numbered('layer_norm', index)}")


def cross_attend(ours: str, theirs: str) -> Iterator[Entry]:
    """A `CrossAttend`."""
    return _attend(ours, theirs, ("query_norm", "element_norm", "mlp_norm"))


def self_attend(ours: str, theirs: str) -> Iterator[Entry]:
    """A `SelfAttend`."""
    return _attend(ours, theirs, ("norm", "mlp_norm"))


# -- encoder -----------------------------------------------------------------------------------------------------------


def _encoder(model: Model, top: str) -> Iterator[Entry]:
    e = model.spec.encoder
    assert isinstance(e, EncoderSpec), "a Perceiver's"
    if len(model.perceiver.blocks) > 1:
        raise ModelError(
            "DeepMind's files hold one latent block, whose weights all blocks share; this spec has several."
        )
    if len(model.perceiver.cross_attends) > 1:
        yield from _composed(model)
        return
    yield from array("encoder.latents", f"{top}/trainable_position_encoding")
    yield from cross_attend("encoder.cross_attends.0.", f"{top}/cross_attention")
    for index in range(e.layers):
        yield from self_attend(f"encoder.blocks.0.{index}.", f"{top}/{numbered('self_attention', index)}")


def _composed(model: Model) -> Iterator[Entry]:
    """The 2021 Perceiver, which was never released: as vectors recorded from its official modules call them."""
    yield from array("encoder.latents", "latents")
    for index, name in enumerate(("first", "shared")[: len(model.perceiver.cross_attends)]):
        yield from cross_attend(f"encoder.cross_attends.{index}.", f"cross_attention_{name}")
    for index in range(model.spec.encoder.layers):
        yield from self_attend(f"encoder.blocks.0.{index}.", f"self_attention_{index}")


# -- inputs ------------------------------------------------------------------------------------------------------------


def _input(model: Model) -> Iterator[Entry]:
    (name, kind), *_ = model.spec.inputs.items()
    module, ours = model.inputs[name], f"inputs.{name}"
    if kind.kind == "text":
        yield Entry(f"{ours}.embedding.weight", "params/embed/embeddings", same)
        yield from _position(module.position, f"{ours}.position", "")
    elif kind.kind == "image_pair":
        if kind.lift.kind == "conv":
            raise ModelError("DeepMind's files hold no image pair behind a convolution stem.")
        if kind.lift.channels:
            yield from linear(f"{ours}.lift.linear.", f"{_IMAGE}/patches_linear")
        yield from _position(module.position, f"{ours}.position", f"{_NETWORK_INPUTS}/")
    elif kind.kind == "image":
        yield from _image_lift(kind, ours)
        yield from _position(module.position, f"{ours}.position", f"{_NETWORK_INPUTS}/")
    else:
        raise ModelError(f"DeepMind's files hold no input of kind {kind.kind}.")


def _image_lift(kind: Any, ours: str) -> Iterator[Entry]:
    lift = kind.lift
    if lift.kind == "conv1x1":
        yield Entry(f"{ours}.lift.linear.weight", f"params/{_IMAGE}/~/conv2_d/w", one_by_one)
        yield Entry(f"{ours}.lift.linear.bias", f"params/{_IMAGE}/~/conv2_d/b", same)
    elif lift.kind == "patches" and lift.channels:
        yield from linear(f"{ours}.lift.linear.", f"{_IMAGE}/patches_linear")
    elif lift.kind == "conv":
        for index in range(lift.layers):
            stem = f"{ours}.lift.stem"
            layer, batch_norm = numbered("conv", index), f"{_STEM}/{numbered('batchnorm', index)}"
            yield Entry(f"{stem}.convolutions.{index}.weight", f"params/{_STEM}/{layer}/w", channels_last_kernel)
            yield from _batch_norm(f"{stem}.norms.{index}", batch_norm)


def _batch_norm(ours: str, theirs: str) -> Iterator[Entry]:
    yield Entry(f"{ours}.scale", f"params/{theirs}/scale", flat)
    yield Entry(f"{ours}.offset", f"params/{theirs}/offset", flat)
    for here, there in (("mean", "mean_ema"), ("variance", "var_ema")):
        for part in ("average", "hidden"):
            yield Entry(f"{ours}.{here}_{part}", f"state/{theirs}/~/{there}/{part}", flat)
    # Both averages count alike; the other counter is left out.
    yield Entry(f"{ours}.count", f"state/{theirs}/~/mean_ema/counter", flat)


# Of a convolution stem, as its settings allow.
_MOST_LAYERS = 16
# What no tensor is made of: the second counter of each batch norm, and what vectors hold beside the weights.
IGNORED = (
    *(f"state/{_STEM}/{numbered('batchnorm', layer)}/~/var_ema/counter" for layer in range(_MOST_LAYERS)),
    "input/",
    "output/",
    "state_after_train/",
)


def _position(module: object, ours: str, theirs: str) -> Iterator[Entry]:
    if isinstance(module, RefinedPosition):
        yield from _position(module.encoding, f"{ours}.encoding", theirs)
        if module.projection is not None:
            yield from linear(f"{ours}.projection.", f"{theirs}position_encoding_projector/linear")
        for index in range(len(module.extra)):
            yield from linear(f"{ours}.extra.{index}.", f"{theirs}{numbered('linear', index)}")
    elif isinstance(module, LearnedPosition):
        yield from array(f"{ours}.table", f"{theirs}trainable_position_encoding")


def _fusion(model: Model) -> Iterator[Entry]:
    """The learned arrays of each modality; what they are padded to has no others."""
    assert model.fusion is not None, "of several inputs"
    for name, kind in model.spec.inputs.items():
        if list(model.inputs[name].parameters()):
            raise ModelError(f"DeepMind's multimodal files hold nothing for input '{name}' of kind {kind.kind}.")
        yield from array(f"fusion.embeddings.{name}", f"multimodal_preprocessor/{name}_padding")
    for name in model.fusion.mask_tokens:
        yield from array(f"fusion.mask_tokens.{name}", f"multimodal_preprocessor/{name}_mask_token")


# -- outputs -----------------------------------------------------------------------------------------------------------


def _output(model: Model) -> Iterator[Entry]:
    (name, kind), *_ = model.spec.outputs.items()
    ours = f"outputs.{name}"
    if isinstance(model.spec.decoder, AverageDecoderSpec):
        composed = len(model.perceiver.cross_attends) > 1
        yield from linear(f"{ours}.head.", "logits" if composed else "projection_decoder/~/logits")
        return
    if kind.kind == "text":
        decoder = "basic_decoder"
        yield Entry(f"{ours}.bias", "params/embedding_decoder/bias", same)
    elif kind.kind in ("category", "flow"):
        family = "flow" if kind.kind == "flow" else "classification"
        decoder = f"{family}_decoder/~/basic_decoder"
        yield from linear(f"{ours}.head.", f"{decoder}/output")
    else:
        raise ModelError(f"DeepMind's files hold no output of kind {kind.kind}.")
    if kind.kind != "flow":
        yield from array(f"{ours}.query.table", f"{decoder}/{_QUERY}")
    yield from cross_attend("decoder.cross_attend.", f"{decoder}/cross_attention")


def _multimodal_outputs(model: Model) -> Iterator[Entry]:
    decoder = "multimodal_decoder/~/basic_decoder"
    yield from cross_attend("decoder.cross_attend.", f"{decoder}/cross_attention")
    yield from linear("decoder.output.", f"{decoder}/output")
    for name, kind in model.spec.outputs.items():
        yield from array(f"query_fusion.embeddings.{name}", f"multimodal_decoder/~decoder_query/{name}_padding")
        # The official post-processors are of one sound, of pixels, and of classes.
        axes = len(kind.size) if kind.kind == "grid" else 0
        post = {0: "classification", 1: "audio"}.get(axes, "projection")
        yield from linear(f"outputs.{name}.head.", f"{post}_postprocessor/linear")
        if kind.kind == "category":
            yield from array(f"outputs.{name}.query.table", f"classification_decoder/~/basic_decoder/{_QUERY}")
