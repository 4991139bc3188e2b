"""The presets: published models as data, with paper, table and exact parameter count (models.md §4 of the plan)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perceivers.errors import SpecError, near_miss, unknown
from perceivers.models.presets_autoregressive import AUTOREGRESSIVE, P3
from perceivers.models.presets_hierarchical import hierarchical_rows
from perceivers.models.presets_unreleased import UNRELEASED_VARIANTS, Variant
from perceivers.models.spec import Spec, as_spec

P1 = "Perceiver: General Perception with Iterative Attention, arXiv 2103.03206"
P2 = "Perceiver IO: A General Architecture for Structured Inputs & Outputs, arXiv 2107.14795"

UNRELEASED = "weights were never released"
RELEASED = "weights by DeepMind, CC BY 4.0; not part of perceivers"

# ImageNet statistics of the official preprocessing, in units of 0–255.
_IMAGENET: dict[str, Any] = {
    "kind": "image",
    "size": [224, 224],
    "channels": 3,
    "resize": "crop",
    "mean": [0.485 * 255, 0.456 * 255, 0.406 * 255],
    "std": [0.229 * 255, 0.224 * 255, 0.225 * 255],
}
# As DeepMind's notebook of the released models reads a photograph.
_AS_RELEASED: dict[str, Any] = {"resize": "centre_clamped"}
# By number, so that a preset needs no other package; weights that are imported get their names.
IMAGENET_CLASSES = tuple(f"class_{i:03d}" for i in range(1000))
_CLASSES = {"kind": "category", "classes": list(IMAGENET_CLASSES)}
_LATENTS = {"count": 512, "channels": 1024}
_TOWER = {"blocks": 8, "layers": 6, "block_sharing": "all", "cross": {"heads": 1}, "self_attend": {"heads": 8}}


@dataclass(frozen=True)
class Preset:
    """A published model. `parameters` is exact and tested, `result` the paper's, `licence` that of its weights.

    gflops: 10⁹ multiplications and additions of a forward pass, as the paper prints them; None: it does not.
    """

    name: str
    spec: Mapping[str, Any]
    parameters: int
    paper: str
    table: str
    result: str
    licence: str
    gflops: float | None = None

    def build_spec(self) -> Spec:
        """The spec, validated."""
        return as_spec(self.spec, f"preset {self.name}")


def _fourier(bands: int) -> dict[str, Any]:
    return {"kind": "fourier", "bands": bands}


def _imagenet(image: Mapping[str, Any], encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputs": {"image": {**_IMAGENET, **image}},
        "latents": _LATENTS,
        "encoder": {**_TOWER, **encoder},
        "decoder": dict(decoder),
        "outputs": {"label": _CLASSES},
    }


_AVERAGE = {"kind": "average"}
_LEARNED = {
    **_AS_RELEASED,
    "lift": {"kind": "conv1x1", "channels": 256},
    "position": {"kind": "learned", "channels": 256, "project": 256},
}
_CONV = {**_AS_RELEASED, "lift": {"kind": "conv", "channels": 64}, "position": _fourier(64)}
_INTERLEAVED = {"cross_attends": 8, "interleaved": True, "cross_sharing": "after_first"}

_LANGUAGE: dict[str, Any] = {
    "inputs": {
        "text": {
            "kind": "text",
            "length": 2048,
            "channels": 768,
            "position": {"kind": "learned", "channels": 768, "join": "add"},
        }
    },
    "latents": {"count": 256, "channels": 1280},
    "encoder": {
        "blocks": 1,
        "layers": 26,
        "cross": {"heads": 8, "qk_channels": 256, "v_channels": 1280},
        "self_attend": {"heads": 8, "qk_channels": 256, "v_channels": 1280},
    },
    "decoder": {"kind": "cross_attend", "heads": 8, "qk_channels": 256, "v_channels": 768, "query_residual": False},
    "outputs": {"text": {"kind": "text"}},
}
_FLOW: dict[str, Any] = {
    "inputs": {
        "pair": {"kind": "image_pair", "size": [368, 496], "lift": {"kind": "windows"}, "position": _fourier(64)}
    },
    "latents": {"count": 2048, "channels": 512},
    "encoder": {"blocks": 1, "layers": 24, "self_attend": {"heads": 16}},
    "decoder": {"kind": "cross_attend", "query_residual": False},
    "outputs": {"flow": {"kind": "flow"}},
}

# Clips are read as in DeepMind's notebook: their beginning, frames cut to a square first, one channel of sound.
_SOUND: dict[str, Any] = {"kind": "fourier", "bands": 192, "resolution": [30_720]}
_VIDEO: dict[str, Any] = {"kind": "fourier", "bands": 32, "resolution": [16, 56, 56]}
_ACTIONS = [f"class_{i:03d}" for i in range(700)]
_MULTIMODAL: dict[str, Any] = {
    "inputs": {
        "audio": {
            "kind": "audio",
            "samples": 30_720,
            "rate": 48_000,
            "overflow": "truncate",
            "resample": True,
            "mix": True,
            "mean": [0.0],
            "std": [1.0],
            "lift": {"kind": "patches", "size": [16]},
            "position": _SOUND,
        },
        "image": {
            "kind": "video",
            "size": [16, 224, 224],
            "rate": 25,
            "overflow": "truncate",
            "resize": "cut_first",
            "mean": [0.0, 0.0, 0.0],
            "std": [255.0, 255.0, 255.0],
            "lift": {"kind": "patches", "size": [1, 4, 4]},
            "position": _VIDEO,
        },
        "label": {"kind": "category", "columns": ["label"], "channels": "classes", "classes": {"label": _ACTIONS}},
    },
    "latents": {"count": 784, "channels": 512},
    "encoder": {
        "blocks": 1,
        "layers": 8,
        "self_attend": {"heads": 8},
        "padding": 4,
        "masking": {"audio": 0.0, "image": 0.0, "label": 1.0},
    },
    "decoder": {"kind": "cross_attend", "query_residual": False, "padding": 2, "output_channels": 512},
    "outputs": {
        "audio": {
            "kind": "grid",
            "input": "audio",
            "size": [30_720],
            "patch": [16],
            "query": {**_SOUND, "end": False},
            "peak": 2.0,
        },
        "image": {
            "kind": "grid",
            "input": "image",
            "size": [16, 224, 224],
            "channels": 3,
            "std": 255.0,
            "peak": 255.0,
            "query": {**_VIDEO, "end": False},
            "weight": 0.03,
        },
        "label": {"kind": "category", "classes": _ACTIONS, "query": {"channels": 1024}, "weight": 1e-4},
    },
}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "perceiver-imagenet-fourier",
            _imagenet({"position": _fourier(64)}, _INTERLEAVED, _AVERAGE),
            44_912_254,
            P1,
            "Table 1 and §4.1; eight cross-attends, the last seven sharing weights",
            "ImageNet top-1 78.0, 707.2 GFLOPs",
            UNRELEASED,
            707.2,
        ),
        Preset(
            "perceiver-imagenet-fourier-1x",
            _imagenet({"position": _fourier(64)}, {}, _AVERAGE),
            42_135_859,
            P1,
            "§4.1 ablations; a single cross-attend",
            "ImageNet top-1 76.7, 404.3 GFLOPs",
            UNRELEASED,
            404.3,
        ),
        Preset(
            "perceiver-io-imagenet-fourier",
            _imagenet({**_AS_RELEASED, "position": _fourier(64)}, {}, {"kind": "cross_attend", "query_residual": True}),
            48_440_627,
            P2,
            "Table 7, 2D Fourier features; released checkpoint",
            "ImageNet top-1 79.0, 407 GFLOPs",
            RELEASED,
            407,
        ),
        Preset(
            "perceiver-io-imagenet-learned",
            _imagenet(_LEARNED, {}, {"kind": "cross_attend", "query_residual": False}),
            62_255_848,
            P2,
            "Table 7, learned positions; released checkpoint",
            "ImageNet top-1 72.7; the paper prints 407 GFLOPs, which is the Fourier model's: it has 478",
            RELEASED,
            407,
        ),
        Preset(
            "perceiver-io-imagenet-conv",
            _imagenet(_CONV, {}, {"kind": "cross_attend", "query_residual": True}),
            48_646_522,
            P2,
            "Table 7, 2D convolutional preprocessing; released checkpoint",
            "ImageNet top-1 82.1, 369 GFLOPs",
            RELEASED,
            369,
        ),
        Preset(
            "perceiver-io-language",
            _LANGUAGE,
            201_108_230,
            P2,
            "Table 1 and App. F, UTF-8 bytes; released checkpoint",
            "GLUE average 81.0 after fine-tuning; the paper prints 113 GFLOPs, as many as with 24 of its 26 layers",
            RELEASED,
            113,
        ),
        Preset(
            "perceiver-io-flow",
            _FLOW,
            41_057_134,
            P2,
            "Table 2 and App. H, AutoFlow; released checkpoint",
            "Sintel clean 1.81, final 2.42, KITTI 4.98 end-point error; the paper prints 27.9 M parameters and 987 "
            "GFLOPs, which perceiver-io-flow-small has",
            RELEASED,
            987,
        ),
        Preset(
            "perceiver-io-multimodal",
            _MULTIMODAL,
            19_858_855,
            P2,
            "Table 4 and App. I, Kinetics-700 autoencoding; released checkpoint",
            "88 times smaller: audio PSNR 26.97, video 24.37, label top-1 10.2 %; 6.85 TFLOPs for all of it",
            RELEASED,
            6850,
        ),
        *(
            Preset(name, spec, parameters, P3, table, result, licence)
            for name, spec, parameters, table, result, licence in AUTOREGRESSIVE
        ),
        *(Preset(*row) for row in hierarchical_rows(_IMAGENET)),
    )
}


def _varied(variant: Variant) -> Preset:
    """The preset that a variant describes."""
    paper = {"P1": P1, "P2": P2}[variant.paper]
    facts = (variant.parameters, paper, variant.table, variant.result, UNRELEASED, variant.gflops)
    return Preset(variant.name, _changed(PRESETS[variant.base], variant.changes, {}), *facts)


def presets() -> dict[str, Preset]:
    """All presets: name → paper, table, parameters, result and spec."""
    return dict(PRESETS)


def preset(name: str) -> Preset:
    """The preset called `name`. Raises `SpecError` with the near miss."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def with_preset(data: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's spec that `data["preset"]` names, with the rest of `data` merged into it.

    Mappings are merged key by key; one of another `kind` takes the place of the preset's, and so does any other value;
    null takes an input or an output away. A `kind` that the preset leaves to its default is that kind. Raises
    `SpecError` for a preset, and for an input or output to take away, that does not exist.
    """
    name = data["preset"]
    if not isinstance(name, str):
        raise SpecError(f"model.preset is {name!r}; it names a preset, such as {next(iter(PRESETS))}.")
    changes = {key: value for key, value in data.items() if key != "preset"}
    found = preset(name)
    return _changed(found, changes, found.build_spec().model_dump(mode="json"))


def spec_of(what: "str | Spec | Mapping[str, Any]") -> Spec:
    """The spec of a preset's name, of plain data, which may name a `preset` to change, or of a spec.

    Raises `SpecError`.
    """
    if isinstance(what, str):
        return preset(what).build_spec()
    where = f"preset {what['preset']}, changed" if isinstance(what, Mapping) and "preset" in what else "spec"
    return as_spec(written_out(what), where)


def written_out(what: Any) -> Any:
    """Plain data of a spec where `what` is a preset's name or names a `preset` to change; else `what` itself.

    Raises `SpecError`, also for a key that must be `preset` misspelt.
    """
    if isinstance(what, str):
        return with_preset({"preset": what})
    if not isinstance(what, Mapping):
        return what
    if "preset" in what:
        return with_preset(what)
    meant = [key for key in what if key not in Spec.model_fields and near_miss(str(key), ["preset"])]
    if meant:
        raise SpecError(f"unknown key '{meant[0]}'. Did you mean 'preset'?")
    return what


def _changed(base: Preset, changes: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of `base` with `changes`, without the inputs and outputs that they take away.

    whole: that spec with every default written out, which tells the kinds left out; needed where changes give one.
    """
    spec = _merged(base.spec, changes, whole)
    for name in ("inputs", "outputs"):
        if isinstance(spec[name], Mapping):
            gone = [key for key, value in spec[name].items() if value is None]
            strange = [key for key in gone if key not in base.spec[name]]
            if strange:
                raise unknown(f"{name[:-1]} to take away from {base.name}:", strange[0], base.spec[name])
            spec[name] = {key: value for key, value in spec[name].items() if key not in gone}
    return spec


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any], whole: Any) -> dict[str, Any]:
    """`base` with `changes` put in, where `whole` tells the kinds that `base` leaves out."""
    whole = whole if isinstance(whole, Mapping) else {}
    found = dict(base)
    for key, value in changes.items():
        before = base.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            full = whole.get(key)
            kind = before.get("kind", full.get("kind") if isinstance(full, Mapping) else None)
            found[key] = _merged(before, value, full) if value.get("kind", kind) == kind else value
        else:
            found[key] = value
    return found


PRESETS |= {variant.name: _varied(variant) for variant in UNRELEASED_VARIANTS}
