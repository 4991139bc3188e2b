import numpy as np
import pytest
import tifffile
from PIL import Image

from perceivers.data.guess import guess_column, guess_split
from perceivers.data.table import Table


def write_image(path, height, width, channels=3, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if channels == 1 else (height, width, channels)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return path.name


def guessed(values, name="column"):
    return guess_column(Table({name: values}, "table"), name)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("PassengerId", np.arange(100, 140), "skip"),
        ("row", np.arange(40), "skip"),
        ("Unnamed: 0", np.arange(40), "skip"),
        ("count", np.arange(40), "skip"),
        ("year", np.arange(1980, 2020), "number"),
        ("shop_id", np.arange(40) % 4, "category"),
        ("shop_id", np.arange(40) // 2 + 1000, "skip"),
        ("rooms", np.arange(40) % 5, "category"),
        ("rooms", np.arange(40) % 5 - 2, "number"),
        ("age", np.arange(40) % 13, "number"),
        ("height", np.linspace(0, 1, 40), "number"),
        ("height", np.r_[np.linspace(0, 1, 39), np.nan], "number"),
        ("height", np.full(40, np.nan), "skip"),
        ("height", np.full(40, np.inf), "skip"),
        ("height", np.full(40, 3), "skip"),
        ("fold", np.arange(40) % 5, "skip"),
        ("smoker", ["yes", "no"] * 20, "category"),
        ("smoker", [True, False] * 20, "category"),
        ("smoker", ["yes", None] * 20, "skip"),
        ("smoker", [None] * 40, "skip"),
        ("name", [f"Mr {i}" for i in range(40)], "text"),
        ("uuid", [f"x{i}" for i in range(40)], "skip"),
        ("token", [f"{i:032x}" for i in range(40)], "skip"),
        ("bits", ["[1, 2, 3]"] * 40, "series"),
        ("bits", [[1, 2], [3, 4, None]] * 20, "series"),
        ("bits", [[[1, 2]], [[3, 4]]] * 20, "series"),
        ("bits", [[1, 2], ["a"], {}] * 20, "skip"),
        ("bits", [np.zeros((8, 8), np.uint8)] * 40, "image"),
        ("bits", [np.zeros((8, 8, 3))] * 40, "image"),
        ("bits", [b"no image"] * 40, "skip"),
        ("photo", ["missing.png"] * 40, "skip"),
        ("notes", ["a.png is the best"] * 20 + ["yes"] * 20, "category"),
    ],
)
def test_kinds(name, values, kind):
    assert guessed(values, name).kind == kind


def test_series_with_times_and_rates():
    timed = guessed([{"values": [1, 2, 3], "times": [0, 1, 4.5]}] * 10)
    assert dict(timed.facts) == {"channels": 1, "rate": None, "seconds": 4.5, "points": 3}
    rated = guessed([{"values": [[1, 2, 3]] * 100, "rate": 50}] * 10)
    assert (rated.facts["channels"], rated.facts["rate"], rated.facts["seconds"]) == (3, 50, 2.0)


def test_series_in_files(tmp_path):
    names = []
    for i in range(10):
        np.save(tmp_path / f"{i}.npy", np.zeros((5 + i, 2)))
        names.append(f"{i}.npy")
    guess = guess_column(Table({"wave": names}, "table", tmp_path), "wave")
    assert (guess.kind, guess.facts["channels"], guess.facts["seconds"]) == ("series", 2, 14.0)


@pytest.mark.parametrize(
    ("channels", "wanted"),
    [([1, 1], 1), ([1, 3], 3), ([3, 3], 3), ([4, 4], 4)],
    ids=["grey", "both", "colour", "alpha"],
)
def test_image_channels(tmp_path, channels, wanted):
    names = [write_image(tmp_path / f"{i}.png", 6, 5, c) for i, c in enumerate(channels)]
    guess = guess_column(Table({"photo": names}, "table", tmp_path), "photo")
    assert (guess.facts["channels"], guess.facts["size"]) == (wanted, (6, 5))


def test_a_channel_that_hides_nothing_does_not_count(tmp_path):
    name = write_image(tmp_path / "opaque.png", 6, 5, 4, 255)
    assert guess_column(Table({"photo": [name] * 2}, "table", tmp_path), "photo").facts["channels"] == 3


def test_images_of_many_bands(tmp_path):
    tifffile.imwrite(tmp_path / "field.tif", np.zeros((13, 20, 30), np.uint16), photometric="minisblack")
    guess = guess_column(Table({"field": ["field.tif"] * 2}, "table", tmp_path), "field")
    assert (guess.facts["channels"], guess.facts["size"]) == (13, (20, 30))


def test_a_photograph_taken_upright(tmp_path):
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg", exif=turned)
    assert guess_column(Table({"photo": ["photo.jpg"]}, "table", tmp_path), "photo").facts["size"] == (30, 20)


@pytest.mark.parametrize(
    "values",
    [["train", "dev", "valid"], ["train", "train", "train"], ["train", "test", None], [0, 1, 2], ["a", "b", "c"]],
)
def test_columns_that_are_no_split(values):
    assert guess_split(Table({"split": values * 4}, "table")) is None


def test_a_slip_does_not_make_text_of_numbers(tmp_path):
    cells = [str(n / 7) for n in range(60)]
    guess = guess_column(Table({"proline": [*cells, "1,065"]}, "table"), "proline")
    assert guess.kind == "number"
    assert guess.why.endswith("; 1 of 61 cells is no number (first: '1,065'): repair it")
    assert guess_column(Table({"proline": [*cells[:30], *["low"] * 30]}, "table"), "proline").kind != "number"


def test_pictures_in_npy_files(tmp_path):
    for n in range(3):
        np.save(tmp_path / f"{n}.npy", np.zeros((40, 30, 3), np.uint8))
    guess = guess_column(Table({"scene": [f"{n}.npy" for n in range(3)]}, "table", tmp_path), "scene")
    assert (guess.kind, guess.facts["size"], guess.facts["channels"]) == ("image", (40, 30), 3)


def test_split_words_say_what_they_are_whatever_the_column_is_called():
    table = Table({"part": ["train", "test", "train"], "x": ["a", "b", "c"]}, "table")
    assert guess_split(table) == ("part", {"train": "train", "test": "test"})
