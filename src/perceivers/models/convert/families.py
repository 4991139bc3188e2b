"""Which published model a set of weights is of, as far as the names of its arrays tell.

The names of DeepMind's are those of models.md §10 of the plan, those of transformers its seven Perceiver classes'.
"""

from collections.abc import Iterable

UNKNOWN = "unknown"

NO_WEIGHTS = "image classification of Perceiver IO, whose input has no weights (as with Fourier positions)"
LEARNED = "image classification of Perceiver IO, learned positions"
CONV = "image classification of Perceiver IO, convolution stem"
LANGUAGE = "language model of Perceiver IO"
TEXT_CLASSES = "text classification of Perceiver IO"
FLOW = "optical flow of Perceiver IO"
MULTIMODAL = "multimodal autoencoding of Perceiver IO"

# The first row that has a name beginning like it decides.
_HAIKU = (
    ("perceiver_ar/", "Perceiver AR"),
    # One block is its authors' Perceiver IO in the same code.
    ("perceiver/block_1/", "Hierarchical Perceiver"),
    ("perceiver/perceiver_block_1/", "Hierarchical Perceiver"),
    ("perceiver/block_0/", "Perceiver IO in the code of Hierarchical Perceiver"),
    ("perceiver/perceiver_block_0/", "Perceiver IO in the code of Hierarchical Perceiver"),
    ("multimodal_decoder/", MULTIMODAL),
    ("flow_decoder/", FLOW),
    ("embedding_decoder/", LANGUAGE),
    ("image_preprocessor/~/conv2_d_downsample/", CONV),
    ("image_preprocessor/~_build_network_inputs/trainable_position_encoding/", LEARNED),
    ("image_preprocessor/", "image classification of Perceiver IO"),
    ("classification_decoder/", NO_WEIGHTS),
)
_TRANSFORMERS = (
    ("perceiver.input_preprocessor.padding.", MULTIMODAL),
    ("perceiver.input_preprocessor.conv_after_patches.", FLOW),
    ("embedding_decoder.", LANGUAGE),
    ("perceiver.input_preprocessor.embeddings.", TEXT_CLASSES),
    ("perceiver.input_preprocessor.convnet_1x1.", LEARNED),
    ("perceiver.input_preprocessor.convnet.", CONV),
    ("perceiver.input_preprocessor.", UNKNOWN),
    ("perceiver.decoder.decoder.final_layer.", NO_WEIGHTS),
)


def haiku_family(names: Iterable[str]) -> str:
    """The model in words, from names such as `perceiver_encoder/~/cross_attention/mlp/linear/w`."""
    return _first(_HAIKU, names)


def transformers_family(names: Iterable[str]) -> str:
    """The model in words, from names such as `perceiver.embeddings.latents`."""
    return _first(_TRANSFORMERS, names)


def _first(rows: Iterable[tuple[str, str]], names: Iterable[str]) -> str:
    known = tuple(names)
    return next((family for start, family in rows if any(name.startswith(start) for name in known)), UNKNOWN)
