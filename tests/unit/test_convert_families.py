"""What the names of the arrays tell of the model, and no more."""

import pytest

from perceivers.models.convert.families import haiku_family, tensors_family

ENCODER = "perceiver_encoder/~/cross_attention/attention/linear/w"
STEM = "image_preprocessor/~/conv2_d_downsample/~/conv/w"
POSITIONS = "image_preprocessor/~_build_network_inputs/trainable_position_encoding/pos_embs"
CLASSES = "classification_decoder/~/basic_decoder/output/w"


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ((ENCODER, "embed/embeddings", "embedding_decoder/bias"), "language model of Perceiver IO"),
        ((ENCODER, "flow_decoder/~/basic_decoder/output/w", "image_preprocessor/patches_linear/w"), "optical flow of"),
        ((CLASSES, "multimodal_decoder/~/basic_decoder/output/w"), "multimodal autoencoding of Perceiver IO"),
        ((ENCODER, CLASSES, STEM), "image classification of Perceiver IO, convolution stem"),
        ((CLASSES, "image_preprocessor/~/conv2_d/w", POSITIONS), "image classification of Perceiver IO, learned pos"),
        ((CLASSES, "image_preprocessor/patches_linear/w"), "image classification of Perceiver IO"),
        ((ENCODER, CLASSES), "image classification of Perceiver IO, whose input has no weights"),
        (("perceiver_ar/~/embed/embeddings",), "Perceiver AR"),
        (("perceiver/block_0/~/x/w", "perceiver/block_1/~/x/w"), "Hierarchical Perceiver"),
        (("perceiver/perceiver_block_0/x/w", "perceiver/perceiver_block_1/x/w"), "Hierarchical Perceiver"),
        (("perceiver/block_0/~/x/w",), "Perceiver IO in the code of Hierarchical Perceiver"),
        ((ENCODER,), "unknown"),
        (("resnet/~/initial_conv/w",), "unknown"),
        ((), "unknown"),
    ],
)
def test_haiku(names, family):
    found = haiku_family(names)
    assert found == family if family == "unknown" else found.startswith(family)


OUTPUT = "perceiver.decoder.decoder.final_layer.weight"


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (
            ("perceiver.input_preprocessor.embeddings.weight", "embedding_decoder.bias"),
            "language model of Perceiver IO",
        ),
        (("perceiver.input_preprocessor.embeddings.weight", OUTPUT), "text classification of Perceiver IO"),
        (("perceiver.input_preprocessor.convnet_1x1.weight", OUTPUT), "image classification of Perceiver IO, learned"),
        (("perceiver.input_preprocessor.convnet.conv.weight", OUTPUT), "image classification of Perceiver IO, conv"),
        (("perceiver.embeddings.latents", OUTPUT), "image classification of Perceiver IO, whose input has no weights"),
        (("perceiver.input_preprocessor.conv_after_patches.weight", OUTPUT), "optical flow of Perceiver IO"),
        (("perceiver.input_preprocessor.padding.audio", OUTPUT), "multimodal autoencoding of Perceiver IO"),
        (("perceiver.input_preprocessor.other.weight", OUTPUT), "unknown"),
        (("bert.embeddings.word_embeddings.weight",), "unknown"),
    ],
)
def test_transformers(names, family):
    found = tensors_family(names)
    assert found == family if family == "unknown" else found.startswith(family)
