"""transformers' Perceivers as specs: one function a class, from config.json to plain data.

`deviations`: as that library computes, not as DeepMind's code does, where the two differ [models.md §7]. What both have
alike is in `_spec`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from perceivers.byte_tokens import VOCABULARY
from perceivers.errors import ModelError
from perceivers.models.convert.transformers_config import Config, Picture

Given = Mapping[str, Any]


def spec_data(name: str, config: Config, picture: Picture, deviations: bool) -> dict[str, Any]:
    """The spec of their class `name` as plain data. Raises `ModelError` for what no spec says."""
    return SPECS[name](config, picture, deviations)


def _spec(config: Config, deviations: bool, inputs: Given, outputs: Given, decoder: Given) -> dict[str, Any]:
    """Latents and encoder, the same in every class."""
    if (config.v_channels or config.qk_channels or config.d_latents) != config.d_latents:
        width = config.v_channels or config.qk_channels
        raise ModelError(
            f"config.json: v_channels is {width} where d_latents is {config.d_latents}; self-attends add the two."
        )
    activation = config.activation()
    if not deviations and activation == "gelu":
        # Weights of DeepMind's were trained with the approximation; their config says gelu all the same.
        activation = "gelu_tanh"
    by_query = config.cross_attention_shape_for_attention == "q"
    return {
        "inputs": dict(inputs),
        "latents": {"count": config.num_latents, "channels": config.d_latents},
        "encoder": {
            "blocks": config.num_blocks,
            "layers": config.num_self_attends_per_block,
            "activation": activation,
            "cross": {
                "heads": config.num_cross_attention_heads,
                "qk_channels": config.qk_channels or (config.d_latents if by_query else None),
                "v_channels": config.v_channels,
                "widening": config.cross_attention_widening_factor,
                "query_residual": config.use_query_residual,
            },
            "self_attend": {
                "heads": config.num_self_attention_heads,
                "qk_channels": config.qk_channels,
                "v_channels": config.v_channels,
                "widening": config.self_attention_widening_factor,
            },
        },
        "decoder": {"kind": "cross_attend", "heads": 1, **decoder},
        "outputs": dict(outputs),
    }


def _label(config: Config) -> dict[str, Any]:
    """One class of several, or numbers on the scale that they were trained on."""
    names = config.classes()
    if config.problem_type == "multi_label_classification":
        raise ModelError("config.json: problem_type is multi_label_classification, which no output here is.")
    if config.problem_type == "regression" or (config.problem_type is None and len(names) == 1):
        several = {"columns": list(names)} if len(names) > 1 else {}
        return {"kind": "number", **several, "mean": [0.0] * len(names), "std": [1.0] * len(names)}
    return {"kind": "category", "classes": list(names)}


def _image(size: tuple[int, int], picture: Picture, deviations: bool, lift: Given, position: Given) -> dict[str, Any]:
    resize = picture.resize(deviations)
    image = {"kind": "image", "size": list(size), "channels": 3, "resize": resize, **picture.statistics()}
    return {"image": {**image, "lift": dict(lift), "position": dict(position)}}


def _fourier(resolution: int, deviations: bool) -> dict[str, Any]:
    return {"kind": "fourier", "bands": 64, "resolution": [resolution, resolution], "exact": not deviations}


def _fourier_image(config: Config, picture: Picture, deviations: bool) -> dict[str, Any]:
    inputs = _image(picture.height_width(), picture, deviations, {"kind": "pixels"}, _fourier(224, deviations))
    return _spec(config, deviations, inputs, {"label": _label(config)}, {"query_residual": True})


def _learned_image(config: Config, picture: Picture, deviations: bool) -> dict[str, Any]:
    lift = {"kind": "conv1x1", "channels": 256}
    position = {"kind": "learned", "channels": 256, "project": 256}
    inputs = _image((config.image_size, config.image_size), picture, deviations, lift, position)
    # DeepMind's notebook, which is the checkpoint's own config, has no residual; theirs has.
    return _spec(config, deviations, inputs, {"label": _label(config)}, {"query_residual": deviations})


def _conv_image(config: Config, picture: Picture, deviations: bool) -> dict[str, Any]:
    lift = {"kind": "conv", "channels": 64, "padding": "transformers" if deviations else "same"}
    inputs = _image(picture.height_width(), picture, deviations, lift, _fourier(56, deviations))
    return _spec(config, deviations, inputs, {"label": _label(config)}, {"query_residual": True})


def _text(config: Config) -> dict[str, Any]:
    if config.vocab_size != VOCABULARY:
        raise ModelError(
            f"config.json: vocab_size is {config.vocab_size}; texts here are bytes and have {VOCABULARY} ids."
        )
    position = {"kind": "learned", "channels": config.d_model, "join": "add"}
    return {
        "text": {"kind": "text", "length": config.positions(), "channels": config.d_model, "position": position},
    }


def _text_classes(config: Config, picture: Picture, deviations: bool) -> dict[str, Any]:
    return _spec(config, deviations, _text(config), {"label": _label(config)}, {"query_residual": True})


def _masked_text(config: Config, picture: Picture, deviations: bool) -> dict[str, Any]:
    decoder = {"heads": 8, "qk_channels": 256, "v_channels": config.d_model, "query_residual": False}
    outputs = {"text": {"kind": "text", "input": "text", "mask_queries": not deviations}}
    return _spec(config, deviations, _text(config), outputs, decoder)


def _flow(config: Config, picture: Picture, deviations: bool) -> dict[str, Any]:
    size = list(config.train_size)
    position = {"kind": "fourier", "bands": 64, "resolution": size, "exact": not deviations}
    lift = {"kind": "windows", "size": 3, "channels": 64}
    inputs = {"pair": {"kind": "image_pair", "size": size, "lift": lift, "position": position}}
    # 64 channels of the lift, and 2 + 2·2·64 of the position.
    by_query = {"qk_channels": 322} if config.cross_attention_shape_for_attention == "q" else {}
    # Theirs are units of 20 pixels.
    outputs = {"flow": {"kind": "flow", "input": "pair", "pixels": 1.0 if deviations else 20.0}}
    return _spec(config, deviations, inputs, outputs, {"query_residual": False, **by_query})


def _multimodal(config: Config, picture: Picture, deviations: bool) -> dict[str, Any]:
    frames, samples = config.num_frames, config.num_frames * config.audio_samples_per_frame
    pixels = config.output_shape[1:]
    names = list(config.classes())
    sound = {"kind": "fourier", "bands": 192, "resolution": [samples]}
    video = {"kind": "fourier", "bands": 32, "resolution": [frames, config.image_size, config.image_size]}
    exact = {"exact": not deviations}
    inputs = {
        "audio": {
            "kind": "audio",
            "samples": samples,
            "rate": 48_000,
            "mean": [0.0],
            "std": [1.0],
            "lift": {"kind": "patches", "size": [config.samples_per_patch]},
            "position": {**sound, **exact},
        },
        "image": {
            "kind": "video",
            "size": list(pixels),
            "rate": 48_000 / config.audio_samples_per_frame,
            "mean": [0.0] * 3,
            "std": [255.0] * 3,
            "lift": {"kind": "patches", "size": [1, 4, 4]},
            "position": {**video, **exact},
        },
        "label": {"kind": "category", "columns": ["label"], "channels": "classes", "classes": {"label": names}},
    }
    outputs = {
        "audio": {
            "kind": "grid",
            "input": "audio",
            "size": [samples],
            "patch": [config.samples_per_patch],
            "query": {**sound, **exact, "end": False},
            "peak": 2.0,
        },
        "image": {
            "kind": "grid",
            "input": "image",
            "size": list(pixels),
            "channels": 3,
            "std": 255.0,
            "query": {**video, **exact, "end": False},
            "peak": 255.0,
        },
        "label": {"kind": "category", "classes": names, "query": {"channels": config.label_channels}},
    }
    decoder: dict[str, Any] = {"query_residual": False, "output_channels": config.output_num_channels}
    if config.cross_attention_shape_for_attention == "q":
        # The widest query, of sound (1 + 2·192), of video (3 + 2·3·32) or the label's, and 2 of padding.
        decoder["qk_channels"] = max(385, 195, config.label_channels) + 2
    data = _spec(config, deviations, inputs, outputs, decoder)
    data["encoder"]["masking"] = {"audio": 0.0, "image": 0.0, "label": 1.0}
    return data


SPECS: dict[str, Callable[[Config, Picture, bool], dict[str, Any]]] = {
    "PerceiverForImageClassificationFourier": _fourier_image,
    "PerceiverForImageClassificationLearned": _learned_image,
    "PerceiverForImageClassificationConvProcessing": _conv_image,
    "PerceiverForSequenceClassification": _text_classes,
    "PerceiverForMaskedLM": _masked_text,
    "PerceiverForOpticalFlow": _flow,
    "PerceiverForMultimodalAutoencoding": _multimodal,
}
