"""Hierarchical Perceiver: blocks of Perceivers over groups, a U-Net of latents [P4 = arXiv 2202.10890; official code].

    elements → groups → block 0 → … → centre (one group) → … → last block → positions ask for the elements again

Each block groups what it reads anew and lets latents of its own read it, the same weights for all groups. Behind the
centre the latents of block i also begin from what block n − 1 − i gave. With a single block over all modalities in one
group it is the Perceiver IO that the same code holds.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perceivers.errors import DataError
from perceivers.nn.blocks import CrossAttend, SelfAttend
from perceivers.nn.groups import Regrouping, Share, regroup, shares_of
from perceivers.nn.initialisers import block_linear, scaled_array
from perceivers.nn.lifted import Lifted


class DropPath(nn.Module):
    """In training an example's whole addition is left out with probability `rate`; the rest is not scaled up.

    Rows are `groups` a sample, and all groups of a sample share one draw [official `StochasticDepth`].
    """

    def __init__(self, rate: float, groups: int = 1) -> None:
        super().__init__()
        self.rate = rate
        self.groups = groups

    def forward(self, x: Float[Tensor, "R N D"]) -> Float[Tensor, "R N D"]:
        """`x`, or zeros for the samples that are left out."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0] // self.groups, device=x.device) >= self.rate
        return x * kept.repeat_interleave(self.groups)[:, None, None].to(x.dtype)


class Modality(nn.Module):
    """The elements of one modality: a linear into the embedding's E channels, and a learned position for each, added.

    projected: positions go through a linear without bias, each modality's own (the official code means one for all,
    but haiku makes several; the raw array is E wide whatever its setting says).
    """

    def __init__(self, elements: int, channels: int, embedding_channels: int, projected: bool = False) -> None:
        super().__init__()
        self.embed = block_linear(channels, embedding_channels)
        self.position = scaled_array(elements, embedding_channels)
        self.projection = block_linear(embedding_channels, embedding_channels, bias=False) if projected else None

    @property
    def elements(self) -> int:
        """M."""
        return self.position.shape[0]

    def positions(self) -> Float[Tensor, "M E"]:
        """What is added to the elements, and asks for them in the end."""
        return self.position if self.projection is None else self.projection(self.position)

    def forward(self, values: Float[Tensor, "B M c"]) -> Float[Tensor, "B M E"]:
        """The embedded elements with their positions. Raises `DataError` for another number of them."""
        if values.shape[1] != self.elements:
            raise DataError(
                f"learned positions were made for {self.elements} elements, but the input has {values.shape[1]}; "
                "a hierarchical Perceiver takes inputs of one size."
            )
        return self.embed(values) + self.positions()


