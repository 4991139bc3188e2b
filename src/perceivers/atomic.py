"""Files and folders that appear whole or not at all, whatever kills the process or the power.

The order is always the same: write beside the target, fsync what was written, rename over the target, fsync the folder
that holds the name. A reader sees the old or the new, never a mixture and never nothing.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from perceivers.errors import DataError

# `.NAME.<8 hex>.new` is being written; `.NAME.<8 hex>.old` is a folder set aside for the moment of two renames.
_LEFTOVER = re.compile(r"^\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<role>new|old)$")


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace the file `path` with what `write(stream)` writes; when that fails `path` is as it was.

    Missing parent folders are made. A symbolic link is followed. Raises `OSError` that names `path` (no space,
    read-only, no permission, or `path` is something other than a file); whatever `write` raises passes through.
    """
    path = _target(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "there is something that is not a file", str(path))
    temporary = _beside(path, "new")
    with _named(path):
        try:
            with open(temporary, "xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            _discard(temporary)
            raise
        fsync_folder(path.parent)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """`with replace_folder(path) as folder:` fill `folder`; when the block ends well it becomes `path` in one step.

    An existing folder `path` is replaced as a whole (nothing of it is kept); when the block raises it is as it was
    and the new one is gone. Every file is fsynced here. Missing parent folders are made; a symbolic link is followed.
    Raises `OSError` that names `path`; errors of the block pass through.
    """
    path = _target(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is something that is not a folder", str(path))
    temporary = _beside(path, "new")
    with _named(path):
        try:
            temporary.mkdir()
            yield temporary
            for folder, _, files in os.walk(temporary, topdown=False):
                for name in files:
                    _fsync(Path(folder, name))
                fsync_folder(Path(folder))
            old = _into_place(temporary, path)
        except BaseException:
            _discard(temporary)
            raise
        fsync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a kill on the way leaves no part of it under its name."""
    rubbish = _beside(path, "new")
    os.rename(path, rubbish)
    shutil.rmtree(rubbish)


def clean_temporary(folder: Path, names: Collection[str] | None = None) -> list[Path]:
    """Remove what killed processes left half-written in `folder`; return what was removed or put back.

    A folder that was set aside for its successor, which then never came, gets its name back. Call it only where nobody
    else is writing into `folder` at this moment; or name the files and folders, `names`, that nobody else writes.
    """
    cleaned = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _LEFTOVER.match(path.name)
        if match is None or (names is not None and match["name"] not in names):
            continue
        target = folder / match["name"]
        if match["role"] == "old" and not target.exists():
            os.replace(path, target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        cleaned.append(path)
    return cleaned


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: a rename is only certain to survive a power cut after this."""
    if os.name == "nt":  # Windows gives no handle to a folder, and needs none
        return
    try:
        _fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no fsync for folders and say so like this
            raise


def _target(path: Path) -> Path:
    """`path` with links followed, its parents made and durable."""
    path = Path(os.path.realpath(path))
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync_folder(folder.parent)
    return path


def _beside(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{role}")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(temporary: Path) -> None:
    """Remove a half-written file or folder while an error is on its way up: that error is the one to report."""
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            return  # the disk that failed the write also fails the removal; `clean_temporary` removes it later


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of `write` and `fsync` carry no file name; give them the target's."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _into_place(new: Path, path: Path) -> Path | None:
    """Rename folder `new` to `path`; return where the folder that was there is now, if there was one."""
    if not path.exists():
        os.rename(new, path)
        return None
    if _exchange(new, path):
        return new
    # Two renames: for a moment there is no `path`. A process killed there leaves the old one to `clean_temporary`.
    old = _beside(path, "old")
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step. False where the system or the file system cannot (only Linux is asked)."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def check_writable(path: Path, inputs: Iterable[Any] = (), overwrite: bool = False) -> None:
    """Raise `DataError` for a file that could or should not be written, before anything is computed for it.

    That is also one of the files in `inputs`, and, unless `overwrite`, any file that exists.
    """
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; give the name of a file.")
    if path.exists():
        for given in inputs:
            if isinstance(given, (str, Path)) and Path(given).exists() and path.samefile(given):
                raise DataError(
                    f"'{path}' is one of the files to be read, and would be lost; give another file to write."
                )
        if not overwrite:
            raise DataError(
                f"'{path}' exists, and would be replaced; give another file, or allow it by --overwrite "
                "(overwrite=True)."
            )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"'{path}' cannot be written: '{folder}' is no folder that you may write to.")
