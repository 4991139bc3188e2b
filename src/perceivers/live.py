"""`LiveEncoder`: the latents of one sample whose elements come, change and go, without reading all of them again.

The elements lie in blocks. A block that an edit touched is read anew when the latents are asked for, and its state is
merged into those of all others by a tree: log₂(blocks) merges. Nothing is subtracted, so the latents are those of
`model.encode`, after any number of edits [attention.md §5 of the plan].
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceivers.cells import is_missing
from perceivers.errors import DataError, PerceiversError, SpecError, unknown
from perceivers.inputs.held_grid import HeldGrid
from perceivers.inputs.held_set import HeldSet
from perceivers.models.model import Model
from perceivers.models.spec import EncoderSpec
from perceivers.nn.attention.planner import Asking, Path, part_path, reads_apart, shape_of
from perceivers.nn.attention.read import part_state
from perceivers.nn.attention.tree import StateTree
from perceivers.nn.blocks import CrossAttend

# An edit takes 6.9, 8.7 or 11.2 ms of a core with blocks of 4096, 8192 or 16384 (64 latents, 35 channels): merges and
# latent blocks do not shrink. Smaller ones would save little time and double the states that are kept, here 37 kB a
# block beside 98 kB of values and times [benchmarks/live.py].
BLOCK = 8192


class LiveEncoder:
    """Keeps one input of one sample live: edits, and at any time the latents that `model.encode` would give.

    model: one whose encoder reads its inputs once (`cross_attends: 1`). It is put in evaluation mode; no gradients.
    input: the name of the live input. An irregular series is a set of events: `append`, `replace`, `delete`, `slide`,
    by the ids that `append` gives. An image, a video, a sound or a regular series is a grid of cells: `replace` and
    `delete` of windows.
    others: raw values of the other inputs, read once; those that are left out are absent.
    value: what the live input holds to begin with, as `encode` takes it; None: nothing (every cell is masked).
    block: about how many elements are read anew when one of them changes.

    The constants of reading (the queries on the elements' side of the key's weights, the tables of positions) are
    computed once, so the weights must stay as they are.
    """

    def __init__(
        self,
        model: Model,
        input: str,
        others: Mapping[str, Any] | None = None,
        value: Any = None,
        *,
        block: int = BLOCK,
    ) -> None:
        if input not in model.inputs:
            raise unknown("input", input, model.inputs)
        if block < 1:
            raise SpecError(f"a block has at least one element; got {block}.")
        if not isinstance(model.spec.encoder, EncoderSpec):
            raise SpecError(
                f"a live input needs encoder.kind: perceiver, and this model's is {model.spec.encoder.kind}."
            )
        self.model = model.eval()
        self.input = input
        self._kind = model.spec.inputs[input]
        self._crosses = [place for place, (step, _) in enumerate(model.perceiver.order) if step == "cross"]
        if len(self._crosses) != 1:
            raise SpecError(
                f"the model reads its inputs {len(self._crosses)} times (encoder.cross_attends), and after the first "
                "time with queries that depend on all elements, so any edit would mean to read all of them again; "
                "a live input needs cross_attends: 1."
            )
        if model.fusion is not None and model.fusion.hides(input):
            raise SpecError(f"encoder.masking hides all of '{input}', so no edit of it changes anything.")
        with _inside(input):
            self._held: HeldGrid | HeldSet = self._kind.held(model.inputs[input], block)  # pyright: ignore[reportArgumentType]
        self._weights = self._fingerprint()
        with torch.no_grad():
            self._begin()
        self.update_others(others or {})
        if not is_missing(value):
            with _inside(input):
                sample = self._kind.parse(value)
            if isinstance(self._held, HeldSet):
                self._held.append(sample)
            else:
                self._held.replace((0,) * len(self._held.grid), sample)

    def __len__(self) -> int:
        """Events that are there, masked ones too, or raw cells that are not masked."""
        return len(self._held)

    @property
    def masked(self) -> int:
        """Elements that came NaN or infinite so far, and were masked (setting `nan: mask`)."""
        return self._held.masked

    def append(self, values: Any, times: Any = None) -> range:
        """Events that come: values (n, C), times (n,) in seconds. Their ids, numbered in order of arrival.

        Raises `DataError` for a time beyond the input's `seconds`: a stream that runs on is given to a new one, with
        times from a later start. A grid has no events, and each event needs its time.
        """
        with _inside(self.input):
            events = self._set("append")
            if times is None:
                raise DataError("events come with their times in seconds, one each: append(values, times).")
            return events.append(self._kind.parse({"values": values, "times": times}))

    def replace(self, where: Any, values: Any, times: Any = None) -> None:
        """Other values for some elements.

        Events: `where` are ids; values (n, C); times (n,) in seconds, or None, which leaves them. They keep their age.
        Cells: `where` is the first cell of a window, (top, left) or a time step; values (height, width, C) or (T, C) of
        the window. What was masked there is real afterwards, but for NaN.
        """
        with _inside(self.input):
            if isinstance(self._held, HeldSet):
                value = values if times is None else {"values": values, "times": times}
                return self._held.replace(where, self._kind.parse_some(value), moved=times is not None)
            if times is not None:
                raise DataError("a grid's cells have no times of their own; leave times out.")
            return self._held.replace(_cell(where), self._kind.parse_some(values))

    def delete(self, where: Any, size: Any = None) -> None:
        """Elements that go. Events: `where` are ids. Cells: a window of `size` that begins at `where` is masked."""
        with _inside(self.input):
            if isinstance(self._held, HeldSet):
                if size is not None:
                    raise DataError("events have ids, and no size; leave size out.")
                return self._held.delete(where)
            if size is None:
                raise DataError("say the size of the window of cells that goes, too.")
            return self._held.delete(_cell(where), _cell(size))

    def slide(self, count: int) -> None:
        """The `count` events that came first, of those still there, go."""
        with _inside(self.input):
            self._set("slide").slide(count)

    @torch.no_grad()
    def update_others(self, others: Mapping[str, Any]) -> None:
        """Raw values of all other inputs, instead of those before; what is left out is absent."""
        self._check()
        if self.input in others:
            raise DataError(f"'{self.input}' is the live input; give its elements by its own edits.")
        parts = list(self.model.lifted(self.model.collate([others])).values())
        paths: list[Path] = [part_path(shape_of(part), self._asking) for part in parts]
        self._others = (
            [part_state(self._asked, part.cleared(), path) for part, path in zip(parts, paths, strict=True)],
            paths,
        )

    @torch.no_grad()
    def latents(self) -> Tensor:
        """(1, N, D) for `model.decode`: those of all elements that are there now, and of the other inputs.

        Reads the blocks that changed since the last call, each once.
        """
        self._check()
        self._read_changed()
        encoder, (place,), (states, paths) = self.model.perceiver, self._crosses, self._others
        x = self._cross.answered(self._queries, self._asked, [self._tree.root(), *states], [self._path, *paths])
        for _, index in encoder.order[place + 1 :]:
            x = encoder.think(x, index)
        return x

    def _begin(self) -> None:
        """What stays the same: the queries, the path, the sizes of a state; and a tree of nothing."""
        encoder, (place,) = self.model.perceiver, self._crosses
        cross = encoder.cross_attends[encoder.order[place][1]]
        assert isinstance(cross, CrossAttend), "cross-attends are CrossAttends"
        x = encoder.latents.expand(1, -1, -1)
        for _, index in encoder.order[:place]:
            x = encoder.think(x, index)
        self._cross, self._queries, self._asked = cross, x, cross.asked(x)
        attention, channels = cross.attention, cross.element_norm.weight.shape[0]
        widths = attention.key.out_features, attention.value.out_features
        self._asking = Asking(x.shape[1], channels, *widths, attention.heads)
        self._path: Path = part_path(self._held.shape, self._asking)
        width = widths[1] // attention.heads if self._path == "projected" else channels
        self._tree = StateTree(self._held.blocks, self._asked.rows(self._path).shape[1], width, x.device)

    def _read_changed(self) -> None:
        self._tree.grow(self._held.blocks)
        for block in sorted(self._held.changed):
            part, state = self._held.lifted(block), None
            if part is not None:
                part = self.model.extended(self.input, part)
                state = part_state(self._asked, part.cleared(), self._path)
            self._tree.set(block, state)
            # One by one: after an interruption the next call reads the rest.
            self._held.changed.discard(block)

    def _set(self, edit: str) -> HeldSet:
        if isinstance(self._held, HeldGrid):
            raise DataError(
                f"a grid of {self._held.grid} cells has nothing to {edit}; replace or delete a window of it."
            )
        return self._held

    def _fingerprint(self) -> list[tuple[object, ...]]:
        """Changes whenever a weight does that the latents depend on."""
        modules = [self.model.inputs, self.model.perceiver, *([self.model.fusion] if self.model.fusion else [])]
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        # A tensor of inference mode counts no versions, and cannot be trained.
        version = lambda t: 0 if t.is_inference() else t._version  # noqa: E731
        return [(version(t), t.data_ptr(), t.dtype, t.device) for t in tensors]

    def _check(self) -> None:
        if self._fingerprint() != self._weights:
            raise PerceiversError(
                "the model's weights changed after this LiveEncoder was made, so what it has read is not what the "
                "model would read now; make a new LiveEncoder, and give it the elements again."
            )
        if any(module.training for module in (self.model.perceiver, *self.model.inputs.values())):
            raise PerceiversError(
                "the model is in training mode, and live inputs are for use; call model.eval() first."
            )
        if not reads_apart(self._asked.wide):
            raise SpecError(
                f"a live input is read in float32 or float64, not in {self._asked.wide.dtype}, under autocast or "
                "torch.compile; keep the encoder in float32."
            )


def _cell(where: Any) -> tuple[int, ...]:
    found = np.atleast_1d(np.asarray(where))
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise DataError(f"a cell, and a size, is whole numbers, (top, left) or a time step; got {where!r}.")
    return tuple(found.tolist())


@contextmanager
def _inside(name: str) -> Iterator[None]:
    """Errors within say which input they are about."""
    try:
        yield
    except PerceiversError as error:
        raise type(error)(f"input '{name}': {error}") from None
