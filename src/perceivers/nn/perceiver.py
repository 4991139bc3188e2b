"""Encoder and decoders: elements → latents → answers [P1 §3; P2 §3].

An encoder is a list of distinct cross-attends, a list of distinct latent blocks and an `order` that names them. Weight
sharing is naming one twice, so every published sharing is the same class and no parameter stands twice in a state dict.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perceivers.errors import SpecError
from perceivers.nn.blocks import LAYER_NORM_EPS, CrossAttend, SelfAttend
from perceivers.nn.initialisers import learned_array
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.linear import Affine, samples_at_once, without_graph
from perceivers.nn.streamed import Gathered

Step = tuple[Literal["cross", "block"], int]
Sharing = Literal["all", "after_first", "none"]


def shared_index(position: int, sharing: Sharing) -> int:
    """Which distinct module stands at `position`: all → 0; after_first → 0, 1, 1, …; none → 0, 1, 2, …"""
    return {"all": 0, "after_first": min(position, 1), "none": position}[sharing]


def encoder_order(
    cross_attends: int,
    blocks: int,
    interleaved: bool = False,
    cross_sharing: Sharing = "none",
    block_sharing: Sharing = "all",
) -> list[Step]:
    """The steps of an encoder.

    Perceiver IO: one cross-attend, then `blocks` times the same block [models.md §4.1].
    Perceiver (2021): cross-attends interleaved, the first with its own weights and the others sharing one set
    (`after_first`), all latent blocks sharing one set [P1 §3.1 and its parameter counts; models.md §4.2].
    Interleaved cross-attends are spread evenly: number t of T stands before block ⌊t·blocks/T⌋.
    """
    if interleaved and cross_attends > blocks:
        raise SpecError(
            f"{cross_attends} interleaved cross-attends need as many latent blocks, but there are {blocks}. "
            "Raise encoder.blocks, or set encoder.interleaved: false to put them all at the start."
        )
    before = [t * blocks // cross_attends if interleaved else 0 for t in range(cross_attends)]
    steps: list[Step] = []
    crosses = 0
    for block in range(max(blocks, 1)):
        while crosses < cross_attends and before[crosses] == block:
            steps.append(("cross", shared_index(crosses, cross_sharing)))
            crosses += 1
        if block < blocks:
            steps.append(("block", shared_index(block, block_sharing)))
    return steps


class Encoder(nn.Module):
    """Learned latents read the elements and think: (B, M, C) → (B, N, D). No final norm [models.md §1]."""

    def __init__(
        self,
        latents: int,
        channels: int,
        cross_attends: Sequence[CrossAttend],
        blocks: Sequence[Sequence[SelfAttend]],
        order: Sequence[Step],
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.latents = learned_array(latents, channels, std=init_std)
        self.cross_attends = nn.ModuleList(cross_attends)
        self.blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.order = tuple(order)
        self.recompute = False

    def save_memory(self, flat: bool, recompute: bool) -> None:
        """The same results in less memory and more time; `perceivers.models.plan` says when that is needed.

        flat: no cross-attend makes keys and values of all elements at once. recompute: of the latent blocks only what
        enters each self-attend is kept for the backward pass, which computes the rest again.
        """
        self.recompute = recompute
        for cross in self.cross_attends:
            assert isinstance(cross, CrossAttend), "encoders cross-attend"
            cross.attention.flat = flat

    def forward(
        self, elements: Float[Tensor, "B M C"] | Gathered, mask: Bool[Tensor, "B M"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Latents after every step of the order. `mask` is True where an element is real; gathered inputs bring theirs.

        A masked element changes nothing, whatever it holds. With nothing to read the attention gives zeros before its
        output projection. Latent self-attends are never masked.
        """
        if isinstance(elements, Tensor):
            elements = Gathered((Lifted(elements, None, mask),))
        elements = elements.cleared()
        x = self.latents.expand(elements.batch, -1, -1)
        for kind, index in self.order:
            x = self.cross_attends[index](x, elements) if kind == "cross" else self.think(x, index)
        return x

    def think(self, latents: Float[Tensor, "B N D"], block: int) -> Float[Tensor, "B N D"]:
        """The latents after the latent block of that number."""
        layers = self.blocks[block]
        assert isinstance(layers, nn.ModuleList), "a block is a list of self-attends"
        for layer in layers:
            # Random states are kept for it: dropout must drop the same numbers again.
            again = self.recompute and torch.is_grad_enabled()
            latents = checkpoint(layer, latents, use_reentrant=False) if again else layer(latents)
        return latents


