"""Files and folders are the old or the new after every fault, and nothing is left behind."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from faults import failing_at, instrument, killed_at

from perceivers import atomic
from perceivers.atomic import clean_temporary, remove_folder, replace_file, replace_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_text(path: Path, text: str) -> None:
    replace_file(path, lambda stream: stream.write(text.encode()))


def write_folder(path: Path, text: str) -> None:
    with replace_folder(path) as folder:
        (folder / "one").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "two").write_text(text)


def whole(text: str) -> dict[str, bytes]:
    return {"one": text.encode(), os.path.join("deep", "two"): text.encode()}


def test_file_is_made_with_its_folders_and_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_text(path, "old, and longer")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def test_folder_is_made_with_its_folders_and_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a" / "folder"
    write_folder(path, "old")
    (path / "stray").touch()
    write_folder(path, "new")
    assert contents(path) == whole("new")
    assert names(path.parent) == ["folder"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~_umask()


def test_an_error_of_the_writer_changes_nothing(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    write_text(file, "old")
    write_folder(folder, "old")

    def fail(stream):
        stream.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(file, fail)
    with pytest.raises(ZeroDivisionError), replace_folder(folder) as temporary:  # noqa: PT012
        (temporary / "one").write_text("new")
        _ = 1 / 0
    assert file.read_text() == "old"
    assert contents(folder) == whole("old")
    assert names(tmp_path) == ["file", "folder"]


def test_errors_name_the_target(tmp_path):
    def full(stream):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'file'}'"):
        replace_file(tmp_path / "file", full)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match=r"not a file.*folder"):
        write_text(tmp_path / "folder", "x")
    write_text(tmp_path / "file", "x")
    with pytest.raises(NotADirectoryError, match=r"not a folder.*file"):
        write_folder(tmp_path / "file", "x")


def test_links_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_folder(tmp_path / "elsewhere" / "folder", "old")
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere" / "folder")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere" / "file")
    write_folder(tmp_path / "folder", "new")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "folder").is_symlink()
    assert (tmp_path / "file").is_symlink()
    assert contents(tmp_path / "elsewhere" / "folder") == whole("new")
    assert (tmp_path / "elsewhere" / "file").read_text() == "new"


def test_what_is_written_reaches_the_disk_before_its_name_does(tmp_path):
    events = []

    def record(function, kind):
        def call(first, *rest):
            where = os.readlink(f"/proc/self/fd/{first}") if kind == "fsync" else str(first)
            role = "folder" if os.path.isdir(where) else "file"
            events.append(f"{kind} {role}")
            return function(first, *rest)

        return call

    def recorded(action):
        events.clear()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "replace", "rename"):
                patch.setattr(os, name, record(getattr(os, name), name))
            action()
        return list(events)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to know what is fsynced")
    assert recorded(lambda: write_text(tmp_path / "file", "x")) == ["fsync file", "replace file", "fsync folder"]
    assert recorded(lambda: write_folder(tmp_path / "folder", "x")) == [
        "fsync file", "fsync folder",  # deep/two, deep
        "fsync file", "fsync folder",  # one, and the folder itself
        "rename folder", "fsync folder",
    ]  # fmt: skip


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_killed_at_every_point_the_folder_is_old_or_new(tmp_path, monkeypatch, exists, swaps):
    if not swaps:  # a file system that cannot swap two names
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    path = tmp_path / "folder"
    seen, point, killed = set(), 0, True
    while killed:
        clean_temporary(tmp_path)
        if path.exists():
            remove_folder(path)
        if exists:
            write_folder(path, "old")
        killed = killed_at(point, lambda: write_folder(path, "new"))
        if swaps and exists:
            assert path.exists(), f"no folder at all after point {point}"
        clean_temporary(tmp_path)
        found = contents(path) if path.exists() else None
        assert found in ([whole("old"), whole("new")] if exists else [None, whole("new")]), f"after point {point}"
        assert set(names(tmp_path)) <= {"folder"}
        seen.add(str(found))
        point += 1
    assert point > 8
    assert len(seen) == 2


def test_killed_at_every_point_the_file_is_old_or_new(tmp_path):
    path = tmp_path / "file"
    point, killed, seen = 0, True, set()
    while killed:
        write_text(path, "old")
        killed = killed_at(point, lambda: write_text(path, "new"))
        seen.add(path.read_text())
        clean_temporary(tmp_path)
        assert names(tmp_path) == ["file"]
        point += 1
    assert seen == {"old", "new"}
    assert point > 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_failing_at_every_point_leaves_old_or_new_and_no_rubbish(tmp_path, code):
    file, folder = tmp_path / "file", tmp_path / "folder"

    def action():
        write_text(file, "new")
        write_folder(folder, "new")

    point, failed = 0, True
    while failed:
        write_text(file, "old")
        write_folder(folder, "old")
        with suppress(OSError):
            failed = failing_at(point, OSError(code, os.strerror(code)), action)
        assert file.read_text() in ("old", "new")
        assert contents(folder) in (whole("old"), whole("new"))
        clean_temporary(tmp_path)  # only a failed removal of the old folder leaves anything
        assert names(tmp_path) == ["file", "folder"]
        point += 1
    assert point > 12


def test_a_failed_second_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    path = tmp_path / "folder"
    write_folder(path, "old")
    renames = []

    def rename(source, target, rename=os.rename):
        renames.append(source)
        if len(renames) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="Input/output"):
        write_folder(path, "new")
    assert contents(path) == whole("old")
    assert names(tmp_path) == ["folder"]


def test_cleaning_touches_only_what_killed_processes_left(tmp_path):
    kept = [".hidden", ".model.new", ".model.0123456z.new", "model.01234567.new", "file"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / ".file.0123abcd.new").touch()
    (tmp_path / ".model.0123abcd.new").mkdir()
    (tmp_path / ".model.0123abcd.new" / "part").touch()
    assert [path.name for path in clean_temporary(tmp_path)] == [".file.0123abcd.new", ".model.0123abcd.new"]
    assert names(tmp_path) == sorted(kept)
    assert clean_temporary(tmp_path / "absent") == []


def test_a_removed_folder_is_whole_or_gone_at_every_point(tmp_path):
    path = tmp_path / "folder"
    point, killed = 0, True
    while killed:
        write_folder(path, "old")
        killed = killed_at(point, lambda: remove_folder(path))
        assert not path.exists() or contents(path) == whole("old")
        clean_temporary(tmp_path)
        point += 1
    assert not path.exists()
    assert point > 4


def test_network_file_systems_without_fsync_for_folders_are_fine(tmp_path, monkeypatch):
    def fsync(descriptor, fsync=os.fsync):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_folder(tmp_path / "folder", "x")
    assert contents(tmp_path / "folder") == whole("x")


def test_the_instrument_sees_every_kind_of_change(tmp_path):
    kinds = set()
    write_folder(tmp_path / "folder", "old")
    with pytest.MonkeyPatch.context() as patch:
        instrument(patch, kinds.add)
        write_folder(tmp_path / "folder", "new")
        write_text(tmp_path / "file", "x")
    assert kinds >= {"mkdir", "create", "write", "half written", "fsync", "replace", "exchange", "unlink", "rmdir"}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
