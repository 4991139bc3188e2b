"""Published models that no weights exist of, each as what differs from another preset (models.md §4.2 and §4.3).

Where a paper leaves a number open, or prints one that its own model does not have, the row's text says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Variant:
    """A preset as changes of the preset `base`, merged into it as a recipe's would be.

    parameters: exact, of the model as it stands here. gflops: what the paper prints, or None.
    """

    name: str
    base: str
    changes: Mapping[str, Any]
    parameters: int
    paper: Literal["P1", "P2"]
    table: str
    result: str
    gflops: float | None = None


def _crosses(count: int, top: float, parameters: int, millions: float, gflops: float) -> Variant:
    """Of P1's Table 5: cross-attends alone."""
    return Variant(
        f"perceiver-imagenet-crosses-{count}",
        "perceiver-imagenet-fourier",
        {"encoder": {"cross_attends": count, "interleaved": False, "cross_sharing": "none", "blocks": 0}},
        parameters,
        "P1",
        f"Table 5; {count} cross-attends and no latent self-attend",
        f"ImageNet top-1 {top}, {millions} M parameters, {gflops} GFLOPs",
        gflops,
    )


def _wide(channels: int, count: int = 256, layers: int = 26) -> dict[str, Any]:
    """The language model with other latents; queries and keys stay 256 wide."""
    attends = {"v_channels": channels}
    return {
        "latents": {"count": count, "channels": channels},
        "encoder": {"layers": layers, "cross": attends, "self_attend": attends},
    }


_AVERAGE = {"decoder": {"kind": "average"}}
# Sixteen self-attends of their own, for pre-training on JFT.
_CONFIG_B = {"encoder": {"blocks": 1, "layers": 16, "self_attend": {"widening": 4}}}
_HEAD_B = "; pre-trained on JFT, here with ImageNet's head"
_LESS_B = "as many as with twelve of its sixteen self-attends"

_IMAGENET = (
    *(
        Variant(
            f"perceiver-imagenet-fourier-{count}x",
            "perceiver-imagenet-fourier",
            {"encoder": {"cross_attends": count}},
            44_912_254,
            "P1",
            f"Table 6; {count} cross-attends, interleaved",
            f"ImageNet top-1 76.5, {gflops} GFLOPs",
            gflops,
        )
        for count, gflops in ((2, 447.6), (4, 534.1))
    ),
    Variant(
        "perceiver-imagenet-fourier-unshared",
        "perceiver-imagenet-fourier",
        {"encoder": {"cross_sharing": "none", "block_sharing": "none"}},
        326_241_856,
        "P1",
        "Table 7; eight cross-attends and eight latent blocks, each with weights of its own",
        "ImageNet top-1 72.9 (87.7 on training data), 326.2 M parameters",
    ),
    _crosses(4, 39.4, 12_654_868, 12.7, 173.1),
    _crosses(8, 45.3, 23_760_448, 23.8, 346.1),
    Variant(
        "perceiver-imagenet-learned",
        "perceiver-imagenet-fourier-1x",
        {"inputs": {"image": {"position": {"kind": "learned", "channels": 128, "init_std": 1.0}}}},
        48_189_577,
        "P1",
        "Table 2; learned positions, a single cross-attend",
        "ImageNet top-1 70.9, pixels permuted or not",
    ),
    Variant(
        "perceiver-imagenet-learned-wide",
        "perceiver-io-imagenet-learned",
        _AVERAGE,
        55_951_080,
        "P2",
        "Table 7, learned positions; the 2021 model trained anew",
        "ImageNet top-1 67.6, 55.9 M parameters; the paper prints 404 GFLOPs, which is the Fourier model's",
        404,
    ),
    Variant(
        "perceiver-imagenet-conv",
        "perceiver-io-imagenet-conv",
        _AVERAGE,
        42_341_754,
        "P2",
        "Table 7, 2D convolutional preprocessing; the 2021 model trained anew",
        "ImageNet top-1 77.4, 367 GFLOPs; the paper prints 42.1 M parameters, which is the Fourier model's",
        367,
    ),
    Variant(
        "perceiver-io-imagenet-fourier-b",
        "perceiver-io-imagenet-fourier",
        _CONFIG_B,
        212_170_035,
        "P2",
        f"Table 7, configuration B{_HEAD_B}",
        f"ImageNet top-1 84.5, 212 M parameters; the paper prints 213 GFLOPs, {_LESS_B}",
        213,
    ),
    Variant(
        "perceiver-io-imagenet-conv-b",
        "perceiver-io-imagenet-conv",
        _CONFIG_B,
        212_375_930,
        "P2",
        f"Table 7, configuration B with 2D convolutional preprocessing{_HEAD_B}",
        f"ImageNet top-1 86.4, 212 M parameters; the paper prints 176 GFLOPs, {_LESS_B}",
        176,
    ),
)

