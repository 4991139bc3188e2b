"""Each bad raw value is one `DataError` that says what was given and what was wanted; no reader's own error escapes."""

import contextlib
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perceivers.errors import DataError, MissingFileError, SpecError
from perceivers.inputs.base import InputSettings
from perceivers.inputs.category import CategoryInput
from perceivers.inputs.decode import MOST_PIXELS
from perceivers.inputs.image import ImageInput
from perceivers.inputs.number import NumberInput
from perceivers.inputs.series import SeriesInput
from perceivers.inputs.text import TextInput
from perceivers.models.build import build
from perceivers.models.spec import as_spec
from perceivers.outputs.category import CategoryOutput
from perceivers.outputs.number import NumberOutput

IMAGE = ImageInput(size=(8, 8))
SERIES = SeriesInput(channels=3, rate=50, seconds=0.1)
EVENTS = SeriesInput(seconds=2)


def encoded(form: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG of that size, with no pixels behind it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data))
    return b"\x89PNG\r\n\x1a\n" + chunks


def refused(kind: InputSettings | CategoryOutput | NumberOutput, value: Any, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        kind.parse(value)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# -- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_truncated_file(form, share, tmp_path):
    data = encoded(form)
    path = tmp_path / "photo.dat"
    path.write_bytes(data[: int(len(data) * share)])
    refused(IMAGE, path, str(path), "damaged")


@pytest.mark.parametrize("data", [b"hello, world", b"%PDF-1.7 ...", b"PK\x03\x04" + bytes(50), bytes(100)])
def test_a_file_that_is_no_image(data, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    refused(IMAGE, path, str(path), "is not an image", "PNG, JPEG, WEBP")
    refused(IMAGE, data, f"an image of {len(data)} bytes is not an image")


def test_formats_that_run_programs_are_not_opened():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    refused(IMAGE, eps, "is not an image")


def test_a_missing_or_empty_file(tmp_path):
    refused(IMAGE, tmp_path / "gone.png", f"'{tmp_path / 'gone.png'}' does not exist.")
    with pytest.raises(MissingFileError, match=r"does not exist\.$"):
        IMAGE.parse("gone.png")
    (tmp_path / "empty.png").touch()
    refused(IMAGE, tmp_path / "empty.png", "empty.png' is empty")
    refused(IMAGE, tmp_path, str(tmp_path), "is a folder; wanted a file")
    refused(IMAGE, b"", "is empty")


@pytest.mark.parametrize(
    ("value", "given_", "wanted"),
    [
        (encoded("PNG", "RGB"), 3, 1),
        (encoded("PNG", "L"), 1, 4),
        (encoded("PNG", "LA"), 2, 4),
        (np.zeros((8, 8, 13)), 13, 3),
        (np.zeros((3, 8, 8)), 8, 3),
        (np.zeros((8, 8)), 1, 3),
    ],
)
def test_a_wrong_number_of_channels(value, given_, wanted):
    kind = ImageInput(size=(8, 8), channels=wanted)
    refused(kind, value, f"{given_} channels, but the input takes {wanted}", f"Set channels: {given_}", "convert")


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("LA", 2)])
def test_transparency_is_not_dropped_in_silence(mode, channels):
    refused(IMAGE, encoded("PNG", mode), f"transparent in places ({mode})", f"Set channels: {channels}")


def test_another_size():
    refused(IMAGE, encoded("PNG", size=(9, 7)), "the image is 7×9, but the input takes 8×8", "Set resize: crop")


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ([[1, 2], [3]], ["not a rectangle of numbers"]),
        (np.array([["a"]]), ["<U1, not numbers"]),
        (None, ["object, not numbers"]),
        (5, ["has shape (); wanted (height, width, 3)"]),
        (np.zeros((2, 8, 8, 3)), ["has shape (2, 8, 8, 3); wanted (height, width, 3)"]),
        (np.zeros((0, 8, 3)), ["has shape (0, 8, 3): there are no pixels"]),
    ],
)
def test_arrays_that_are_no_images(value, parts):
    refused(IMAGE.with_changes(resize="crop"), value, *parts)


def test_nan_where_it_is_an_error():
    image = np.zeros((8, 8, 3), np.float32)
    image[1:3, 4, 0] = np.nan
    refused(IMAGE.with_changes(nan="error"), image, "the image holds 2 NaN or infinite elements", "set nan: mask")


