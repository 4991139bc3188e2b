"""The spec of DeepMind's released models, of any size, from the names and shapes of their arrays alone.

Shapes tell the numbers of latents, layers, classes, channels and bands, and all widths. What they do not tell is that
of the family's published preset: heads, how often a block is repeated, whether a decoder adds its query, resolutions,
and the size of inputs whose positions are Fourier features.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perceivers.byte_tokens import VOCABULARY
from perceivers.errors import ModelError
from perceivers.models.convert.deepmind import numbered
from perceivers.models.convert.families import CONV, FLOW, LANGUAGE, LEARNED, MULTIMODAL, NO_WEIGHTS, PUBLISHED
from perceivers.models.convert.stored import Stored, quoted
from perceivers.models.presets import preset
from perceivers.models.spec import AttentionSpec, CrossDecoder, EncoderSpec

# The size of an input, by its name.
Sizes = Mapping[str, Sequence[int]]
_LATENTS = "trainable_position_encoding/pos_embs"
_CLASSES = "classification_decoder/~/basic_decoder"
_IMAGE = "image_preprocessor"
# Coordinates of a pixel, and of a cell of a video.
_FLAT, _CLIP = 2, 3
_COLOURS = 3


def inferred_data(stored: Stored, sizes: Sizes | None = None) -> dict[str, Any]:
    """The spec as plain data: the preset of the arrays' family, with what their shapes tell instead of its own.

    sizes: of the inputs that are read, where they are known. Raises `ModelError` for arrays of no released family, and
    for shapes that none of its models has.
    """
    family = _FAMILIES.get(stored.family)
    if family is None:
        known = ", ".join(PUBLISHED.values())
        raise ModelError(
            f"'{stored.path}' holds {len(stored.arrays):,} arrays ({stored.family}). Without a config a spec can be "
            f"made of those of {known}."
        )
    return {"preset": PUBLISHED[stored.family], **family(_Arrays(stored), dict(sizes or {}))}


class _Arrays:
    """The shapes of the parameters; asking for what is missing is a `ModelError`."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.spec = preset(PUBLISHED[stored.family]).build_spec()
        self._blocks = {array.module.removesuffix("/attention/linear") for array in stored.arrays.values()}

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        array = self.stored.arrays.get(f"params/{name}")
        if array is None or len(array.shape) != axes or not array.size:
            given = "is missing" if array is None else f"is {array.shape}, not {axes} axes with numbers on them"
            raise self.wrong(f"{quoted(f'params/{name}')} {given}")
        return array.shape

    def width(self, linear: str) -> int:
        """What a linear gives."""
        return self.shape(f"{linear}/b", 1)[0]

    def count(self, name: str) -> int:
        """How many modules haiku has numbered so."""
        return next(n for n in itertools.count() if f"params/{numbered(name, n)}" not in self._blocks)

    def bands(self, channels: int, axes: int, what: str) -> int:
        """Of Fourier features: positions, sines and cosines."""
        bands, rest = divmod(channels - axes, 2 * axes)
        if rest or bands < 1:
            raise self.wrong(
                f"{channels} channels of {what} are no Fourier features of {axes} axes with their positions"
            )
        return bands

    def wrong(self, why: str) -> ModelError:
        return ModelError(
            f"'{self.stored.path}' is no {self.stored.family} of any size, as far as its shapes tell: {why}."
        )

    def attend(self, name: str, default: int, published: AttentionSpec | CrossDecoder) -> dict[str, Any]:
        """Heads and widths of a block; default: its qk_channels where none are set."""
        qk, v = self.width(f"{name}/attention/linear"), self.width(f"{name}/attention/linear_2")
        hidden, given = (self.width(f"{name}/mlp/{linear}") for linear in ("linear", "linear_1"))
        return {
            "heads": math.gcd(published.heads, qk, v),
            "qk_channels": None if qk == default else qk,
            "v_channels": None if v == qk else v,
            "widening": max(hidden // given, 1),
        }

    def tower(self, top: str, decoder: str) -> dict[str, Any]:
        """Latents, encoder and decoder."""
        count, channels = self.shape(f"{top}/{_LATENTS}", 2)
        cross, own = f"{top}/cross_attention", f"{top}/self_attention"
        e, d = self.spec.encoder, self.spec.decoder
        assert isinstance(e, EncoderSpec), "that of Perceiver IO"
        assert isinstance(d, CrossDecoder), "that of Perceiver IO"
        layers = self.count(own)
        if not layers:
            raise self.wrong(f"{quoted(f'params/{own}')} is missing")
        return {
            "latents": {"count": count, "channels": channels},
            "encoder": {
                "layers": layers,
                "cross": self.attend(cross, self.read(top), e.cross),
                "self_attend": self.attend(own, channels, e.self_attend),
            },
            "decoder": self.attend(f"{decoder}/cross_attention", channels, d),
        }

    def read(self, top: str) -> int:
        """Channels of the elements that the encoder reads."""
        return self.shape(f"{top}/cross_attention/attention/linear_1/w", 2)[0]


def _classified(a: _Arrays, image: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputs": {"image": dict(image)},
        **a.tower("perceiver_encoder/~", _CLASSES),
        "outputs": {"label": {"classes": _classes(a, a.width(f"{_CLASSES}/output"))}},
    }


def _classes(a: _Arrays, count: int) -> list[str]:
    """The published names where there are as many."""
    published = a.spec.outputs["label"].labels() or ()
    return list(published) if len(published) == count else [f"class_{i}" for i in range(count)]


def _sized(name: str, sizes: Sizes) -> dict[str, Any]:
    return {"size": list(sizes[name])} if name in sizes else {}


def _fourier_image(a: _Arrays, sizes: Sizes) -> dict[str, Any]:
    bands = a.bands(a.read("perceiver_encoder/~") - _COLOURS, _FLAT, "the image")
    return _classified(a, {**_sized("image", sizes), "position": {"bands": bands}})


def _learned_image(a: _Arrays, sizes: Sizes) -> dict[str, Any]:
    where = f"{_IMAGE}/~_build_network_inputs"
    rows, channels = a.shape(f"{where}/{_LATENTS}", 2)
    projector = f"{where}/position_encoding_projector/linear"
    project = a.width(projector) if f"params/{projector}/b" in a.stored.arrays else None
    lift = a.width(f"{_IMAGE}/~/conv2_d")
    join = "add" if a.read("perceiver_encoder/~") == lift == (project or channels) else "concat"
    # Of the grids with so many cells the one nearest to a square; the weights are the same for all.
    height = next(n for n in range(math.isqrt(rows), 0, -1) if rows % n == 0)
    image = {
        "size": list(sizes.get("image", (height, rows // height))),
        "lift": {"channels": lift},
        "position": {"channels": channels, "project": project, "join": join},
    }
    return _classified(a, image)


def _conv_image(a: _Arrays, sizes: Sizes) -> dict[str, Any]:
    channels = a.shape(f"{_IMAGE}/~/conv2_d_downsample/~/conv/w", 4)[-1]
    bands = a.bands(a.read("perceiver_encoder/~") - channels, _FLAT, "the image")
    return _classified(a, {**_sized("image", sizes), "lift": {"channels": channels}, "position": {"bands": bands}})


def _language(a: _Arrays, sizes: Sizes) -> dict[str, Any]:
    ids, channels = a.shape("embed/embeddings", 2)
    if ids != VOCABULARY:
        raise a.wrong(f"it has {ids:,} tokens, and texts here are bytes with {VOCABULARY} ids")
    length = a.shape(_LATENTS, 2)[0]
    text = {"length": length, "channels": channels, "position": {"channels": channels}}
    return {"inputs": {"text": text}, **a.tower("perceiver_encoder/~", "basic_decoder")}


def _flow(a: _Arrays, sizes: Sizes) -> dict[str, Any]:
    numbers, channels = a.shape(f"{_IMAGE}/patches_linear/w", 2)
    # Two images of so many windows of three colours.
    window = math.isqrt(numbers // (2 * _COLOURS))
    if 2 * _COLOURS * window**2 != numbers or window % 2 == 0:
        raise a.wrong(f"{numbers} numbers are no windows around a pixel of two images")
    bands = a.bands(a.read("perceiver_encoder/~") - channels, _FLAT, "the images")
    # The preset leaves its own lift to the default.
    pair = {"lift": {"kind": "windows", "size": window, "channels": channels}, "position": {"bands": bands}}
    return {
        "inputs": {"pair": {**_sized("pair", sizes), **pair}},
        **a.tower("perceiver_encoder/~", "flow_decoder/~/basic_decoder"),
    }


def _multimodal(a: _Arrays, sizes: Sizes) -> dict[str, Any]:
    top, query, decoder = (
        "multimodal_preprocessor",
        "multimodal_decoder/~decoder_query",
        "multimodal_decoder/~/basic_decoder",
    )
    read, asked = a.read("encoder/~"), a.shape(f"{decoder}/output/w", 2)[0]
    names = ("audio", "image", "label")
    behind = {name: a.shape(f"{top}/{name}_padding/pos_embs", 2)[1] for name in names}
    behind_queries = {name: a.shape(f"{query}/{name}_padding/pos_embs", 2)[1] for name in names}
    sound = a.bands(asked - behind_queries["audio"], 1, "the queries for sound")
    video = a.bands(asked - behind_queries["image"], _CLIP, "the queries for frames")
    patch = a.width("audio_postprocessor/linear")
    # Numbers in a patch of frames: what the encoder reads of one without its position.
    cells, colours = divmod(read - behind["image"] - _CLIP * (1 + 2 * video), _COLOURS)
    side = math.isqrt(max(cells, 0))
    if colours or side**2 != cells or not side:
        raise a.wrong(f"{cells} cells of three colours are no square patch of a frame")
    classes = _classes(a, a.width("classification_postprocessor/linear"))
    data = a.tower("encoder/~", decoder)
    data["encoder"] |= {"padding": min(behind.values())}
    data["decoder"] |= {"padding": min(behind_queries.values()), "output_channels": a.width(f"{decoder}/output")}
    # As published: sound at the resolution of its samples, frames at that of their patches.
    samples, frames = (list(sizes.get(name, a.spec.inputs[name].raw_grid() or ())) for name in ("audio", "image"))
    heard = {"bands": sound, "resolution": samples}
    seen = {"bands": video, "resolution": [frames[0], *(n // side for n in frames[1:])]}
    return {
        "inputs": {
            "audio": {"samples": samples[0], "lift": {"size": [patch]}, "position": heard},
            "image": {"size": frames, "lift": {"size": [1, side, side]}, "position": seen},
            "label": {"classes": {"label": classes}},
        },
        **data,
        "outputs": {
            "audio": {"size": samples, "patch": [patch], "query": heard},
            "image": {"size": frames, "query": seen},
            "label": {"classes": classes, "query": {"channels": asked - behind_queries["label"]}},
        },
    }


_FAMILIES: dict[str, Callable[[_Arrays, Sizes], dict[str, Any]]] = {
    NO_WEIGHTS: _fourier_image,
    LEARNED: _learned_image,
    CONV: _conv_image,
    LANGUAGE: _language,
    FLOW: _flow,
    MULTIMODAL: _multimodal,
}