_LANGUAGE = (
    Variant(
        "perceiver-io-language-plus",
        "perceiver-io-language",
        _wide(1536, layers=40),
        425_607_430,
        "P2",
        "Table 1 and App. F, UTF-8 bytes, Perceiver IO++",
        "GLUE average 81.8 after fine-tuning, 425 M parameters, 241 GFLOPs",
        241,
    ),
    Variant(
        "perceiver-io-language-128",
        "perceiver-io-language",
        _wide(1920, count=128),
        430_132_230,
        "P2",
        "App. F, UTF-8 bytes; 128 latents of 1,920 channels",
        "GLUE average 75.84 after fine-tuning",
    ),
    Variant(
        "perceiver-io-language-512",
        "perceiver-io-language",
        _wide(896, count=512),
        105_849_862,
        "P2",
        "App. F, UTF-8 bytes; 512 latents of 896 channels",
        "GLUE average 80.92 after fine-tuning",
    ),
)

_PIECES = {"encoding": "ids", "vocabulary": 32_000}
_LANGUAGE_PIECES = Variant(
    "perceiver-io-language-sentencepiece",
    "perceiver-io-language",
    {"inputs": {"text": {**_PIECES, "length": 512}}, "outputs": {"text": _PIECES}},
    223_155_456,
    "P2",
    "Table 1 and App. F, SentencePiece; bring a tokenizer of 31,994 pieces, whose ids stand behind six special ones",
    "GLUE average 81.2 after fine-tuning; the paper prints 119 GFLOPs, it has 134: 25 of them read the answers",
    119,
)

# A quarter of the pixels on each axis by ImageNet's stem, of each frame for itself; and back as RAFT does.
_CONVOLVED: dict[str, Any] = {
    "inputs": {"pair": {"lift": {"kind": "conv", "channels": 64}}},
    "outputs": {"flow": {"upsample": {"kind": "convex"}}},
}
_OWN_STEM = "a convolution stem of each frame and RAFT's upsampling, whose widths are those of ImageNet and of RAFT"

_FLOW = (
    Variant(
        "perceiver-io-flow-1x1",
        "perceiver-io-flow",
        {"inputs": {"pair": {"lift": {"size": 1}}}},
        41_054_062,
        "P2",
        "Table 16; each pixel without its surroundings, both frames together",
        "Sintel clean 1.91, final 2.56, KITTI 5.39 end-point error",
    ),
    Variant(
        "perceiver-io-flow-separate",
        "perceiver-io-flow",
        {"inputs": {"pair": {"frames": "separate"}}},
        41_720_272,
        "P2",
        "Table 16; the frames one behind the other, 451 channels, those of the first ask",
        "Sintel clean 1.78, final 2.70, KITTI 6.19 end-point error",
    ),
    Variant(
        "perceiver-io-flow-small",
        "perceiver-io-flow",
        {"latents": {"count": 1024}, "encoder": {"layers": 16}},
        27_908_974,
        "P2",
        "Table 2 and App. H; 16 self-attends, 1,024 latents: what has the printed parameters and FLOPs",
        "27.9 M parameters, 987 GFLOPs; Table 16's small network also has convolutions: perceiver-io-flow-conv-small",
        987,
    ),
    Variant(
        "perceiver-io-flow-conv",
        "perceiver-io-flow",
        _CONVOLVED,
        42_302_974,
        "P2",
        f"Table 16; {_OWN_STEM}",
        "Sintel clean 1.84, final 2.52, KITTI 4.83 end-point error",
    ),
    Variant(
        "perceiver-io-flow-conv-small",
        "perceiver-io-flow",
        {**_CONVOLVED, "latents": {"count": 1024}, "encoder": {"layers": 16}},
        29_154_814,
        "P2",
        f"Table 16; 16 self-attends, 1,024 latents, {_OWN_STEM}",
        "Sintel clean 2.06, final 2.67, KITTI 6.12 end-point error",
    ),
)

_MULTIMODAL = tuple(
    Variant(
        f"perceiver-io-multimodal-{count}",
        "perceiver-io-multimodal",
        {"latents": {"count": count}},
        parameters,
        "P2",
        f"Table 4 and App. I, Kinetics-700 autoencoding; {count} latents",
        result,
    )
    for count, parameters, result in (
        (392, 19_658_151, "176 times smaller: audio PSNR 25.33, video 24.27, label top-1 8.6 %"),
        (196, 19_557_799, "352 times smaller: audio PSNR 14.15, video 23.21, label top-1 11.5 %"),
    )
)

# Patches of 2 × 8 × 8 pixels with 16 bands are P2's 487 channels with the embedding's four [models.md §4.3]. Bands and
# mel bins of the sound are printed nowhere: 64, and 60 frames of 80 bins, which are P1's 4,800 numbers.
_VIDEO: dict[str, Any] = {
    "kind": "video",
    "size": [32, 224, 224],
    "rate": 25,
    "resize": "crop",
    "mean": [127.5, 127.5, 127.5],
    "std": [127.5, 127.5, 127.5],
    "lift": {"kind": "patches", "size": [2, 8, 8]},
    "position": {"kind": "fourier", "bands": 16},
}
_SOUND: dict[str, Any] = {
    "kind": "audio",
    "samples": 61_440,
    "rate": 48_000,
    "mean": [0.0],
    "std": [1.0],
    "position": {"kind": "fourier", "bands": 64},
}
_RAW = {**_SOUND, "lift": {"kind": "patches", "size": [128]}}
_MEL = {**_SOUND, "lift": {"kind": "log_mel", "bins": 80, "window": 2048, "hop": 1024}}
_EVENTS: dict[str, Any] = {"kind": "labels", "classes": [f"class_{i:03d}" for i in range(527)]}


