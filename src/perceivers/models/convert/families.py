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

# Presets of the released weights.
PUBLISHED = {
    NO_WEIGHTS: "perceiver-io-imagenet-fourier",
    LEARNED: "perceiver-io-imagenet-learned",
    CONV: "perceiver-io-imagenet-conv",
    LANGUAGE: "perceiver-io-language",
    FLOW: "perceiver-io-flow",
    MULTIMODAL: "perceiver-io-multimodal",
}

PYTORCH = "Perceiver of perceiver-pytorch"
PYTORCH_IO = "Perceiver IO of perceiver-pytorch"
PYTORCH_LM = "language model of perceiver-pytorch"
KRASSERM_IMAGE = "image classification of krasserm's perceiver-io"
KRASSERM_TEXT = "text classification of krasserm's perceiver-io, or masked text with an output of its own"
KRASSERM_MASKED = "masked text of krasserm's perceiver-io"
KRASSERM_FLOW = "optical flow of krasserm's perceiver-io"
KRASSERM_AR = "Perceiver AR of krasserm's perceiver-io"

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


# Of perceiver-pytorch and krasserm's perceiver-io: names of which all must be there, somewhere in a name. The first row
# that fits decides.
_PEERS = (
    (("perceiver_io.latents", "token_emb."), PYTORCH_LM),
    (("latents", "cross_attend_block", "decoder_cross_attn."), PYTORCH_IO),
    (("latents", "layers.0.", ".to_kv."), PYTORCH),
    (("cross_attention.0.module.q_norm.", "input_adapter.frq_pos_encoding."), KRASSERM_AR),
    (("0.cross_attn_1.", "0.input_adapter.txt_embedding.", "1.output_adapter.bias"), KRASSERM_MASKED),
    (("0.cross_attn_1.", "0.input_adapter.txt_embedding.", "1.output_adapter.linear."), KRASSERM_TEXT),
    (("0.cross_attn_1.", "0.input_adapter.position_encoding", "0.input_adapter.linear."), KRASSERM_FLOW),
    (("0.cross_attn_1.", "0.input_adapter.position_encoding", "1.output_adapter.linear."), KRASSERM_IMAGE),
)


def haiku_family(names: Iterable[str]) -> str:
    """The model in words, from names such as `perceiver_encoder/~/cross_attention/mlp/linear/w`."""
    return _first(_HAIKU, names)


def tensors_family(names: Iterable[str]) -> str:
    """The model in words, from the names of tensors of transformers or of another library that is known."""
    known = tuple(names)
    found = _first(_TRANSFORMERS, known)
    if found != UNKNOWN:
        return found
    rows = (family for parts, family in _PEERS if all(any(part in name for name in known) for part in parts))
    return next(rows, UNKNOWN)


def _first(rows: Iterable[tuple[str, str]], names: Iterable[str]) -> str:
    known = tuple(names)
    return next((family for start, family in rows if any(name.startswith(start) for name in known)), UNKNOWN)
