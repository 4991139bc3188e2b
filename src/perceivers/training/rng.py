"""Every random state of the process: set from one seed, taken into a checkpoint, put back."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from perceivers.errors import TrainingError


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices). `seed` is from 0 to 2³² − 1, the range that all three accept."""
    if not 0 <= seed < 2**32:
        raise TrainingError(f"the seed must be a whole number from 0 to {2**32 - 1}, not {seed}.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def collect() -> dict[str, Any]:
    """The random states of Python, numpy, torch on the CPU and, once CUDA is in use, on each of its devices.

    A tree of tensors, numbers and strings that a checkpoint can hold.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore(states: Mapping[str, Any]) -> None:
    """Put back what `collect` gave, so that the next draw is the one that would have followed.

    States of CUDA devices that this machine lacks are left out: on other devices other numbers are drawn anyway.
    """
    python, legacy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = legacy["keys"].numpy().astype(np.uint32)
    np.random.set_state((legacy["name"], keys, legacy["position"], legacy["has_gauss"], legacy["cached"]))
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
