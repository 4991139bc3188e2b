import io
import re
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from perceivers.data.pictures import picture_grid
from perceivers.data.table import Table
from perceivers.errors import DataError, PerceiversError

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, (5, 8, 8, 1)).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def texts_of(path, table, **options) -> list[str]:
    """Every text that is drawn, by drawing the same grid as SVG with text kept as text."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        picture_grid(table, path, **options)
    return re.findall(r"<(?:text|tspan)[^>]*>([^<\s][^<]*)</", path.read_text())


def test_images_and_their_labels(tmp_path):
    table = Table({"image": IMAGES, "label": list("abcde")}, "toy")
    path = picture_grid(table, tmp_path / "new" / "grid.png")
    with Image.open(path) as picture:
        assert picture.size == (800, 175)
        shades = np.asarray(picture.convert("L"))
    assert len(np.unique(shades)) > 100
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


def test_the_same_table_gives_the_same_picture_and_pyplot_knows_of_none(tmp_path):
    table = Table({"image": IMAGES, "label": list("abcde")}, "toy")
    one = picture_grid(table, tmp_path / "one.png").read_bytes()
    assert one == picture_grid(table, tmp_path / "two.png").read_bytes()
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    "column",
    [
        IMAGES[..., 0],
        np.repeat(IMAGES, 3, axis=3),
        np.repeat(IMAGES, 13, axis=3),
        RANDOM.rand(5, 8, 8, 1),
        RANDOM.rand(5, 40, 30),
        RANDOM.rand(5, 40, 3),
        RANDOM.rand(5, 40).astype(np.float32),
        [[1, 2, 3]] * 5,
        [[[1, 2], [3, 4]]] * 5,
        [png(IMAGES[0, ..., 0])] * 5,
        [{"bytes": png(IMAGES[0, ..., 0]), "path": None}] * 5,
        [png(IMAGES[0, ..., 0].astype(np.uint16) * 256)] * 5,
        [None, png(IMAGES[0, ..., 0]), None, None, None],
    ],
)
def test_every_kind_of_picture_and_series_is_drawn(tmp_path, column):
    table = Table({"first": column, "label": ["a", "b", "c", "d", "e"]}, "toy")
    with Image.open(picture_grid(table, tmp_path / "grid.png")) as picture:
        assert picture.size == (800, 175)  # one panel a sample: the label is above, not beside


def test_labels_columns_and_texts(tmp_path):
    table = Table({"a": IMAGES[..., 0], "b": RANDOM.rand(5, 9), "label": ["$x$", "cat", "日", None, "e"]}, "toy")
    texts = texts_of(tmp_path / "grid.svg", table)
    assert [text for text in texts if text in ("$x$", "cat", "日", "(absent)", "e")] == [
        "$x$",
        "cat",
        "日",
        "(absent)",
        "e",
    ]
    assert texts.count("a") == texts.count("b") == 5


def test_a_table_without_pictures_is_drawn_as_text(tmp_path):
    table = Table({"age": np.array([1.5, 2.0]), "name": ["Ann", "x" * 500], "label": ["y", "n"]}, "people.csv")
    texts = texts_of(tmp_path / "grid.svg", table)
    assert {"age", "name", "Ann", "1.5", "y", "n"} <= set(texts)
    assert texts.count("x" * 24) == 4  # and the rest of the 120 on a shorter line


def test_samples_are_spread_over_the_table(tmp_path):
    table = Table({"word": [f"w{i}" for i in range(100)]}, "toy")
    texts = texts_of(tmp_path / "grid.svg", table, count=4)
    assert texts == ["w0", "w33", "w66", "w99"]


def test_files_are_relative_to_the_table_and_faults_are_drawn(tmp_path):
    (tmp_path / "good.png").write_bytes(png(IMAGES[0, ..., 0]))
    (tmp_path / "cut.png").write_bytes(png(RANDOM.randint(0, 255, (99, 99)).astype(np.uint8))[:900])
    (tmp_path / "text.png").write_text("no image")
    table = Table({"file": ["good.png", "cut.png", "text.png", "gone.png"]}, "toy.csv", base=tmp_path)
    texts = " ".join(texts_of(tmp_path / "grid.svg", table)).replace("&#39;", "'")
    assert "good.png" not in texts
    for said in ("cut.png: ", "cannot identify image file", "No such file or directory"):
        assert said in texts


@pytest.mark.parametrize(
    ("side", "said"),
    [(8_000, "8000×8000 pixels are too many"), (10_000, "100000000 pixels"), (30_000, "900000000 pixels")],
)
def test_a_bomb_is_not_unpacked(tmp_path, side, said):
    bomb = tmp_path / "bomb.png"  # a head that promises many pixels, and no pixels
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (head, b"IDAT")]
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    texts = " ".join(texts_of(tmp_path / "grid.svg", Table({"file": [str(bomb)]}, "toy")))
    assert said in texts


def test_letters_that_the_font_has_not_are_no_reason_to_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture_grid(Table({"image": IMAGES[:1], "label": ["日本"]}, "toy"), tmp_path / "grid.png")


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"image": IMAGES}, {"path": "grid.bmp"}, r"grid\.bmp: the name must end in \.png, \.pdf, \.svg"),
        ({"image": []}, {}, "toy: there are no samples to draw"),
        ({"image": IMAGES}, {"columns": ["imag"]}, "no column 'imag'. Did you mean 'image'"),
        ({"image": IMAGES}, {"path": "in-the-way/grid.png"}, "cannot write the picture .*in-the-way/grid.png: "),
    ],
)
def test_what_cannot_be_drawn(tmp_path, columns, options, message):
    (tmp_path / "in-the-way").write_text("a file")
    path = tmp_path / options.pop("path", "grid.png")
    with pytest.raises(DataError, match=message):
        picture_grid(Table(columns, "toy"), path, **options)
    assert not path.exists()


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PerceiversError, match=r"pip install 'perceivers\[train\]'"):
        picture_grid(Table({"image": IMAGES}, "toy"), tmp_path / "grid.png")
