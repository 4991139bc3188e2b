"""Photographs brought to the model's size: the same numbers as transformers' image processor, bit for bit."""

import numpy as np
import pytest
from their_models import transformers

from perceivers.inputs.resize import resized

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("shape", [(375, 500, 3), (333, 250, 3), (256, 256, 3), (300, 301, 3)])
def test_the_cut_and_the_kernel_are_theirs(shape):
    processor = transformers.PerceiverImageProcessor(do_rescale=False, do_normalize=False)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(resized(image, (224, 224), "centre_antialiased", "the image"), theirs)
