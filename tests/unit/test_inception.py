"""Random parts of images as they are stored: which parts, in which order changed, and that loaders read them."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from perceivers.data.loader import Augmenter, Batches, Key
from perceivers.data.prepare import prepare
from perceivers.data.settings import DataSettings
from perceivers.errors import SpecError
from perceivers.inputs import Sample, augment_image
from perceivers.inputs.augment_image import ImageAugmentation, ImageAugmenter, InceptionCrop, RandAugment, _part
from perceivers.inputs.image import ImageInput
from perceivers.inputs.resize import central, resized, scaled
from perceivers.models.build import build
from perceivers.outputs.category import CategoryOutput

KNOWN = {"mean": (120.0,) * 3, "std": (60.0,) * 3}
PUBLISHED = InceptionCrop(covers=0.1)


def place_image(height: int, width: int) -> np.ndarray:
    """Every pixel holds its place."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).astype(np.float32)


def parts(height: int, width: int, crop: InceptionCrop, count: int) -> list[tuple[int, int, int, int]]:
    """(top, left, rows, columns) of so many draws."""
    image = place_image(height, width)
    found = (_part(image, crop, np.random.default_rng(seed)) for seed in range(count))
    return [(int(p[0, 0, 0]), int(p[0, 0, 1]), p.shape[0], p.shape[1]) for p in found]


def test_areas_and_ratios():
    areas = []
    for top, left, rows, columns in parts(375, 500, PUBLISHED, 3000):
        areas.append(rows * columns / (375 * 500))
        assert 0 <= top <= 375 - rows
        assert 0 <= left <= 500 - columns
        assert 0.74 < columns / rows < 1.35
    assert 0.1 <= min(areas) < 0.11
    assert max(areas) <= 1.0


def test_heights_are_drawn_evenly_between_those_of_the_areas():
    """With one ratio all is known: from √(0.08·H·W) to √(H·W) of a square."""
    crop = InceptionCrop(ratio=(1.0, 1.0))
    counts = Counter(rows for _, _, rows, _ in parts(40, 40, crop, 3000))
    lowest = math.ceil(math.sqrt(0.08 * 1600))  # 11.3: 11 is too small an area, and is made 12
    assert (min(counts), max(counts)) == (lowest, 40)
    # 11 to 40 are 30 heights; what is 11 becomes 12.
    share = np.array([counts[n] for n in range(lowest, 41)]) / 3000
    np.testing.assert_allclose(share, [2 / 30, *[1 / 30] * 28], atol=4 * math.sqrt(1 / 30 / 3000) + 0.004)


def test_places_are_drawn_evenly():
    crop = InceptionCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0))
    tops = Counter(top for top, _, _, _ in parts(20, 20, crop, 3000))
    # TensorFlow draws from one place fewer than there are.
    assert sorted(tops) == list(range(10))
    assert min(tops.values()) > 300 - 4 * 17


def test_where_no_part_is_allowed_it_is_the_middle():
    crop = InceptionCrop(scale=(1.0, 1.0), ratio=(3.0, 3.0))
    assert parts(16, 16, crop, 3) == [(1, 1, 14, 14)] * 3
    tiny = _part(place_image(1, 1), PUBLISHED, np.random.default_rng(0))
    assert tiny.shape == (1, 1, 2)


def test_the_published_order(monkeypatch):
    """Cut, flip, RandAugment on the part, and only then scaled, by the kernel of the input."""
    seen = []

    def spied(image, layers, magnitude, random):
        seen.append((image.shape, layers, magnitude))
        return 255 - image

    monkeypatch.setattr(augment_image, "rand_augment", spied)
    image = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    settings = ImageAugmentation(crop=PUBLISHED, flip=1.0, rand_augment=RandAugment(layers=4, magnitude=5))
    for how in ("centre_unclamped", "centre_clamped", "crop"):
        found = ImageAugmenter(settings, (24, 24), 3, how)(image, (0, 1, 2))
        part = _part(image, PUBLISHED, np.random.default_rng((0, 1, 2)))
        np.testing.assert_array_equal(found, scaled(255 - part[:, ::-1], (24, 24), how))
        assert seen[-1] == (part.shape, 4, 5)
        assert found.dtype == (np.float32 if how == "centre_unclamped" else np.uint8)


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for label in ("n01", "n02"):
        (tmp_path / label).mkdir()
        for number in range(3):
            image = random.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / label / f"{number}.png")
    return tmp_path


def batches(folder, kind: ImageInput, augmentation: ImageAugmentation) -> Batches:
    settings = DataSettings(
        source=".", columns={"image": "file"}, splits={"kind": "fraction", "validation": 0, "test": 0}
    )
    prepared = prepare(settings, {"image": kind}, {"label": CategoryOutput()}, folder, lambda *_: None)
    return Batches(prepared.splits["train"], Augmenter(prepared.inputs, {"image": augmentation}, 7))


