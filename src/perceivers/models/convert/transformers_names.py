"""Names of the arrays in transformers' seven Perceiver classes, and ours, as rules.

A rule is a pair of names, theirs and ours. In ours `{image}`, `{text}`, … stand for what the spec calls that input, and
`{label}`, … for what it calls that output. Where a rule names a module it stands for the arrays of that module.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from perceivers.models.convert import families

Form = Literal["same", "pixel", "kernel"]
"""How the axes differ. same: not. pixel: theirs is a 1×1 convolution (C, I, 1, 1), ours a linear (C, I). kernel: of a
convolution (C, I, H, W); DeepMind's, as transformers converted them, have H and W swapped [models.md §7]."""

Pairs = Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """Where one of their arrays stands in our state dict, and how its axes differ."""

    ours: str
    form: Form = "same"


@dataclass(frozen=True)
class Family:
    """One of their classes. `arrays` are single ones; `linears` have weight and bias; `crosses` are cross-attends.

    words: what `families.tensors_family` calls it. inputs, outputs: how its rules call those of the spec.
    """

    words: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arrays: Mapping[str, Place | str]
    linears: Pairs = field(default_factory=dict)
    crosses: Pairs = field(default_factory=dict)


_ATTEND = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "layernorm": "mlp_norm",
    "mlp.dense1": "mlp.hidden",
    "mlp.dense2": "mlp.output",
}
_CROSS = {"attention.self.layernorm1": "query_norm", "attention.self.layernorm2": "element_norm", **_ATTEND}
_SELF = {"attention.self.layernorm1": "norm", **_ATTEND}

_INPUT, _DECODER, _ANSWERS = "perceiver.input_preprocessor", "perceiver.decoder", "perceiver.output_postprocessor"
_QUERY = "output_position_encodings.position_embeddings"

# Every class has these.
_LATENTS = {"perceiver.embeddings.latents": "encoder.latents"}
_ENCODER = {"perceiver.encoder.cross_attention": "encoder.cross_attends.0"}
_SELF_ATTENDS = ("perceiver.encoder.self_attends", "encoder.blocks.0")

_ONE_QUERY = {f"{_DECODER}.decoder.{_QUERY}": "outputs.{label}.query.table"}
_HEAD = {f"{_DECODER}.decoder.final_layer": "outputs.{label}.head"}
_ONE_DECODER = {f"{_DECODER}.decoder.decoding_cross_attention": "decoder.cross_attend"}
_BYTES = {
    f"{_INPUT}.embeddings.weight": "inputs.{text}.embedding.weight",
    f"{_INPUT}.position_embeddings.weight": "inputs.{text}.position.table",
}
_STEM = "inputs.{image}.lift.stem"
_MODALITIES = ("audio", "image", "label")