class Decoder(nn.Module):
    """Queries read the latents: (B, O, E) × (B, N, D) → (B, O, E) [P2 §3.2].

    Queries may be learned (`LearnedPosition`), positional (`FourierPosition`) or any given array. Each query is
    answered alone, so any chunking gives the same answer. `output`: a linear behind the cross-attend, (B, O, E) →
    (B, O, its width), which all answers share [official multimodal decoder].
    """

    def __init__(self, cross_attend: CrossAttend, output: nn.Linear | None = None) -> None:
        super().__init__()
        self.cross_attend = cross_attend
        self.output = output

    def forward(
        self,
        queries: Float[Tensor, "B O E"] | Lifted,
        latents: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B O"] | None = None,
        chunk: int | None = None,
    ) -> Float[Tensor, "B O _"]:
        """Answers in the order of the queries; at most `chunk` queries at once.

        `mask` False: that query reads nothing (the official query mask). Queries that are the positions of a grid may
        be given as `Lifted`, with content or with none (c = 0): then they are not projected one by one.
        """
        if isinstance(queries, Lifted) and mask is not None:
            queries, mask = replace(queries, mask=mask), None
        first, *others = self.parts(queries, latents, mask, chunk)
        return torch.cat([first, *others], dim=1) if others else first

    def parts(
        self,
        queries: Float[Tensor, "B O E"] | Lifted,
        latents: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B O"] | None = None,
        chunk: int | None = None,
        reader: Affine | None = None,
    ) -> Iterator[Float[Tensor, "B _ _"]]:
        """The same answers in parts of at most `chunk` queries, one after the other; `Lifted` bring their mask.

        reader: a linear that every answer goes through at the end. Without gradients it, and `output`, are drawn into
        the last product of the MLP where that makes fewer products.
        """
        if chunk is not None and chunk < 1:
            raise SpecError(f"queries are answered in chunks of {chunk}; a chunk needs at least one.")
        output = () if self.output is None else (Affine.of(self.output),)
        linears = output if reader is None else (*output, reader)
        if isinstance(queries, Lifted) and isinstance(queries.position, AxisTables) and not queries.add:
            for box in queries.boxes(chunk or queries.content.shape[1]):
                yield self.cross_attend(box, latents, linears=linears)
            return
        array, mask = (queries.joined(), queries.mask) if isinstance(queries, Lifted) else (queries, mask)
        step = max(array.shape[1], 1) if chunk is None else chunk
        masks = [None] * max(-(-array.shape[1] // step), 1) if mask is None else mask.split(step, dim=1)
        for some, asking in zip(array.split(step, dim=1), masks, strict=True):
            yield self._by_samples(some, latents, asking, linears)

    def _by_samples(
        self, queries: Float[Tensor, "B O E"], latents: Tensor, mask: Tensor | None, linears: Sequence[Affine]
    ) -> Float[Tensor, "B O _"]:
        """The answers; without gradients those of some samples at a time, see `samples_at_once`."""
        readable = None if mask is None else mask[..., None].expand(-1, -1, latents.shape[1])
        samples = samples_at_once(queries[:1].numel(), queries)
        if samples >= len(queries) or not without_graph(queries):
            return self.cross_attend(queries, latents, readable, linears)
        masks = [None] * -(-len(queries) // samples) if readable is None else readable.split(samples)
        several = zip(queries.split(samples), latents.split(samples), masks, strict=True)
        return torch.cat([self.cross_attend(*some, linears) for some in several])


class AverageDecoder(nn.Module):
    """The 2021 Perceiver's read-out: the mean of the latents answers one query [P1 §3.1].

    It has no parameters. `norm_channels` (D): a layer norm of that width behind the mean, which others add.
    """

    def __init__(self, norm_channels: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(norm_channels, LAYER_NORM_EPS) if norm_channels else None

    def forward(self, latents: Float[Tensor, "B N D"]) -> Float[Tensor, "B 1 D"]:
        """The mean over latents as one answer."""
        mean = latents.mean(dim=1, keepdim=True)
        return mean if self.norm is None else self.norm(mean)
