"""The sixteen operations of RandAugment: the numbers of the published magnitude 5, and those of 10, by hand."""

import math

import numpy as np
import pytest
from PIL import Image, ImageOps

from perceivers.inputs import rand_augment as ops
from perceivers.inputs.rand_augment import OPERATIONS, rand_augment

RANDOM = np.random.default_rng(0)
HALF, FULL = 0.5, 1.0


class Drawn:
    """A generator whose next whole numbers are given."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def integers(self, _: int) -> int:
        return self.numbers.pop(0)


FORTH, BACK = (lambda: Drawn(1)), (lambda: Drawn(0))


def picture(height=40, width=30, channels=3) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_the_published_list():
    names = {operation.__name__ for operation in OPERATIONS}
    geometric = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y", "cutout"}
    of_values = {"auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add"}
    assert names == geometric | of_values | {"colour", "contrast", "brightness", "sharpness"}
    assert len(OPERATIONS) == 16


@pytest.mark.parametrize("name", ["colour", "contrast", "brightness", "sharpness"])
def test_at_magnitude_5_the_enhancing_ones_change_nothing(name):
    """0.1 + 1.8 · 5/10 is 1: the image itself."""
    image = picture()
    np.testing.assert_array_equal(getattr(ops, name)(image, HALF, RANDOM), image)


def test_brightness_goes_from_black_by_the_factor():
    image = np.array([[[0, 10, 200]]], np.uint8)
    np.testing.assert_array_equal(ops.brightness(image, FULL, RANDOM), [[[0, 19, 255]]])  # 1.9
    np.testing.assert_array_equal(ops.brightness(image, 0.0, RANDOM), [[[0, 1, 20]]])  # 0.1
    np.testing.assert_array_equal(ops.brightness(image, 0.2, RANDOM), [[[0, 4, 92]]])  # 0.46


def test_colour_goes_from_grey():
    image = picture()
    grey = np.rint(image @ np.array([0.2989, 0.587, 0.114]))[..., None]
    wanted = (grey + 1.9 * (image - grey)).clip(0, 255)
    assert np.abs(ops.colour(image, FULL, RANDOM) - np.trunc(wanted)).max() <= 1  # float32 just below a whole number
    one = picture(channels=1)
    np.testing.assert_array_equal(ops.colour(one, FULL, RANDOM), one)


def test_contrast_goes_from_the_mean_grey():
    image = np.repeat(picture(channels=1), 3, -1)
    mean = round(float(image.mean()))
    wanted = np.trunc((mean + 0.1 * (image.astype(float) - mean)).clip(0, 255))
    assert np.abs(ops.contrast(image, 0.0, RANDOM) - wanted).max() <= 1


def test_sharpness_goes_from_a_smooth_image_and_spares_the_border():
    image = np.zeros((5, 5, 1), np.uint8)
    image[2, 2] = 130
    found = ops.sharpness(image, 0.0, RANDOM)
    assert found[2, 2, 0] == int(50 + 0.1 * 80)  # 5 · 130 / 13 = 50
    assert found[1, 1, 0] == 9  # 0.9 · 10
    assert not found[0].any()
    tiny = picture(2, 2)
    np.testing.assert_array_equal(ops.sharpness(tiny, FULL, RANDOM), tiny)


def test_values_by_hand():
    image = np.array([[[0, 64, 127], [128, 200, 255]]], np.uint8)
    np.testing.assert_array_equal(ops.invert(image, HALF, RANDOM), 255 - image)
    np.testing.assert_array_equal(ops.posterize(image, HALF, RANDOM), image // 64 * 64)  # 2 bits
    np.testing.assert_array_equal(ops.posterize(image, FULL, RANDOM), image // 16 * 16)  # 4 bits
    np.testing.assert_array_equal(ops.posterize(image, 0.0, RANDOM), 0 * image)
    np.testing.assert_array_equal(ops.solarize(image, HALF, RANDOM), [[[0, 64, 127], [127, 55, 0]]])  # from 128 on
    np.testing.assert_array_equal(ops.solarize(image, FULL, RANDOM), image)
    np.testing.assert_array_equal(ops.solarize_add(image, HALF, RANDOM), [[[55, 119, 182], [128, 200, 255]]])
    np.testing.assert_array_equal(ops.solarize_add(image, FULL, RANDOM), [[[110, 174, 237], [128, 200, 255]]])


def test_contrast_and_histogram_as_in_pillow():
    # From 30 to 99, as in a foggy photograph.
    image = (picture() * 0.27 + 30).astype(np.uint8)
    theirs = np.asarray(ImageOps.equalize(Image.fromarray(image)))
    np.testing.assert_array_equal(ops.equalize(image, HALF, RANDOM), theirs)
    stretched = np.asarray(ImageOps.autocontrast(Image.fromarray(image)))
    assert np.abs(ops.auto_contrast(image, HALF, RANDOM).astype(int) - stretched).max() <= 1  # its table is in doubles
    plain = np.full((4, 4, 3), 77, np.uint8)
    for operation in (ops.equalize, ops.auto_contrast):
        np.testing.assert_array_equal(operation(plain, HALF, RANDOM), plain)


def test_translations_are_pixels_filled_with_grey():
    image = picture(130, 140)
    right = ops.translate_x(image, HALF, FORTH())
    np.testing.assert_array_equal(right[:, :90], image[:, 50:])
    assert (right[:, 90:] == 128).all()
    down = ops.translate_y(image, FULL, BACK())
    np.testing.assert_array_equal(down[100:], image[:30])
    assert (down[:100] == 128).all()
    assert (ops.translate_x(picture(30, 30), HALF, FORTH()) == 128).all(), "50 pixels, whatever the size"


def test_shears_move_whole_rows():
    image = picture(21, 60)
    sheared = ops.shear_x(image, HALF, FORTH())
    for row in range(21):
        step = math.floor(0.15 * row + 0.5)
        np.testing.assert_array_equal(sheared[row, : 60 - step], image[row, step:])
        assert (sheared[row, 60 - step :] == 128).all()
    turned = ops.shear_y(image.swapaxes(0, 1), HALF, FORTH()).swapaxes(0, 1)
    np.testing.assert_array_equal(turned, sheared)
    assert (ops.shear_x(image, FULL, BACK())[20, :6] == 128).all()  # 0.3 · 20


def test_rotation_is_about_the_middle():
    image = np.full((101, 101, 1), 10, np.uint8)
    image[50, 50] = 200
    image[50, 90] = 99
    found = ops.rotate(image, HALF, FORTH())
    assert found[50, 50] == 200
    # 40 to the right, by 15°: the old place of the new pixel (x, y) is (cos x − sin y, sin x + cos y) about the middle.
    angle = math.radians(15)
    column, row = 50 + round(40 * math.cos(angle)), 50 - round(40 * math.sin(angle))
    assert found[row - 1 : row + 2, column - 1 : column + 2].max() == 99
    assert (found[0, 0], found[100, 100]) == (128, 128)
    back = ops.rotate(image, HALF, BACK())
    assert back[100 - row - 1 : 100 - row + 2, column - 1 : column + 2].max() == 99


@pytest.mark.parametrize(("share", "half"), [(HALF, 20), (FULL, 40)])
def test_cutout_is_a_grey_square(share, half):
    image = np.zeros((200, 210, 3), np.uint8)
    found = ops.cutout(image, share, Drawn(100, 90))
    wanted = image.copy()
    wanted[100 - half : 100 + half, 90 - half : 90 + half] = 128
    np.testing.assert_array_equal(found, wanted)
    corner = ops.cutout(image, share, Drawn(0, 209))
    assert (corner == 128).all(-1).sum() == half * (half + 1)


def test_layers_are_drawn_evenly_and_always_applied(monkeypatch):
    seen = []
    monkeypatch.setattr(ops, "OPERATIONS", tuple(lambda i, s, r, n=n: seen.append((n, s)) or i for n in range(16)))
    for seed in range(1000):
        rand_augment(picture(2, 2), 4, 5, np.random.default_rng(seed))
    assert len(seen) == 4000
    assert {share for _, share in seen} == {0.5}
    counts = np.bincount([number for number, _ in seen])
    assert counts.min() > 250 - 4 * 16
    assert counts.max() < 250 + 4 * 16  # 4 standard deviations


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.__name__)
def test_shapes_types_and_the_image_itself(operation, channels):
    for height, width in ((1, 1), (2, 5), (40, 30)):
        for share in (0.0, 0.3, 1.0):
            image = picture(height, width, channels)
            before = image.copy()
            image.flags.writeable = False
            found = operation(image, share, RANDOM)
            assert (found.shape, found.dtype) == (image.shape, np.uint8)
            np.testing.assert_array_equal(image, before)
