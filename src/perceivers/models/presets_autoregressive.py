"""The three official configurations of Perceiver AR as plain data [experiment.py; models.md §5]."""

from collections.abc import Mapping
from typing import Any

P3 = "General-purpose, long-context autoregressive modeling with Perceiver AR, arXiv 2202.07765"

_WIDTH, _HEADS = 1024, 16


def _copy(length: int, latents: int, layers: int) -> dict[str, Any]:
    """Sequences that are mirrored in the middle; only the second half can be known."""
    return _spec({"length": length, "position": {"kind": "absolute", "sizes": [length + 1]}}, latents, layers, {})


def _spec(tokens: Mapping[str, Any], latents: int, layers: int, output: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputs": {"tokens": {"kind": "tokens", "vocabulary": 259, "channels": _WIDTH, **tokens}},
        "latents": {"count": latents, "channels": _WIDTH},
        "encoder": {
            "kind": "autoregressive",
            "layers": layers,
            "cross": {"heads": _HEADS, "widening": 4},
            "self_attend": {"heads": _HEADS, "widening": 4},
            "dropout": 0.1,
        },
        "outputs": {"next": {"kind": "next_token", "vocabulary": 259, "z_loss": 1e-4, **output}},
    }


_IMAGE = {
    "length": 12_416,
    "image": [64, 64, 3],
    "position": {"kind": "absolute", "code": "random", "sizes": [66, 66, 5], "learnable": True},
}

# Name, spec, parameters, table, the paper's result, licence.
AUTOREGRESSIVE: tuple[tuple[str, dict[str, Any], int, str, str, str], ...] = (
    (
        "perceiver-ar-copy-32",
        _copy(32, 16, 1),
        26_810_627,
        "official configuration random_mirrored_32; a test of the code",
        "none given",
        "weights were never released",
    ),
    (
        "perceiver-ar-copy-131072",
        _copy(131_072, 1024, 6),
        223_976_707,
        "§5.1, copy task; 134,218,752 of its parameters are the fixed table of positions",
        "every token of the second half right at a context of 131,072",
        "weights by Google, no licence stated; not part of perceivers",
    ),
    (
        "perceiver-ar-imagenet64",
        _spec(_IMAGE, 1024, 60, {"end": False}),
        770_094_339,
        "ImageNet 64 × 64, official configuration imagenet_w_positions",
        "3.40 bits per dimension",
        "weights were never released",
    ),
)