@pytest.mark.parametrize("side", [8000, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side, recwarn):
    refused(IMAGE, png_header(side, side), "pixels")
    assert {w.category.__name__ for w in recwarn} <= {"DecompressionBombWarning"}


def test_a_tiff_bomb_is_refused_by_its_header(tmp_path):
    import tifffile

    path = tmp_path / "photo.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(60_000)
    refused(IMAGE, path, str(path), "3,600,000,000 pixels", f"may have {MOST_PIXELS:,} at most")


def test_a_large_array_of_another_size_says_both_sizes(tmp_path):
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(7200, 7000, 1)).flush()
    takes = f"the input takes {IMAGE.size[0]}×{IMAGE.size[1]}"
    refused(IMAGE, path, str(path), "(7200, 7000, 1)", "50,400,000 pixels", takes)


@settings(max_examples=150)
@given(
    st.sampled_from([encoded(f) for f in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TIFF")]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_are_an_image_or_one_error(data, changes, share):
    """PIL and tifffile warn of much and raise many things; only ours comes through."""
    damaged = bytearray(data)
    for place, byte in changes:
        damaged[int(place * len(data))] = byte
    with contextlib.suppress(DataError):
        sample = IMAGE.with_changes(resize="stretch").parse(bytes(damaged[: int(len(data) * share) + 1]))
        assert sample.values.shape == (8, 8, 3)


# -- series ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (np.zeros((5, 2)), ["shape (5, 2); wanted (time, 3)"]),
        (np.zeros(5), ["shape (5,); wanted (time, 3)"]),
        (np.zeros((6, 3)), ["6 time steps, but the input takes 5", "0.1 s at 50.0 Hz", "cut it, or raise seconds"]),
        ([[1, 2, 3], [4, 5]], ["not a rectangle of numbers"]),
        ([["a", "b", "c"]], ["not a rectangle of numbers"]),
        (np.array([["a", "b", "c"]]), ["the series is of type <U1; wanted numbers"]),
        ("[[1, 2, 3", ["not valid JSON"]),
        ("gone.npy", ["'gone.npy' does not exist."]),
        ({"value": [1]}, ["needs 'values'; got value"]),
        ({"values": np.zeros((5, 3)), "rate": 100}, ["at 100 Hz, but the input takes 50.0 Hz; resample"]),
        ({"values": np.zeros((5, 3)), "rate": "fast"}, ["'fast' is not a number"]),
        (None, ["shape (); wanted (time, 3)"]),
        (object(), ["not a rectangle of numbers"]),
        ("[" * 100_000, ["nested too deep"]),
        ('{"values":' * 100_000, ["nested too deep"]),
        ([10**400, 1], ["not a rectangle of numbers"]),
        (f"[{'1' * 5000}]", ["not valid JSON"]),
    ],
)
def test_regular_series(value, parts):
    refused(SERIES, value, *parts)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ([1, 2], ["needs its times in seconds"]),
        ({"values": [1, 2], "times": [0]}, ["2 values but 1 times"]),
        ({"values": [1, 2], "times": [0, 3]}, ["between 0 and 2.0 s; got 0.0 to 3.0"]),
        ({"values": [1, 2], "times": [-1, 0]}, ["between 0 and 2.0 s; got -1.0 to 0.0"]),
        ({"values": [1, 2], "times": [0, float("nan")]}, ["1 of the 2 times is NaN, infinite or empty"]),
        ({"values": [1, 2], "times": ["now", "then"]}, ["the times are not a rectangle of numbers"]),
        ({"values": [1, 2], "times": np.array(["now", "then"])}, ["the times are of type <U4; wanted numbers"]),
        ({"values": [1, 2], "times": np.array([0, 1j])}, ["the times are of type complex128; wanted numbers"]),
    ],
)
def test_irregular_series(value, parts):
    refused(EVENTS, value, *parts)


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("a.npy", b"\x93NUMPY\x01\x00", ["truncated or damaged"]),
        ("a.npy", b"", ["truncated or damaged"]),
        ("a.npy", b"cbuiltins\nprint\n(S'run'\ntR.", ["truncated or damaged"]),
        ("a.csv", b"x,y,z\n1,2,3\n", ["line 1: 'x' is not a number", "no header"]),
        ("a.csv", b"1,2,3\n\n4,5\n", ["line 3: 2 numbers, but 3 in the first line"]),
        ("a.csv", b"1,2,\xff\n", ["truncated or damaged", "utf-8"]),
        ("a.wav", b"RIFF", ["neither .npy, .csv nor .txt"]),
        ("a.csv", b"", ["shape (0,); wanted (time, 3)"]),
    ],
)
def test_series_files(name, data, parts, tmp_path):
    (tmp_path / name).write_bytes(data)
    refused(SERIES, tmp_path / name, *parts)
    if "shape" not in parts[0]:
        refused(SERIES, str(tmp_path / name), str(tmp_path / name))


def test_pickled_arrays_are_not_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(SERIES, tmp_path / "x.npy", "x.npy' holds object; wanted numbers")