def test_loaders_read_what_is_stored(folder):
    """A part of a file of 40 × 50 pixels, not of the 8 × 8 that it is made to be."""
    kind = ImageInput(size=(8, 8), resize="centre_clamped", **KNOWN)
    augmentation = ImageAugmentation(crop=PUBLISHED)
    made = batches(folder, kind, augmentation)
    assert made.split.rows is None
    batch = made[Key(0, 3, (4,))]
    stored = np.asarray(Image.open(folder / "n02" / "1.png"))
    wanted = kind.augmenter(augmentation)(Sample(stored), (7, 3, 4, 1)).values
    np.testing.assert_array_equal(batch.inputs["image"].values.numpy().reshape(8, 8, 3), wanted)
    assert batch.targets["label"].tolist() == [1]
    # Without such a crop what was read once is kept.
    kept = batches(folder, kind, ImageAugmentation(flip=1.0))
    assert kept.split.rows is not None


def test_permuted_pixels_are_augmented_before_they_are_permuted(folder):
    plain = ImageInput(size=(8, 8), resize="centre_clamped", **KNOWN)
    permuted = plain.with_changes(permute=5)
    order = np.random.default_rng(5).permutation(64)
    for augmentation in (ImageAugmentation(flip=1.0), ImageAugmentation(crop=PUBLISHED, flip=0.5)):
        one, other = (batches(folder, kind, augmentation)[Key(0, 0, (0, 2))] for kind in (plain, permuted))
        np.testing.assert_array_equal(other.inputs["image"].values, one.inputs["image"].values[:, order])


def test_masked_pixels_of_a_permuted_image_go_along():
    image = np.random.default_rng(0).random((6, 6, 1)).astype(np.float32)
    image[2, 3] = np.nan
    plain = ImageInput(size=(6, 6), channels=1, mean=(0.0,), std=(1.0,))
    permuted = plain.with_changes(permute=3)
    setting = ImageAugmentation(flip=1.0)
    assert permuted.augments_whole(setting) and not plain.augments_whole(setting)  # noqa: PT018
    one = plain.augmenter(setting)(plain.parse(image), (0, 0, 0))
    other = permuted.augmenter(setting)(permuted.parse_some(image), (0, 0, 0))
    order = np.random.default_rng(3).permutation(36)
    np.testing.assert_array_equal(other.mask.ravel(), one.mask.ravel()[order])
    np.testing.assert_array_equal(other.values.ravel(), one.values.ravel()[order])


def test_pixels_that_keep_their_positions_are_the_same_to_a_perceiver():
    """The order of a set: the answers differ by the order of the sums alone [P1 §4.1]."""
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    answers = []
    for changes in ({}, {"permute": 1, "permute_positions": True}, {"permute": 1}):
        for position in ({"kind": "fourier", "bands": 4}, {"kind": "learned", "channels": 5, "project": 4}):
            kind = {"kind": "image", "size": [12, 12], **KNOWN, "position": position, **changes}
            spec = {
                "inputs": {"image": kind},
                "latents": {"count": 4, "channels": 16},
                "encoder": {"layers": 1, "self_attend": {"heads": 2}},
                "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
            }
            answers.append(build(spec, seed=0).double().eval()([{"image": image}])["label"])
    for plain, own, places in zip(answers[:2], answers[2:4], answers[4:], strict=True):
        torch.testing.assert_close(own, plain, rtol=0, atol=1e-9)
        assert (places - plain).abs().max() > 1e-6


@pytest.mark.parametrize(
    "given",
    [
        {"permute_positions": True},
        {"permute": 1, "permute_positions": True, "lift": {"kind": "conv"}},
        {"permute": 1, "permute_positions": True, "lift": {"kind": "pixels", "stride": 2}},
    ],
)
def test_permuted_positions_are_of_permuted_pixels(given):
    with pytest.raises(SpecError, match="permute_positions goes with permute"):
        ImageInput(size=(8, 8)).with_changes(**given)


def test_an_unpermuted_look_is_the_middle(folder):
    """Evaluation sees the central cut, whatever training cuts out."""
    kind = ImageInput(size=(8, 8), resize="centre_unclamped", **KNOWN)
    stored = np.asarray(Image.open(folder / "n01" / "0.png"))
    wanted = scaled(central(stored, (8, 8), True), (8, 8), "centre_unclamped")
    np.testing.assert_array_equal(kind.parse(folder / "n01" / "0.png").values, wanted)
    np.testing.assert_array_equal(resized(stored, (8, 8), "centre_unclamped", "it"), wanted)