def _audioset(sound: Mapping[str, Any], encoder: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "inputs": {"image": None, "audio": sound, "video": _VIDEO},
        "encoder": {**encoder, "padding": 4},
        "outputs": {"label": None, "sounds": _EVENTS},
        **changes,
    }


def _audioset_io(sound: Mapping[str, Any], channels: int) -> dict[str, Any]:
    changes = _audioset(sound, {"blocks": 1, "layers": 12}, latents={"channels": channels})
    asked = {"label": None, "sounds": {**_EVENTS, "query": {"channels": 1024}}}
    return {**changes, "decoder": {"kind": "cross_attend"}, "outputs": asked}


_TWO_BLOCKS = {"cross_attends": 2, "interleaved": True, "blocks": 2}
_TWO_OWN = {**_TWO_BLOCKS, "layers": 8, "cross_sharing": "none", "block_sharing": "none"}
_OWN_SOUND = "; bands and mel bins of the sound are ours"

# Vectors of the rest of the agent, which come as they are; empty slots are masked.
_ENTITIES: dict[str, Any] = {
    "kind": "points",
    "count": 512,
    "axes": 0,
    "channels": 256,
    "position": {"kind": "none"},
    "mean": [0.0] * 256,
    "std": [1.0] * 256,
}
_VECTORS: dict[str, Any] = {
    "kind": "pointwise",
    "input": "entities",
    "channels": 128,
    "project": 128,
    "mean": [0.0] * 128,
    "std": [1.0] * 128,
}

_OTHERS = (
    Variant(
        "perceiver-audioset-raw",
        "perceiver-imagenet-fourier-1x",
        _audioset(_RAW, _TWO_OWN),
        109_048_771,
        "P1",
        f"Table 3 and §4.2, raw audio and video{_OWN_SOUND}",
        "AudioSet mAP 43.5",
    ),
    Variant(
        "perceiver-audioset-mel",
        "perceiver-imagenet-fourier-1x",
        _audioset(_MEL, _TWO_OWN),
        109_048_769,
        "P1",
        f"Table 3 and §4.2, mel spectrogram and video{_OWN_SOUND}",
        "AudioSet mAP 43.2; 44.2 with 10 % dropout of the spectrogram in place of SpecAugment",
    ),
    Variant(
        "perceiver-io-audioset-raw",
        "perceiver-imagenet-fourier-1x",
        _audioset_io(_RAW, 512),
        24_922_462,
        "P2",
        f"Table 8, raw audio and video{_OWN_SOUND}",
        "AudioSet mAP 43.3, 52.9 GFLOPs; the paper prints 25.0 M parameters",
        52.9,
    ),
    Variant(
        "perceiver-io-audioset-mel",
        "perceiver-imagenet-fourier-1x",
        _audioset_io(_MEL, 1024),
        86_568_284,
        "P2",
        f"Table 8, mel spectrogram and video{_OWN_SOUND}",
        "AudioSet mAP 44.9, 129.5 GFLOPs; the paper prints 88.2 M parameters",
        129.5,
    ),
    Variant(
        "perceiver-io-starcraft",
        "perceiver-io-imagenet-fourier",
        {
            "inputs": {"image": None, "entities": _ENTITIES},
            "latents": {"count": 32},
            "encoder": {"blocks": 1, "layers": 3},
            "decoder": {"query_residual": False},
            "outputs": {"label": None, "vectors": _VECTORS},
        },
        24_146_304,
        "P2",
        "Table 5 and §4.5, StarCraft II; the entity module of AlphaStar, without the agent around it; heads are ours",
        "win rate 0.87, as a Transformer's; the paper prints 140 M parameters, the agent's, and 0.93 GFLOPs, not 2.1",
        0.93,
    ),
    Variant(
        "perceiver-modelnet40",
        "perceiver-imagenet-fourier",
        {
            "inputs": {
                "image": None,
                "points": {
                    "kind": "points",
                    "count": 2048,
                    "overflow": "spread",
                    "position": {"kind": "fourier", "bands": 64, "resolution": [2240, 2240, 2240]},
                },
            },
            "encoder": _TWO_BLOCKS,
            "outputs": {"label": {"classes": [f"class_{i:03d}" for i in range(40)]}},
        },
        44_772_202,
        "P1",
        "Table 4 and §4.3; two cross-attends, about 2,000 points",
        "ModelNet40 top-1 85.7",
    ),
)

UNRELEASED_VARIANTS: Sequence[Variant] = (*_IMAGENET, *_LANGUAGE, _LANGUAGE_PIECES, *_FLOW, *_MULTIMODAL, *_OTHERS)
