"""`image`: what is read, resized, permuted, learned, lifted."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from perceivers.data.image_header import image_header
from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs import Sample
from perceivers.inputs.decode import read_image
from perceivers.inputs.image import ImageInput
from perceivers.positions import fourier_features, linear_positions

RANDOM = np.random.default_rng(0)
KNOWN = {"mean": (1.0, 2.0, 3.0), "std": (2.0, 4.0, 8.0)}


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_lossless_files_come_back_exactly(form, tmp_path):
    array = pixels(5, 7, 3)
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(Image.fromarray(array), form, **options)
    path = tmp_path / f"x.{form.lower()}"
    path.write_bytes(data)
    image = ImageInput(size=(5, 7))
    for value in (data, bytearray(data), path, str(path), {"bytes": data}, {"bytes": None, "path": str(path)}, array):
        sample = image.parse(value)
        assert sample.values.dtype == np.uint8
        np.testing.assert_array_equal(sample.values, array)
        assert sample.mask is None


def test_jpeg_is_close():
    array = np.full((8, 8, 3), 100, np.uint8)
    values = ImageInput(size=(8, 8)).parse(encoded(Image.fromarray(array), "JPEG")).values
    assert np.abs(values.astype(int) - 100).max() <= 3


def test_grey_files_serve_one_and_three_channels():
    grey = pixels(4, 4)
    data = encoded(Image.fromarray(grey), "PNG")
    np.testing.assert_array_equal(ImageInput(size=(4, 4), channels=1).parse(data).values[..., 0], grey)
    np.testing.assert_array_equal(ImageInput(size=(4, 4)).parse(data).values, np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(ImageInput(size=(4, 4), channels=1).parse(grey).values[..., 0], grey)


def test_palette_and_one_bit_files_become_colours():
    palette = Image.fromarray(pixels(4, 4, 3)).quantize(16)
    wanted = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(ImageInput(size=(4, 4)).parse(encoded(palette, "PNG")).values, wanted)
    bits = Image.fromarray(pixels(4, 4) > 128)
    values = ImageInput(size=(4, 4), channels=1).parse(encoded(bits, "PNG")).values
    np.testing.assert_array_equal(values[..., 0], np.asarray(bits) * 255)


def test_sixteen_bits_and_floats_are_kept_in_their_units():
    deep = RANDOM.integers(0, 2**16, (4, 4)).astype(np.uint16)
    values = ImageInput(size=(4, 4), channels=1).parse(encoded(Image.fromarray(deep), "PNG")).values
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[..., 0], deep)


def test_tiff_with_many_bands_first_or_last():
    import tifffile

    bands = RANDOM.random((6, 8, 9)).astype(np.float32)
    image = ImageInput(size=(8, 9), channels=6)
    for array in (bands, np.moveaxis(bands, 0, -1)):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.ascontiguousarray(array), photometric="minisblack")
        np.testing.assert_array_equal(image.parse(buffer.getvalue()).values, np.moveaxis(bands, 0, -1))


def test_transparency_is_dropped_when_there_is_none_and_kept_when_asked():
    opaque = np.concatenate([pixels(4, 4, 3), np.full((4, 4, 1), 255, np.uint8)], -1)
    data = encoded(Image.fromarray(opaque), "PNG")
    np.testing.assert_array_equal(ImageInput(size=(4, 4)).parse(data).values, opaque[..., :3])
    np.testing.assert_array_equal(ImageInput(size=(4, 4), channels=4).parse(data).values, opaque)


def test_a_photograph_taken_sideways_is_turned():
    array = pixels(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(array), "PNG", exif=exif)
    np.testing.assert_array_equal(ImageInput(size=(6, 4)).parse(data).values, np.rot90(array, -1))


def test_resizing():
    steps = np.repeat(np.arange(0, 240, 30, dtype=np.uint8)[:, None, None], 16, 1).repeat(3, 2)
    stretched = ImageInput(size=(4, 4), resize="stretch").parse(steps).values
    assert stretched.dtype == np.uint8
    np.testing.assert_allclose(stretched[:, 0, 0], [15, 75, 135, 195], atol=6)
    wide = np.zeros((4, 12, 1), np.float32)
    wide[:, 4:8] = 5.0
    cropped = ImageInput(size=(4, 4), channels=1, resize="crop").parse(wide).values
    assert cropped.dtype == np.float32
    np.testing.assert_allclose(cropped, 5.0)
    assert ImageInput(size=(3, 5), resize="crop").parse(pixels(40, 31, 3)).values.shape == (3, 5, 3)
    same = pixels(4, 4, 3)
    assert ImageInput(size=(4, 4), resize="crop").parse(same).values is not None
    np.testing.assert_array_equal(ImageInput(size=(4, 4), resize="crop").parse(same).values, same)


def test_a_permutation_is_fixed_by_its_seed_and_takes_the_mask_along():
    array = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    array[1, 2] = np.nan
    image = ImageInput(size=(3, 4), channels=1, permute=7)
    sample = image.parse(array)
    again = image.parse(array)
    np.testing.assert_array_equal(sample.values, again.values)
    assert sorted(sample.values[sample.mask].ravel()) == sorted(array[np.isfinite(array)])
    assert np.isnan(sample.values[~sample.mask]).all()
    assert sample.masked == 1
    other = ImageInput(size=(3, 4), channels=1, permute=8).parse(array)
    assert not np.array_equal(other.mask, sample.mask) or not np.array_equal(other.values, sample.values)
    assert not np.array_equal(np.nan_to_num(sample.values), np.nan_to_num(array))


def test_statistics_come_from_training_unless_given():
    samples = [Sample(pixels(2, 2, 3)) for _ in range(5)]
    everything = np.stack([s.values for s in samples]).reshape(-1, 3).astype(float)
    fitted = ImageInput(size=(2, 2)).fit(iter(samples))
    np.testing.assert_allclose(fitted.mean, everything.mean(0))
    np.testing.assert_allclose(fitted.std, everything.std(0))
    assert ImageInput(size=(2, 2), **KNOWN).fit(iter(samples)).mean == KNOWN["mean"]
    half = ImageInput(size=(2, 2), mean=KNOWN["mean"]).fit(iter(samples))
    assert half.mean == KNOWN["mean"]
    np.testing.assert_allclose(half.std, everything.std(0))


def test_normalised_pixels_then_position():
    module = ImageInput(size=(2, 3), position={"kind": "fourier", "bands": 2}, **KNOWN).build()
    values = torch.arange(18, dtype=torch.uint8).reshape(1, 6, 3)
    joined = module(Elements(values, grid=(2, 3))).joined()
    wanted = (values[0] - torch.tensor(KNOWN["mean"])) / torch.tensor(KNOWN["std"])
    torch.testing.assert_close(joined[0, :, :3], wanted)
    torch.testing.assert_close(joined[0, :, 3:], fourier_features(linear_positions((2, 3)), 2, (2, 3)))
    assert module.channels == joined.shape[-1] == 13
    assert not module.state_dict(), "statistics live in the spec"


def test_masked_pixels_are_the_mean():
    module = ImageInput(size=(1, 2), position={"kind": "none"}, **KNOWN).build()
    values = torch.tensor([[[math.nan, 1e30, math.inf], [1.0, 2.0, 3.0]]])
    lifted = module(Elements(values, grid=(1, 2), mask=torch.tensor([[False, True]])))
    assert not lifted.content.any()
    assert lifted.position is None
    assert lifted.mask.tolist() == [[False, True]]


def test_positions_may_be_added():
    image = ImageInput(size=(2, 2), position={"kind": "learned", "channels": 3, "join": "add"}, **KNOWN)
    module = image.build()
    assert module.channels == 3
    values = torch.zeros(1, 4, 3)
    lifted = module(Elements(values, grid=(2, 2)))
    torch.testing.assert_close(lifted.joined(), lifted.content + module.position.table)


def test_settings_that_cannot_be_built():
    with pytest.raises(SpecError, match="mean and std are not known yet"):
        ImageInput(size=(2, 2)).build()
    with pytest.raises(SpecError, match="mean has 1 numbers, but there are 3 channels"):
        ImageInput(size=(2, 2), mean=(1.0,), std=KNOWN["std"]).build()
    with pytest.raises(SpecError, match=r"sinusoidal position has one axis, this input has 2"):
        ImageInput(size=(2, 2), position={"kind": "sinusoidal"}, **KNOWN).build()
    with pytest.raises(SpecError, match=r"resolution has 1 axes \(4.0,\), this input has 2"):
        ImageInput(size=(2, 2), position={"kind": "fourier", "resolution": [4]}, **KNOWN).build()


def test_a_batch_that_does_not_fit_is_refused_before_it_broadcasts():
    module = ImageInput(size=(2, 2), **KNOWN).build()
    with pytest.raises(DataError, match="the elements have 1 channels, but the input takes 3"):
        module(Elements(torch.zeros(1, 4, 1), grid=(2, 2)))
    with pytest.raises(DataError, match="the elements have coordinates, but the input takes a grid"):
        module(Elements(torch.zeros(1, 4, 3), coords=torch.zeros(1, 4, 2)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["jpeg", "webp"])
def test_damaged_bytes_are_an_image_or_a_data_error(suffix):
    """Seeded damage to files that say how they were held; the EXIF block fails in ways of its own."""
    exif = Image.Exif()
    exif[274], exif[271], exif[282] = 6, "maker", 72.0
    exif.get_ifd(34665)[36867] = "2020:01:01 00:00:00"
    whole = encoded(Image.fromarray(pixels(12, 8, 3)), suffix, exif=exif)
    assert read_image(whole, 3).shape == (8, 12, 3), "the orientation is there"
    start = whole.index(b"MM\0*") if b"MM\0*" in whole else whole.index(b"II*\0")
    random, said = np.random.default_rng(1), set()
    for trial in range(2000):
        data = bytearray(whole)
        first, last = (start, start + 120) if trial % 2 else (0, len(whole))
        for place in random.integers(first, min(last, len(whole)), random.integers(1, 4)):
            data[place] = random.integers(0, 256)
        for read in (lambda data: read_image(data, 3), image_header):
            try:
                read(bytes(data))
            except DataError as error:
                said.add("EXIF" if "EXIF" in str(error) else "other")
    assert said == {"EXIF", "other"}
