"""The ways an image is brought to a size, against sums over kernels that are written out here in float64."""

import math

import numpy as np
import pytest
import torch

from perceivers.inputs.image import ImageInput
from perceivers.inputs.resize import central, resized, scaled
from perceivers.models.convert.transformers_config import Picture, picture_json
from perceivers.models.presets import PRESETS
from perceivers.settings import parse_settings

RANDOM = np.random.default_rng(0)
SIZES = [((9, 11), (5, 4)), ((8, 8), (12, 9)), ((7, 5), (7, 5)), ((3, 2), (5, 7)), ((1, 1), (3, 2)), ((31, 17), (6, 8))]


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def keys(x: float, a: float) -> float:
    """Keys 1981, equation 15, for any a."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def opencv_weights(old: int, new: int) -> np.ndarray:
    """(new, old): half-pixel centres, a = −0.75, places beyond the edge are those at the edge."""
    weights = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * old / new - 0.5
        for cell in range(math.floor(place) - 1, math.floor(place) + 3):
            weights[i, min(max(cell, 0), old - 1)] += keys(place - cell, -0.75)
    return weights


def tensorflow_weights(old: int, new: int) -> np.ndarray:
    """(new, old): a = −0.5, looked up at the nearest 1024th; nothing beyond the edge, the others sum to one."""
    weights = np.zeros((new, old))
    for i in range(new):
        place = float(np.float32(i + 0.5) * np.float32(old / new) - np.float32(0.5))
        first = math.floor(place)
        step = round((place - first) * 1024) / 1024
        for cell in range(first - 1, first + 3):
            if 0 <= cell < old:
                weights[i, cell] += keys(step + first - cell, -0.5)
        weights[i] /= weights[i].sum()
    return weights


def summed(image: np.ndarray, size: tuple[int, int], weights) -> np.ndarray:
    rows, columns = weights(image.shape[0], size[0]), weights(image.shape[1], size[1])
    return np.einsum("ia,jb,abc->ijc", rows, columns, image.astype(np.float64))


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_clamped_is_opencvs_kernel(old, new):
    image = pixels(*old, 3)
    wanted = summed(image, new, opencv_weights)
    floats = scaled(image.astype(np.float32), new, "centre_clamped")
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, wanted, atol=1e-3)  # sums of a few hundred in float32
    bytes_ = scaled(image, new, "centre_clamped")
    assert bytes_.dtype == np.uint8
    assert np.abs(bytes_ - wanted.clip(0, 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_unclamped_is_tensorflows_kernel(old, new):
    image = pixels(*old, 3)
    found = scaled(image, new, "centre_unclamped")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, summed(image, new, tensorflow_weights), atol=1e-3)


def test_unclamped_keeps_what_overshoots():
    step = np.zeros((16, 16, 1), np.uint8)
    step[:, 8:] = 255
    found = scaled(step, (40, 40), "centre_unclamped")
    assert found.min() < -5
    assert found.max() > 260
    rounded = scaled(step, (40, 40), "centre_clamped")
    assert (rounded.min(), rounded.max()) == (0, 255)


def test_antialiased_is_torchs():
    image = pixels(20, 31, 3)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    wanted = torch.nn.functional.interpolate(planes, (8, 8), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    for how in ("stretch", "crop"):
        np.testing.assert_array_equal(scaled(image, (8, 8), how), wanted.round().clamp(0, 255))
    # Its rows are rounded before they are columns.
    np.testing.assert_allclose(scaled(image, (8, 8), "centre_antialiased"), wanted.clamp(0, 255), atol=1.5)


@pytest.mark.parametrize("shape", [(224, 224), (375, 500), (500, 375), (256, 256), (333, 333), (480, 641), (9, 8)])
def test_the_cut_is_that_of_the_official_code(shape):
    height, width = shape
    numbers = np.arange(height * width, dtype=np.float64).reshape(height, width, 1)
    side = int(224 / 256 * min(height, width))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    wanted = numbers[top : top + side, left : left + side]
    np.testing.assert_array_equal(central(numbers, (224, 224), round_up=True), wanted)
    down = numbers[(height - side) // 2 :, (width - side) // 2 :][:side, :side]
    np.testing.assert_array_equal(central(numbers, (32, 32), round_up=False), down)


def test_the_cut_has_the_shape_of_a_size_that_is_no_square():
    assert central(pixels(80, 200, 1), (10, 20), True).shape == (70, 140, 1)
    assert central(pixels(200, 80, 1), (10, 20), True).shape == (35, 70, 1)
    assert central(pixels(1, 1, 1), (4, 4), True).shape == (1, 1, 1)


@pytest.mark.parametrize("how", ["centre_clamped", "centre_unclamped", "centre_antialiased"])
def test_images_and_videos_are_cut_even_at_the_right_size(how):
    image = pixels(16, 16, 3)
    found = ImageInput(size=(16, 16), resize=how).parse(image).values
    np.testing.assert_array_equal(found, scaled(central(image, (16, 16), how != "centre_antialiased"), (16, 16), how))
    assert not np.array_equal(found, image)
    frames = pixels(3, 20, 24, 3)
    together = resized(frames, (8, 8), how, "the video")
    for frame, one in zip(frames, together, strict=True):
        np.testing.assert_array_equal(one, resized(frame, (8, 8), how, "the image"))


def test_a_read_only_or_mirrored_image_is_left_alone():
    image = pixels(12, 10, 3)
    image.flags.writeable = False
    for how in ("centre_clamped", "centre_unclamped", "centre_antialiased", "crop"):
        mirrored = resized(image[:, ::-1], (8, 8), how, "the image")
        np.testing.assert_array_equal(mirrored, resized(image[:, ::-1].copy(), (8, 8), how, "the image"))


def test_released_presets_read_as_the_notebook_does():
    for name in ("fourier", "learned", "conv"):
        assert PRESETS[f"perceiver-io-imagenet-{name}"].spec["inputs"]["image"]["resize"] == "centre_clamped"


@pytest.mark.parametrize(
    ("theirs", "resize", "deviating"),
    [
        ({}, "centre_clamped", "centre_antialiased"),
        ({"size": {"height": 224, "width": 224}, "crop_size": {"height": 256, "width": 256}}, "centre_clamped", None),
        ({"size": 56, "crop_size": 64}, "centre_clamped", None),
        ({"size": 56, "crop_size": 56}, "crop", "crop"),
        ({"do_center_crop": False}, "stretch", "stretch"),
    ],
)
def test_what_transformers_says_of_the_cut(theirs, resize, deviating):
    picture = parse_settings(Picture, theirs, "preprocessor_config.json")
    assert picture.resize(deviations=False) == resize
    assert picture.resize(deviations=True) == (deviating or "centre_antialiased")


@pytest.mark.parametrize("resize", ["centre_clamped", "crop", "stretch"])
def test_what_is_written_for_transformers_is_read_as_the_same(resize):
    written = picture_json((224, 224), [1.0] * 3, [2.0] * 3, resize)
    assert parse_settings(Picture, written, "preprocessor_config.json").resize(deviations=False) == resize
    assert written["crop_size"]["height"] == (256 if resize == "centre_clamped" else 224)
