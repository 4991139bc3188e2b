"""Checkpoints hold everything, survive every fault, and show every damage."""

import errno
import json
import os
import random
import shutil
import struct
from pathlib import Path

import pytest
import torch
from faults import failing_at, killed_at
from safetensors.torch import load_file
from test_state_tree import same
from torch import nn

from perceivers.atomic import clean_temporary
from perceivers.errors import ModelError, TrainingError
from perceivers.training import checkpoints, rng
from perceivers.training.checkpoints import (
    MANIFEST,
    STATE,
    TENSORS,
    latest_checkpoint,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from perceivers.training.ema import Ema
from perceivers.training.optimisers import OptimiserSettings, build_optimiser


def state(step: int) -> dict:
    return {
        "step": step,
        "history": [0.5, float("inf")],
        "model": {"latents": torch.full((8, 4), float(step)), "count": torch.tensor(step)},
        "optimiser": {"state": {0: {"exp_avg": torch.ones(3, dtype=torch.bfloat16)}}, "betas": (0.9, 0.999)},
    }


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir())


def latest(folder: Path) -> tuple[int, list[str]]:
    """The step that a resumed run would go on from, with what was reported."""
    reports: list[str] = []
    found = latest_checkpoint(folder, reports.append)
    assert found is not None
    path, loaded = found
    step = int(path.name.removeprefix("checkpoint-"))
    assert same(loaded, state(step))
    return step, reports


@pytest.mark.parametrize("dtype", checkpoints._DTYPES, ids=str)
def test_every_dtype_comes_back_bit_for_bit(tmp_path, dtype):
    bits = torch.randint(0, 2, (3, 16), dtype=torch.uint8)
    matrix = bits.bool() if dtype is torch.bool else (bits * 73).view(dtype)
    tree = {"matrix": matrix, "scalar": matrix[0, 0], "none": matrix[:0], "columns": matrix.t()}
    loaded = read_checkpoint(write_checkpoint(tmp_path, 1, tree))
    for name, tensor in tree.items():
        assert loaded[name].dtype == dtype
        assert loaded[name].shape == tensor.shape
        assert loaded[name].is_contiguous()
        assert loaded[name].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


def test_files_are_safetensors_and_json_and_hold_no_pickle(tmp_path):
    path = write_checkpoint(tmp_path / "run" / "checkpoints", 12, state(12))
    assert path == tmp_path / "run" / "checkpoints" / "checkpoint-000000012"
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST, STATE, TENSORS]
    assert set(load_file(path / TENSORS)) == {"model/latents", "model/count", "optimiser/state/0/exp_avg"}
    assert json.loads((path / STATE).read_text())["dict"]["step"] == 12
    manifest = json.loads((path / MANIFEST).read_text())
    assert (manifest["format"], manifest["version"], manifest["step"]) == ("perceivers-checkpoint", 1, 12)
    assert manifest["files"][TENSORS]["bytes"] == (path / TENSORS).stat().st_size


def test_a_state_without_tensors_and_an_unknown_dtype(tmp_path):
    assert read_checkpoint(write_checkpoint(tmp_path, 0, {"step": 0})) == {"step": 0}
    with pytest.raises(TypeError, match=r"cannot hold a tensor of torch.complex128 \('x'\)"):
        write_checkpoint(tmp_path, 1, {"x": torch.ones(1, dtype=torch.complex128)})
    assert steps(tmp_path) == [0]


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path):
    path = write_checkpoint(tmp_path, 3, state(3))
    loaded = read_checkpoint(path)
    size = (path / TENSORS).stat().st_size
    with open(path / TENSORS, "r+b") as stream:
        stream.write(b"\0" * size)
    shutil.rmtree(path)
    assert same(loaded, state(3))


def test_the_newest_stay_and_the_protected_ones(tmp_path):
    best = tmp_path / "checkpoint-000000002"
    for step in range(1, 7):
        write_checkpoint(tmp_path, step, state(step), keep=2, protected={best})
    assert steps(tmp_path) == [2, 5, 6]
    write_checkpoint(tmp_path, 7, state(7), keep=1)
    assert steps(tmp_path) == [7]


def test_writing_a_step_again_replaces_it(tmp_path):
    write_checkpoint(tmp_path, 5, {"old": True})
    write_checkpoint(tmp_path, 5, state(5))
    assert latest(tmp_path) == (5, [])
    assert steps(tmp_path) == [5]


def test_a_run_resumed_from_an_earlier_step_leaves_the_later_ones_behind(tmp_path):
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, step, state(step), keep=3)
    write_checkpoint(tmp_path, 15, state(15), keep=3)
    assert steps(tmp_path) == [10, 15]
    assert latest(tmp_path)[0] == 15


def test_nothing_to_resume_from(tmp_path):
    assert latest_checkpoint(tmp_path / "absent", pytest.fail) is None
    (tmp_path / ".checkpoint-000000001.0123abcd.new").mkdir()
    assert latest_checkpoint(tmp_path, pytest.fail) is None


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


def test_killed_at_every_point_the_old_or_the_new_loads(tmp_path, monkeypatch):
    """New step, and a step that is written again; `keep` makes the removal of the oldest part of it."""
    monkeypatch.setattr(checkpoints, "_CHUNK", 100)  # several writes a file
    first = tmp_path / "first"
    for step in (1, 2):
        write_checkpoint(first, step, state(step))
    for new in (3, 2):
        point, killed, loaded = 0, True, set()
        while killed:
            folder = tmp_path / f"{new}-{point}"
            shutil.copytree(first, folder)
            killed = killed_at(point, lambda folder=folder, new=new: write_checkpoint(folder, new, state(new)))
            step, reports = latest(folder)
            assert step in (2, new)
            assert reports == [], f"a damaged checkpoint has a valid name after point {point}"
            loaded.add(step)
            clean_temporary(folder)
            assert not [path for path in folder.iterdir() if path.name.startswith(".")]
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


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, kind):
    """Weights, both moments, averages, dropout and shuffling are as if nothing had happened."""

    class Run:
        def __init__(self):
            self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
            self.optimiser = build_optimiser(self.model, OptimiserSettings(kind=kind))
            self.ema = Ema(self.model, 0.9)
            self.losses = []

        def train(self, start, end):
            for step in range(start, end):
                self.optimiser.zero_grad()
                loss = self.model(torch.randn(6, 4)).square().mean()
                loss.backward()
                self.optimiser.step()
                self.ema.update(step)
                self.losses.append(loss.item())

        def parts(self):
            return {"model": self.model, "optimiser": self.optimiser, "ema": self.ema}

        def state(self):
            return {"rng": rng.collect(), **{name: part.state_dict() for name, part in self.parts().items()}}

    rng.seed_everything(0)
    whole = Run()
    whole.train(0, 12)

    rng.seed_everything(0)
    before = Run()
    before.train(0, 5)
    path = write_checkpoint(tmp_path, 5, before.state())
    rng.seed_everything(99)
    after = Run()
    loaded = read_checkpoint(path)
    for name, part in after.parts().items():
        part.load_state_dict(loaded[name])
    rng.restore(loaded["rng"])
    after.train(5, 12)
    assert [x.hex() for x in before.losses + after.losses] == [x.hex() for x in whole.losses]
    assert same(dict(after.state()["model"]), dict(whole.state()["model"]))
    assert same(after.state()["ema"], whole.state()["ema"])
    assert same(after.state()["optimiser"], whole.state()["optimiser"])
