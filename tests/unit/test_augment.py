import itertools
import pickle
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from perceivers.errors import DataError, PerceiversError, SpecError
from perceivers.inputs import Sample
from perceivers.inputs.augment_image import (
    ImageAugmentation,
    ImageAugmenter,
    InceptionCrop,
    PadCrop,
    RandAugment,
    _generator,
    check_channels,
    moved,
)
from perceivers.inputs.augment_series import SeriesAugmentation, augment_series
from perceivers.settings import parse_settings

EVERYTHING = {
    "nothing": ImageAugmentation(),
    "flip": ImageAugmentation(flip=0.5),
    "pad": ImageAugmentation(crop=PadCrop(padding=3)),
    "inception": ImageAugmentation(crop=InceptionCrop()),
    "rand_augment": ImageAugmentation(rand_augment=RandAugment()),
    "erase": ImageAugmentation(erase=0.5),
    "all": ImageAugmentation(flip=0.5, crop=InceptionCrop(), rand_augment=RandAugment(layers=4), erase=0.5),
}


def picture(height=12, width=10, channels=3) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (height, width, channels), dtype=np.uint8)


def augment_image(image: np.ndarray, settings: ImageAugmentation, seed: tuple[int, ...]) -> np.ndarray:
    return ImageAugmenter(settings, image.shape[:2], image.shape[2])(image, seed)


def global_states() -> list[bytes]:
    return [
        pickle.dumps(random.getstate()),
        pickle.dumps(np.random.get_state()),
        torch.get_rng_state().numpy().tobytes(),
    ]


def augmented(case: str, index: int) -> np.ndarray:
    return augment_image(picture(), EVERYTHING[case], (1, 2, index))