class GroupBlock(nn.Module):
    """One level: latents of each group read its elements and think; weights are shared by all groups, latents are not.

    latents: N of each group. cross_attend: latents (B·G, N, D) read (B·G, M, C). skip: a linear for the residual, where
    its channels differ from D. drawn: in training only so many of the N latents of a group take part, drawn at random
    for every sample and group.
    """

    def __init__(
        self,
        groups: int,
        latents: int,
        cross_attend: CrossAttend,
        self_attends: Sequence[SelfAttend],
        skip: nn.Linear | None = None,
        drawn: int | None = None,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.drawn = drawn
        self.latents = scaled_array(groups * latents, cross_attend.query_norm.weight.shape[0])
        self.cross_attend = cross_attend
        self.self_attends = nn.ModuleList(self_attends)
        self.skip = skip
        self.recompute = False

    def forward(
        self,
        x: Float[Tensor, "B G M C"],
        residual: Float[Tensor, "B G N R"] | None = None,
        mask: Bool[Tensor, "B G M"] | None = None,
    ) -> Float[Tensor, "B G N D"]:
        """The latents of every group. `residual` is added to them before they read. mask: True = may be read."""
        queries = self.latents.unflatten(0, (self.groups, -1)).expand(x.shape[0], -1, -1, -1)
        if self.training and self.drawn is not None:
            queries = self._some(queries, self.drawn)
        if residual is not None:
            queries = queries + (residual if self.skip is None else self.skip(residual))
        readable = None if mask is None else mask.flatten(0, 1)[:, None]
        z = self.cross_attend(queries.flatten(0, 1), x.flatten(0, 1), readable)
        again = self.recompute and torch.is_grad_enabled()
        for layer in self.self_attends:
            z = checkpoint(layer, z, use_reentrant=False) if again else layer(z)
        return z.unflatten(0, (-1, self.groups))

    def _some(self, queries: Float[Tensor, "B G N D"], count: int) -> Float[Tensor, "B G n D"]:
        order = torch.rand(queries.shape[:3], device=queries.device).argsort(-1)[..., :count]
        return queries.gather(2, order[..., None].expand(-1, -1, -1, queries.shape[-1]))


class Levels(NamedTuple):
    """What a hierarchical Perceiver gives: the latents of its centre (B, N, D), and of its last block (B, G, N, D)."""

    centre: Tensor
    final: Tensor


class Hierarchical(nn.Module):
    """The whole of it, from lifted elements to latents, and to elements again.

    modalities: in the order in which they take the groups. head: positions read the last block's latents. central:
    modalities that skip all blocks but the centre, as class labels do (the class bottleneck); they are appended to what
    the centre reads and read out right behind it by `central_head`. Heads are None where nothing is asked for again.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        blocks: Sequence[GroupBlock],
        head: CrossAttend | None,
        regrouping: Regrouping = "reshape",
        central: Mapping[str, Modality] | None = None,
        central_head: CrossAttend | None = None,
    ) -> None:
        super().__init__()
        self.modalities = nn.ModuleDict(modalities)
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.regrouping: Regrouping = regrouping
        self.central = nn.ModuleDict(central or {})
        self.central_head = central_head
        counts = [modality.elements for modality in modalities.values()]
        # A Perceiver IO has its modalities side by side in one group; a hierarchy gives each groups of its own.
        self.side_by_side = len(blocks) == 1
        shares = [Share(n, 0, 1) for n in counts] if self.side_by_side else shares_of(blocks[0].groups, counts)
        self.shares = dict(zip(modalities, shares, strict=True))

    @property
    def latents(self) -> Tensor:
        """Those of the first block, which tell dtype and device."""
        return self._block(0).latents

    def save_memory(self, flat: bool, recompute: bool) -> None:
        """As `Encoder.save_memory`: no keys and values of all elements at once; self-attends computed again."""
        for block in map(self._block, range(len(self.blocks))):
            block.cross_attend.attention.flat = flat
            block.recompute = recompute

    def forward(self, parts: Mapping[str, Lifted], batch: int) -> Levels:
        """Centre and last latents of the named modalities' elements, for `batch` samples.

        A masked element is not read; a modality that is missing is masked whole. Zeros that fill up groups are read.
        """
        x, mask = self._grouped(parts, batch)
        passed: list[Tensor] = []
        middle = len(self.blocks) // 2
        for index in range(len(self.blocks)):
            block = self._block(index)
            if index:
                x, mask = regroup(x, block.groups, self.regrouping), None
            if index == middle and len(self.central):
                x, mask = self._with_central(x, mask, parts, batch)
            x = block(x, passed[len(self.blocks) - 1 - index] if index > middle else None, mask)
            passed.append(x)
        return Levels(passed[middle][:, 0], x)

    def again(self, levels: Levels, name: str) -> Float[Tensor, "B M E"]:
        """The elements of one modality as its positions read them out of the latents; every position asks alone."""
        batch = levels.final.shape[0]
        if name in self.central:
            assert self.central_head is not None, "central modalities are asked for by a head"
            queries = _modality(self.central[name]).positions().expand(batch, -1, -1)
            return self.central_head(queries, levels.centre)
        assert self.head is not None, "elements are asked for by a head"
        share = self.shares[name]
        queries = share.grouped(_modality(self.modalities[name]).positions()[None]).expand(batch, -1, -1, -1)
        read = self.head(queries.flatten(0, 1), levels.final[:, share.places].flatten(0, 1))
        return share.ungrouped(read.unflatten(0, (batch, -1)))

    def _block(self, index: int) -> GroupBlock:
        block = self.blocks[index]
        assert isinstance(block, GroupBlock), "blocks are GroupBlocks"
        return block

    def _grouped(self, parts: Mapping[str, Lifted], batch: int) -> tuple[Tensor, Tensor | None]:
        """(B, G, M, E) of all modalities, and which of these may be read (B, G, M); None: all."""
        axis = 2 if self.side_by_side else 1
        read = {name: _embedded(self.modalities[name], parts.get(name), batch) for name in self.modalities}
        x = torch.cat([self.shares[name].grouped(values) for name, (values, _) in read.items()], dim=axis)
        if all(mask is None for _, mask in read.values()):
            return x, None
        masks = [
            self.shares[name].grouped(_present(mask, values)[..., None], fill=True)
            for name, (values, mask) in read.items()
        ]
        return x, torch.cat(masks, dim=axis)[..., 0]

    def _with_central(
        self, x: Tensor, mask: Tensor | None, parts: Mapping[str, Lifted], batch: int
    ) -> tuple[Tensor, Tensor | None]:
        """What the centre reads, with its own modalities behind."""
        read = [_embedded(self.central[name], parts.get(name), batch) for name in self.central]
        joined = torch.cat([x, *(values[:, None] for values, _ in read)], dim=2)
        if mask is None and all(own is None for _, own in read):
            return joined, None
        before = x.new_ones(x.shape[:3], dtype=torch.bool) if mask is None else mask
        return joined, torch.cat([before, *(_present(own, values)[:, None] for values, own in read)], dim=2)


def _modality(module: nn.Module) -> Modality:
    assert isinstance(module, Modality), "modalities are Modalities"
    return module


def _embedded(module: nn.Module, part: Lifted | None, batch: int) -> tuple[Tensor, Tensor | None]:
    """(B, M, E) and the mask (B, M); what is masked is zero. Nothing given: all is masked."""
    modality = _modality(module)
    if part is None:
        values = modality.position.new_zeros(batch, *modality.position.shape)
        return values, values.new_zeros(values.shape[:2], dtype=torch.bool)
    values = modality(part.cleared().joined())
    return (values if part.mask is None else values * part.mask[..., None]), part.mask


def _present(mask: Tensor | None, values: Tensor) -> Tensor:
    return values.new_ones(values.shape[:2], dtype=torch.bool) if mask is None else mask
