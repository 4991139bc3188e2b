"""How far computed numbers are from recorded ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perceivers.errors import ModelError

# Recorded answers are float32 from another framework, whose sums run in another order.
RELATIVE = ABSOLUTE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """How far an output is from the recorded one.

    absolute: the largest difference. relative: that over the largest recorded number. within: every number keeps to
    |difference| ≤ 1e-4 + 1e-4·|recorded|; of weights, every number is the recorded one, as float32 holds it.
    """

    absolute: float
    relative: float
    within: bool


def compared(name: str, ours: np.ndarray, recorded: np.ndarray, path: Path) -> Comparison:
    """Of an output. Raises `ModelError` where the shapes differ."""
    if ours.shape != recorded.shape:
        raise ModelError(f"'{path}': output '{name}' is {recorded.shape}, but {ours.shape} was computed.")
    difference = np.abs(ours.astype(np.float64) - recorded.astype(np.float64))
    size = np.abs(recorded.astype(np.float64))
    largest = float(difference.max(initial=0.0))
    within = bool((difference <= ABSOLUTE + RELATIVE * size).all())
    return Comparison(largest, largest / max(float(size.max(initial=0.0)), 1e-30), within)
