"""The papers: tensors in, tensors out. Knows nothing of files, modalities or tasks.

The legend of letters, the same everywhere in perceivers:

    B batch              M elements            C element channels
    N latents            D latent channels     A coordinate axes
    O queries            E query channels      H heads
    F query/key channels in all heads          V value channels in all heads
    K Fourier bands      P position channels   G groups
    T tokens             n places of latents: N, or N/k with k latents on a token

Papers: P1 = Perceiver (arXiv 2103.03206), P2 = Perceiver IO (arXiv 2107.14795), P3 = Perceiver AR (arXiv 2202.07765),
P4 = Hierarchical Perceiver (arXiv 2202.10890).
"""

from perceivers.nn.attention import Attention, attend, attend_plain
from perceivers.nn.blocks import MLP, CrossAttend, SelfAttend
from perceivers.nn.perceiver import AverageDecoder, Decoder, Encoder
from perceivers.nn.upsample import Conv2DUpsample, Conv3DUpsample, ConvexUpsample

__all__ = [
    "MLP",
    "Attention",
    "AverageDecoder",
    "Conv2DUpsample",
    "Conv3DUpsample",
    "ConvexUpsample",
    "CrossAttend",
    "Decoder",
    "Encoder",
    "SelfAttend",
    "attend",
    "attend_plain",
]
