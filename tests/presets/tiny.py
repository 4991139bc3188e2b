"""A tiny twin of a preset: the same spec with small numbers, so that every path of it runs in milliseconds."""

from typing import Any

import numpy as np

from perceivers.models.presets import Preset
from perceivers.models.spec import Spec, as_spec

SIZE = 12
CLASSES = ("a", "b", "c")
_SETS_AND_CLIPS: dict[str, dict[str, Any]] = {
    "points": {"count": 9},
    "video": {"size": (4, 16, 16)},
    "audio": {"samples": 256},
}


def tiny_twin(preset: Preset) -> Spec:
    """The preset's spec with its kinds, sharing, orders and options kept and its sizes shrunk."""
    data = preset.build_spec().model_dump()
    if data["encoder"]["kind"] == "autoregressive":
        return _tiny_sequence(data)
    for given in data["inputs"].values():
        if given["kind"] == "text":
            given |= {"length": SIZE, "channels": 8}
            given["position"] |= {"channels": 8}
            continue
        if given["kind"] in _SETS_AND_CLIPS:
            given |= _SETS_AND_CLIPS[given["kind"]]
            given["position"] |= _small(given["position"], bands=3)
            given.get("lift", {}).update(_small(given.get("lift", {}), bins=3, window=32, hop=16))
            continue
        given |= {"size": (SIZE, SIZE)}
        if given["kind"] == "image":
            given |= {"mean": (100.0,) * 3, "std": (50.0,) * 3}
        given["position"] |= _small(given["position"], bands=3, channels=6, project=6)
        given["lift"] |= _small(given["lift"], channels=5)
    for output in data["outputs"].values():
        if output["kind"] in ("category", "labels"):
            output["classes"] = CLASSES
            output["query"] |= _small(output["query"], channels=10)
    latents = data["latents"]
    latents |= {"count": max(latents["count"] // 64, 2), "channels": latents["channels"] // 256 * 8}
    data["encoder"] |= {"layers": 2 + data["encoder"]["layers"] // 16}
    for part in (data["encoder"]["cross"], data["encoder"]["self_attend"], data["decoder"]):
        part |= _small(part, qk_channels=8, v_channels=latents["channels"])
    if any(given["kind"] == "text" for given in data["inputs"].values()):
        data["decoder"]["v_channels"] = 8
    return as_spec(data)


def _small(settings: dict[str, Any], **sizes: int) -> dict[str, int]:
    """Those of `sizes` that the settings have."""
    return {name: size for name, size in sizes.items() if settings.get(name) is not None}


def _tiny_sequence(data: dict[str, Any]) -> Spec:
    """Of a model of tokens: fewer, narrower, and the deep one of two layers."""
    (tokens,) = data["inputs"].values()
    image = tokens["image"]
    tokens |= {"channels": 16, "length": 32, "image": None if image is None else (2, 3, 3)}
    tokens["position"]["sizes"] = (33,) if image is None else (5, 4, 5)
    data["latents"] |= {"count": 8, "channels": 16}
    data["encoder"]["layers"] = {1: 1, 6: 2, 60: 3}[data["encoder"]["layers"]]
    data["encoder"]["cross"]["heads"] = data["encoder"]["self_attend"]["heads"] = 4
    return as_spec(data)


def samples_of(spec: Spec, count: int) -> list[dict[str, Any]]:
    """Raw samples for a tiny twin."""
    generator = np.random.default_rng(0)
    made = {
        "image": lambda: generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        "image_pair": lambda: generator.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8),
        "tokens": lambda: generator.integers(0, 256, (2, 3, 3), dtype=np.uint8),
        "points": lambda: generator.normal(size=(7, 3)),
        "rows": lambda: generator.normal(size=(7, 256)),
        "video": lambda: generator.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8),
        "audio": lambda: generator.uniform(-1, 1, 256),
        "text": lambda: {"text": "abc defg hi"[: 5 + int(generator.integers(6))], "mask": [[1, 3]]},
        "ids": lambda: {"text": generator.integers(6, 32_000, 5 + int(generator.integers(6))), "mask": [[1, 3]]},
    }
    names = {name: _made_as(kind) for name, kind in spec.inputs.items()}
    return [{name: made[kind]() for name, kind in names.items()} for _ in range(count)]


def _made_as(kind: Any) -> str:
    if kind.kind == "text" and kind.encoding == "ids":
        return "ids"
    return "rows" if kind.kind == "points" and not kind.axes else kind.kind
