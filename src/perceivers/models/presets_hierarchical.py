"""The rows of the Hierarchical Perceiver's variants, and of the Perceiver IOs that its authors compare it with.

From the table of variants in the official code [google-deepmind/hierarchical_perceiver a1c4cd2]. All read the 50,176
pixels of an ImageNet image, without labels, and reconstruct them. `preset` makes presets of them.
"""

from collections.abc import Sequence
from typing import Any

P4 = "HiP: Hierarchical Perceiver, arXiv 2202.10890"
NO_WEIGHTS = "weights were never released"
_RESULT = "none that is known: neither weights nor the training code were released"


def _blocks(
    groups: Sequence[int],
    self_attends: Sequence[int],
    latents: Sequence[int],
    channels: Sequence[int],
    heads: Sequence[int],
) -> list[dict[str, int]]:
    names = ("groups", "self_attends", "latents", "channels", "self_heads")
    rows = zip(groups, self_attends, latents, channels, heads, strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _perceiver_io(self_attends: int, latents: int, channels: int, heads: Sequence[int], widening: Sequence[int]) -> Any:
    """One block; heads and widening of the cross-attend and of the self-attends."""
    return [
        {
            "groups": 1,
            "self_attends": self_attends,
            "latents": latents,
            "channels": channels,
            "cross_heads": heads[0],
            "self_heads": heads[1],
            "cross_widening": widening[0],
            "self_widening": widening[1],
        }
    ]


def hierarchical_spec(
    image: dict[str, Any], embedding_channels: int, blocks: Sequence[dict[str, int]]
) -> dict[str, Any]:
    """A spec that reads `image` and reconstructs it."""
    return {
        "inputs": {"image": {**image, "position": {"kind": "none"}}},
        "encoder": {"kind": "hierarchical", "embedding_channels": embedding_channels, "blocks": list(blocks)},
        "outputs": {"reconstruction": {"kind": "reconstruction", "input": "image"}},
    }


# Name, E, blocks, parameters, what the official code calls it.
VARIANTS: tuple[tuple[str, int, list[dict[str, int]], int, str], ...] = (
    (
        "hip-imagenet-16",
        32,
        _blocks(
            (16, 4, 1, 1, 1, 4, 16),
            (2, 2, 18, 2, 1, 1, 1),
            (128, 256, 256, 64, 256, 256, 128),
            (128, 256, 512, 1024, 512, 256, 128),
            (4, 8, 16, 32, 16, 8, 4),
        ),
        100_787_939,
        "HiP-16",
    ),
    (
        "hip-imagenet-256",
        16,
        _blocks(
            (256, 64, 16, 4, 1, 1, 1, 4, 16, 64, 256),
            (1, 1, 2, 2, 18, 2, 1, 1, 1, 1, 1),
            (32, 64, 128, 256, 256, 64, 256, 256, 128, 64, 32),
            (64, 96, 128, 256, 512, 1024, 256, 128, 64, 32, 16),
            (1, 2, 4, 8, 16, 32, 16, 8, 4, 2, 1),
        ),
        96_367_155,
        "HiP-256",
    ),
    (
        "hip-imagenet-16x3",
        32,
        _blocks((16, 1, 16), (2, 18, 2), (128, 256, 128), (128, 1024, 128), (4, 32, 4)),
        234_803_299,
        "HiP-16x3",
    ),
    (
        "hip-imagenet-mini",
        32,
        _blocks((16, 1, 16), (2, 1, 1), (128, 64, 128), (128, 1024, 128), (4, 32, 4)),
        20_272_611,
        "HiP-Mini",
    ),
    ("hip-io-imagenet-50m", 512, _perceiver_io(8, 1024, 512, (8, 8), (4, 4)), 56_169_475, "io_c_50m, a Perceiver IO"),
    (
        "hip-io-imagenet-150m",
        896,
        _perceiver_io(12, 1024, 896, (16, 16), (4, 4)),
        176_101_635,
        "io_c_150m, a Perceiver IO",
    ),
    ("hip-io-imagenet-mini", 128, _perceiver_io(2, 128, 128, (1, 2), (1, 2)), 6_904_451, "io_mini, a Perceiver IO"),
)


def hierarchical_rows(image: dict[str, Any]) -> list[tuple[str, dict[str, Any], int, str, str, str, str]]:
    """What a `Preset` is made of, in its order, for models that read `image`."""
    return [
        (name, hierarchical_spec(image, width, blocks), count, P4, f"official code, {variant}", _RESULT, NO_WEIGHTS)
        for name, width, blocks, count, variant in VARIANTS
    ]
