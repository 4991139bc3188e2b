"""The specs of recorded vectors: what the official configs that stand in them say, in our words."""

import math
from collections.abc import Mapping
from typing import Any

from perceivers.models.convert.stored import Stored
from perceivers.models.spec import Spec, as_spec

# Recorded inputs are what the networks read: nothing is left to normalise.
_RAW = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def image_spec(stored: Stored) -> Spec:
    """Of an image classifier (`dm_image_*`): any preprocessor, position and decoder."""
    config = stored.extra["config"]
    size = _shape(stored, "input/images")[1:3]
    image = {"kind": "image", "size": size, **_RAW, **_lift(config["input_preprocessor"])}
    return as_spec(
        {
            "inputs": {"image": {**image, "position": _position(config["input_preprocessor"])}},
            **_tower(config["encoder"]),
            "decoder": _decoder(config),
            "outputs": {"label": _classes(config["num_classes"])},
        },
        str(stored.path),
    )


def composed_spec(stored: Stored) -> Spec:
    """Of the 2021 Perceiver that was composed from official modules."""
    config = stored.extra["config"]
    position = {"kind": "fourier", "bands": config["bands"], "resolution": config["max_resolution"]}
    size = _shape(stored, "input/images")[1:3]
    count = config["iterations"]
    return as_spec(
        {
            "inputs": {"image": {"kind": "image", "size": size, **_RAW, "position": position}},
            "latents": {"count": config["N"], "channels": config["D"]},
            "encoder": {
                "cross_attends": count,
                "interleaved": True,
                "cross_sharing": "after_first",
                "blocks": count,
                "layers": config["self_attends_per_block"],
                "cross": {"heads": config["cross_heads"]},
                "self_attend": {"heads": config["self_heads"]},
            },
            "decoder": {"kind": "average"},
            "outputs": {"label": _classes(config["num_classes"])},
        },
        str(stored.path),
    )


def language_spec(stored: Stored, mask_queries: bool = True) -> Spec:
    """Of the masked language model (`dm_language_mlm`)."""
    config = stored.extra["config"]
    decoder = config["decoder"]
    text = {"kind": "text", "length": config["max_seq_len"], "channels": config["d_model"]}
    return as_spec(
        {
            "inputs": {"text": {**text, "position": {"kind": "learned", "channels": config["d_model"], "join": "add"}}},
            **_tower(config["encoder"]),
            "decoder": {
                "kind": "cross_attend",
                "heads": decoder["num_heads"],
                "qk_channels": decoder["qk_channels"],
                "v_channels": decoder["v_channels"],
                "query_residual": decoder["use_query_residual"],
            },
            "outputs": {"text": {"kind": "text", "mask_queries": mask_queries}},
        },
        str(stored.path),
    )


def flow_spec(stored: Stored) -> Spec:
    """Of the optical flow model (`dm_optical_flow`)."""
    config = stored.extra["config"]
    return as_spec(
        {
            "inputs": {
                "pair": {
                    "kind": "image_pair",
                    "size": _shape(stored, "input/images")[2:4],
                    "lift": {"kind": "windows", "size": config["patch_size"], "channels": config["num_channels"]},
                    "position": _fourier(config["fourier"]),
                    "mean": 0.0,
                    "std": 1.0,
                }
            },
            **_tower(config["encoder"]),
            "decoder": {"kind": "cross_attend", "query_residual": config["decoder_use_query_residual"]},
            "outputs": {
                "flow": {"kind": "flow", "rescale": config["rescale_factor"], "pixels": config["flow_scale_factor"]}
            },
        },
        str(stored.path),
    )


