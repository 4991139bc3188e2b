"""The elements of a set that changes: raw values and coordinates in blocks, and an id for each element."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from perceivers.elements import Elements
from perceivers.errors import DataError
from perceivers.inputs.base import Sample
from perceivers.inputs.grid import GridInput
from perceivers.nn.attention.planner import PartShape
from perceivers.nn.lifted import Lifted

# Ids of a page of the table id → slot. A page is dropped when the last of its ids is.
PAGE = 2**16
# A block takes new elements again when so much of it is free: then an append touches few blocks, whatever was deleted
# before, those that came together lie together, and at most so much of all slots is empty for long.
ROOMY = 1 / 4


class HeldSet:
    """Elements with coordinates, in blocks of `block` slots; order means nothing to attention, so any slot serves.

    `channels` numbers of value and `axes` coordinates an element, in the input's own units. Arrays are never copied to
    grow: room comes a block at a time. Freed slots are used again.
    """

    def __init__(self, module: GridInput, channels: int, axes: int, block: int) -> None:
        self.module = module
        self.changed: set[int] = set()
        """Blocks to be read anew."""
        self.masked = 0
        """Elements that came NaN or infinite, and so are masked."""
        self._size = block
        self._widths = channels, axes
        self._values: list[np.ndarray] = []
        self._coords: list[np.ndarray] = []
        self._real: list[np.ndarray] = []
        self._taken: list[np.ndarray] = []
        self._free: list[int] = []
        self._filling = 0
        self._ids = _Ids()

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self._free)

    @property
    def shape(self) -> PartShape:
        """Of a full block."""
        return PartShape(self._size, self.module.channels)

    def __len__(self) -> int:
        return len(self._ids)

    def append(self, sample: Sample) -> range:
        """Its elements are there from now on; their ids, in order."""
        slots = self._room(len(sample.values))
        self._write(slots, sample, moved=True)
        return self._ids.give(slots)

    def replace(self, ids: Any, sample: Sample, moved: bool) -> None:
        """Other values, and where `moved` other coordinates, for those elements; they keep their ids and their age."""
        found, slots = self._found(ids)
        if len(found) != len(sample.values):
            raise DataError(f"{len(found)} ids, but {len(sample.values)} values; give one a row.")
        self._write(slots, sample, moved)

    def delete(self, ids: Any) -> None:
        """Those elements are there no more."""
        found, slots = self._found(ids)
        self._drop(found, slots)

    def slide(self, count: int) -> None:
        """The `count` elements that have been there longest are there no more."""
        if not isinstance(count, (int, np.integer)) or not 0 <= count <= len(self):
            raise DataError(f"cannot drop the {count} oldest elements: there are {len(self)}.")
        found = self._ids.oldest(count)
        self._drop(found, self._ids.slots(found))

    def lifted(self, block: int) -> Lifted | None:
        """The real elements of a block, or None when there is none."""
        real, mean = self._real[block], self.module.mean
        if not real.any():
            return None
        # A copy of those that count, which takes less than to mask the others in every step that follows.
        chosen = slice(None) if real.all() else real
        values, coords = (
            torch.from_numpy(array[block][chosen])[None].to(mean.device) for array in (self._values, self._coords)
        )
        return self.module(Elements(values, coords=coords))

    def _found(self, ids: Any) -> tuple[np.ndarray, np.ndarray]:
        """Ids as an array, each there once, and their slots."""
        found = _as_ids(ids)
        slots = self._ids.slots(found)
        if len(np.unique(found)) < len(found):
            raise DataError("an id stands twice; give each element once.")
        return found, slots

    def _write(self, slots: np.ndarray, sample: Sample, moved: bool) -> None:
        self.masked += sample.masked
        for block, places, chosen in self._by_block(slots):
            self._values[block][places] = sample.values[chosen]
            if moved:
                assert sample.coords is not None, "elements of a set have coordinates"
                self._coords[block][places] = sample.coords[chosen]
            self._real[block][places] = True if sample.mask is None else sample.mask[chosen]
            self.changed.add(block)

    def _drop(self, ids: np.ndarray, slots: np.ndarray) -> None:
        for block, places, _ in self._by_block(slots):
            self._real[block][places] = self._taken[block][places] = False
            self._free[block] += len(places)
            self.changed.add(block)
        self._ids.drop(ids)

    def _by_block(self, slots: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each block that holds some of the slots: its number, the places in it, and which of `slots` they are."""
        order = np.argsort(slots // self._size, kind="stable")
        blocks, firsts = np.unique(slots[order] // self._size, return_index=True)
        for block, chosen in zip(blocks.tolist(), np.split(order, firsts[1:]), strict=False):
            yield block, slots[chosen] % self._size, chosen

    def _room(self, count: int) -> np.ndarray:
        """Slots for `count` elements, taken from now on."""
        found = [np.empty(0, np.int64)]
        while count:
            if not self._free or not self._free[self._filling]:
                self._filling = self._roomy()
            block = self._filling
            places = np.flatnonzero(~self._taken[block])[:count]
            self._taken[block][places] = True
            self._free[block] -= len(places)
            found.append(block * self._size + places)
            count -= len(places)
        return np.concatenate(found)

    def _roomy(self) -> int:
        """The emptiest block, or a new one where none is roomy."""
        block = int(np.argmax(self._free)) if self._free else 0
        if self._free and self._free[block] >= ROOMY * self._size:
            return block
        # All are made before any is kept: where memory ends, nothing has changed.
        values, coords = (np.zeros((self._size, width), np.float32) for width in self._widths)
        real, taken = np.zeros((2, self._size), bool)
        self._values.append(values)
        self._coords.append(coords)
        self._real.append(real)
        self._taken.append(taken)
        self._free.append(self._size)
        return len(self._free) - 1


class _Ids:
    """Ids in order of arrival, and the slot of each that is there; in pages, so that no edit has to copy them all."""

    def __init__(self) -> None:
        self.next = 0
        # In order of their numbers: a page comes after all others, also one that was dropped while it was filled.
        self._pages: dict[int, np.ndarray] = {}
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def give(self, slots: np.ndarray) -> range:
        """New ids for those slots."""
        first, done = self.next, 0
        while done < len(slots):
            page, place = divmod(self.next, PAGE)
            if page not in self._pages:
                self._pages[page], self._counts[page] = np.full(PAGE, -1, np.int64), 0
            part = slots[done : done + PAGE - place]
            self._pages[page][place : place + len(part)] = part
            self._counts[page] += len(part)
            self.next += len(part)
            done += len(part)
        return range(first, self.next)

    def slots(self, ids: np.ndarray) -> np.ndarray:
        """Of each id its slot. Raises `DataError` for one that is not there."""
        found = np.full(len(ids), -1, np.int64)
        for page in np.unique(ids // PAGE).tolist():
            if page in self._pages:
                chosen = ids // PAGE == page
                found[chosen] = self._pages[page][ids[chosen] % PAGE]
        lost = ids[found < 0]
        if len(lost):
            given = f"ids so far are 0 to {self.next - 1}" if self.next else "none was given yet"
            raise DataError(f"there is no element {lost[0]}: it was deleted, or never appended; {given}.")
        return found

    def drop(self, ids: np.ndarray) -> None:
        """They are there no more."""
        for page, count in zip(*(n.tolist() for n in np.unique(ids // PAGE, return_counts=True)), strict=True):
            self._pages[page][ids[ids // PAGE == page] % PAGE] = -1
            self._counts[page] -= count
            if not self._counts[page]:
                del self._pages[page], self._counts[page]

    def oldest(self, count: int) -> np.ndarray:
        """The `count` smallest ids that are there."""
        found = [np.empty(0, np.int64)]
        for page, slots in self._pages.items():
            if not count:
                break
            places = np.flatnonzero(slots >= 0)[:count]
            found.append(page * PAGE + places)
            count -= len(places)
        return np.concatenate(found)


def _as_ids(ids: Any) -> np.ndarray:
    if isinstance(ids, range):
        return np.arange(ids.start, ids.stop, ids.step, dtype=np.int64)
    found = np.atleast_1d(np.asarray(ids))
    if not found.size and found.ndim == 1:
        return np.empty(0, np.int64)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise DataError(f"ids are whole numbers, as append gave them; got {type(ids).__name__} of {found.dtype}.")
    return found.astype(np.int64)
