"""`tokens`: a sequence to be continued, as bytes or as ids, for `encoder.kind: autoregressive` [P3; models.md §5]."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs.base import Input, InputSettings, Sample, Seed
from perceivers.nn.lifted import Lifted
from perceivers.nn.rotary import Rotary
from perceivers.nn.tokens import Code, Counting, Embedded, TokenEmbedding, position_table
from perceivers.settings import Settings
from perceivers.tokens import BYTE_VOCABULARY, PAD, RESERVED, SOS, Encoding, token_ids, written

Share = Annotated[float, Field(gt=0, le=1)]


class AbsolutePosition(Settings):
    """Rows of tables, added to the tokens' embeddings."""

    kind: Literal["absolute"] = "absolute"
    code: Code = "sinusoidal"
    """First draw of the tables: `sinusoidal`, `fourier`, or `random`."""
    sizes: tuple[PositiveInt, ...] | None = None
    """Rows of each table, one table an index of the position; None: one, with a row more than the input's length."""
    learnable: bool = False
    """Whether training changes the tables."""
    count: Literal["start", "end"] = "start"
    """Tokens are numbered 1, 2, 3, … from the start, or 0, 1, 2, … from the last one back."""


class RotaryPosition(Settings):
    """Queries and keys are turned by an angle that grows with the position; nothing is added to the tokens."""

    kind: Literal["rotary"] = "rotary"
    fraction: Share = 0.5
    """Of each head's channels that turn."""
    head_fraction: Share = 1.0
    """Of the heads that turn."""
    longest: PositiveFloat | None = None
    """Base of the rates (`max_wavelength`), at least the input's length; None: that length."""
    count: Counting = "start"
    """Tokens are numbered 1, 2, 3, … from the start, 0, 1, 2, … from the last one back, or 0, −1, −2, … likewise."""


TokenPosition = Annotated[AbsolutePosition | RotaryPosition, Field(discriminator="kind")]


class TokensAugmentation(Settings):
    """What is done to a training sequence; the default is nothing."""

    kind: Literal["tokens"] = "tokens"
    crop: PositiveInt | None = None
    """It ends at a random token, the earliest being number `crop` (`minimum_crop_length`), so that latents stand
    everywhere and not only on the last tokens; usually as many as there are latents. None: it ends where it ends."""


