"""`Source`: the elements of one sample, read in runs and never all at once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceivers.errors import DataError

# A run of an array is about so large: enough to keep a core busy, little beside the rest.
RUN_BYTES = 32 * 2**20


class Source:
    """One sample of an input that may be larger than memory: `model.encode({"scene": source})`.

    shape: (n1, …, nA, C) of the whole: a picture is (height, width, channels), a series (time steps, channels).
    runs: a function that begins a new pass; it gives arrays (h, n2, …, nA, C) along the first axis, in order, of any
    height h. An iterator in its place serves one pass, and so only models with one cross-attend, and no training.
    coords: each run is a pair of values (h, C) and coordinates (h, A), in the input's units: an irregular series.
    rows: first and last (exclusive) row of the first axis that this source gives; all by default. Several sources of
    disjoint rows may be read by several processes.
    """

    def __init__(
        self,
        shape: Sequence[int],
        runs: Callable[[], Iterable[Any]] | Iterator[Any],
        *,
        coords: bool = False,
        rows: tuple[int, int] | None = None,
        name: str = "source",
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.name = name
        if len(self.shape) < 2 or any(n < 1 for n in self.shape[1:]) or self.shape[0] < 0:
            raise DataError(f"{name}: a source has a shape (n1, …, channels) of two numbers or more; got {self.shape}.")
        if coords and len(self.shape) != 2:
            raise DataError(f"{name}: elements with coordinates have shape (elements, channels); got {self.shape}.")
        self.coords = coords
        self.rows = self._checked_rows(rows)
        self.once = not callable(runs)
        self._runs = runs
        self._begun = False
        self._array: Any = None
        self.masked = 0
        """Elements of the last pass that were masked because they were NaN or infinite."""
        self.progress: Callable[[int, int], None] | None = None
        """Called after every run with the rows read in this pass, and how many there are."""

    @classmethod
    def of(
        cls, array: Any, *, rows: tuple[int, int] | None = None, run_rows: int | None = None, name: str = "source"
    ) -> "Source":
        """A source over anything with a `shape` that can be sliced: a memory map, a Zarr array, an HDF5 data set.

        run_rows: height of a run; by default about 32 MB of float32.
        """
        shape = tuple(array.shape)
        if run_rows is not None and run_rows < 1:
            raise DataError(f"{name}: a run has at least one row; got {run_rows}.")
        height = run_rows or max(RUN_BYTES // (4 * max(math.prod(shape[1:]), 1)), 1)
        first, last = rows or (0, shape[0])

        # It must not know the source, or the two would keep each other, and the array's file, until Python looks for
        # cycles.
        def runs() -> Iterator[Any]:
            for start in range(first, last, height):
                yield array[start : min(start + height, last)]

        source = cls(shape, runs, rows=rows, name=name)
        source._array = array, run_rows
        return source

    def part(self, start: int, stop: int) -> "Source":
        """The rows `start` to `stop` of the whole; without skipping over others only where `of` made this source."""
        first, last = self._checked_rows((start, stop))
        if first < self.rows[0] or last > self.rows[1]:
            raise DataError(f"{self.name}: rows {first} to {last} are not within this source's, {self.rows}.")
        if self._array is not None:
            array, run_rows = self._array
            return Source.of(array, rows=(first, last), run_rows=run_rows, name=self.name)
        if self.once:
            raise DataError(
                f"{self.name}: an iterator cannot be read in parts; give a function that begins a new pass."
            )
        return Source(
            self.shape, lambda: self._cut(first, last), coords=self.coords, rows=(first, last), name=self.name
        )

    @property
    def grid(self) -> tuple[int, ...]:
        """(n1, …, nA) of the whole."""
        return self.shape[:-1]

    @property
    def count(self) -> int:
        """Rows of the first axis that a pass gives."""
        return self.rows[1] - self.rows[0]

    def read(self, unit: int = 1) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """One pass: (first row, values (h, n2, …, C), coordinates (h, A)); h is a multiple of `unit` but at the end.

        Raises `DataError` for a run of another shape, and where more or fewer rows come than were said.
        """
        if self.once and self._begun:
            raise DataError(
                f"{self.name}: an iterator can be read once, and this is a second pass (another cross-attend, or the "
                "backward pass of training). Give a function that begins a new pass."
            )
        self._begun = True
        self.masked = 0
        held: list[tuple[Tensor, Tensor | None]] = []
        start, waiting = self.rows[0], 0
        for values, coords in self._checked_runs():
            held.append((values, coords))
            waiting += len(values)
            if waiting >= unit:
                whole = _joined(held)
                ready = waiting // unit * unit
                yield start, whole[0][:ready], None if whole[1] is None else whole[1][:ready]
                held = [(whole[0][ready:], None if whole[1] is None else whole[1][ready:])] if waiting > ready else []
                start, waiting = start + ready, waiting - ready
            if self.progress is not None:
                self.progress(start + waiting - self.rows[0], self.count)
        if waiting:
            values, coords = _joined(held)
            yield start, values, coords

    def _checked_runs(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        runs = self._runs() if callable(self._runs) else self._runs
        done = 0
        for run in runs:
            values, coords = self._as_pair(run, done)
            done += len(values)
            if done > self.count:
                raise DataError(
                    f"{self.name}: it said {self.count} rows, but gives more: row {self.rows[0] + self.count} came. "
                    f"Its shape must be the true one, in every pass; it is {self.shape}."
                )
            if len(values):
                yield values, coords
        if done < self.count:
            raise DataError(
                f"{self.name}: it ended after {done} of {self.count} rows. Its shape must be the true one, in every "
                f"pass; it is {self.shape}."
            )

    def _as_pair(self, run: Any, done: int) -> tuple[Tensor, Tensor | None]:
        place = f"{self.name}, the run at row {self.rows[0] + done}"
        if not self.coords:
            return self._as_tensor(run, self.shape[1:], place, "values"), None
        if not isinstance(run, (tuple, list)) or len(run) != 2:
            raise DataError(f"{place}: wanted a pair (values, coordinates), got a {type(run).__name__}.")
        values = self._as_tensor(run[0], self.shape[1:], place, "values")
        coords = self._as_tensor(run[1], None, place, "coordinates")
        if coords.ndim != 2 or len(coords) != len(values):
            raise DataError(
                f"{place}: {len(values)} values need coordinates ({len(values)}, A); got {tuple(coords.shape)}."
            )
        return values, coords

    @staticmethod
    def _as_tensor(array: Any, shape: tuple[int, ...] | None, place: str, what: str) -> Tensor:
        # As whole values are parsed: bytes stay, all else becomes float32, and what float32 cannot hold becomes
        # infinite, and so masked or an error.
        if isinstance(array, Tensor):
            if array.is_complex():
                raise DataError(f"{place}: {what} must be real numbers; got {array.dtype}.")
            array = array if array.dtype == torch.uint8 else array.to(torch.float32)
        else:
            array = np.asarray(array)
            if array.dtype.kind not in "fiub":
                raise DataError(f"{place}: {what} must be numbers; got {array.dtype}.")
            # A copy: a memory map must not be written to, and torch would let one.
            with np.errstate(over="ignore"):
                array = torch.from_numpy(np.array(array, dtype=np.uint8 if array.dtype == np.uint8 else np.float32))
        if shape is not None and (array.ndim != len(shape) + 1 or tuple(array.shape[1:]) != shape):
            raise DataError(
                f"{place}: wanted {what} of shape (rows, {', '.join(map(str, shape))}); got {tuple(array.shape)}."
            )
        return array

    def _cut(self, first: int, last: int) -> Iterator[Any]:
        if first == last:
            return
        place = self.rows[0]
        for values, coords in self._checked_runs():
            a, b = max(first - place, 0), min(last - place, len(values))
            if a < b:
                yield values[a:b] if coords is None else (values[a:b], coords[a:b])
            place += len(values)
            # The last part reads on to the end, to see that no more rows come than were said.
            if last <= place and last < self.rows[1]:
                return

    def _checked_rows(self, rows: tuple[int, int] | None) -> tuple[int, int]:
        first, last = rows or (0, self.shape[0])
        if not 0 <= first <= last <= self.shape[0]:
            raise DataError(f"{self.name}: rows {first} to {last} are not within its {self.shape[0]}.")
        return first, last


def _joined(held: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    if len(held) == 1:
        return held[0]
    coords = [c for _, c in held if c is not None]
    return torch.cat([v for v, _ in held]), torch.cat(coords) if coords else None
