"""Small training states, one a step, and what a resumed run would find of them."""

from pathlib import Path

import torch
from test_state_tree import same

from perceivers.training.checkpoints import latest_checkpoint


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
