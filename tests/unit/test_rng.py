"""Random states come back from a checkpoint so that the next draw is the one that would have followed."""

import random

import numpy as np
import pytest
import torch

from perceivers.errors import TrainingError
from perceivers.training import rng
from perceivers.training.checkpoints import read_checkpoint, write_checkpoint


@pytest.fixture(autouse=True)
def _own_states():
    states = rng.collect()
    yield
    rng.restore(states)


def draws() -> list:
    return [
        [random.random() for _ in range(3)],
        random.gauss(0, 1),
        np.random.rand(3).tolist(),
        np.random.standard_normal(),
        torch.rand(3).tolist(),
        torch.randn(33).tolist(),
    ]


@pytest.mark.parametrize("warm", range(4))
def test_draws_after_restoring_are_the_same(tmp_path, warm):
    rng.seed_everything(7)
    for _ in range(warm):
        draws()
    random.gauss(0, 1)  # an odd number of normal draws leaves one in store
    np.random.standard_normal()
    path = write_checkpoint(tmp_path, 0, rng.collect())
    expected = [draws() for _ in range(3)]
    rng.seed_everything(8)
    rng.restore(read_checkpoint(path))
    assert [draws() for _ in range(3)] == expected


def test_one_seed_for_everything():
    rng.seed_everything(3)
    first = draws()
    rng.seed_everything(3)
    assert draws() == first
    rng.seed_everything(4)
    assert all(one != other for one, other in zip(draws(), first, strict=True))


def test_collecting_changes_nothing():
    rng.seed_everything(3)
    states = rng.collect()
    first = draws()
    rng.restore(states)
    rng.collect()
    assert draws() == first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(seed):
    with pytest.raises(TrainingError, match=rf"from 0 to 4294967295, not {seed}"):
        rng.seed_everything(seed)


def test_states_of_absent_devices_are_left_out():
    states = rng.collect()
    rng.restore({**states, "cuda": [torch.zeros(16, dtype=torch.uint8)] if not torch.cuda.is_available() else []})
    assert torch.equal(rng.collect()["torch"], states["torch"])


@pytest.mark.gpu
def test_draws_on_the_device_come_back(tmp_path):
    torch.zeros(1, device="cuda")
    path = write_checkpoint(tmp_path, 0, rng.collect())
    expected = torch.rand(5, device="cuda").tolist()
    rng.restore(read_checkpoint(path))
    assert torch.rand(5, device="cuda").tolist() == expected
