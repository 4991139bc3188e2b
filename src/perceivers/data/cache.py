"""The cache of named data sets: one file of arrays per data set, checked against a SHA-256 each time it is read."""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from perceivers.atomic import replace_file
from perceivers.errors import DataError

Say = Callable[[str], None]  # where progress lines go


def cache_folder() -> Path:
    """The folder where fetched data lies: the environment variable `PERCEIVERS_CACHE`, else `~/.cache/perceivers`."""
    given = os.environ.get("PERCEIVERS_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "perceivers"


def cache_file(name: str) -> Path:
    """The file that holds the arrays called `name`. Its SHA-256 is noted beside it, in `NAME.npz.sha256`."""
    return cache_folder() / f"{name}.npz"


def is_cached(name: str) -> bool:
    """Whether the arrays called `name` lie in the cache. Reading them is what checks them."""
    return cache_file(name).is_file() and _note(cache_file(name)).is_file()


def noted_sha256(name: str) -> str:
    """The SHA-256 that was noted when the arrays called `name` were written."""
    return _note(cache_file(name)).read_text(encoding="ascii").strip()


def cached_arrays(name: str, make: Callable[[], dict[str, np.ndarray]], say: Say) -> dict[str, np.ndarray]:
    """The arrays called `name`: from the cache, or made by `make()` and then kept there.

    A file that does not have the noted SHA-256 is announced through `say` and made again. Files are written whole or
    not at all, and the same arrays always give the same bytes, so two processes that make them at once do no harm.
    Raises `DataError` when the cache cannot be read or written; whatever `make` raises passes through.
    """
    path = cache_file(name)
    try:
        arrays = _read(path, say)
    except OSError as error:
        raise _unusable("read", path, error) from error
    if arrays is None:
        arrays = make()
        try:
            replace_file(path, lambda stream: _write_arrays(stream, arrays))
            replace_file(_note(path), lambda stream: _write_text(stream, sha256(path.read_bytes())))
        except OSError as error:
            raise _unusable("write", path, error) from error
    return arrays


def sha256(content: bytes) -> str:
    """The SHA-256 of `content` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _read(path: Path, say: Say) -> dict[str, np.ndarray] | None:
    """The arrays in `path`, or None when they have to be made (again)."""
    if not path.exists():
        return None
    content = path.read_bytes()
    given = sha256(content)
    noted = _note(path).read_bytes().decode("ascii", "replace").strip() if _note(path).exists() else "nothing"
    if given != noted:
        say(f"{path} is damaged (its SHA-256 is {given}, noted was {noted}): making it again")
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


def _write_arrays(stream: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """An uncompressed `.npz` without the times that `np.savez` puts in: the same arrays always give the same bytes."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.ascontiguousarray(arrays[name]), allow_pickle=False)


def _write_text(stream: BinaryIO, line: str) -> None:
    stream.write(f"{line}\n".encode("ascii"))


def _unusable(verb: str, path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(
        f"cannot {verb} {path}: {reason}. Put that right, or set PERCEIVERS_CACHE to a folder that has room and that "
        "you may write to."
    )