class TokensInput(InputSettings):
    """A sequence of tokens: PAD 0, EOS 1, SOS 2, data from 3 on. The model reads SOS and then the data."""

    augmentation: ClassVar[type[Settings] | None] = TokensAugmentation
    continued: ClassVar[bool] = True
    kind: Literal["tokens"] = "tokens"
    encoding: Encoding = "bytes"
    """`bytes`: text as UTF-8, id = byte + 3. `ids`: a list of token ids, of whatever tokenizer."""
    vocabulary: int = Field(default=BYTE_VOCABULARY, gt=RESERVED)
    """How many ids there are, the three reserved ones included."""
    length: PositiveInt = 512
    """The most tokens that the model reads, SOS included (`max_context_length`)."""
    overflow: Literal["error", "truncate"] = "error"
    """A longer sequence: an error, or only its beginning."""
    channels: PositiveInt = 64
    """Width of a token's embedding (E)."""
    position: TokenPosition = AbsolutePosition()
    image: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """(height, width, channels) of what the tokens are the bytes of, row by row: a token has the position (x, y,
    channel), so `position` is absolute with three sizes. None: a sequence, with one index."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.nan == "error":
            raise ValueError("tokens have no NaN to stop at: an empty cell is absence; leave nan out")
        if self.encoding == "bytes" and self.vocabulary < BYTE_VOCABULARY:
            raise ValueError(f"bytes need a vocabulary of {BYTE_VOCABULARY} at least, not {self.vocabulary}")
        position = self.position
        if isinstance(position, RotaryPosition):
            if position.longest is not None and position.longest < self.length:
                raise ValueError(
                    f"position.longest = {position.longest:g} is less than length = {self.length}: positions that far "
                    "apart would look alike; raise it, or leave it out"
                )
        elif position.code != "random" and self.channels % 2:
            raise ValueError(f"a {position.code} table has as many sines as cosines; make channels even")
        if self.image is not None:
            needed = (self.image[1] + 2, self.image[0] + 2, self.image[2] + 2)
            sizes = position.sizes if isinstance(position, AbsolutePosition) else None
            if sizes is None or len(sizes) != 3 or any(s < n for s, n in zip(sizes, needed, strict=True)):
                raise ValueError(f"an image of {self.image} needs position.kind: absolute with sizes: {list(needed)}")
        return self

    def parse(self, value: Any) -> Sample:
        """A str, bytes or an array of uint8; or a list of ids."""
        data = token_ids(value, self.encoding, self.vocabulary)
        if len(data) >= self.length:
            if self.overflow == "error":
                raise DataError(
                    f"the sequence has {len(data)} tokens and begins with SOS, but the input reads {self.length}. "
                    "Raise length, cut it into several, or set overflow: truncate to read only the start."
                )
            data = data[: self.length - 1]
        return Sample(np.concatenate([[SOS], data])[:, None])

    def written(self, ids: Sequence[int]) -> Any:
        """Ids as the value they come from: a str, or a list."""
        return written(ids, self.encoding)

    def augmenter(self, setting: TokensAugmentation) -> Callable[[Sample, Seed], Sample]:
        """Crops at the end."""
        return partial(_cropped, shortest=setting.crop)

    def elements(self) -> int:
        """M: one element a token."""
        return self.length

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, T, 1) of ids on the grid (T,), as long as the longest; padding is masked."""
        longest = max((len(s.values) for s in samples if s is not None), default=1)
        values = np.full((len(samples), longest, 1), PAD, np.int64)
        for row, sample in enumerate(samples):
            if sample is not None:
                values[row, : len(sample.values)] = sample.values
        tokens = torch.from_numpy(values)
        return Elements(tokens, grid=(longest,), mask=tokens[..., 0] > PAD)

    def rotary(self, ahead: bool) -> Rotary | None:
        """How the encoder's attentions turn queries and keys; `ahead`: latents stand a place further on."""
        if not isinstance(self.position, RotaryPosition):
            if ahead:
                raise SpecError(
                    "encoder.query.ahead moves positions that are rotary; these are absolute. Leave it out, or set the "
                    "input's position.kind: rotary."
                )
            return None
        longest = (self.position.longest or self.length) + ahead
        return Rotary(longest, self.position.fraction, self.position.head_fraction, int(ahead))

    def build(self) -> "Tokens":
        """The module."""
        tables: list[Tensor] = []
        learnable = False
        if isinstance(self.position, AbsolutePosition):
            sizes, learnable = self.position.sizes or (self.length + 1,), self.position.learnable
            tables = [position_table(self.position.code, rows, self.channels) for rows in sizes]
        embedding = TokenEmbedding(self.vocabulary, self.channels, tables, learnable, self.position.count, self.image)
        return Tokens(embedding)


class Tokens(Input):
    """Embeds tokens, with their absolute positions where they have such."""

    def __init__(self, embedding: TokenEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.channels = embedding.tokens.embedding_dim

    def forward(self, elements: Elements) -> Lifted:
        """Content (B, T, E) and mask."""
        embedded = self.embedded(elements)
        return Lifted(embedded.content, None, embedded.present)

    def embedded(self, elements: Elements) -> Embedded:
        """The tokens as an autoregressive encoder reads them. Coordinates, where there are any, are their positions."""
        tokens = elements.values[..., 0].long()
        if elements.mask is not None:
            tokens = torch.where(elements.mask, tokens, PAD)
        return self.embedding(tokens, None if elements.coords is None else elements.coords.long())


def _cropped(sample: Sample, seed: Seed, shortest: int | None) -> Sample:
    count = len(sample.values)
    if shortest is None or count <= shortest:
        return sample
    end = int(np.random.default_rng(seed).integers(shortest, count + 1))
    return replace(sample, values=sample.values[:end])