def test_nan_in_a_series_where_it_is_an_error():
    values = np.zeros((5, 3))
    values[2] = np.inf
    refused(SERIES.with_changes(nan="error"), values, "the series holds 1 NaN or infinite elements")


# -- text and table cells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (b"caf\xe9", ["not UTF-8: byte 3 is 0xe9; save it as UTF-8"]),
        ("\ud83d", ["character 0 is half of a pair"]),
        ("x" * 9, ["the text has 9 bytes, but the input reads 8", "Raise length", "overflow: truncate"]),
        ("éééé☃", ["the text has 11 bytes"]),
        (["a", "b"], ["got a list, not a text"]),
        ({"txt": "a"}, ["got {txt}; wanted {text: …, mask: [[start, stop], …]}"]),
        ({"text": "abc", "mask": [[1, 4]]}, ["mask holds [1, 4]", "bytes of the text, which has 3"]),
        (None, ["got a NoneType, not a text"]),
    ],
)
def test_text(value, parts):
    refused(TextInput(length=8), value, *parts)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ({"age": "old"}, ["column 'age': 'old' is not a number"]),
        ({"aeg": 1}, ["no column 'aeg'. Did you mean 'age'?", "Columns: age, height"]),
        ([1], ["got 1 values for 2 columns (age, height)"]),
        (5, ["got 1 values for 2 columns"]),
        ("5", ["got 1 values for 2 columns"]),
        ({"age": [1, 2]}, ["column 'age': [1, 2] is not a number"]),
    ],
)
def test_numbers(value, parts):
    refused(NumberInput(columns=("age", "height")), value, *parts)


def test_numbers_that_are_missing_where_it_is_an_error():
    kind = NumberInput(columns=("age", "height"), nan="error")
    refused(kind, [1, None], "the row holds 1 NaN or infinite elements")


def test_classes_that_are_unknown_where_it_is_an_error():
    kind = CategoryInput(columns=("a", "b"), classes={"a": ("x",), "b": ("y",)}, nan="error")
    refused(kind, ["x", "z"], "columns b are empty or hold an unknown class")
    refused(kind, {"c": 1}, "no column 'c'")


def test_an_unknown_class_as_the_target():
    refused(CategoryOutput(classes=("cat", "dog")), "dgo", "class 'dgo'", "Did you mean 'dog'?", "Classes: cat, dog")
    many = CategoryOutput(classes=tuple(f"class {i}" for i in range(50)))
    with pytest.raises(DataError) as caught:
        many.parse("zebra")
    assert "class 19, …" in str(caught.value)
    assert "class 20" not in str(caught.value), "a thousand classes are not listed"


def test_a_target_with_one_class_or_one_number():
    with pytest.raises(DataError, match="only the class 'cat' in the training split; there is nothing to tell apart"):
        CategoryOutput().fit([CategoryOutput().parse("cat")] * 3)
    with pytest.raises(DataError, match="the same number"):
        NumberOutput().fit([NumberOutput().parse(3)] * 3)
    refused(NumberOutput(), "inf", "infinite", "leave the cell empty")
    refused(NumberOutput(), "tall", "'tall' is not a number")


# -- anything at all -------------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.binary(max_size=12), st.dates()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["values", "times", "rate", "a", "path"]), inner)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    "kind",
    [
        IMAGE,
        SERIES,
        EVENTS,
        TextInput(length=8),
        NumberInput(columns=("a",)),
        CategoryInput(columns=("a",), classes={"a": ("x",)}),
        CategoryOutput(classes=("x", "y")),
        NumberOutput(),
    ],
    ids=lambda kind: type(kind).__name__ + ("" if getattr(kind, "rate", 1) else " irregular"),
)
@given(value=ANYTHING)
def test_anything_at_all_is_read_or_refused_with_our_error(kind, value):
    with contextlib.suppress(DataError):
        kind.parse(value)


# -- specs -----------------------------------------------------------------------------------------------------------


def test_a_misspelt_key_shows_its_place_and_the_near_miss():
    data = json.loads('{"inputs": {"photo": {"kind": "image", "size": [8, 8], "chanels": 1}}, "outputs": {}}')
    with pytest.raises(SpecError) as caught:
        as_spec(data)
    message = str(caught.value)
    assert "spec has 2 faults" in message
    assert "inputs.photo.chanels: unknown key. Did you mean 'channels'?" in message
    assert "outputs: dictionary should have at least 1 item" in message


def test_what_training_learns_must_be_there_to_build():
    data = {
        "inputs": {"photo": {"kind": "image", "size": [8, 8]}},
        "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
    }
    with pytest.raises(SpecError, match=r"mean and std are not known yet\. perceivers\.train learns them .* give both"):
        build(data)
