"""The suite runs with shape annotations checked: a wrong shape fails at the signature that it breaks."""

import jaxtyping
import pytest
import torch

from perceivers.nn import Attention, CrossAttend, Encoder, SelfAttend, attend
from perceivers.nn.perceiver import encoder_order
from perceivers.positions import sinusoidal_features


def refused():
    return pytest.raises(jaxtyping.TypeCheckError)


def test_wrong_mask_length():
    encoder = Encoder(3, 8, [CrossAttend(8, 5)], [[SelfAttend(8)]], encoder_order(1, 1))
    with refused():
        encoder(torch.zeros(2, 6, 5), torch.ones(2, 7, dtype=torch.bool))


def test_wrong_mask_type():
    with refused():
        attend(torch.zeros(1, 2, 4), torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), 1, torch.ones(1, 2, 3))


def test_wrong_number_of_axes_in_a_submodule_of_a_checked_floor():
    with refused():
        Attention(4, 4, 4, 4, 4)(torch.zeros(2, 4), torch.zeros(1, 3, 4))


def test_wrong_dtype_of_positions():
    with refused():
        sinusoidal_features(torch.arange(4), 6)
