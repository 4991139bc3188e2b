"""transformers' Perceivers out: a `Model` as a folder that that library loads.

Their config holds few of a spec's settings; the others are fixed in their classes. So a config is guessed from the
spec, made into a spec again as their class computes it, and the two are compared: what differs cannot be exported.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from perceivers.atomic import replace_folder
from perceivers.byte_tokens import VOCABULARY
from perceivers.errors import ModelError
from perceivers.models.build import build
from perceivers.models.convert.folders import CONFIG
from perceivers.models.convert.transformers import PICTURE, called
from perceivers.models.convert.transformers_config import (
    ACTIVATIONS,
    KERNELS,
    UPRIGHT,
    Config,
    Picture,
    picture_json,
)
from perceivers.models.convert.transformers_names import FAMILIES, Place, places
from perceivers.models.convert.transformers_spec import spec_data
from perceivers.models.model import Model
from perceivers.models.spec import Spec, as_spec
from perceivers.models.tensor_file import write_tensors
from perceivers.models.weights import WEIGHTS, check_replaced
from perceivers.nn import Attention
from perceivers.nn.position import FourierPosition, LearnedPosition

TOKENIZER = "tokenizer_config.json"
# Settings that change nothing of what a trained model computes, or that stand in the other files.
_FREE = {
    "inputs": ("mean", "std", "size", "resize", "nan", "overflow", "length", "columns", "resample", "mix", "rate"),
    "outputs": ("classes", "mask", "weight", "label_smoothing", "loss", "columns", "input", "peak", "sampled"),
    "latents": (),
    "encoder": ("dropout", "padding"),
    "decoder": ("padding",),
}
# First draws, roundings, and what the modules tell: `_widths` and `_grids`.
_FOUND_BELOW = ("init_std", ".exact", "qk_channels", "v_channels", "resolution", "query.channels")
_MULTIMODAL = "PerceiverForMultimodalAutoencoding"
_STEM_PADDING = "inputs.image.lift.padding"
# What DeepMind's models compute and transformers' do not [models.md §7], by their class.
_DEVIATIONS = {
    "PerceiverForImageClassificationLearned": {
        "decoder.query_residual": "transformers adds the decoder's query to what it reads"
    },
    "PerceiverForImageClassificationConvProcessing": {
        _STEM_PADDING: "transformers pads the convolution and the pool of the stem otherwise"
    },
    "PerceiverForMaskedLM": {"outputs.guess.mask_queries": "transformers asks for bytes that are not there too"},
    "PerceiverForOpticalFlow": {"outputs.flow.pixels": "transformers answers in units of 20 pixels"},
}


def export_transformers(model: Model, folder: str | Path, overwrite: bool = False) -> Path:
    """Write `model` to `folder` as transformers reads it: model.safetensors, config.json and what prepares raw values.

    Raises `ModelError` for a model that none of transformers' Perceiver classes is, naming the first setting that
    differs, and when `folder` cannot be written, or holds something already, which may be such a folder with
    `overwrite`; nothing is written then. Warns where their
    class computes something else than DeepMind's model, so that its answers will differ: such models come from an
    import without `deviations`.
    """
    folder = Path(folder)
    check_replaced(folder, overwrite, _is_theirs, "a folder of transformers")
    name, config, differences = _fitting(model)
    spec = model.spec
    rules = places(FAMILIES[name], spec.perceiver.layers, called(spec, name))
    state = model.state_dict()
    tensors = {theirs: _theirs(state[place.ours], place) for theirs, place in rules.items()}
    try:
        with replace_folder(folder) as temporary:
            write_tensors(temporary / WEIGHTS, tensors, {"format": "pt"})
            for file, data in {CONFIG: config, **_beside(spec)}.items():
                (temporary / file).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        # safetensors reports a full disk as an error of its own.
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"the model could not be written to '{folder}': {reason}. Nothing was changed.") from None
    if differences:
        warnings.warn(
            f"{folder}: there the model will answer otherwise: {'; '.join(differences)}.", UserWarning, stacklevel=2
        )
    return folder


def _is_theirs(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def _theirs(ours: Tensor, place: Place) -> Tensor:
    ours = ours[..., None, None] if place.form == "pixel" else ours
    return ours.detach().to("cpu", torch.float32 if ours.is_floating_point() else ours.dtype).contiguous()


def _fitting(model: Model) -> tuple[str, dict[str, Any], list[str]]:
    """The name of the class, the config that fits best, and in words what their class computes otherwise."""
    spec, name = model.spec, _class_of(model.spec)
    mine = _facts(model, name)
    candidates = []
    for widths in product(_none_or(mine, "qk"), _none_or(mine, "v"), ("kv", "q")):
        config = _config(spec, name, *widths)
        try:
            data = spec_data(name, Config.model_validate(config), Picture(), deviations=True)
            theirs = _facts(build(as_spec(data), "meta"), name)
        except ValueError:
            continue  # widths that no class of theirs has
        candidates.append((_differing(mine, theirs), config, theirs))
    if not candidates:
        raise ModelError("v_channels of the self-attends are not the latents'; no model of transformers is like that.")
    differing, config, theirs = min(candidates, key=lambda candidate: len(candidate[0]))
    known = _DEVIATIONS.get(name, {})
    for key in differing:
        if key not in known:
            raise ModelError(
                f"a {name} of transformers cannot be this model: there {key} is {theirs.get(key)!r}, "
                f"here it is {mine.get(key)!r}."
            )
    if _STEM_PADDING in differing:
        config |= {KERNELS: UPRIGHT}
    return name, config, [known[key] for key in differing]


def _none_or(facts: Mapping[str, Any], which: str) -> tuple[int | None, ...]:
    return None, facts.get(f"encoder.self_attend.{which}_channels")


def _class_of(spec: Spec) -> str:
    kinds = (
        [spec.inputs[name].kind for name in sorted(spec.inputs)],
        [spec.outputs[name].kind for name in sorted(spec.outputs)],
    )
    if kinds in ((["image"], ["category"]), (["image"], ["number"])):
        by_lift = {"conv": "ConvProcessing", "conv1x1": "Learned"}
        return f"PerceiverForImageClassification{by_lift.get(_only_input(spec)['lift']['kind'], 'Fourier')}"
    if any(getattr(kind, "encoding", "bytes") == "ids" for kind in spec.inputs.values()):
        raise ModelError("transformers' Perceivers read text as bytes, and this model reads ids of a tokenizer.")
    if kinds in ((["text"], ["category"]), (["text"], ["number"])):
        return "PerceiverForSequenceClassification"
    if kinds == (["text"], ["text"]):
        return "PerceiverForMaskedLM"
    if kinds == (["image_pair"], ["flow"]):
        return "PerceiverForOpticalFlow"
    if kinds == (["audio", "video", "category"], ["grid", "grid", "category"]):
        return _MULTIMODAL
    reads = ", ".join(f"{name} ({given.kind})" for name, given in spec.inputs.items())
    answers = ", ".join(f"{name} ({wanted.kind})" for name, wanted in spec.outputs.items())
    raise ModelError(f"transformers has no Perceiver that reads {reads} and answers {answers}.")


def _only_input(spec: Spec) -> dict[str, Any]:
    return next(iter(spec.inputs.values())).model_dump(mode="json")


def _facts(model: Model, name: str) -> dict[str, Any]:
    """What decides a model's computation, by a dotted key; widths as they are, not as they are left out."""
    data = model.spec.model_dump(mode="json")
    roles = _roles(model.spec, name)
    data |= {part: {roles[part][n]: entry for n, entry in data[part].items()} for part in roles}
    facts = {key: value for key, value in _flat("", data) if not _is_free(key)}
    encoder = model.spec.perceiver
    if encoder.blocks < 2:
        facts.pop("encoder.block_sharing")
    if encoder.cross_attends < 2:
        facts = {k: v for k, v in facts.items() if k not in ("encoder.cross_sharing", "encoder.interleaved")}
    return facts | _widths(model) | _grids(model, roles)


