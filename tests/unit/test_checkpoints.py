"""Checkpoints hold everything, come back the same, and only what is no longer needed goes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from sample_states import latest, state, steps
from test_state_tree import same
from torch import nn

from perceivers.training import checkpoints, rng
from perceivers.training.checkpoints import (
    MANIFEST,
    STATE,
    TENSORS,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from perceivers.training.ema import Ema
from perceivers.training.optimisers import OptimiserSettings, build_optimiser


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


def test_the_newest_stay(tmp_path):
    for step in range(1, 7):
        write_checkpoint(tmp_path, step, state(step), keep=2)
    assert steps(tmp_path) == [5, 6]
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