class TestImages:
    @pytest.mark.parametrize("case", EVERYTHING)
    def test_only_the_seed_decides(self, case):
        augmenter = ImageAugmenter(EVERYTHING[case], (12, 10), 3)
        first = [augmenter(picture(), (1, 2, index)) for index in range(8)]
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        for index in reversed(range(8)):
            np.testing.assert_array_equal(augmented(case, index), first[index])
        if case != "nothing":
            assert len({image.tobytes() for image in first}) > 1
            others = [augmenter(picture(), seed) for seed in ((2, 2, 0), (1, 3, 0), (1, 2, 1))]
            others += [augmenter(picture(), (9, 9, index)) for index in range(9)]
            assert any(not np.array_equal(other, first[0]) for other in others)

    @pytest.mark.slow  # a fresh process imports torchvision
    def test_the_same_in_another_process(self):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            there = pool.submit(augmented, "all", 5).result()
        np.testing.assert_array_equal(there, augmented("all", 5))

    @pytest.mark.parametrize("case", EVERYTHING)
    def test_global_states_and_the_image_are_left_alone(self, case):
        image, states = picture(), global_states()
        result = augment_image(image, EVERYTHING[case], (0, 0, 0))
        assert global_states() == states
        np.testing.assert_array_equal(image, picture())
        assert not np.shares_memory(result, image)
        assert result.flags.c_contiguous
        assert result.flags.writeable

    def test_states_are_restored_after_an_error(self):
        augmenter = ImageAugmenter(EVERYTHING["erase"], (12, 10), 3)
        augmenter._erase = lambda pixels: 1 / 0
        states = global_states()
        with pytest.raises(ZeroDivisionError):
            augmenter(picture(), (0, 0, 0))
        assert global_states() == states

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_any_channel_count(self, channels, dtype):
        settings = ImageAugmentation(flip=0.5, crop=InceptionCrop(), erase=0.5)
        result = augment_image(picture(channels=channels).astype(dtype), settings, (0, 0, 1))
        assert result.shape == (12, 10, channels)
        assert result.dtype == dtype

    @pytest.mark.parametrize("channels", [1, 3])
    def test_rand_augment_works_on_grey_and_colour(self, channels):
        settings = ImageAugmentation(rand_augment=RandAugment(layers=3, magnitude=10))
        augmenter = ImageAugmenter(settings, (12, 10), channels)
        for index in range(30):
            assert augmenter(picture(channels=channels), (0, 0, index)).shape == (12, 10, channels)

    @pytest.mark.parametrize("seed", [(0,), (0, 0, 0), (1, 2, 3, 4), (2**32 - 1, 7), (2**32, 7), (2**70, 0, 1)])
    def test_draws_are_those_of_numpys_generator(self, seed):
        assert _generator(seed).bit_generator.state == np.random.default_rng(seed).bit_generator.state

    @pytest.mark.parametrize("padding", [1, 3, 200])
    def test_a_pad_crop_and_a_flip_are_drawn_as_ever(self, padding):
        """Runs that began with an earlier version go on with the same pictures."""
        settings = ImageAugmentation(crop=PadCrop(padding=padding), flip=0.5)
        for index in range(50):
            draw = np.random.default_rng((4, 2, index))
            down, right = draw.integers(-padding, padding, endpoint=True, size=2).tolist()
            shifted = moved(picture(), down, right)
            expected = shifted[:, ::-1] if draw.random() < 0.5 else shifted
            np.testing.assert_array_equal(augment_image(picture(), settings, (4, 2, index)), expected)

    def test_channels_are_checked_with_the_settings(self):
        check_channels(ImageAugmentation(flip=1, crop=PadCrop(padding=1)), 13)
        with pytest.raises(SpecError, match="rand_augment works on images of 1 or 3 channels, but these have 4"):
            check_channels(EVERYTHING["all"], 4)
        with pytest.raises(SpecError):
            ImageAugmenter(EVERYTHING["all"], (8, 8), 2)

    def test_flip(self):
        always = augment_image(picture(), ImageAugmentation(flip=1), (0, 0, 0))
        np.testing.assert_array_equal(always, picture()[:, ::-1])
        augmenter = ImageAugmenter(ImageAugmentation(flip=0.25), (12, 10), 3)
        flipped = sum(not np.array_equal(augmenter(picture(), (0, 0, i)), picture()) for i in range(2000))
        assert 420 < flipped < 580  # 500 ± 4 standard deviations

    def test_pad_crop_moves_by_every_step_and_fills_with_zero(self):
        augmenter = ImageAugmenter(ImageAugmentation(crop=PadCrop(padding=2)), (12, 10), 3)
        moves = {}
        for down in range(-2, 3):
            for right in range(-2, 3):
                padded = np.pad(picture(), ((2, 2), (2, 2), (0, 0)))
                moves[padded[2 - down : 14 - down, 2 - right : 12 - right].tobytes()] = 0
        for index in range(1000):
            moves[augmenter(picture(), (0, 0, index)).tobytes()] += 1
        assert len(moves) == 25
        assert min(moves.values()) > 15  # 40 ± 4 standard deviations

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_moves_are_those_of_torchvision(self, dtype):
        image = picture().astype(dtype)
        for down, right in itertools.product(range(-11, 12), range(-9, 10)):
            theirs = functional.crop(torch.from_numpy(image).permute(2, 0, 1), down, right, 12, 10)
            np.testing.assert_array_equal(moved(image, down, right), theirs.permute(1, 2, 0).numpy())

    @pytest.mark.parametrize("move", [(12, 0), (-15, 3), (2, 10), (0, -11)])
    def test_an_image_moved_out_of_itself_is_black(self, move):
        found = moved(picture(), *move)
        assert found.shape == picture().shape
        assert not found.any()

    def test_inception_crop_is_within_its_ranges(self):
        rows = np.broadcast_to(np.arange(100, dtype=np.float32)[:, None, None], (100, 100, 1))
        columns = np.swapaxes(rows, 0, 1)
        settings = ImageAugmentation(crop=InceptionCrop(scale=(0.2, 0.5), ratio=(0.5, 2.0)))
        augmenter = ImageAugmenter(settings, (100, 100), 1)
        for index in range(100):
            height, width = (np.ptp(augmenter(image, (0, 0, index))) + 1 for image in (rows, columns))
            assert 0.17 < height * width / 1e4 < 0.53
            assert 0.45 < width / height < 2.2

    @pytest.mark.parametrize("case", ["flip", "pad", "inception", "erase"])
    def test_a_mask_moves_with_its_pixels(self, case):
        """Masked pixels held 7 and the others 1: what is masked afterwards is where the 7 went, and holds no number."""
        augmenter = ImageAugmenter(EVERYTHING[case], (12, 10), 2)
        real = np.random.default_rng(1).random((12, 10)) > 0.2
        image = np.repeat(np.where(real, 1, 7).astype(np.float32)[..., None], 2, axis=-1)
        moved = 0
        for index in range(12):
            plain = augmenter(image, (1, 2, index))
            changed = augmenter.sample(Sample(np.where(real[..., None], image, np.nan), mask=real), (1, 2, index))
            touched = ~np.isclose(plain, 1, atol=1e-5).all(-1) & (plain != 0).all(-1)
            mask = np.ones((12, 10), bool) if changed.mask is None else changed.mask
            np.testing.assert_array_equal(~mask, touched)
            np.testing.assert_allclose(changed.values[mask], plain[mask], atol=1e-6)
            assert np.isfinite(changed.values).all()
            moved += not np.array_equal(mask, real)
        assert moved > 2

    def test_without_a_mask_a_sample_is_its_image(self):
        augmenter = ImageAugmenter(EVERYTHING["all"], (12, 10), 3)
        changed = augmenter.sample(Sample(picture()), (1, 2, 3))
        np.testing.assert_array_equal(changed.values, augmented("all", 3))
        assert changed.mask is None

    def test_a_mask_that_is_cut_away_is_gone(self):
        real = np.ones((12, 10), bool)
        real[:, 0] = False
        augmenter = ImageAugmenter(ImageAugmentation(crop=InceptionCrop(scale=(0.1, 0.1))), (12, 10), 3)
        masks = [augmenter.sample(Sample(picture(), mask=real), (0, 0, i)).mask for i in range(20)]
        assert any(mask is None for mask in masks)

    def test_rand_augment_takes_no_masked_image(self):
        real = np.ones((12, 10), bool)
        real[0, 0] = False
        with pytest.raises(DataError, match=r"type uint8, got .* float32"):
            ImageAugmenter(EVERYTHING["rand_augment"], (12, 10), 3).sample(Sample(picture(), mask=real), (0, 0, 0))

    def test_erase_blanks_one_rectangle(self):
        result = augment_image(picture(20, 20), ImageAugmentation(erase=1), (0, 0, 0))
        blank = (result == 0).all(-1)
        rows, columns = blank.any(1).sum(), blank.any(0).sum()
        assert blank.sum() == rows * columns
        assert 0.01 < blank.mean() < 0.4

    def test_rand_augment_fills_with_grey(self):
        # Every operation leaves a grey image even; only a black fill would show where the image was moved away.
        grey = np.full((8, 8, 3), 128, dtype=np.uint8)
        augmenter = ImageAugmenter(ImageAugmentation(rand_augment=RandAugment(layers=1, magnitude=10)), (8, 8), 3)
        assert all(np.ptp(augmenter(grey, (0, 0, index))) == 0 for index in range(100))

    def test_read_only_and_mirrored_images(self):
        image = picture()
        image.flags.writeable = False
        np.testing.assert_array_equal(augment_image(image, ImageAugmentation(), (0, 0, 0)), image)
        np.testing.assert_array_equal(augment_image(image[:, ::-1], ImageAugmentation(flip=1), (0, 0, 0)), image)

    @pytest.mark.parametrize(
        ("case", "image"),
        [
            ("flip", picture(11)),
            ("flip", picture(channels=1)),
            ("flip", picture().astype(np.int64)),
            ("rand_augment", picture().astype(np.float32)),
            ("inception", picture(channels=1)),
            ("inception", picture()[..., 0]),
        ],
    )
    def test_other_images_are_refused(self, case, image):
        shape = r"\((12|height), (10|width), 3\)"
        with pytest.raises(DataError, match=rf"wants images of shape {shape} and type uint8.*got"):
            ImageAugmenter(EVERYTHING[case], (12, 10), 3)(image, (0, 0, 0))

    def test_pickles_for_loader_processes(self):
        augmenter = pickle.loads(pickle.dumps(ImageAugmenter(EVERYTHING["all"], (12, 10), 3)))
        np.testing.assert_array_equal(augmenter(picture(), (1, 2, 3)), augmented("all", 3))

    def test_torchvision_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
        ImageAugmenter(ImageAugmentation(crop=InceptionCrop(), rand_augment=RandAugment()), (8, 8), 1)
        with pytest.raises(PerceiversError, match=r"pip install 'perceivers\[data\]'"):
            ImageAugmenter(ImageAugmentation(erase=0.1), (8, 8), 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flip": 1.5}, "flip"),
        ({"crop": {"kind": "pad", "padding": 0}}, "crop.padding"),
        ({"crop": {"kind": "padding"}}, "unknown kind 'padding'"),
        ({"crop": {"kind": "inception", "scale": [0.5, 0.1]}}, "scale must be"),
        ({"crop": {"kind": "inception", "scale": [0.5, 1.1]}}, "at most 1"),
        ({"crop": {"kind": "inception", "ratio": [2, 1]}}, "ratio must be"),
        ({"rand_augment": {"magnitude": 11}}, "rand_augment.magnitude"),
        ({"rand_augment": {"layer": 2}}, "Did you mean 'layers'?"),
    ],
)
def test_settings_are_checked(given, message):
    with pytest.raises(SpecError, match=message.replace("?", r"\?")):
        parse_settings(ImageAugmentation, given, "recipe")