FAMILIES: dict[str, Family] = {
    "PerceiverForImageClassificationFourier": Family(
        families.NO_WEIGHTS, ("image",), ("label",), _ONE_QUERY, _HEAD, _ONE_DECODER
    ),
    "PerceiverForImageClassificationLearned": Family(
        families.LEARNED,
        ("image",),
        ("label",),
        {
            **_ONE_QUERY,
            f"{_INPUT}.convnet_1x1.weight": Place("inputs.{image}.lift.linear.weight", "pixel"),
            f"{_INPUT}.convnet_1x1.bias": "inputs.{image}.lift.linear.bias",
            f"{_INPUT}.position_embeddings.position_embeddings": "inputs.{image}.position.encoding.table",
        },
        {**_HEAD, f"{_INPUT}.positions_projection": "inputs.{image}.position.projection"},
        _ONE_DECODER,
    ),
    "PerceiverForImageClassificationConvProcessing": Family(
        families.CONV,
        ("image",),
        ("label",),
        {
            **_ONE_QUERY,
            f"{_INPUT}.convnet.conv.weight": Place(f"{_STEM}.convolutions.0.weight", "kernel"),
            f"{_INPUT}.convnet.batchnorm.weight": f"{_STEM}.norms.0.scale",
            f"{_INPUT}.convnet.batchnorm.bias": f"{_STEM}.norms.0.offset",
            f"{_INPUT}.convnet.batchnorm.running_mean": f"{_STEM}.norms.0.mean_average",
            f"{_INPUT}.convnet.batchnorm.running_var": f"{_STEM}.norms.0.variance_average",
            f"{_INPUT}.convnet.batchnorm.num_batches_tracked": f"{_STEM}.norms.0.count",
        },
        _HEAD,
        _ONE_DECODER,
    ),
    "PerceiverForSequenceClassification": Family(
        families.TEXT_CLASSES, ("text",), ("label",), {**_ONE_QUERY, **_BYTES}, _HEAD, _ONE_DECODER
    ),
    "PerceiverForMaskedLM": Family(
        families.LANGUAGE,
        ("text",),
        ("guess",),
        {
            **_BYTES,
            f"{_DECODER}.{_QUERY}": "outputs.{guess}.query.table",
            "embedding_decoder.bias": "outputs.{guess}.bias",
        },
        crosses={f"{_DECODER}.decoding_cross_attention": "decoder.cross_attend"},
    ),
    "PerceiverForOpticalFlow": Family(
        families.FLOW,
        ("frames",),
        ("flow",),
        {},
        {
            f"{_INPUT}.conv_after_patches": "inputs.{frames}.lift.linear",
            f"{_DECODER}.decoder.final_layer": "outputs.{flow}.head",
        },
        _ONE_DECODER,
    ),
    "PerceiverForMultimodalAutoencoding": Family(
        families.MULTIMODAL,
        _MODALITIES,
        tuple(f"{m}_out" for m in _MODALITIES),
        {
            **{f"{_INPUT}.padding.{m}": f"fusion.embeddings.{{{m}}}" for m in _MODALITIES},
            **{f"{_INPUT}.mask.{m}": f"fusion.mask_tokens.{{{m}}}" for m in _MODALITIES},
            **{f"{_DECODER}.padding.{m}": f"query_fusion.embeddings.{{{m}_out}}" for m in _MODALITIES},
            f"{_DECODER}.modalities.label.decoder.{_QUERY}": "outputs.{label_out}.query.table",
        },
        {
            f"{_DECODER}.decoder.final_layer": "decoder.output",
            **{f"{_ANSWERS}.modalities.{m}.classifier": f"outputs.{{{m}_out}}.head" for m in _MODALITIES},
        },
        _ONE_DECODER,
    ),
}


def places(family: Family, layers: int, called: Mapping[str, str]) -> dict[str, Place]:
    """Their name → its place, of every array of a model with `layers` self-attends.

    called: what the spec calls its inputs and outputs, by the names that stand in the rules.
    """
    found: dict[str, Place] = {}
    for theirs, ours in (_LATENTS | dict(family.arrays)).items():
        place = ours if isinstance(ours, Place) else Place(ours)
        found[theirs] = Place(place.ours.format_map(called), place.form)
    modules = dict(_attends(family, layers)) | dict(family.linears)
    for theirs, ours in modules.items():
        for leaf in ("weight", "bias"):
            found[f"{theirs}.{leaf}"] = Place(f"{ours.format_map(called)}.{leaf}")
    return found


def _attends(family: Family, layers: int) -> Iterator[tuple[str, str]]:
    """The linears and norms of all cross-attends and self-attends."""
    theirs, ours = _SELF_ATTENDS
    blocks = [(their, our, _CROSS) for their, our in (_ENCODER | dict(family.crosses)).items()]
    blocks += [(f"{theirs}.{layer}", f"{ours}.{layer}", _SELF) for layer in range(layers)]
    for their, our, rules in blocks:
        for inner, own in rules.items():
            yield f"{their}.{inner}", f"{our}.{own}"
