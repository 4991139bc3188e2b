"""A digest of a split: the same rows, read from the same columns and files of the same content, have the same one."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.cells import is_missing
from perceivers.data.prepare import Split

# Bytes of each end of a file that are looked at, beside its size: another picture differs there.
_END = 4096


def split_digest(split: Split) -> str:
    """SHA-256 over row numbers and what is read of the split's table: the cells, and of files their size and ends.

    Columns that nothing reads, names of folders and times of files change nothing, so data may be copied and moved.
    """
    table, reader = split.table, split.reader
    found = hashlib.sha256(np.ascontiguousarray(table.rows, dtype=np.int64).tobytes())
    for name, kind in sorted([*reader.inputs.items(), *reader.outputs.items()], key=lambda item: item[0]):
        for column in reader.columns_of(name, kind):
            cells = table.columns[column]
            found.update(f"{name}\0{column}\0".encode())
            if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
                found.update(np.ascontiguousarray(cells).data)
                continue
            for cell in cells:
                for part in _parts(cell):
                    found.update(part)
                if kind.reads_files and not is_missing(cell):
                    for path in _paths(kind.resolved(cell, table.base or Path())):
                        found.update(_file(path))
    return found.hexdigest()


def _parts(cell: Any) -> Iterator[bytes]:
    """A cell as bytes; an array's repr would leave out its middle."""
    if isinstance(cell, np.ndarray):
        yield f"{cell.dtype} {cell.shape}".encode()
        yield cell.tobytes()
    elif isinstance(cell, bytes):
        yield cell
    elif isinstance(cell, Mapping):
        for key, part in cell.items():
            yield repr(key).encode()
            yield from _parts(part)
    else:
        yield repr(cell).encode()


def _paths(cell: Any) -> list[str]:
    """The files that a resolved cell names: itself, or a part of a mapping. Text may be a series, and long."""
    parts = cell.values() if isinstance(cell, Mapping) else (cell,)
    return [str(part) for part in parts if isinstance(part, (str, Path)) and os.path.isfile(part)]


def _file(path: str) -> bytes:
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(_END)
        stream.seek(max(size - _END, 0))
        return size.to_bytes(8, "little") + start + stream.read(_END)
