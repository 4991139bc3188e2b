"""`text`: UTF-8 bytes, no tokenizer to train [P2 §4.1; official bytes_tokenizer.py]."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn

from perceivers.byte_tokens import (
    MASK,
    NEWLINE,
    SEP,
    SPECIAL_TOKENS,
    VOCABULARY,
    ids_of,
    to_bytes,
    tokenizer_ids,
)
from perceivers.cells import cells_of, class_name, is_missing
from perceivers.elements import Elements
from perceivers.errors import ColumnError, DataError, SpecError, near_miss
from perceivers.inputs.augment_text import TextAugmentation, augment_text_sample, text_sample
from perceivers.inputs.base import Input, InputSettings, Sample, collate_grid, joined_channels
from perceivers.inputs.position import Learned, NoPosition, Position
from perceivers.nn.initialisers import learned_array
from perceivers.nn.lifted import Lifted, Lookup
from perceivers.settings import Names, Settings
from perceivers.tokens import Encoding


class TextInput(InputSettings):
    """Text as bytes: id = byte + 6, 262 ids; or as ids of a tokenizer. Padded to `length` with masked elements."""

    augmentation: ClassVar[type[Settings] | None] = TextAugmentation
    kind: Literal["text"] = "text"
    columns: Names | None = None
    """Columns whose texts are read as one, the special token SEP between them: pairs of sentences. None: one column."""
    encoding: Encoding = "bytes"
    """`bytes`: UTF-8. `ids`: lists of token ids of whatever tokenizer, behind six that are special [P2 App. F]."""
    vocabulary: int = Field(default=VOCABULARY, gt=SPECIAL_TOKENS)
    """How many ids there are, the six special ones included."""
    length: PositiveInt = 512
    """The most bytes, or ids, that the model reads."""
    overflow: Literal["error", "truncate"] = "error"
    """Longer text: an error, or only its first `length` bytes."""
    channels: PositiveInt = 64
    """Width of a byte's embedding."""
    position: Position = Field(default_factory=lambda given: Learned(channels=given["channels"], join="add"))

    @model_validator(mode="after")
    def _nothing_is_nan(self) -> Self:
        if self.nan == "error":
            raise ValueError("text has no NaN to stop at: an empty cell is absence; leave nan out")
        if self.encoding == "bytes" and self.vocabulary != VOCABULARY:
            raise ValueError(f"bytes have {VOCABULARY} ids; vocabulary is of encoding: ids, so leave it out")
        return self

    @classmethod
    def drafted(cls, why: str, facts: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
        """As long as the longest, and cut: new texts may be longer than any seen here; their start still says most."""
        return f"{why}; longer ones are cut at the end", {"kind": "text", **facts, "overflow": "truncate"}

    @property
    def names_columns(self) -> bool:
        """Whether `columns` names them."""
        return self.columns is not None

    def table_columns(self, name: str) -> list[str]:
        """The columns, or the input's own name."""
        return list(self.columns) if self.columns else [name]

    def parse(self, value: Any) -> Sample:
        """A str, bytes that must be UTF-8, or {"text": …, "mask": …}: with bytes that are to be guessed.

        mask: [start, stop] of bytes, or words of the text as they stand there; or a list of such. What it hides must be
        among the bytes that the model reads. Where ids are read a list of them stands for the text, and a mask is of
        their places. With `columns`: {column: text} or a list in their order; SEP stands
        between them.
        """
        # Of longer texts an error is told below, and not where their masks are.
        room = self.length if self.overflow == "truncate" else None
        if self.columns is None:
            ids = self._ids(value, room)
        else:
            ids = np.zeros(0, np.int64)
            for i, (column, cell) in enumerate(zip(self.columns, cells_of(value, self.columns), strict=True)):
                start = np.append(ids, SEP) if i else ids
                ids = np.append(start, self._named(column, cell, None if room is None else max(room - len(start), 0)))
        if len(ids) > self.length and self.overflow == "error":
            raise DataError(
                f"the text has {len(ids)} {self._units}, but the input reads {self.length}. Raise length, or set "
                "overflow: truncate to read only the start, before training; with a trained model cut it into several."
            )
        return text_sample(ids, self.length)

    @property
    def _units(self) -> str:
        return "ids" if self.encoding == "ids" else "bytes"

    def _named(self, column: str, cell: Any, room: int | None) -> np.ndarray:
        """The ids of one of several texts; a missing one has none."""
        try:
            return np.zeros(0, np.int64) if is_missing(cell) else self._ids(cell, room)
        except DataError as error:
            raise ColumnError(column, str(error)) from None

    def _ids(self, value: Any, room: int | None) -> np.ndarray:
        """The ids (length,) of one text, MASK where it is hidden. room: how many of them are read; None: all.

        Raises `DataError` where a mask hides what is not read: nothing would ever fill it in.
        """
        if not isinstance(value, Mapping):
            return self._read(value)
        unknown = [key for key in value if key not in ("text", "mask")]
        if unknown or "text" not in value:
            raise DataError(f"got {{{', '.join(map(str, value))}}}; wanted {{text: …, mask: [[start, stop], …]}}.")
        ids, units = self._read(value["text"]), self._units
        for run in _runs(value.get("mask")):
            if not isinstance(run, str):
                start, stop = _run(run, len(ids), units)
            elif self.encoding == "ids":
                raise DataError(f"mask holds {run!r}; of ids wanted their places, [start, stop].")
            else:
                start, stop = _words(run, _bytes(value["text"]))
            if room is not None and stop > room:
                raise DataError(
                    f"mask holds {run!r}, {units} {start} to {stop} of a text of {len(ids)}, but the model reads only "
                    f"its first {room}: the text is cut there (overflow: truncate). Give the part of the text around "
                    f"it, of at most {room} {units}."
                )
            ids[start:stop] = MASK
        return ids

    def _read(self, value: Any) -> np.ndarray:
        """The ids of a text, or of a list of ids."""
        return ids_of(_bytes(value)) if self.encoding == "bytes" else tokenizer_ids(value, self.vocabulary)

    def companions(self, setting: Any) -> int:
        """The other documents."""
        return setting.documents - 1 if isinstance(setting, TextAugmentation) else 0

    def augmenter(self, setting: TextAugmentation) -> Callable[..., Sample]:
        """Joins and crops."""
        if setting.crop and self.overflow == "error" and setting.documents == 1:
            raise SpecError(
                "crop does nothing, since no text is longer than the input reads: set overflow: truncate on the input, "
                "so that longer texts are read whole in training and their start in use; or leave crop out."
            )
        between = NEWLINE if self.encoding == "bytes" else SEP
        return partial(augment_text_sample, settings=setting, length=self.length, between=between)

    def elements(self) -> int:
        """M: one element a byte."""
        return self.length

    def own_size(self) -> tuple[int, ...]:
        """(bytes,)."""
        return (self.length,)

    def of_size(self, size: tuple[int, ...]) -> Self:
        """With so many bytes."""
        return self.with_changes(length=size[0])

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, length, 1) of ids on the grid (length,); longer texts are cut."""
        elements = collate_grid([s and _cut(s, self.length) for s in samples], (self.length,), 1)
        return replace(elements, values=elements.values.long())

    def build(self) -> Input:
        """The module."""
        position = None if isinstance(self.position, NoPosition) else self.position.build((self.length,))
        add = not isinstance(self.position, NoPosition) and self.position.join == "add"
        return Bytes(self, position, add)


class Bytes(Input):
    """Embeds ids and adds or appends their positions. Embeddings start as a unit normal cut at ±2 [haiku `Embed`]."""

    def __init__(self, settings: TextInput, position: nn.Module | None, add: bool) -> None:
        super().__init__()
        count, channels = settings.vocabulary, settings.channels
        self.length, self.encoding = settings.length, settings.encoding
        self.embedding = nn.Embedding(count, channels, _weight=learned_array(count, channels, std=1.0))
        self.position = position
        self.add = add
        self.channels = joined_channels(channels, position, add)

    def forward(self, elements: Elements) -> Lifted:
        """Content (B, M, C), position (M, P), mask."""
        ids = elements.values[..., 0].long()
        if elements.mask is not None:
            ids = torch.where(elements.mask, ids, ids.new_zeros(()))
        content = self.embedding(ids)
        position = None if self.position is None else self.position(grid=elements.grid, like=content)
        return Lifted(content, position, elements.mask, self.add, Lookup(self.embedding.weight, ids))


def _cut(sample: Sample, length: int) -> Sample:
    return replace(sample, values=sample.values[:length], mask=None if sample.mask is None else sample.mask[:length])


def _runs(mask: Any) -> list[Any]:
    """What is hidden, one by one. Raises `DataError` for what is neither that nor a list of it."""
    if mask is None:
        return []
    if isinstance(mask, str):
        return [mask]
    if not isinstance(mask, (list, tuple)):
        raise DataError(f"mask is {mask!r}; wanted [start, stop] of bytes, words of the text, or a list of such.")
    return [mask] if len(mask) == 2 and all(isinstance(n, int) for n in mask) else list(mask)


def _run(run: Any, count: int, units: str) -> tuple[int, int]:
    """Start and stop. Raises `DataError` where they are not in a text of `count` units."""
    whole = isinstance(run, (list, tuple)) and len(run) == 2 and all(isinstance(n, int) for n in run)
    if not whole or not 0 <= run[0] < run[1] <= count:
        raise DataError(
            f"mask holds {run!r}; wanted [start, stop], start before stop: {units} of the text, which has {count}"
            f"{'; or words of the text.' if units == 'bytes' else '.'}"
        )
    return run[0], run[1]


def _words(words: str, data: bytes) -> tuple[int, int]:
    """Where in a text its words `words` stand. Raises `DataError` unless that is one place."""
    wanted = to_bytes(words)
    count = data.count(wanted) if wanted else 0
    start = data.find(wanted)
    if count == 1:
        return start, start + len(wanted)
    if count:
        raise DataError(
            f"mask holds {words!r}, which stands in the text {count} times: give more of what is around it, or its "
            f"bytes; the first is [{start}, {start + len(wanted)}]."
        )
    text = data.decode("utf-8")
    raise DataError(f"mask holds {words!r}, which is not in the text.{near_miss(words, text.split())}")


def _bytes(value: Any) -> bytes:
    """Raises `DataError` for what is no text."""
    if isinstance(value, (str, bytes, bytearray)):
        return to_bytes(value)
    if not isinstance(value, (int, float, np.generic)):
        raise DataError(f"got a {type(value).__name__}, not a text; give a str, or bytes in UTF-8.")
    # As class names: a column of whole numbers is 7 in one table and 7.0 in another.
    text = class_name(value)
    if text is None:
        raise DataError("got NaN, not a text; leave the cell empty, or give None, where there is none.")
    return to_bytes(text)
