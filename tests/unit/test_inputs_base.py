"""What input kinds share: joining content and position, collating grids, statistics, NaN."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.errors import DataError, SpecError
from perceivers.inputs import KINDS, AnyInput, Sample
from perceivers.inputs.base import collate_grid, joined_channels, moments
from perceivers.inputs.image import ImageInput
from perceivers.nn.lifted import Lifted
from perceivers.nn.position import LearnedPosition


def test_kinds_and_the_union_name_the_same_classes_by_their_kind():
    union = AnyInput.__origin__.__args__
    assert set(KINDS.values()) == set(union)
    assert {name: name for name in KINDS} == {name: kind.model_fields["kind"].default for name, kind in KINDS.items()}


def test_content_comes_before_position():
    content, position = torch.zeros(2, 3, 4), torch.ones(3, 5)
    joined = Lifted(content, position, None).joined()
    assert joined.shape == (2, 3, 9)
    assert not joined[..., :4].any()
    assert joined[..., 4:].all()
    each = torch.arange(6.0).reshape(2, 3, 1)
    assert torch.equal(Lifted(content, each, None).joined()[..., 4:], each)
    assert torch.equal(Lifted(content, torch.full((3, 4), 2.0), None, add=True).joined(), content + 2)
    assert Lifted(content, None, None).joined() is content


def test_widths_of_joined_elements():
    position = LearnedPosition((3,), 5)
    assert joined_channels(4, None, add=False) == 4
    assert joined_channels(4, position, add=False) == 9
    assert joined_channels(5, position, add=True) == 5
    with pytest.raises(SpecError, match="positions of 5 channels cannot be added to elements of 4"):
        joined_channels(4, position, add=True)


def test_collate_keeps_uint8_and_needs_no_mask_when_all_is_there():
    samples = [Sample(np.full((2, 2, 3), i, np.uint8)) for i in range(3)]
    elements = collate_grid(samples, (2, 2), 3)
    assert elements.values.dtype == torch.uint8
    assert elements.mask is None
    assert elements.grid == (2, 2)
    assert elements.values[:, 0, 0].tolist() == [0, 1, 2]


def test_collate_masks_absent_samples_and_masked_cells():
    masked = Sample(np.ones((2, 2, 1), np.float32), mask=np.array([[True, False], [True, True]]))
    elements = collate_grid([masked, None, Sample(np.ones((2, 2, 1), np.uint8))], (2, 2), 1)
    assert elements.values.dtype == torch.float32
    assert elements.mask.tolist() == [[True, False, True, True], [False] * 4, [True] * 4]
    assert not elements.values[1].any()
    assert collate_grid([None], (2, 2), 3).values.shape == (1, 4, 3)


def test_masked_elements_of_a_sample_are_counted():
    assert Sample(np.zeros((2, 1))).masked == 0
    assert Sample(np.zeros((3, 1)), mask=np.array([True, False, False])).masked == 2


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=6), min_size=1, max_size=5),
    st.sampled_from([0.0, 1e6, -1e8]),
)
def test_moments_are_those_of_all_real_elements(rows, offset):
    """Also about a large offset, which one-pass sums would drown in."""
    samples = [Sample(np.array(row)[:, None] + offset) for row in rows]
    samples.append(Sample(np.full((2, 1), np.nan), mask=np.zeros(2, bool)))
    everything = np.concatenate(rows) + offset
    mean, std = moments(samples, 1)
    assert mean[0] == pytest.approx(everything.mean(), rel=1e-9, abs=1e-6)
    wanted = everything.std()
    if wanted > 1e-6 * max(abs(offset), 1):
        assert std[0] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("value", [0.1, 7.0, 1e-9, -3e7])
def test_a_constant_has_standard_deviation_one(value):
    samples = [Sample(np.full((4, 5, 1), value, np.float32)) for _ in range(3)]
    mean, std = moments(samples, 1)
    assert std == [1.0]
    assert mean[0] == pytest.approx(np.float32(value))


def test_moments_of_nothing():
    with pytest.raises(DataError, match="no real element in the training split"):
        moments([Sample(np.zeros((2, 1)), mask=np.zeros(2, bool))], 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_nan_rule(value):
    values = np.zeros((2, 2, 3), np.float32)
    values[1, 0, 2] = value
    image = ImageInput(size=(2, 2))
    assert image.checked(values, "it").tolist() == [[True, True], [False, True]]
    assert image.checked(np.zeros((2, 2, 3), np.float32), "it") is None
    assert image.checked(np.zeros((2, 2, 3), np.uint8), "it") is None
    with pytest.raises(DataError, match="it holds 1 NaN or infinite elements and 'nan: error' is set"):
        ImageInput(size=(2, 2), nan="error").checked(values, "it")
