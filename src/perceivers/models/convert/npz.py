"""Golden vectors: an npz file with `params/…`, `state/…`, inputs, outputs, and a config as JSON.

What an array claims is read from its header before any of it is unpacked: a few compressed kilobytes can claim
terabytes.
"""

import json
import math
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.bounded import GB, check_bounded
from perceivers.models.convert.families import haiku_family
from perceivers.models.convert.haiku import PARAMETERS
from perceivers.models.convert.stored import (
    MOST_ON_AN_AXIS,
    Stored,
    StoredArray,
    check_claims,
    damaged,
    quoted,
    refused,
)

# Recorded vectors have less than 1 MB; the directory of a much larger file would itself fill the memory.
MOST_BYTES = GB // 16
MOST_UNPACKED_BYTES = GB
MOST_TEXT_BYTES = 4 * 2**20
_ENDING = ".npy"
_NUMBERS, _TEXT = "biufc", "U"


def npz_weights(path: Path) -> Stored:
    """The arrays of the npz at `path`; texts in it, such as `config`, are the `extra`. Raises `ModelError`."""
    check_bounded(path, MOST_BYTES, f"'{path}'")
    arrays: dict[str, StoredArray] = {}
    texts: list[str] = []
    with path.open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                _list(path, archive, arrays, texts)
        # OSError: a directory that sends its reader before the beginning of the file.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError, OSError) as error:
            raise damaged(path, "it is no npz, or is truncated or damaged", error) from None
    family = haiku_family(name.partition("/")[2] for name, array in arrays.items() if array.trained)
    return Stored(path, "npz", family, arrays, {name: _plain(_read(path, name)) for name in texts})


def _list(path: Path, archive: zipfile.ZipFile, arrays: dict[str, StoredArray], texts: list[str]) -> None:
    """Add what the archive holds to `arrays`, and the names of texts to `texts`."""
    entries = archive.infolist()
    check_claims(path, {entry.filename: entry.file_size for entry in entries}, MOST_UNPACKED_BYTES)
    for entry in entries:
        name = entry.filename.removesuffix(_ENDING)
        if name == entry.filename or name in arrays or name in texts:
            raise refused(path, f"{quoted(entry.filename)} in it is no array, or is there more than once.")
        shape, dtype = _header(path, archive, entry)
        if dtype.kind == _TEXT:
            texts.append(name)
            continue
        module, _, last = name.rpartition("/")
        read = partial(_read, path, name)
        arrays[name] = StoredArray(module, last, shape, dtype.name, name.startswith(f"{PARAMETERS}/"), read)


def _header(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refused(path, f"{quoted(entry.filename)} in it is compressed in a way that npz files are not.")
    with archive.open(entry) as stream:
        try:
            # Version 1.0 is what numpy writes for all but records, and its headers have 64 kB at most.
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError("a version that is not read")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            start = stream.tell()
        except ValueError as error:
            raise damaged(path, f"{quoted(entry.filename)} in it has a damaged header", error) from None
    if dtype.kind not in _NUMBERS + _TEXT:
        raise refused(path, f"{quoted(entry.filename)} in it holds objects ({dtype}); wanted numbers or text.")
    claimed = math.prod(shape) * dtype.itemsize
    if not all(0 <= n <= MOST_ON_AN_AXIS for n in shape) or claimed != entry.file_size - start:
        claims = f"has a shape that claims {claimed:,} bytes and has {entry.file_size - start:,}"
        raise refused(path, f"{quoted(entry.filename)} in it {claims}.")
    if dtype.kind == _TEXT and (shape != () or claimed > MOST_TEXT_BYTES):
        raise refused(path, f"{quoted(entry.filename)} in it is text of {claimed:,} bytes; wanted one short text.")
    return shape, dtype


def _read(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored[name]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError, ValueError, OSError) as error:
        raise damaged(path, f"{quoted(name)} in it is damaged", error) from None


def _plain(text: np.ndarray) -> Any:
    """JSON as data, other text as it is."""
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError):
        return str(text)
