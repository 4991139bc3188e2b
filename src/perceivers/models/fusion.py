"""How several inputs, or the queries of several outputs, become one array; and elements that are hidden."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from perceivers.errors import DataError
from perceivers.nn.initialisers import learned_array
from perceivers.nn.lifted import Lifted
from perceivers.nn.streamed import Streamed
from perceivers.settings import Settings

Chance = Annotated[float, Field(ge=0, le=1)]


class Masking(Settings):
    """The chance that an element of an input is replaced by a learned one, in training and otherwise.

    An input that is hidden otherwise (1) is one that people in use do not have, such as the label of a clip.
    """

    training: Chance
    otherwise: Chance = 0.0
    """0, or 1: then what the input holds is never read in use."""

    @field_validator("otherwise")
    @classmethod
    def _certain(cls, chance: float) -> float:
        if chance not in (0, 1):
            raise ValueError("in use a sample has one answer, so its elements are hidden always (1) or never (0)")
        return chance


def as_masking(given: float | Masking) -> Masking:
    """One chance is that of training, and of use where it is 1."""
    return given if isinstance(given, Masking) else Masking(training=given, otherwise=float(given == 1))


class Fusion(nn.Module):
    """Several arrays of elements as one: each padded to the same channels by a trainable embedding of its own.

    channels: name → C. `padding` channels are added to the widest. Arrays are joined in sorted order of their names
    [models.md §1 and §3: multimodal preprocessor and decoder]. masking: name → the chance that an element is replaced
    by a learned one.
    """

    def __init__(
        self, channels: Mapping[str, int], padding: int, masking: Mapping[str, float | Masking] | None = None
    ) -> None:
        super().__init__()
        self.channels = max(channels.values()) + padding
        self.embeddings = nn.ParameterDict({n: learned_array(1, self.channels - channels[n]) for n in sorted(channels)})
        self.masking = {name: as_masking(given) for name, given in (masking or {}).items()}
        self.mask_tokens = nn.ParameterDict({n: learned_array(1, self.channels) for n in sorted(self.masking)})

    def pad(self, name: str, x: Tensor) -> Tensor:
        """(B, M, c) of that name → (B, M, channels)."""
        return torch.cat([x, self.embeddings[name].expand(*x.shape[:2], -1)], dim=-1)

    def hides(self, name: str) -> bool:
        """Whether what the input of that name holds is never read in use."""
        return name in self.masking and self.masking[name].otherwise == 1

    def hidden(self, name: str, batch: int, elements: int) -> Lifted:
        """All elements of the input of that name replaced, whatever they hold."""
        return Lifted(self.mask_tokens[name].expand(batch, elements, -1))

    def masked(self, name: str, part: Lifted | Streamed) -> Lifted:
        """The padded elements of that name, some replaced by chance."""
        part = _whole(name, part)
        joined = part.joined()
        return Lifted(torch.where(self._chosen(name, joined), self._token(name, joined), joined), None, part.mask)

    def shown(self, name: str, part: Lifted | Streamed | None, stand_ins: Lifted) -> Lifted:
        """In training those of an input that is hidden in use: some as they are, the others, and absent ones, not.

        part: None: it is absent in all samples, as it is in use.
        """
        if part is None or self.masking[name].training == 1:
            return stand_ins
        part = _whole(name, part)
        joined = part.cleared().joined()
        chosen = self._chosen(name, joined)
        if part.mask is not None:
            chosen = chosen | ~part.mask[..., None]
        return Lifted(torch.where(chosen, self._token(name, joined), joined))

    def _chosen(self, name: str, like: Tensor) -> Tensor:
        """(B, M, 1) True where an element is to be replaced."""
        return torch.rand(*like.shape[:2], 1, device=like.device) < self.masking[name].training

    def _token(self, name: str, like: Tensor) -> Tensor:
        return self.mask_tokens[name].to(like.dtype)


def _whole(name: str, part: Lifted | Streamed) -> Lifted:
    if not isinstance(part, Lifted):
        raise DataError(f"input '{name}' is masked by chance in training, which a source cannot be.")
    return part
