"""Cells that are files of sound or video, given by path or as bytes, opened to be read from any place."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from perceivers.bounded import GB, check_bounded
from perceivers.errors import DataError, MissingFileError
from perceivers.npy import START, read_npy

MOST_BYTES = 1 * GB  # of one file


@contextmanager
def opened(value: Any, noun: str) -> Iterator[tuple[BinaryIO, str]]:
    """The file at a path, or of bytes, and what heads messages of it. noun: "sound". Raises `DataError`."""
    if not is_file(value):
        raise DataError(f"got a {type(value).__name__}; wanted a {noun}.")
    if not isinstance(value, (str, Path)):
        if not len(value):
            raise DataError(f"a {noun} of 0 bytes is empty.")
        yield io.BytesIO(bytes(value)), f"a {noun} of {len(value)} bytes"
        return
    what = f"{noun} file '{value}'"
    try:
        check_bounded(Path(value), MOST_BYTES, what)
        with Path(value).open("rb") as file:
            if not Path(value).stat().st_size:
                raise DataError(f"{what} is empty.")
            yield file, what
    except FileNotFoundError:
        raise MissingFileError(f"{what} does not exist.") from None
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror or error}.") from None


def is_file(value: Any) -> bool:
    """Whether a value is a path or the bytes of a file."""
    return isinstance(value, (str, Path, bytes, bytearray, memoryview))


def array_in(file: BinaryIO, what: str) -> np.ndarray | None:
    """The array of a .npy file, or None where it is another; then it is as it was. Raises `DataError`."""
    start = file.read(len(START))
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if start != START:
        return None
    try:
        return read_npy(file, size, what)
    except ValueError as error:
        raise DataError(f"{what} is truncated or damaged: {error}.") from None


def as_array(value: Any, what: str) -> np.ndarray:
    """`value` as an array. Raises `DataError` where it is none."""
    try:
        return np.asarray(value)
    except ValueError:
        raise DataError(f"{what} is not a rectangle of numbers.") from None
