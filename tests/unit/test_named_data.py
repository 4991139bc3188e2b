import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceivers.data.named import NAMED, forda, hapt, named
from perceivers.data.named import fashion_mnist as fashion
from perceivers.data.named.base import hold_out
from perceivers.data.named.digits import grey
from perceivers.data.table import SPLITS
from perceivers.errors import DataError


def never(line: str) -> None:
    raise AssertionError(f"fetched: {line}")


def check(name: str, say=never) -> dict:
    """Everything that a data set says of itself is so."""
    data = NAMED[name]
    tables = data.load(say)
    assert tuple(tables) == SPLITS
    assert {split: len(table) for split, table in tables.items()} == data.sizes
    for split, table in tables.items():
        assert table.name == name
        assert set(data.inputs) | set(data.outputs) <= set(table.columns)
        assert set(table.column("label")) == set(data.classes), split
        for column in data.inputs:
            assert isinstance(table.column(column), np.ndarray)
    return tables


def test_digits():
    tables = check("digits")
    image = tables["train"].column("image")
    assert image.shape == (1295, 8, 8, 1)
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (0, 255)
    rows = np.concatenate([table.rows for table in tables.values()])
    assert sorted(rows) == list(range(1, 1798))


def test_digits_are_the_same_split_each_time_and_on_every_machine():
    tables = NAMED["digits"].load()
    assert tables["test"].rows[:6].tolist() == [4, 8, 14, 20, 37, 39]
    assert tables["validation"].rows[:6].tolist() == [17, 75, 81, 97, 102, 109]
    counts = collections.Counter(tables["test"].column("label"))
    assert min(counts.values()) >= 35
    assert max(counts.values()) <= 37


def test_the_scale_of_the_digits():
    assert grey(np.arange(17.0).reshape(17, 1, 1))[:, 0, 0, 0].tolist() == [
        round(v * 255 / 16 + 1e-9) for v in range(17)
    ]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 2**31))
def test_hold_out_parts_each_class(labels, fraction, seed):
    rest, out = hold_out(labels, fraction, seed)
    assert sorted([*rest, *out]) == list(range(len(labels)))
    for label in set(labels):
        members = labels.count(label)
        assert sum(labels[i] == label for i in out) == round(fraction * members)


@given(st.lists(st.tuples(st.integers(-1, 12), st.integers(1, 400)), min_size=1, max_size=6))
def test_windows_lie_inside_one_stretch(stretches):
    label = np.concatenate([np.full(length, kind) for kind, length in stretches])
    starts = hapt.window_starts(label)
    for start in starts:
        assert len(label[start : start + 128]) == 128
        assert len(set(label[start : start + 128])) == 1
        assert 1 <= label[start] <= 6
    # Stretches of the same label that touch are one stretch.
    merged = np.split(label, np.flatnonzero(np.diff(label)) + 1)
    assert len(starts) == sum(max(0, (len(part) - 64) // 64) for part in merged if 1 <= part[0] <= 6)


def test_hapt_from_its_recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path))
    signal = np.arange(200.0)
    names = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")
    label = np.array([-1] * 6 + [4] * 194)
    frame = {name: signal + 1000 * i for i, name in enumerate(names)} | {"label": label}
    monkeypatch.setattr(hapt, "fetch", lambda package, say: {hapt._FILE: b"pickle"})
    monkeypatch.setattr(hapt, "read_frames", lambda content, what: {1: [frame], 2: [frame], 28: [frame]})
    tables = NAMED["hapt"].read(print)
    assert {split: len(table) for split, table in tables.items()} == {"train": 2, "validation": 2, "test": 2}
    assert tables["test"].column("user").tolist() == [2, 2]
    assert tables["validation"].column("user").tolist() == [28, 28]
    assert tables["train"].column("label") == ["sitting", "sitting"]
    gyroscope = tables["train"].column("gyroscope")
    assert gyroscope.shape == (2, 128, 3)
    assert gyroscope.dtype == np.float32
    np.testing.assert_array_equal(gyroscope[1, :, 2], np.arange(6 + 64, 6 + 64 + 128) + 5000)
    with pytest.raises(DataError, match=r"'hapt' should have \{'train': 6292.* but what was read has \{'train': 2"):
        NAMED["hapt"].load(print)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def test_fashion_mnist_from_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path))
    monkeypatch.setattr(fashion, "_TRAINING", 4)
    images = np.arange(6 * 28 * 28).reshape(6, 28, 28)
    files = [idx(images), idx(np.array([9, 0, 1, 2, 3, 8])), idx(images[:2]), idx(np.array([5, 7]))]
    contents = dict(zip(fashion.PACKAGE.contents, files, strict=True))
    monkeypatch.setattr(fashion, "fetch", lambda package, say: contents)
    tables = NAMED["fashion-mnist"].read(print)
    assert tables["train"].column("label") == ["Ankle boot", "T-shirt/top", "Trouser", "Pullover"]
    assert tables["validation"].column("label") == ["Dress", "Bag"]
    assert tables["validation"].rows.tolist() == [5, 6]
    assert tables["test"].column("label") == ["Sandal", "Sneaker"]
    assert tables["validation"].column("image").shape == (2, 28, 28, 1)
    np.testing.assert_array_equal(tables["validation"].column("image")[..., 0], images[4:].astype(np.uint8))


def test_a_ucr_file():
    series, label = forda.tsv_arrays(b"-1\t0.5\t-0.25\t1e-3\n1\t1\t2\t3\n")
    assert series.shape == (2, 3, 1)
    assert series.dtype == np.float32
    assert label.tolist() == [-1, 1]
    np.testing.assert_allclose(series[0, :, 0], [0.5, -0.25, 1e-3], rtol=1e-7)


def test_an_unknown_name():
    with pytest.raises(DataError, match=r"unknown data set 'fashion'\. Did you mean 'fashion-mnist'\? Known: digits, "):
        named("fashion")


@pytest.mark.parametrize("data", NAMED.values(), ids=NAMED)
def test_the_suggested_specs_are_valid(data):
    from pydantic import TypeAdapter

    from perceivers.inputs import KINDS as INPUTS
    from perceivers.outputs import KINDS as OUTPUTS

    for kinds, suggested in ((INPUTS, data.inputs), (OUTPUTS, data.outputs)):
        for settings in suggested.values():
            TypeAdapter(kinds[settings["kind"]]).validate_python(dict(settings))


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "column", "shape", "counts"),
    [
        ("fashion-mnist", "image", (28, 28, 1), dict.fromkeys(fashion.CLASSES, 1000)),
        ("hapt", "gyroscope", (128, 3), dict(zip(hapt.CLASSES, (496, 471, 420, 508, 556, 545), strict=True))),
        ("forda", "series", (500, 1), {"-1": 681, "1": 639}),
    ],
)
def test_fetched_from_where_it_is_published(name, column, shape, counts, tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path))
    assert not NAMED[name].at_hand
    said = []
    tables = check(name, said.append)
    assert said[0].startswith("downloading ")
    assert NAMED[name].at_hand
    assert tables["test"].column(column).shape[1:] == shape
    assert collections.Counter(tables["test"].column("label")) == counts
    again = check(name)  # from the cache: nothing is said
    np.testing.assert_array_equal(again["train"].column(column), tables["train"].column(column))