def _roles(spec: Spec, name: str) -> dict[str, dict[str, str]]:
    """How the rules of the class call inputs and outputs, by what the spec calls them."""
    named = called(spec, name)
    family = FAMILIES[name]
    return {
        "inputs": {named[role]: role for role in family.inputs},
        "outputs": {named[role]: role for role in family.outputs},
    }


def _is_free(key: str) -> bool:
    part, _, rest = key.partition(".")
    name = rest.partition(".")[2] if part in ("inputs", "outputs") else rest
    return name.partition(".")[0] in _FREE[part] or key.endswith(_FOUND_BELOW)


def _flat(prefix: str, data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def _widths(model: Model) -> dict[str, int]:
    """Widths of queries and values of the attentions, as their linears have them."""
    blocks: dict[str, nn.Module] = {"encoder.cross": model.perceiver.cross_attends[0], "decoder": model.decoder}
    if len(model.perceiver.blocks):
        blocks["encoder.self_attend"] = model.perceiver.blocks[0]
    found = {}
    for name, block in blocks.items():
        attention = next((module for module in block.modules() if isinstance(module, Attention)), None)
        if attention is not None:
            found[f"{name}.qk_channels"] = attention.query.out_features
            found[f"{name}.v_channels"] = attention.value.out_features
    return found


def _grids(model: Model, roles: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """What positions and queries are made for, as their modules have it."""
    found: dict[str, Any] = {}
    modules = [(f"inputs.{roles['inputs'][name]}", module) for name, module in model.inputs.items()]
    modules += [(f"outputs.{roles['outputs'][name]}", module) for name, module in model.outputs.items()]
    for where, module in modules:
        for name, part in module.named_children():
            if isinstance(part, FourierPosition):
                found[f"{where}.{name}.resolution"] = list(part.resolution)
            elif isinstance(part, LearnedPosition):
                found[f"{where}.{name}.grid"] = list(part.grid)
                found[f"{where}.{name}.width"] = part.channels
    return found


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]


def _config(spec: Spec, name: str, qk: int | None, v: int | None, shape: str) -> dict[str, Any]:
    """config.json with those widths of attention."""
    encoder = spec.perceiver
    given, wanted = _only_input(spec), next(iter(spec.outputs.values()))
    config: dict[str, Any] = {
        "architectures": [name],
        "model_type": "perceiver",
        "num_latents": spec.latents.count,
        "d_latents": spec.latents.channels,
        "num_blocks": encoder.blocks,
        "num_self_attends_per_block": encoder.layers,
        "num_self_attention_heads": encoder.self_attend.heads,
        "num_cross_attention_heads": encoder.cross.heads,
        "qk_channels": qk,
        "v_channels": v,
        "cross_attention_shape_for_attention": shape,
        "self_attention_widening_factor": encoder.self_attend.widening,
        "cross_attention_widening_factor": encoder.cross.widening,
        "hidden_act": _hidden_act(encoder.activation),
        "use_query_residual": encoder.cross.query_residual,
        "attention_probs_dropout_prob": 0.0,
    }
    if given["kind"] == "text":
        config |= {"d_model": given["channels"], "max_position_embeddings": given["length"], "vocab_size": VOCABULARY}
    if given["kind"] == "image":
        config |= {"image_size": given["size"][0]}
    if given["kind"] == "image_pair":
        config |= {"train_size": given["size"]}
    if name == _MULTIMODAL:
        config |= _multimodal(spec)
        wanted = spec.outputs[sorted(spec.outputs)[-1]]
    labels = list(wanted.labels() or ())
    if wanted.kind == "number":
        labels = wanted.model_dump()["columns"] or ["number"]
        config |= {"problem_type": "regression"}
    if labels:
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    return config


def _hidden_act(activation: str) -> str:
    """Their name of our activation."""
    found = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == activation), None)
    if found is None:
        raise ModelError(f"transformers' MLPs have no {activation}; no Perceiver of theirs is this model.")
    return found


