"""Each bad cloud of points is one `DataError` that says what was given and what was wanted."""

import contextlib
import io
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.elements import Elements
from perceivers.errors import DataError, MissingFileError
from perceivers.inputs.points import PointsInput

POINTS = PointsInput(count=4)
BOUNDED = PointsInput(count=4, axes=2, bounds=((0, 1), (0, 1)))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (
            POINTS,
            [[1, 2], [3, 4], [5, 6]],
            "It has 3 rows: if these are the axes, turn it, so that each point is a row",
        ),
        (POINTS, [[1, 2], [3, 4]], "2 numbers a point, but the input takes 3 (3 coordinates and 0 channels)"),
        (POINTS, [[1, 2, 3, 4]], "Set extra: ignore on the input"),
        (POINTS, [[1, 2, 3]] * 5, "5 points, but the input reads 4"),
        (POINTS, [[1, 2], [3]], "not a rectangle of numbers"),
        (POINTS, [1, 2, 3], "of shape (3,); wanted (points, numbers of each)"),
        (POINTS, np.array([["a", "b", "c"]]), "wanted numbers"),
        (POINTS, "[[1, 2, 3]", "not valid JSON"),
        (POINTS, "[" * 100_000, "JSON nested too deep"),
        (POINTS, {"values": [[1, 2, 3]]}, "has 'coords' and perhaps 'values'; got values"),
        (POINTS, {"coords": [[1, 2, 3]], "values": [[1], [2]]}, "1 coords, but 2 values"),
        (
            POINTS,
            {"coords": [[1, 2, 3]] * 2, "values": [[1], [2, 3]]},
            "the values: not a rectangle of numbers, one row",
        ),
        (POINTS, {"coords": [[1, 2, 3]] * 2, "values": ["a", "b"]}, "the values: not a rectangle of numbers"),
        (POINTS, {"coords": [[1, 2, 3]] * 2, "values": [[[1]]]}, "the values: of shape (1, 1, 1); wanted (points, "),
        (POINTS, {"coords": {"x": 1}}, "the coords: not a rectangle of numbers"),
        (POINTS, {1: 2}, "has 'coords' and perhaps 'values'; got 1."),
        (POINTS, {}, "has 'coords' and perhaps 'values'; got nothing."),
        (POINTS.with_changes(nan="error"), [[1, 2, float("nan")]], "nan: error"),
        (BOUNDED, [[0, 1], [0.5, 2]], "point 2 has the coordinate 2 on axis 2, but its bounds are 0 to 1"),
    ],
)
def test_values_that_are_no_cloud(kind, value, said):
    with pytest.raises(DataError) as caught:
        kind.parse(value)
    assert said in str(caught.value)


HEADER = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.obj", b"v 1 2 3", "ends in '.obj'; wanted .npy, .npz, .ply, .txt"),
        ("x.txt", b"x,y,z\n1,2,3\n", "line 1: 'x' is not a number. It takes numbers only, no header."),
        ("x.txt", b"1,2,3\n1,2\n", "line 2: 2 numbers, but 3 in the first point"),
        ("x.txt", b"", "holds no points; wanted a line of numbers for each"),
        ("x.csv", b"# x y z\n\n", "holds no points"),
        ("x.txt", b"\xff\xfe\xfd", "truncated or damaged"),
        ("x.npy", b"\x93NUMPY\x01\x00", "truncated or damaged"),
        ("x.npz", b"PK\x03\x04nothing", "truncated or damaged"),
        ("x.ply", b"hello", "is no PLY file"),
        ("x.ply", b"ply\n" + b"comment x\n" * 10_000, "is no PLY file"),
        ("x.ply", HEADER + b"1 2 3\n", "its header tells of 2 vertices, but 1 follow"),
        ("x.ply", HEADER + b"1 2 3\n1 2\n", "vertex 2: 2 numbers, but 3 properties"),
        ("x.ply", HEADER + b"1 2 3\n1 2 a\n", "truncated or damaged"),
        ("x.ply", HEADER.replace(b"ascii", b"binary_little_endian") + bytes(20), "24 bytes, but 20 follow"),
        ("x.ply", HEADER.replace(b"ascii", b"morse"), "no format that is known"),
        ("x.ply", HEADER.replace(b"vertex", b"face"), "first element is no 'vertex'"),
        ("x.ply", HEADER.replace(b"float z", b"list uchar int z"), "property 'list uchar int z'; wanted plain numbers"),
        ("x.ply", HEADER.replace(b" x", b" u").replace(b" y", b" v"), "its vertices have u, v, z; wanted x, y and z"),
        ("x.ply", HEADER.replace(b"ascii", b"binary_big_endian").replace(b"x 2", b"x 999999999999"), "claims 999,"),
    ],
)
def test_files_that_are_no_cloud(name, data, said, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        POINTS.parse(tmp_path / name)
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        POINTS.parse(tmp_path / "x.ply")


def test_an_archive_of_several_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(2), b=np.zeros(3))
    with pytest.raises(DataError, match=r"holds a, b; wanted one array, or one called 'points'"):
        POINTS.parse(tmp_path / "x.npz")


def test_an_archive_that_claims_too_much(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("points.npy", "w") as file:
        for _ in range(1100):
            file.write(bytes(1_000_000))
    with pytest.raises(DataError, match=r"claims 1\.1 GB; the most that is read is 1 GB"):
        POINTS.parse(path)


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        (lambda t: Elements(t[..., :0], grid=(2,)), "have a grid, but the input takes 3 coordinates"),
        (lambda t: Elements(t[..., :0], coords=t[..., :2]), "have 2 coordinates, but the input takes 3"),
        (lambda t: Elements(t, coords=t), "have 3 channels, but the input takes 0"),
    ],
)
def test_elements_made_by_hand(elements, said):
    with pytest.raises(DataError, match=said):
        POINTS.build()(elements(torch.zeros(1, 2, 3)))


def _damaged(data: bytes, place: int, value: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([value]) + data[place + 1 :]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["ply", "npz", "npy"]), st.integers(0, 10_000), st.integers(0, 255), st.floats(0, 1))
def test_damage_is_refused_or_read_but_never_another_error(tmp_path_factory, form, place, value, share):
    buffer = io.BytesIO()
    table = np.arange(9, dtype="<f4").reshape(3, 3)
    if form == "ply":
        buffer.write(HEADER.replace(b"ascii", b"binary_little_endian").replace(b"x 2", b"x 3") + table.tobytes())
    else:
        (np.save if form == "npy" else np.savez_compressed)(buffer, table)
    data = _damaged(buffer.getvalue(), place, value)
    path = tmp_path_factory.mktemp("damage") / f"x.{form}"
    path.write_bytes(data[: max(int(len(data) * share * 2), 1)])
    # Python warns of odd text in a header that it reads as a literal.
    with contextlib.suppress(DataError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert POINTS.parse(path).coords.shape[1] == 3
