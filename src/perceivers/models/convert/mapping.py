"""How the arrays of another implementation become a model's: one `Entry` each, all checked before any is set."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perceivers.errors import ModelError
from perceivers.models.build import build, fill
from perceivers.models.convert.stored import Stored, StoredArray, quoted
from perceivers.models.model import Model
from perceivers.models.spec import Spec

Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One tensor of a model: its name here, the array's name there, and how the array becomes it."""

    ours: str
    theirs: str
    change: Change


def same(array: np.ndarray) -> np.ndarray:
    """As it is."""
    return array


def transposed(array: np.ndarray) -> np.ndarray:
    """haiku's linear weight (in, out) → torch's (out, in)."""
    return array.T


def flat(array: np.ndarray) -> np.ndarray:
    """(1, …, C) → (C,); a single number → ()."""
    return array.reshape(-1) if array.ndim else array


def channels_last_kernel(array: np.ndarray) -> np.ndarray:
    """haiku's convolution (h, w, in, out) → torch's (out, in, h, w)."""
    return np.moveaxis(array, (-1, -2), (0, 1))


def transposed_kernel(array: np.ndarray) -> np.ndarray:
    """haiku's transposed convolution (k1, …, kA, out, in) → torch's (in, out, k1, …, kA).

    haiku's does not turn its kernel around, torch's does: every spatial axis is reversed.
    """
    return np.flip(np.moveaxis(array, (-1, -2), (0, 1)), tuple(range(2, array.ndim)))


def one_by_one(array: np.ndarray) -> np.ndarray:
    """A 1×1 convolution (1, 1, in, out) → a linear's weight (out, in)."""
    return array.reshape(array.shape[-2:]).T


def undone(entry: Entry, ours: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The array of that `shape` that becomes `ours`: a change moves numbers, and computes none."""
    places = entry.change(np.arange(math.prod(shape)).reshape(shape))
    back = np.empty(math.prod(shape), ours.dtype)
    back[places.reshape(-1)] = ours.reshape(-1)
    return back.reshape(shape)


def state_dict(
    model: Model, stored: Stored, entries: Sequence[Entry], ignored: Sequence[str] = ()
) -> dict[str, Tensor]:
    """`model`'s state dict, from what is stored; `ignored`: beginnings of names that are not looked for.

    Raises `ModelError` that names the first missing, extra and mis-shaped array, before anything is read.
    """
    wanted = {entry.theirs: entry for entry in entries}
    assert len(wanted) == len(entries), "no array becomes two tensors"
    ours = model.state_dict()
    unset = ours.keys() - {entry.ours for entry in entries}
    assert not unset, f"not mapped: {sorted(unset)}"
    missing = [name for name in wanted if name not in stored.arrays]
    extra = [name for name in stored.arrays if name not in wanted and not name.startswith(tuple(ignored))]
    shaped = [name for name in wanted if name in stored.arrays and not _fits(stored.arrays[name], wanted[name], ours)]
    if missing or extra or shaped:
        raise ModelError(
            f"'{stored.path}' is not of this model: {_faults(missing, extra, shaped, stored, wanted, ours)}"
        )
    return {name: tensor.to(ours[name].dtype) for name, tensor in tensors_of(stored, entries).items()}


def tensors_of(stored: Stored, entries: Sequence[Entry]) -> dict[str, Tensor]:
    """What those entries make of the stored arrays, which must be there."""
    # Copies: what was read may be read-only, and a view of much more.
    arrays = {entry.ours: entry.change(stored.arrays[entry.theirs].read()) for entry in entries}
    return {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}


def _fits(array: StoredArray, entry: Entry, ours: Mapping[str, Tensor]) -> bool:
    return _shape(array, entry) == tuple(ours[entry.ours].shape)


def _shape(array: StoredArray, entry: Entry) -> tuple[int, ...] | None:
    """The shape that it would have here; None where it cannot be changed so. Nothing is read for it."""
    try:
        return entry.change(np.broadcast_to(np.float32(0), array.shape)).shape
    except ValueError:
        return None


def _faults(
    missing: list[str],
    extra: list[str],
    shaped: list[str],
    stored: Stored,
    wanted: Mapping[str, Entry],
    ours: Mapping[str, Tensor],
) -> str:
    said = []
    if missing:
        said.append(f"{_count(missing)} missing, the first {quoted(missing[0])}")
    if extra:
        said.append(f"{_count(extra)} too many, the first {quoted(extra[0])}")
    if shaped:
        name = shaped[0]
        given, here = stored.arrays[name].shape, tuple(ours[wanted[name].ours].shape)
        become = f"{wanted[name].ours} {here}"
        said.append(f"{_count(shaped)} of another shape, the first {quoted(name)}: {given}, which is no {become}")
    return "; ".join(said) + ". Nothing was read. Is it the preset or spec of these weights?"


def _count(names: Sequence[str]) -> str:
    return f"{len(names):,} array{'s are' if len(names) > 1 else ' is'}"


def assembled(spec: Spec, stored: Stored, entries: Callable[[Model], Sequence[Entry]], ignored: Sequence[str]) -> Model:
    """The model of `spec` with the stored weights, in evaluation mode; `entries` says how they are named.

    Raises as `state_dict`.
    """
    model = build(spec, device="meta")
    fill(model, state_dict(model, stored, entries(model), ignored))
    return model.eval()