def _multimodal(spec: Spec) -> dict[str, Any]:
    """What config.json says of sound, video and label, in sorted order of the spec's names for them."""
    sound, video, _ = (spec.inputs[name].model_dump(mode="json") for name in sorted(spec.inputs))
    label = spec.outputs[sorted(spec.outputs)[-1]].model_dump(mode="json")
    frames, height, width = video["size"]
    resolution = video["position"].get("resolution") or [frames, height // 4, width // 4]
    decoder = spec.decoder.model_dump(mode="json")
    return {
        "num_frames": frames,
        "image_size": int(resolution[-1]),
        "audio_samples_per_frame": sound["samples"] // frames,
        "samples_per_patch": sound["lift"]["size"][0] if sound["lift"]["kind"] == "patches" else 1,
        "output_shape": [1, frames, height, width],
        "output_num_channels": decoder.get("output_channels") or spec.latents.channels,
        "_label_trainable_num_channels": label["query"]["channels"] or spec.latents.channels,
    }


def _beside(spec: Spec) -> dict[str, dict[str, Any]]:
    """The files from which transformers makes what prepares raw values."""
    given = _only_input(spec)
    if given["kind"] == "image":
        return {PICTURE: picture_json(given["size"], given["mean"], given["std"], given["resize"])}
    if given["kind"] == "text":
        return {TOKENIZER: {"tokenizer_class": "PerceiverTokenizer", "model_max_length": given["length"]}}
    return {}
