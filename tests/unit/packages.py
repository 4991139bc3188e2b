"""Small packages for tests of fetching: a wheel, a source package, a Debian package."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

from perceivers.data.fetch import Content, Package

DATA = {"toy/values.txt": b"1 2 3\n", "toy/labels.txt.gz": gzip.compress(b"a b c\n")}
UNPACKED = {"toy/values.txt": b"1 2 3\n", "toy/labels.txt.gz": b"a b c\n"}
CONTENTS = {name: Content(hashlib.sha256(data).hexdigest(), len(data)) for name, data in UNPACKED.items()}


def write_wheel(folder: Path, data: dict[str, bytes] = DATA) -> Path:
    path = folder / "perceivers_toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in data.items():
            wheel.writestr(name, content)
        wheel.writestr(
            "perceivers_toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: perceivers-toy\nVersion: 1.0\n"
        )
        wheel.writestr(
            "perceivers_toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("perceivers_toy-1.0.dist-info/RECORD", "")
    return path


def tar_bytes(data: dict[str, bytes], mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in data.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def write_source(folder: Path, setup: str) -> Path:
    path = folder / "perceivers-toy-1.0.tar.gz"
    files = {f"perceivers-toy-1.0/{name}": content for name, content in DATA.items()}
    path.write_bytes(tar_bytes({"perceivers-toy-1.0/setup.py": setup.encode(), **files}, "w:gz"))
    return path


def deb_bytes(data: bytes, name: str = "data.tar.xz") -> bytes:
    """An `ar` archive like a Debian package; the odd-length first member checks the padding."""
    parts = [b"!<arch>\n"]
    for member, content in (("debian-binary", b"2.0"), ("control.tar.gz", b"none"), (name, data)):
        parts.append(f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content)
        parts.append(b"\n" * (len(content) % 2))
    return b"".join(parts)


def write_deb(folder: Path, compression: str = "xz", data: dict[str, bytes] = DATA) -> Path:
    path = folder / "perceivers-toy_1.0-1_all.deb"
    files = {f"./{name}": content for name, content in data.items()}
    path.write_bytes(deb_bytes(tar_bytes(files, f"w:{compression}"), f"data.tar.{compression}"))
    return path


def pypi_package(path: Path) -> Package:
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package("PyPI", "perceivers-toy", "1.0", 1, path.name, CONTENTS, checksum)


DEBIAN = Package("Debian", "perceivers-toy", "1.0-1", 1, "perceivers-toy_*.deb", CONTENTS)
