"""Keys and values of what was read before, in arrays of fixed size, so that a new token reads them all without making
them again [perceiver-ar sample_utils.py; models.md §5]."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Memory:
    """The last `size` keys and values of one attention; older ones are overwritten. Every sample has as many.

    Rotary keys are kept as they were turned: their positions never change.
    """

    def __init__(self, batch: int, size: int, key_channels: int, value_channels: int, like: Tensor) -> None:
        self.size = size
        self.keys = like.new_zeros(batch, size, key_channels)
        self.values = like.new_zeros(batch, size, value_channels)
        self.seen = 0
        """How many came since it was last empty."""

    def __len__(self) -> int:
        """How many are kept."""
        return min(self.seen, self.size)

    @property
    def full(self) -> bool:
        """Whether the next one overwrites the oldest."""
        return self.seen >= self.size

    def clear(self) -> None:
        """Forget everything."""
        self.seen = 0

    def added(
        self, keys: Float[Tensor, "B n F"], values: Float[Tensor, "B n V"]
    ) -> tuple[Float[Tensor, "B s F"], Float[Tensor, "B s V"]]:
        """Take in new ones, at most `size`; all that are kept then, in no order."""
        count = keys.shape[1]
        assert count <= self.size, "no more at once than there is room for"
        start = self.seen % self.size
        first = min(count, self.size - start)
        for kept, new in ((self.keys, keys), (self.values, values)):
            kept[:, start : start + first] = new[:, :first]
            kept[:, : count - first] = new[:, first:]
        self.seen += count
        return self.keys[:, : len(self)], self.values[:, : len(self)]

    def in_order(self) -> tuple[Float[Tensor, "B S F"], Float[Tensor, "B S V"], Bool[Tensor, " S"]]:
        """Keys and values from the oldest to the newest, behind zeros where nothing is kept yet; True where kept."""
        kept, oldest = len(self), self.seen % self.size if self.full else 0
        order = (torch.arange(kept, device=self.keys.device) + oldest) % self.size
        empty = self.size - kept
        keys, values = (
            torch.cat([array.new_zeros(array.shape[0], empty, array.shape[2]), array[:, order]], dim=1)
            for array in (self.keys, self.values)
        )
        return keys, values, torch.arange(self.size, device=keys.device) >= empty


@dataclass(frozen=True)
class Cache:
    """The memories of an encoder's attentions: of its cross-attends (as long as the context) and of its self-attends
    (as long as there are latents)."""

    cross: Sequence[Memory]
    own: Sequence[Memory]

    @property
    def full(self) -> bool:
        """Whether another latent would overwrite one."""
        return self.own[0].full

    def clear(self) -> None:
        """Forget everything."""
        for memory in (*self.cross, *self.own):
            memory.clear()
