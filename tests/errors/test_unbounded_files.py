"""Files that would fill the memory, or never end, are refused before they are read."""

import contextlib
import os
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.data.files import read_table
from perceivers.errors import DataError
from perceivers.inputs.audio import AudioInput
from perceivers.inputs.base import InputSettings
from perceivers.inputs.image import ImageInput
from perceivers.inputs.points import PointsInput
from perceivers.inputs.series import SeriesInput
from perceivers.inputs.video import VideoInput

IMAGE = ImageInput(size=(8, 8))
SERIES = SeriesInput(channels=3, rate=50, seconds=0.1)
SOUND = AudioInput(samples=64, rate=8000)
VIDEO = VideoInput(size=(2, 8, 8))
POINTS = PointsInput(count=8)


def refused(kind: InputSettings, value: Any, part: str) -> None:
    with pytest.raises(DataError) as caught:
        kind.parse(value)
    assert part in str(caught.value)


def npy_file(path: Path, header: str, data: bytes = b"") -> Path:
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + data)
    return path


@pytest.mark.parametrize("shape", ["(10000000000000,)", "(5, 3)", "(-5, -3)", "(0, -1)", f"(0, {10**40})"])
def test_an_array_file_whose_header_claims_more_than_follows(shape, tmp_path):
    path = npy_file(tmp_path / "x.npy", f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}", bytes(59))
    refused(SERIES, path, "x.npy' is truncated or damaged")


@settings(max_examples=300)
@given(st.dictionaries(st.integers(0, 140), st.integers(0, 255), max_size=4), st.integers(0, 200))
def test_damaged_array_files_are_an_array_or_one_error(changes, length):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        np.save(path, np.ones((5, 3)))
        data = bytearray(path.read_bytes())
        for place, byte in changes.items():
            data[place] = byte
        path.write_bytes(data[: len(data) - length // 2])
        with contextlib.suppress(DataError), warnings.catch_warnings():
            # Python warns of odd text in a header that it reads as a literal.
            warnings.simplefilter("ignore")
            assert SERIES.parse(path).values.shape == (5, 3)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (SERIES, "x.npy"),
        (SERIES, "x.csv"),
        (IMAGE, "x.png"),
        (SOUND, "x.wav"),
        (VIDEO, "x.mp4"),
        (POINTS, "x.npz"),
        (POINTS, "x.ply"),
    ],
)
class TestFilesThatAreNotReadWhole:
    def test_a_pipe(self, kind, name, tmp_path):
        os.mkfifo(tmp_path / name)
        refused(kind, tmp_path / name, f"file '{tmp_path / name}' is a device or pipe; wanted a file")

    def test_a_device(self, kind, name, tmp_path):
        (tmp_path / name).symlink_to("/dev/zero")
        refused(kind, tmp_path / name, f"file '{tmp_path / name}' is a device or pipe; wanted a file")

    def test_a_giant(self, kind, name, tmp_path):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 50 * 10**9)
        refused(kind, tmp_path / name, f"file '{tmp_path / name}' has 50.0 GB; the most that is read is 1 GB")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_pipe_is_no_table(suffix, tmp_path):
    path = tmp_path / f"t{suffix}"
    os.mkfifo(path)
    with pytest.raises(DataError, match="device or pipe; wanted a file"):
        read_table(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_table_too_large_to_be_held(suffix, tmp_path):
    path = tmp_path / f"t{suffix}"
    path.touch()
    os.truncate(path, 50 * 10**9)
    with pytest.raises(DataError, match=r"has 50\.0 GB; the most that is read is 16 GB"):
        read_table(path)
