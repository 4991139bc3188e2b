"""Rotary positions of Perceiver AR: pairs of channels are turned by an angle that grows with the position.

Not the usual form: the rates run over `linspace(0, n/2, n/2)` with both ends, their base is the longest context, and
the pairs are neighbouring channels [perceiver_ar_model.py `_make_rotation_matrices`; models.md §5].
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_tables(
    positions: Int[Tensor, "B T"], channels: int, longest: float, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "B T n"], Float[Tensor, "B T n"]]:
    """Cosine and sine of position × rate for `channels` (n, even) channels; two neighbours share a rate.

    Rate j is longest^(−(2/n)·e_j) with e = linspace(0, n/2, n/2).
    """
    assert channels % 2 == 0, "channels are turned in pairs"
    bands = channels // 2
    exponents = torch.linspace(0, bands, bands, dtype=dtype, device=positions.device)
    rates = longest ** (-(2 / max(channels, 1)) * exponents)
    angles = positions[..., None].to(dtype) * rates.repeat_interleave(2)
    return angles.cos(), angles.sin()


@dataclass(frozen=True)
class Rotary:
    """Turns the first channels of the first heads; what is left over passes as it is.

    longest: base of the rates. fraction: of each head's channels. head_fraction: of the heads. ahead: is added to the
    position of every latent, 1 where its query stands for the token that it predicts (`initial_query_offsetting`).
    """

    longest: float
    fraction: float = 0.5
    head_fraction: float = 1.0
    ahead: int = 0

    def __call__(self, x: Float[Tensor, "B T F"], positions: Int[Tensor, "B T"], heads: int) -> Float[Tensor, "B T F"]:
        """Queries or keys (H heads in F channels, head outermost) of elements at `positions`."""
        split = x.unflatten(-1, (heads, -1))
        turned_heads = math.floor(self.head_fraction * heads)
        channels = 2 * math.floor(self.fraction * split.shape[-1] / 2)
        part = split[:, :, :turned_heads, :channels]
        if not part.numel():
            return x
        dtype = torch.promote_types(x.dtype, torch.float32)
        cos, sin = (table[:, :, None].to(x.dtype) for table in rotary_tables(positions, channels, self.longest, dtype))
        even, odd = part.unflatten(-1, (-1, 2)).unbind(-1)
        turned = part * cos + torch.stack((-odd, even), dim=-1).flatten(-2) * sin
        rest = split[:, :, :turned_heads, channels:]
        whole = torch.cat((turned, rest), dim=-1)
        return torch.cat((whole, split[:, :, turned_heads:]), dim=2).flatten(2)