class TestSeries:
    values = np.stack([np.sin(np.arange(4000) / 9), 100 * np.cos(np.arange(4000) / 7)], axis=1).astype(np.float32)

    def test_nothing(self):
        np.testing.assert_array_equal(augment_series(self.values, SeriesAugmentation(), (0, 0, 0)), self.values)

    def test_jitter_is_a_share_of_the_channels_own_deviation(self):
        changed = augment_series(self.values, SeriesAugmentation(jitter=0.1), (0, 0, 0))
        assert changed.dtype == np.float32
        np.testing.assert_allclose((changed - self.values).std(0) / self.values.std(0), 0.1, rtol=0.05)

    def test_scaling_is_one_log_normal_factor_a_channel(self):
        settings = SeriesAugmentation(scaling=0.2)
        factors = []
        for index in range(1000):
            factor = augment_series(self.values[:20], settings, (0, 0, index))[1:] / self.values[1:20]
            assert np.ptp(factor, axis=0).max() < 1e-5
            factors.append(np.log(factor[0]))
        assert np.mean(factors) == pytest.approx(0, abs=0.02)
        assert np.std(factors) == pytest.approx(0.2, rel=0.1)
        assert abs(np.corrcoef(np.array(factors).T)[0, 1]) < 0.15

    def test_nan_and_infinity_stay_where_they_are(self):
        values = self.values.copy()
        values[3, 0], values[4, 1], values[:, 0] = np.nan, np.inf, np.where(np.arange(4000) % 7, values[:, 0], np.nan)
        settings = SeriesAugmentation(jitter=0.1, scaling=0.1)
        changed = augment_series(values, settings, (0, 0, 0))
        np.testing.assert_array_equal(np.isnan(changed), np.isnan(values))
        np.testing.assert_array_equal(np.isinf(changed), np.isinf(values))
        assert (changed[np.isfinite(values)] != values[np.isfinite(values)]).mean() > 0.99
        empty = np.full((5, 2), np.nan, dtype=np.float32)
        assert np.isnan(augment_series(empty, settings, (0, 0, 0))).all()

    def test_only_the_seed_decides(self):
        settings = SeriesAugmentation(jitter=0.1, scaling=0.1)
        before, states = self.values.copy(), global_states()
        one = augment_series(self.values, settings, (1, 2, 3))
        np.random.seed(5)
        np.testing.assert_array_equal(augment_series(self.values, settings, (1, 2, 3)), one)
        np.testing.assert_array_equal(self.values, before)
        for seed in ((0, 2, 3), (1, 0, 3), (1, 2, 4), (1, 2, 3, 1)):
            assert not np.array_equal(augment_series(self.values, settings, seed), one)
        np.random.set_state(pickle.loads(states[1]))
        augment_series(self.values, settings, (1, 2, 3))
        assert global_states() == states
