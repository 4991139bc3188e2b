"""No kill, full disk or failing disk while a checkpoint is written costs one that was there."""

import errno
import os
import random
import shutil

import pytest
import torch
from faults import failing_at, killed_at
from sample_states import latest, state, steps

from perceivers.atomic import clean_temporary
from perceivers.errors import TrainingError
from perceivers.training import checkpoints
from perceivers.training.checkpoints import TENSORS, verify_checkpoint, write_checkpoint


def test_killed_at_every_point_the_old_or_the_new_loads(tmp_path, monkeypatch):
    """New step, and a step that is written again; `keep` makes the removal of the oldest part of it."""
    monkeypatch.setattr(checkpoints, "_CHUNK", 200)  # several writes a file
    first = tmp_path / "first"
    for step in (1, 2):
        write_checkpoint(first, step, state(step))
    for new in (3, 2):
        point, killed, loaded = 0, True, set()
        while killed:
            folder = tmp_path / f"{new}-{point}"
            shutil.copytree(first, folder)
            killed = killed_at(point, lambda folder=folder, new=new: write_checkpoint(folder, new, state(new), keep=1))
            step, _ = latest(folder)
            assert step in (2, new)
            for path in folder.glob("checkpoint-*"):
                verify_checkpoint(path)
            loaded.add(step)
            clean_temporary(folder)
            if (step, new) == (2, 3):
                assert steps(folder) == [1, 2], "an old one went before the new one was there"
            point += 1
        assert loaded == {2, new}
        assert latest(folder)[0] == new
        assert point > 25


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_failing_at_every_point_costs_no_checkpoint(tmp_path, code):
    first = tmp_path / "first"
    for step in (1, 2):
        write_checkpoint(first, step, state(step))
    point, reached, messages = 0, True, []
    while reached:
        folder = tmp_path / str(point)
        shutil.copytree(first, folder)
        before = len(messages)
        try:
            reached = failing_at(
                point, OSError(code, os.strerror(code)), lambda folder=folder: write_checkpoint(folder, 3, state(3))
            )
        except TrainingError as error:
            messages.append(str(error))
        step, reports = latest(folder)
        assert step in (2, 3)
        assert reports == []
        if step == 2:
            assert len(messages) == before + 1
            assert "checkpoint-000000002, is untouched" in messages[-1]
            assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        point += 1
    assert point > 20
    # Making a folder that exists fails twice without harm; the last round reaches no fault.
    assert len(messages) == point - 3
    assert all(os.strerror(code) in message and str(tmp_path) in message for message in messages)


def test_a_disk_that_is_full_from_a_random_byte_on(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1, state(1))
    total = sum(file.stat().st_size for file in (tmp_path / "checkpoint-000000001").iterdir())
    rng = random.Random(0)
    for _ in range(20):
        room = rng.randrange(total)

        class Disk:
            def __init__(self, path, mode):
                self.stream = open(path, mode)  # noqa: SIM115
                self.reading = mode == "rb"

            def __enter__(self):
                return self if not self.reading else self.stream

            def __exit__(self, *_):
                self.stream.close()

            def __getattr__(self, name):
                return getattr(self.stream, name)

            def write(self, data):
                nonlocal room
                room -= len(data)
                self.stream.write(data[: max(0, len(data) + min(room, 0))])
                if room < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "open", Disk, raising=False)
            with pytest.raises(TrainingError, match=r"checkpoint-000000002: No space left.* needs [\d,]+ bytes there"):
                write_checkpoint(tmp_path, 2, state(2))
        assert latest(tmp_path) == (1, [])
        assert steps(tmp_path) == [1]


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=70_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        TrainingError, match=r"only 70,000 bytes are free\. It needs 1,0\d\d,\d{3} bytes.*no earlier one"
    ):
        write_checkpoint(tmp_path, 1, {"x": torch.zeros(250_000)})
    assert list(tmp_path.iterdir()) == []


def test_damage_on_the_way_to_the_disk_is_found_by_reading_back(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1, state(1))

    def forgetful(folder):
        file = folder / TENSORS
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        verify_checkpoint(folder)

    monkeypatch.setattr(checkpoints, "verify_checkpoint", forgetful)
    with pytest.raises(TrainingError, match=r"reading it back found damage.*SHA-256"):
        write_checkpoint(tmp_path, 2, state(2), keep=1)
    monkeypatch.undo()
    assert steps(tmp_path) == [1]
    assert latest(tmp_path) == (1, [])
