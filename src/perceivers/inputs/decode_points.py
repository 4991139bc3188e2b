"""From a cell of a table (path, list, array, JSON text) to the numbers of a point cloud, with its faults named."""

import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from perceivers.bounded import GB, check_bounded
from perceivers.cells import number, rectangle
from perceivers.errors import DataError, MissingFileError
from perceivers.npy import read_npy

MOST_BYTES = 1 * GB
"""Of one file of points."""
_FORMATS = "wanted .npy, .npz, .ply, .txt, .xyz, .pts or .csv"
_TEXT = (".txt", ".xyz", ".pts", ".csv")
# A PLY header is some lines of text; more is no header.
_MOST_HEADER = 64 * 1024
# What the standard library raises for an archive that is none, is damaged, encrypted, or packed as no numpy packs.
_ZIP_FAULTS = (zipfile.BadZipFile, RuntimeError, struct.error, zlib.error)
_PLY_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_PLY_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


def read_points(value: Any, what: str = "the points", one_each: bool = False) -> np.ndarray:
    """(M, K): a point a row, coordinates first. Raises `DataError`.

    `value`: an array, a list of rows, JSON text of one, or the path of a file. Of a PLY file x, y and z come first,
    then its other properties in their order; of an .npz file it is the only array, or the one called `points`.
    one_each: (M,) serves too, one number a point.
    """
    if is_inline(value):
        value = points_from_json(value, what)
    if isinstance(value, (str, Path)):
        value, what = _read_file(Path(value)), f"points file '{value}'"
    array = value if isinstance(value, np.ndarray) else rectangle(value, what)
    if array.dtype.kind not in "uifb":
        raise DataError(f"{what}: of type {array.dtype}; wanted numbers.")
    if not array.size and array.ndim != 2:
        array = array.reshape(0, 0)
    if one_each and array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise DataError(f"{what}: of shape {array.shape}; wanted (points, numbers of each).")
    return array


def is_inline(cell: Any) -> bool:
    """Whether a cell is JSON text, not the path of a file."""
    return isinstance(cell, str) and cell.lstrip().startswith(("[", "{"))


def points_from_json(text: str, what: str = "the points") -> Any:
    """What JSON text holds. Raises `DataError`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{what}: JSON nested too deep; wanted a list of rows.") from None
    except ValueError as error:
        raise DataError(f"{what}: not valid JSON: {error}.") from None


def _read_file(path: Path) -> np.ndarray:
    what = f"points file '{path}'"
    ending = path.suffix.lower()
    try:
        check_bounded(path, MOST_BYTES, what)
        if ending == ".npy":
            with path.open("rb") as file:
                return read_npy(file, path.stat().st_size, what)
        if ending == ".npz":
            return _read_npz(path, what)
        if ending == ".ply":
            with path.open("rb") as file:
                return _read_ply(file, what)
        if ending in _TEXT:
            return _read_text(path, what)
    except DataError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"{what} does not exist.") from None
    except (OSError, ValueError, OverflowError, EOFError, *_ZIP_FAULTS) as error:
        raise DataError(f"{what} is truncated or damaged: {error}.") from None
    raise DataError(f"{what} ends in '{path.suffix}'; {_FORMATS}.")


def _read_npz(path: Path, what: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        chosen = "points" if "points" in names else names[0] if len(names) == 1 else None
        if chosen is None:
            raise DataError(f"{what} holds {', '.join(names) or 'nothing'}; wanted one array, or one called 'points'.")
        entry = archive.infolist()[names.index(chosen)]
        if entry.file_size > MOST_BYTES:
            raise DataError(f"{what} claims {entry.file_size / GB:.1f} GB; the most that is read is 1 GB.")
        # Read first: a compressed file cannot hold more than it claims, or its checksum is wrong.
        data = archive.read(entry)
    return read_npy(io.BytesIO(data), len(data), what)


def _read_text(path: Path, what: str) -> np.ndarray:
    """Numbers between commas or blanks, one point a line; lines that begin with # are left out."""
    rows: list[list[float]] = []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        cells = text.split(",") if "," in text else re.split(r"[;\s]+", text)
        try:
            rows.append([number(cell) for cell in cells])
        except DataError as error:
            raise DataError(f"{what}, line {line}: {error} It takes numbers only, no header.") from None
        if len(rows[-1]) != len(rows[0]):
            raise DataError(f"{what}, line {line}: {len(rows[-1])} numbers, but {len(rows[0])} in the first point.")
    if not rows:
        raise DataError(f"{what} holds no points; wanted a line of numbers for each.")
    return np.array(rows, dtype=np.float64)


