"""Groups of a Hierarchical Perceiver: what is read together, and how latents are grouped anew [P4; official code].

Arrays are (B, G, M, C): G groups of M elements. Attention acts inside a group. No group mixes two modalities; what a
group lacks in elements is filled up with zeros, and these are read like elements: the published model masks nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional as F

from perceivers.errors import SpecError

Regrouping = Literal["reshape", "transpose_reshape"]


def assign_groups(groups: int, elements: Sequence[int]) -> tuple[list[int], int]:
    """How many groups each modality gets, and how many elements the largest group then has.

    elements: M of each modality. Each gets one group; every further one goes to the modality with the most elements a
    group, of equals to the first. Raises `SpecError` where there are more modalities than groups.
    """
    if len(elements) > groups:
        raise SpecError(
            f"{len(elements)} modalities cannot share {groups} groups, since no group mixes two; give the first block "
            f"at least {len(elements)} groups."
        )
    shares = [1] * len(elements)
    sizes = [float(count) for count in elements]
    for _ in range(groups - len(elements)):
        largest = sizes.index(max(sizes))
        shares[largest] += 1
        sizes[largest] = elements[largest] / shares[largest]
    return shares, math.ceil(max(sizes))


@dataclass(frozen=True)
class Share:
    """The groups of one modality: `groups` of them from number `first` on, for `elements` elements.

    behind: zeros behind all elements, which make the groups equal. each: zeros behind every group, which make it as
    large as the groups of the others.
    """

    elements: int
    first: int
    groups: int
    behind: int = 0
    each: int = 0

    def grouped(self, x: Shaped[Tensor, "B M C"], fill: float = 0.0) -> Shaped[Tensor, "B g m C"]:
        """The elements in their groups, filled up with `fill`."""
        whole = F.pad(x, (0, 0, 0, self.behind), value=fill).unflatten(1, (self.groups, -1))
        return F.pad(whole, (0, 0, 0, self.each), value=fill)

    def ungrouped(self, x: Shaped[Tensor, "B g m C"]) -> Shaped[Tensor, "B M C"]:
        """The elements in one row again, without what filled up their groups."""
        row = x[:, :, : x.shape[2] - self.each].flatten(1, 2)
        return row[:, : row.shape[1] - self.behind]

    @property
    def places(self) -> slice:
        """Where its groups lie among all groups."""
        return slice(self.first, self.first + self.groups)


def shares_of(groups: int, elements: Sequence[int]) -> list[Share]:
    """The share of each modality of so many `elements` in `groups` groups."""
    counts, size = assign_groups(groups, elements)
    shares: list[Share] = []
    first = 0
    for count, mine in zip(elements, counts, strict=True):
        behind = -count % mine
        shares.append(Share(count, first, mine, behind, size - (count + behind) // mine))
        first += mine
    return shares


def regroup(x: Shaped[Tensor, "B G N C"], groups: int, how: Regrouping = "reshape") -> Shaped[Tensor, "B g n C"]:
    """The same latents in another number of groups, which must divide G·N.

    reshape: neighbouring groups come together. transpose_reshape: first (B, N, G, C), so that all groups mix.
    """
    if how == "transpose_reshape":
        x = x.transpose(1, 2)
    return x.reshape(x.shape[0], groups, -1, x.shape[-1])
