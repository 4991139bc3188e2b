"""Every damage to a checkpoint is found, named, and answered with the one before."""

import errno
import json
import os
import random
import shutil
import struct
from pathlib import Path

import pytest
from sample_states import latest, state

from perceivers.errors import ModelError
from perceivers.training import checkpoints
from perceivers.training.checkpoints import (
    MANIFEST,
    STATE,
    TENSORS,
    latest_checkpoint,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)


def damages(path: Path, rng: random.Random, flips: int):
    """Yield after each damage done to the checkpoint at `path`; it is mended before the next."""
    files = [path / name for name in (MANIFEST, STATE, TENSORS)]
    good = {file: file.read_bytes() for file in files}

    def damaged(file: Path, content: bytes | None, what: str):
        file.unlink() if content is None else file.write_bytes(content)
        yield f"{what} of {file.name}"
        file.write_bytes(good[file])

    for _ in range(flips):
        file = rng.choice(files)
        content, bit = bytearray(good[file]), rng.randrange(8 * len(good[file]))
        content[bit // 8] ^= 1 << bit % 8
        yield from damaged(file, bytes(content), f"bit {bit}")
    for file in files:
        for length in (0, 1, 7, 8, len(good[file]) // 2, len(good[file]) - 1):
            yield from damaged(file, good[file][:length], f"{length} bytes")
        yield from damaged(file, good[file] + b"\0", "one byte more")
        yield from damaged(file, None, "absence")


def test_every_damage_is_found_and_the_one_before_taken(tmp_path):
    write_checkpoint(tmp_path, 1, state(1))
    path = write_checkpoint(tmp_path, 2, state(2))
    for what in damages(path, random.Random(0), flips=120):
        with pytest.raises(ModelError, match="checkpoint-000000002 cannot be used"):
            read_checkpoint(path)
        step, reports = latest(tmp_path)
        assert step == 1, f"not found: {what}"
        assert len(reports) == 1
        assert "checkpoint-000000002 cannot be used" in reports[0]
    assert latest(tmp_path) == (2, [])


@pytest.mark.parametrize("file", [MANIFEST, STATE, TENSORS])
def test_a_file_of_another_checkpoint_is_found(tmp_path, file):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step, state(step), keep=3)
    shutil.copy(tmp_path / "checkpoint-000000001" / file, tmp_path / "checkpoint-000000003" / file)
    assert latest(tmp_path)[0] == 2


def test_none_good_is_an_error_and_not_a_fresh_start(tmp_path):
    for step in (1, 2):
        (write_checkpoint(tmp_path, step, state(step)) / STATE).write_text("{}")
    reports: list[str] = []
    with pytest.raises(ModelError, match="none of its 2 checkpoints can be used") as error:
        latest_checkpoint(tmp_path, reports.append)
    assert len(reports) == 2
    assert "checkpoint-000000001" in str(error.value)
    assert "'state.json' has 2 bytes where its manifest says" in str(error.value)


def resigned(path: Path) -> None:
    """Give a changed checkpoint a manifest that matches it: what somebody hostile would do."""
    files = {}
    for name in (TENSORS, STATE):
        content = (path / name).read_bytes()
        (path / name).unlink()
        files[name] = checkpoints._write(path / name, [content])
    (path / MANIFEST).write_bytes(checkpoints._manifest(1, files))


def test_a_header_bomb_is_refused_before_it_is_read(tmp_path):
    path = write_checkpoint(tmp_path, 1, state(1))
    length = checkpoints.MAX_HEADER + 8
    with open(path / TENSORS, "wb") as stream:
        stream.write(struct.pack("<Q", length))
        stream.truncate(length + 8)
    resigned(path)
    with pytest.raises(ModelError, match="states a header of 16,777,224 bytes; at most 16,777,216 are possible"):
        verify_checkpoint(path)
    (path / TENSORS).write_bytes(struct.pack("<Q", 2**63) + b"{}")
    resigned(path)
    with pytest.raises(ModelError, match="states a header of 9,223,372,036,854,775,808 bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (STATE, b'{"tensor": "not there"}'),
        (STATE, b'{"tensor": []}'),
        (STATE, b'{"dict": 3}'),
        (STATE, b"[" * 100_000),
        (STATE, b"\xff"),
        (TENSORS, struct.pack("<Q", 2) + b"[]"),
        (TENSORS, struct.pack("<Q", 64) + json.dumps({"a": {"dtype": "F32", "shape": [9]}}).ljust(64).encode()),
    ],
)
def test_a_state_that_matches_its_manifest_but_makes_no_sense(tmp_path, file, content):
    path = write_checkpoint(tmp_path, 1, state(1))
    (path / file).write_bytes(content)
    resigned(path)
    with pytest.raises(ModelError, match="its state cannot be understood"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "cannot be understood"),
        (b"[" * 60_000, "cannot be understood"),
        (b" " * 70_000, "larger than 65,536 bytes"),
        (b'{"format": "other"}', "of the format 'other', not 'perceivers-checkpoint'"),
        (b'{"format": "perceivers-checkpoint", "version": 2}', "format version 2; this program reads version 1"),
    ],
)
def test_a_manifest_of_something_else(tmp_path, content, message):
    path = write_checkpoint(tmp_path, 1, state(1))
    (path / MANIFEST).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_checkpoint(path)


def test_missing_folder_and_unreadable_file(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"checkpoint-7 cannot be used: there is no such folder\."):
        read_checkpoint(tmp_path / "checkpoint-7")
    path = write_checkpoint(tmp_path, 1, state(1))

    def refuse(file, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

    monkeypatch.setattr(checkpoints, "open", refuse, raising=False)
    with pytest.raises(ModelError, match=r"it cannot be read .*Permission denied.*tensors.safetensors"):
        read_checkpoint(path)