def _read_ply(file: BinaryIO, what: str) -> np.ndarray:
    """The vertices of a PLY file [Turk 1994, The PLY Polygon File Format]; they are its first element."""
    order, count, properties = _ply_header(file, what)
    names = [name for name, _ in properties]
    axes = [names.index(axis) for axis in ("x", "y", "z") if axis in names]
    if len(axes) < 2:
        raise DataError(f"{what}: its vertices have {', '.join(names) or 'no properties'}; wanted x, y and z.")
    columns = [*axes, *(i for i in range(len(names)) if i not in axes)]
    if order == "=":
        return _ply_rows(file, count, len(names), what)[:, columns]
    dtype = np.dtype([(f"f{i}", order + kind) for i, (_, kind) in enumerate(properties)])
    claimed = count * dtype.itemsize
    if claimed > MOST_BYTES:
        raise DataError(f"{what} claims {count:,} vertices, {claimed / GB:.1f} GB; the most that is read is 1 GB.")
    data = file.read(claimed)
    if len(data) < claimed:
        raise ValueError(f"its header tells of {count:,} vertices, {claimed:,} bytes, but {len(data):,} follow")
    table = np.frombuffer(data, dtype)
    return np.stack([table[f"f{i}"].astype(np.float64) for i in columns], axis=1)


def _ply_rows(file: BinaryIO, count: int, width: int, what: str) -> np.ndarray:
    rows = []
    for text in file:
        if len(rows) == count:
            break
        cells = text.split()
        if cells:
            if len(cells) != width:
                raise DataError(f"{what}, vertex {len(rows) + 1}: {len(cells)} numbers, but {width} properties.")
            rows.append([float(cell) for cell in cells])
    if len(rows) < count:
        raise ValueError(f"its header tells of {count:,} vertices, but {len(rows):,} follow")
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _ply_header(file: BinaryIO, what: str) -> tuple[str, int, list[tuple[str, str]]]:
    """Byte order ("=": text), number of vertices and their properties (name, numpy type)."""
    lines = []
    left = _MOST_HEADER
    while not lines or lines[-1] != ["end_header"]:
        text = file.readline(left)
        left -= len(text)
        if not text or left <= 0 or (not lines and text.strip() != b"ply"):
            raise DataError(f"{what} is no PLY file: it does not begin with 'ply' and a header.")
        lines.append(text.decode("latin-1").split())
    order, element, found = "", "", 0
    count, properties = -1, []
    for line in lines:
        match line:
            case ["format", name, _] if name in _PLY_ORDERS:
                order = _PLY_ORDERS[name]
            case ["element", element, number_of] if number_of.isdecimal():
                found += 1
                count = int(number_of) if element == "vertex" and found == 1 else count
            case ["property", kind, name] if element == "vertex" and kind in _PLY_TYPES:
                properties.append((name, _PLY_TYPES[kind]))
            case ["property", *_] if element == "vertex":
                raise DataError(f"{what}: a vertex has the property '{' '.join(line[1:])}'; wanted plain numbers.")
            case _:
                continue
    if not order or count < 0:
        raise DataError(f"{what}: its header names no format that is known, or its first element is no 'vertex'.")
    return order, count, properties
