"""Pairs and the flow on them change together: what moves a pixel moves its flow, and turns it."""

import numpy as np
import pytest
import torch

from perceivers.data.loader import Augmenter, collate
from perceivers.data.reader import Row
from perceivers.errors import DataError, SpecError
from perceivers.inputs import ImageAugmentation, Sample
from perceivers.inputs.augment_pair import PairAugmentation, PairAugmenter, PairColour, _coloured, _erased
from perceivers.inputs.image import ImageInput
from perceivers.inputs.image_pair import ImagePairInput
from perceivers.outputs.flow import FlowOutput

SIZE = (6, 8)
EARLY, LATE = (0, 0, 3, 1), (0, 9, 3, 1)
KIND = ImagePairInput(size=SIZE)
NOTHING = np.zeros((*SIZE, 2), np.float32)


def warped(first: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """A second image to which each pixel of the first has moved; 0 where none has."""
    second = np.zeros_like(first)
    for y in range(first.shape[0]):
        for x in range(first.shape[1]):
            to = y + int(flow[y, x, 1]), x + int(flow[y, x, 0])
            if 0 <= to[0] < first.shape[0] and 0 <= to[1] < first.shape[1]:
                second[to] = first[y, x]
    return second


def pair(height: int = 6, width: int = 8) -> tuple[Sample, np.ndarray]:
    """All pixels move one to the right and two down; every pixel has colours of its own."""
    first = np.random.default_rng(0).permutation(height * width * 3).reshape(height, width, 3).astype(np.uint8)
    flow = np.zeros((height, width, 2), np.float32)
    flow[...] = 1, 2
    return Sample(np.concatenate([first, warped(first, flow)], axis=-1)), flow


@pytest.mark.parametrize("axis", ["flip", "flip_vertical"])
def test_a_flip_turns_the_flow_too(axis):
    sample, flow = pair()
    found, (moved,) = PairAugmenter(PairAugmentation(**{axis: 1.0}), SIZE, 3).with_targets(sample, LATE, [flow])
    assert not np.array_equal(found.values, sample.values)
    assert moved[0, 0].tolist() == ([-1, 2] if axis == "flip" else [1, -2])
    np.testing.assert_array_equal(warped(found.values[..., :3], moved), found.values[..., 3:])


def test_a_crop_cuts_pair_and_flow_at_one_place():
    sample, flow = pair(20, 30)
    flow[..., 0] = np.arange(30)
    augmenter = PairAugmenter(PairAugmentation(crop=True), SIZE, 3)
    places = set()
    for row in range(12):
        found, (moved,) = augmenter.with_targets(sample, (0, 0, row, 1), [flow])
        assert found.values.shape == (*SIZE, 6)
        assert moved.shape == (*SIZE, 2)
        left = int(moved[0, 0, 0])
        (top,) = [y for y in range(15) if np.array_equal(sample.values[y : y + 6, left : left + 8], found.values)]
        places.add((top, left))
    assert len(places) > 8
    again = augmenter.with_targets(sample, (0, 0, 11, 1), [flow])[0]
    np.testing.assert_array_equal(again.values, found.values)
    with pytest.raises(DataError, match="the pair is 5×30, smaller than the 6×8 to cut out"):
        augmenter(Sample(sample.values[:5]), LATE)


def test_the_mask_goes_with_the_pixels():
    values = np.zeros((*SIZE, 6), np.float32)
    mask = np.ones(SIZE, bool)
    mask[0, 0] = False
    found = PairAugmenter(PairAugmentation(flip=1.0), SIZE, 3)(Sample(values, mask=mask), LATE)
    assert not found.mask[0, -1]
    assert found.mask.sum() == mask.sum()


class TestPhases:
    SETTINGS = PairAugmentation(plain_epochs=5, reverse=1.0, flip=1.0, colour=PairColour(), erase=1.0)

    def test_at_first_pairs_are_only_reversed(self):
        sample, flow = pair()
        both = np.concatenate([flow, -flow], axis=-1)
        found, (moved,) = PairAugmenter(self.SETTINGS, SIZE, 3).with_targets(sample, EARLY, [both])
        np.testing.assert_array_equal(found.values[..., :3], sample.values[..., 3:])
        np.testing.assert_array_equal(found.values[..., 3:], sample.values[..., :3])
        np.testing.assert_array_equal(moved, -both)

    def test_not_where_the_flow_backward_is_unknown(self):
        sample, flow = pair()
        both = np.concatenate([flow, np.full_like(flow, np.nan)], axis=-1)
        found, (moved,) = PairAugmenter(self.SETTINGS, SIZE, 3).with_targets(sample, EARLY, [both])
        np.testing.assert_array_equal(found.values, sample.values)
        np.testing.assert_array_equal(moved, both)

    def test_later_all_else(self):
        sample, flow = pair()
        both = np.concatenate([flow, -flow], axis=-1)
        found, (moved,) = PairAugmenter(self.SETTINGS, SIZE, 3).with_targets(sample, (0, 5, 3, 1), [both])
        assert moved[0, 0].tolist() == [-1, 2, 1, -2]
        assert not np.array_equal(found.values[..., :3], sample.values[:, ::-1, :3])

    def test_reversing_needs_plain_epochs(self):
        with pytest.raises(SpecError, match="pairs are reversed in the plain epochs only"):
            PairAugmenter(PairAugmentation(reverse=0.5), SIZE, 3)


class TestColours:
    def test_alike_unless_apart(self):
        image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
        sample = Sample(np.concatenate([image, image], axis=-1))
        alike = PairAugmenter(PairAugmentation(colour=PairColour(apart=0.0)), SIZE, 3)(sample, LATE).values
        np.testing.assert_array_equal(alike[..., :3], alike[..., 3:])
        assert not np.array_equal(alike[..., :3], image)
        apart = PairAugmenter(PairAugmentation(colour=PairColour(apart=1.0)), SIZE, 3)(sample, LATE).values
        assert not np.array_equal(apart[..., :3], apart[..., 3:])
        assert apart.dtype == np.uint8

    def test_hues_leave_grey_and_brightness(self):
        hue = PairColour(brightness=0, contrast=0, saturation=0, hue=0.16)
        grey = Sample(np.full((*SIZE, 6), 90.0, np.float32))
        found = PairAugmenter(PairAugmentation(colour=hue), SIZE, 3)(grey, LATE).values
        np.testing.assert_allclose(found, 90.0, atol=0.2)
        red = Sample(np.tile(np.array([140, 100, 100] * 2, np.float32), (*SIZE, 1)))
        found = PairAugmenter(PairAugmentation(colour=hue), SIZE, 3)(red, LATE).values
        weights = [0.299, 0.587, 0.114]
        np.testing.assert_allclose(found[..., :3] @ weights, red.values[..., :3] @ weights, rtol=5e-3)
        assert np.abs(found - red.values).max() > 1

    def test_one_channel(self):
        sample = Sample(np.full((*SIZE, 2), 90, np.uint8))
        colour = PairColour(contrast=0)
        assert (PairAugmenter(PairAugmentation(colour=colour), SIZE, 1)(sample, LATE).values != 90).any()
        with pytest.raises(SpecError, match="colour changes images of 1 or 3 channels, but these have 2"):
            PairAugmenter(PairAugmentation(colour=colour), SIZE, 2)


def test_only_the_second_image_is_erased():
    image = np.random.default_rng(1).integers(0, 256, (200, 300, 6), np.uint8)
    found = PairAugmenter(PairAugmentation(erase=1.0), (200, 300), 3)(Sample(image), LATE).values
    np.testing.assert_array_equal(found[..., :3], image[..., :3])
    changed = (found[..., 3:] != image[..., 3:]).any(-1)
    assert 0 < changed.sum() <= 2 * 100 * 100
    assert len(np.unique(found[changed][:, 3:], axis=0)) == 1


class TestLoader:
    """As batches are made: the flow of a row goes with its pair."""

    def test_targets_follow(self):
        sample, flow = pair()
        augmenter = Augmenter({"pair": KIND}, {"pair": PairAugmentation(flip=1.0)}, 0, {"flow": FlowOutput()})
        row = augmenter(Row({"pair": sample}, {"flow": flow}), 0, 0)
        assert row.targets["flow"][0, 0].tolist() == [-1, 2]
        absent = augmenter(Row({"pair": None}, {"flow": flow}), 0, 0)
        assert absent.targets["flow"] is flow
        unknown = augmenter(Row({"pair": sample}, {"flow": None}), 0, 0)
        assert unknown.targets["flow"] is None

    def test_scoring_cuts_the_middle_of_both(self):
        kind = ImagePairInput(size=SIZE, overflow="middle")
        sample, flow = pair(10, 12)
        flow[..., 0] = np.arange(12)
        read = kind.parse([sample.values[..., :3], sample.values[..., 3:]])
        np.testing.assert_array_equal(read.values, sample.values[2:8, 2:10])
        batch = collate([Row({"pair": read}, {"flow": flow})], {"pair": kind}, {"flow": FlowOutput()})
        assert torch.equal(batch.targets["flow"][0], torch.from_numpy(flow[2:8, 2:10]))

    def test_an_image_that_would_leave_its_flow_behind(self):
        photo = ImageInput(size=SIZE)
        with pytest.raises(SpecError, match="would move its pixels, but not the target of 'flow'"):
            Augmenter({"photo": photo}, {"photo": ImageAugmentation(flip=0.5)}, 0, {"flow": FlowOutput(input="photo")})

    def test_reversing_wants_the_flow_backward(self):
        setting = PairAugmentation(plain_epochs=1, reverse=0.5)
        with pytest.raises(SpecError, match=r"outputs\.flow\.backward"):
            Augmenter({"pair": KIND}, {"pair": setting}, 0, {"flow": FlowOutput()})
        Augmenter({"pair": KIND}, {"pair": setting}, 0, {"flow": FlowOutput(backward="back")})

    def test_sizes_must_agree(self):
        sample, flow = pair()
        with pytest.raises(DataError, match="the pair is 6×8, but the flow on it 5×8"):
            PairAugmenter(PairAugmentation(), SIZE, 3).with_targets(sample, LATE, [flow[:5]])


@pytest.mark.parametrize("change", ["colour", "erase"])
def test_what_is_not_known_stays_all_that_is_not(change):
    image = np.full((8, 8, 3), 100.0, np.float32)
    image[2, 3, 0] = np.nan
    random = np.random.default_rng(0)
    found = _coloured(image, (1.1, 0.9, 1.2, 0.1)) if change == "colour" else _erased(image, random)
    assert np.isnan(found).any(-1).sum() <= 1
