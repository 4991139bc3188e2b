"""Files that people name are measured before they are read: a device, a pipe or a giant must not fill the memory."""

import stat
from pathlib import Path

from perceivers.errors import DataError

GB = 10**9


def read_bounded(path: Path, most: int, what: str) -> bytes:
    """The bytes of a plain file of at most `most` bytes. Errors: those of `check_bounded`, and `OSError`."""
    check_bounded(path, most, what)
    return path.read_bytes()


def check_bounded(path: Path, most: int, what: str) -> None:
    """Raises `DataError` naming `what` when `path` is no plain file, or larger than `most` bytes."""
    if "\0" in str(path):
        raise DataError(f"{what}: a null character is in no name of a file.")
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "device or pipe"
        raise DataError(f"{what} is a {kind}; wanted a file.")
    if found.st_size > most:
        raise DataError(f"{what} has {found.st_size / GB:.1f} GB; the most that is read is {most / GB:g} GB.")
