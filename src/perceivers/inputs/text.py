"""`text`: UTF-8 bytes, no tokenizer to train [P2 §4.1; official bytes_tokenizer.py]."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn

from perceivers.byte_tokens import MASK, VOCABULARY, ids_of, to_bytes
from perceivers.cells import class_name
from perceivers.elements import Elements
from perceivers.errors import DataError
from perceivers.inputs.base import Input, InputSettings, Sample, collate_grid, joined_channels
from perceivers.inputs.position import Learned, NoPosition, Position
from perceivers.nn.initialisers import learned_array
from perceivers.nn.lifted import Lifted


class TextInput(InputSettings):
    """Text as bytes: id = byte + 6, 262 ids, padded to `length` with masked elements."""

    kind: Literal["text"] = "text"
    length: PositiveInt = 512
    """The most bytes that the model reads."""
    overflow: Literal["error", "truncate"] = "error"
    """Longer text: an error, or only its first `length` bytes."""
    channels: PositiveInt = 64
    """Width of a byte's embedding."""
    position: Position = Field(default_factory=lambda given: Learned(channels=given["channels"], join="add"))

    @model_validator(mode="after")
    def _nothing_is_nan(self) -> Self:
        if self.nan == "error":
            raise ValueError("text has no NaN to stop at: an empty cell is absence; leave nan out")
        return self

    @classmethod
    def drafted(cls, why: str, facts: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
        """As long as the longest, and cut: new texts may be longer than any seen here; their start still says most."""
        return f"{why}; longer ones are cut at the end", {"kind": "text", **facts, "overflow": "truncate"}

    def parse(self, value: Any) -> Sample:
        """A str, bytes that must be UTF-8, or {"text": …, "mask": [[start, stop], …]}: bytes that are to be guessed."""
        if isinstance(value, Mapping):
            return self._masked(value)
        data = _bytes(value)
        if len(data) > self.length:
            if self.overflow == "error":
                raise DataError(
                    f"the text has {len(data)} bytes, but the input reads {self.length}. "
                    "Raise length, or set overflow: truncate to read only the start."
                )
            data = data[: self.length]
        values = np.zeros((self.length, 1), np.int64)
        values[: len(data), 0] = ids_of(data)
        return Sample(values, mask=np.arange(self.length) < len(data), padding=self.length - len(data))

    def _masked(self, value: Mapping[str, Any]) -> Sample:
        unknown = [key for key in value if key not in ("text", "mask")]
        if unknown or "text" not in value:
            raise DataError(f"got {{{', '.join(map(str, value))}}}; wanted {{text: …, mask: [[start, stop], …]}}.")
        sample = self.parse(value["text"])
        assert sample.mask is not None, "of padding"
        count = int(sample.mask.sum())
        runs = value.get("mask") or []
        for run in runs:
            whole = isinstance(run, (list, tuple)) and len(run) == 2 and all(isinstance(n, int) for n in run)
            if not whole or not 0 <= run[0] < run[1] <= count:
                raise DataError(
                    f"mask holds {run!r}; wanted [start, stop], start before stop: bytes of the text, "
                    f"which has {count}."
                )
            sample.values[run[0] : run[1]] = MASK
        return sample

    def elements(self) -> int:
        """M: one element a byte."""
        return self.length

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, length, 1) of ids on the grid (length,)."""
        return collate_grid(samples, (self.length,), 1)

    def build(self) -> Input:
        """The module."""
        if isinstance(self.position, NoPosition):
            return Bytes(self.length, self.channels, None, add=False)
        return Bytes(self.length, self.channels, self.position.build((self.length,)), add=self.position.join == "add")


class Bytes(Input):
    """Embeds ids and adds or appends their positions. Embeddings start as a unit normal cut at ±2 [haiku `Embed`]."""

    def __init__(self, length: int, channels: int, position: nn.Module | None, add: bool) -> None:
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(VOCABULARY, channels, _weight=learned_array(VOCABULARY, channels, std=1.0))
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
        return Lifted(content, position, elements.mask, self.add)


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
