"""What a named data set says of itself, and how it is loaded."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perceivers.data.cache import Say, is_cached
from perceivers.data.table import Table
from perceivers.errors import DataError


def to_stderr(line: str) -> None:
    """Print a progress line to standard error, where it mixes with no answer."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class NamedData:
    """A published data set that can be had by its name.

    `title` says in a line what it is; `licence` is short and `licence_note` says where that is known from; `source` is
    the package it comes from; `citation` the paper to cite; `modality` describes shape, units and rate of the inputs;
    `splits` says whether they are official or how they are made; `sizes` are the samples per split; `classes` the
    labels. `inputs` and `outputs` are suggestions for a recipe. `kept_as` is its name in the cache, "" when it comes
    with a library and needs no fetching.
    """

    name: str
    title: str
    licence: str
    licence_note: str
    source: str
    citation: str
    modality: str
    splits: str
    sizes: Mapping[str, int]
    classes: Sequence[str]
    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    kept_as: str
    read: Callable[[Say], dict[str, Table]]

    @property
    def at_hand(self) -> bool:
        """Whether it can be loaded without fetching anything."""
        return not self.kept_as or is_cached(self.kept_as)

    def load(self, say: Say = to_stderr) -> dict[str, Table]:
        """The tables `train`, `validation` and `test`; fetched into the cache when they are not there yet.

        `say` gets a plain line for each step of fetching, and nothing when the data is at hand. Raises `DataError` when
        the data cannot be had or is not what it should be.
        """
        tables = self.read(say)
        given = {split: len(table) for split, table in tables.items()}
        if given != dict(self.sizes):
            raise DataError(
                f"the data set '{self.name}' should have {dict(self.sizes)} samples, but what was read has {given}: "
                f"it comes from another version of {self.source}."
            )
        return tables


def hold_out(labels: Sequence[str] | np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sorted arrays of indices: the rest, and those held out; of each class `fraction`, rounded, is held out.

    Drawn from NumPy's `RandomState`, whose stream is frozen for good (NEP 19): the split is the same on every version.
    """
    labels = np.asarray(labels)
    random = np.random.RandomState(seed)
    held = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held.append(random.permutation(members)[: round(fraction * len(members))])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out
