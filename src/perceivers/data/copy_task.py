"""Sequences of random bytes that are mirrored in the middle, made when they are read: Perceiver AR's copy task.

[P3 §5.1; perceiver-ar dataset.py, `random_mirrored_…`]: half of the bytes are drawn, the others are those in reverse
order, so that the second half can be known by whoever remembers the first. The official data are drawn without end.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from perceivers.data.table import SPLITS, Table
from perceivers.settings import Settings

COLUMN = "tokens"


class CopySplits(Settings):
    """Sequences drawn for each split, by seed, split and number: the same on every machine, and none is kept."""

    kind: Literal["copy"] = "copy"
    length: int = Field(ge=2, multiple_of=2)
    """Bytes of a sequence, both halves; officially two less than the context, for its start and its end."""
    train: PositiveInt = 65_536
    validation: NonNegativeInt = 256
    test: NonNegativeInt = 1024
    seed: NonNegativeInt = 0


class Mirrored(Sequence[np.ndarray]):
    """The sequences of one split, (length,) uint8 each."""

    def __init__(self, split: str, count: int, length: int, seed: int) -> None:
        self.split, self.rows, self.length, self.seed = split, count, length, seed

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < self.rows:
            raise IndexError(index)
        # Not a generator of numpy's, whose numbers may be others in another version.
        drawn = hashlib.shake_128(f"{self.seed} {self.split} {index}".encode()).digest(self.length // 2)
        half = np.frombuffer(drawn, np.uint8)
        return np.concatenate([half, half[::-1]])


def copy_tables(settings: CopySplits) -> dict[str, Table]:
    """The tables of the splits that have sequences, with the one column `tokens`."""
    counts = {split: getattr(settings, split) for split in SPLITS}
    return {
        split: Table({COLUMN: Mirrored(split, count, settings.length, settings.seed)}, f"copy task, {split}")
        for split, count in counts.items()
        if count
    }