def multimodal_spec(stored: Stored, end: bool) -> Spec:
    """Of the multimodal autoencoder (`dm_multimodal`). end: whether the last query of an axis is at 1."""
    c = stored.extra["config"]
    frames, samples = c["num_frames"], c["num_frames"] * c["audio_samples_per_frame"]
    sound = {"bands": c["audio_bands"], "resolution": c["audio_max_resolution"]}
    video = {"bands": c["image_bands"], "resolution": c["image_max_resolution"]}
    classes = [f"class_{i}" for i in range(c["num_classes"])]
    queries = {"kind": "fourier", "end": end}
    return as_spec(
        {
            "inputs": {
                "audio": {
                    "kind": "audio",
                    "samples": samples,
                    "rate": 48_000,
                    "mean": [0.0],
                    "std": [1.0],
                    "lift": {"kind": "patches", "size": [c["samples_per_patch"]]},
                    "position": {"kind": "fourier", **sound},
                },
                "image": {
                    "kind": "video",
                    "size": [frames, *c["image_hw"]],
                    **_RAW,
                    "lift": {"kind": "patches", "size": c["video_patch"]},
                    "position": {"kind": "fourier", **video},
                },
                "label": {
                    "kind": "category",
                    "columns": ["label"],
                    "channels": "classes",
                    "classes": {"label": classes},
                },
            },
            "latents": {"count": c["latents"][0], "channels": c["latents"][1]},
            "encoder": {
                "layers": c["self_attends"],
                "self_attend": {"heads": c["self_heads"]},
                "padding": c["enc_min_padding"],
                "masking": {"audio": 0.0, "image": 0.0, "label": 1.0},
            },
            "decoder": {
                "kind": "cross_attend",
                "query_residual": False,
                "padding": c["dec_min_padding"],
                "output_channels": c["output_num_channels"],
            },
            "outputs": {
                "audio": {
                    "kind": "grid",
                    "size": [samples],
                    "patch": [c["samples_per_patch"]],
                    "query": {**queries, **sound},
                },
                "image": {
                    "kind": "grid",
                    "size": [frames, *c["image_hw"]],
                    "channels": 3,
                    "query": {**queries, **video},
                },
                "label": {**_classes(c["num_classes"]), "query": {"channels": c["label_query_channels"]}},
            },
        },
        str(stored.path),
    )


def _shape(stored: Stored, name: str) -> tuple[int, ...]:
    return stored.arrays[name].shape


def _classes(count: int) -> dict[str, Any]:
    return {"kind": "category", "classes": [f"class_{i}" for i in range(count)]}


def _tower(encoder: Mapping[str, Any]) -> dict[str, Any]:
    width = encoder["num_z_channels"]
    by_query = encoder.get("cross_attention_shape_for_attn", "kv") == "q"
    widths = {"qk_channels": encoder.get("qk_channels"), "v_channels": encoder.get("v_channels")}
    cross = {
        "heads": encoder["num_cross_attend_heads"],
        "widening": encoder["cross_attend_widening_factor"],
        "query_residual": encoder.get("use_query_residual", True),
        **widths,
    }
    if by_query and cross["qk_channels"] is None:
        cross["qk_channels"] = width
    self_attend = {"heads": encoder["num_self_attend_heads"], "widening": encoder["self_attend_widening_factor"]}
    return {
        "latents": {
            "count": encoder["z_index_dim"],
            "channels": width,
            "init_std": encoder.get("z_pos_enc_init_scale", 0.02),
        },
        "encoder": {
            "blocks": encoder["num_blocks"],
            "layers": encoder["num_self_attends_per_block"],
            "cross": cross,
            "self_attend": {**self_attend, **widths},
        },
    }


def _lift(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    kind, down = preprocessor["prep_type"], preprocessor.get("spatial_downsample", 1)
    if kind == "pixels":
        return {"lift": {"kind": "pixels", "stride": down}}
    if kind == "conv1x1":
        return {"lift": {"kind": "conv1x1", "channels": preprocessor["num_channels"], "stride": down}}
    if kind == "patches":
        channels = preprocessor["num_channels"] if preprocessor.get("conv_after_patching") else None
        return {"lift": {"kind": "patches", "size": [down, down], "channels": channels}}
    layers = round(math.log(preprocessor.get("spatial_downsample", 4), 4))
    return {"lift": {"kind": "conv", "channels": preprocessor.get("num_channels", 64), "layers": layers}}


def _fourier(theirs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "fourier",
        "bands": theirs["num_bands"],
        "resolution": theirs["max_resolution"],
        "concat_position": theirs["concat_pos"],
        "sine_only": theirs["sine_only"],
    }


def _position(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    behind = {
        "project": preprocessor["project_pos_dim"] if preprocessor.get("project_pos_dim", 0) > 0 else None,
        "extra": preprocessor.get("n_extra_pos_mlp", 0),
        "join": preprocessor.get("concat_or_add_pos", "concat"),
    }
    if preprocessor["position_encoding_type"] == "fourier":
        return {**_fourier(preprocessor["fourier_position_encoding_kwargs"]), **behind}
    theirs = preprocessor["trainable_position_encoding_kwargs"]
    return {
        "kind": "learned",
        "channels": theirs["num_channels"],
        "init_std": theirs.get("init_scale", 0.02),
        **behind,
    }


def _decoder(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("decoder_type") == "projection":
        return {"kind": "average"}
    decoder: Mapping[str, Any] = config["decoder"]
    return {
        "kind": "cross_attend",
        "heads": decoder.get("num_heads", 1),
        "query_residual": decoder["use_query_residual"],
    }
