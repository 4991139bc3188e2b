"""Tokens as Perceiver AR reads them: their embedding, where they stand, and which of them a latent belongs to.

Sequences are padded on the right with token 0, so a sequence ends before its first 0 [perceiver_ar_model.py
`get_sequence_length`; models.md §5].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F

from perceivers.errors import DataError
from perceivers.nn.initialisers import learned_array
from perceivers.positions import fourier_features, linear_positions, sinusoidal_features

Counting = Literal["start", "end", "negative_end"]
Code = Literal["sinusoidal", "fourier", "random"]


@dataclass(frozen=True)
class Embedded:
    """Tokens on their way to the encoder.

    content: (B, T, E). positions: (B, T) whole numbers, for rotary attention. present: (B, T), True where there is a
    token and no padding; None: everywhere.
    """

    content: Tensor
    positions: Tensor
    present: Tensor | None = None


def lengths(present: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """How many tokens stand before the first padding."""
    return present.long().cumprod(1).sum(1)


def latent_places(lengths: Int[Tensor, " B"], count: int) -> Int[Tensor, "B n"]:
    """Where the `count` latents of each sequence stand: on its last tokens, in order; −1: before its beginning."""
    return (lengths[:, None] + torch.arange(-count, 0, device=lengths.device)).clamp(min=-1)


def positions_from_end(present: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """0 for the last token of each sequence, counting up to the left; padding gets the numbers that are left over."""
    count = present.shape[1]
    steps = torch.arange(count, device=present.device)
    return count - 1 - (steps - lengths(present)[:, None]) % count


def raster_positions(image: tuple[int, int, int], count: int, device: torch.device) -> Int[Tensor, "T 3"]:
    """(x, y, channel) of `count` tokens that are an SOS and then an image, row by row, channels innermost.

    SOS stands at (1, 1, 1) and the first pixel's first channel at (2, 2, 2): 0 is left to padding, as in the official
    ImageNet data.
    """
    _, width, channels = image
    cell = torch.arange(count - 1, device=device)
    x, y, channel = cell // channels % width, cell // (channels * width), cell % channels
    return torch.cat([cell.new_ones(1, 3), torch.stack([x, y, channel], dim=-1) + 2])


def position_table(code: Code, rows: int, channels: int) -> Tensor:
    """The first draw of a table of absolute positions (rows, channels)."""
    if torch.get_default_device().type == "meta":
        return torch.empty(rows, channels)  # computing nothing there takes seconds: torch imports its own reference
    if code == "random":
        return learned_array(rows, channels, std=1.0).detach()
    if code == "sinusoidal":
        return sinusoidal_features(torch.arange(rows, dtype=torch.float32), channels)
    return fourier_features(linear_positions((rows,)), channels // 2, (rows,), concat_position=False)


class TokenEmbedding(nn.Module):
    """Tokens (B, T) → `Embedded`: an embedding, and the rows of absolute position tables added to it.

    tables: one an index of the position, added up; none: positions are the encoder's work (rotary). learnable: whether
    training changes the tables. counting: which positions tokens have that come without: `start` 1, 2, 3, …; `end` 0
    for the last, counting up to the left; `negative_end` the same below zero. image: (height, width, channels) where
    the tokens are one, which then has three positions (`raster_positions`).
    """

    def __init__(
        self,
        vocabulary: int,
        channels: int,
        tables: Sequence[Tensor] = (),
        learnable: bool = False,
        counting: Counting = "start",
        image: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, channels, _weight=learned_array(vocabulary, channels, std=1.0))
        self.tables = nn.ParameterList(nn.Parameter(table, requires_grad=learnable) for table in tables)
        self.counting = counting
        self.image = image

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are."""
        return self.tokens.num_embeddings

    def forward(
        self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T A"] | None = None, padded: bool = True
    ) -> Embedded:
        """padded: whether token 0 is padding; otherwise every token is read."""
        present = tokens > 0
        if positions is None:
            positions = self.positions(present)
        content = self.tokens(tokens)
        if len(self.tables):
            self._check(positions)
            content = content + sum(
                F.embedding(positions[..., axis], table)
                for axis, table in enumerate(self.tables[: positions.shape[-1]])
            )
        return Embedded(content, positions[..., 0], present if padded else None)

    def positions(self, present: Bool[Tensor, "B T"]) -> Int[Tensor, "B T A"]:
        """The positions of tokens that come without, by the rule of `counting` and `image`."""
        batch, count = present.shape
        if self.image is not None:
            cells = raster_positions(self.image, count, present.device).expand(batch, -1, -1)
            return cells * present[..., None]
        if self.counting == "start":
            return (torch.arange(1, count + 1, device=present.device) * present)[..., None]
        found = positions_from_end(present)[..., None]
        return found if self.counting == "end" else -found

    def _check(self, positions: Tensor) -> None:
        if positions.shape[-1] > len(self.tables):
            raise DataError(f"positions have {positions.shape[-1]} indices, but there are {len(self.tables)} tables.")
        if positions.is_meta:
            return
        for axis in range(positions.shape[-1]):
            rows, furthest = self.tables[axis].shape[0], int(positions[..., axis].max())
            if furthest >= rows:
                raise DataError(f"position {furthest} lies beyond the position table, which has {rows} rows.")
