"""Arrays in .npy files, whose headers must fit the file: numpy would make room for whatever they claim."""

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from perceivers.errors import DataError, MissingFileError

START = npy.MAGIC_PREFIX
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def load_npy(path: Path) -> np.ndarray:
    """The array in the .npy file `path`. Raises `DataError` that names it."""
    what = f"array file '{path}'"
    try:
        with path.open("rb") as file:
            return read_npy(file, path.stat().st_size, what)
    except FileNotFoundError:
        raise MissingFileError(f"{what} does not exist.") from None
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise DataError(f"{what} cannot be read as .npy: {error}.") from None


def read_npy(file: BinaryIO, size: int, what: str) -> np.ndarray:
    """The array in `file` of `size` bytes. Raises `DataError` for what is no numbers, `ValueError` for damage."""
    check_npy(file, size, what)
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def check_npy(file: BinaryIO, size: int, what: str) -> None:
    """Raises as `read_npy`, before anything is made room for."""
    shape, dtype = _header(file)
    if dtype.kind not in "uifb":
        raise DataError(f"{what} holds {dtype}; wanted numbers.")
    claimed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed > held or min(shape, default=0) < 0:
        raise ValueError(f"its header tells of shape {shape}, {claimed} bytes, but {held} bytes follow")


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its format is {version[0]}.{version[1]}; numbers are saved as 1.0 or 2.0")
    try:
        shape, _, dtype = _HEADERS[version](file)
    # The header is a Python literal; a damaged one makes Python's own reader fail in ways that it does not document.
    except Exception as error:
        raise ValueError(f"its header cannot be read: {error}") from None
    return shape, dtype
