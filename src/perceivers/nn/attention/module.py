"""The attention module: four linears around `attend`, or around a path that needs no keys and values."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceivers.errors import SpecError
from perceivers.nn.attention.asking import ask_grid, asks_by_tables
from perceivers.nn.attention.attend import attend
from perceivers.nn.attention.lookup import looked_up, looks_up
from perceivers.nn.attention.planner import Asking, Path, choose_paths, has_room, reads_apart, shape_of
from perceivers.nn.attention.read import Asked, asked, attend_lifted, merged_values, values_of
from perceivers.nn.attention.state import State
from perceivers.nn.initialisers import block_linear
from perceivers.nn.lifted import Lifted
from perceivers.nn.linear import is_plain, once
from perceivers.nn.streamed import Gathered

_CHANGED = (
    "what comes in parts, a source or a live input, is read with the weights of the encoder's keys, values and norms "
    "alone, and one of these has a hook or a forward of its own, such as an adapter; merge it into the weights, or "
    "give the input whole."
)


def _unreadable(query: Tensor) -> str:
    return (
        f"a source is read in float32 or float64 with data, not in {query.dtype} on {query.device}, under autocast or "
        "torch.compile; keep the encoder in float32, on a device that has float64."
    )


class Attention(nn.Module):
    """Multi-head attention with separate query/key, value and output widths [P2 §E; official `Attention`].

    All four linears have biases; without `qkv_bias` only the output has, as in other libraries. `qk_channels` (F) and
    `v_channels` (V) are totals over heads; `heads` divides both.
    """

    def __init__(
        self,
        query_channels: int,
        element_channels: int,
        qk_channels: int,
        v_channels: int,
        output_channels: int,
        heads: int = 1,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        for name, channels in (("qk_channels", qk_channels), ("v_channels", v_channels)):
            if channels % heads:
                raise SpecError(
                    f"{name} = {channels} cannot be split into {heads} heads; make it a multiple of {heads}."
                )
        self.heads = heads
        self.flat = False
        """Never make keys and values of all elements at once (`Encoder.save_memory`)."""
        self.query = block_linear(query_channels, qk_channels, qkv_bias)
        self.key = block_linear(element_channels, qk_channels, qkv_bias)
        self.value = block_linear(element_channels, v_channels, qkv_bias)
        self.output = block_linear(v_channels, output_channels)

    def forward(
        self,
        queries: Float[Tensor, "B O E"],
        elements: Float[Tensor, "B M C"],
        mask: Bool[Tensor, "B #O M"] | None = None,
    ) -> Float[Tensor, "B O _"]:
        """What each query reads, (B, O, output_channels). A query with nothing to read gives the output bias."""
        return self._read(once(self.query, queries), elements, mask)

    def normed(
        self,
        queries: Float[Tensor, "B O E"],
        elements: Float[Tensor, "B M C"] | Gathered,
        norm: nn.LayerNorm,
        mask: Bool[Tensor, "B #O M"] | None = None,
    ) -> Float[Tensor, "B O _"]:
        """`self(queries, norm(elements), mask)` by the paths that the planner chooses; every path gives the same.

        What is gathered brings its own masks, and `mask` is None then.
        """
        query = once(self.query, queries)
        if isinstance(elements, Tensor):
            if mask is not None and mask.shape[1] != 1:
                return self._read(query, norm(elements), mask)
            elements = Gathered((Lifted(elements, None, None if mask is None else mask[:, 0]),))
        channels, widths = norm.weight.shape[0], (self.key.out_features, self.value.out_features)
        shapes = [shape_of(part) for part in elements.parts]
        apart = reads_apart(query)
        by_weights = apart and is_plain(norm, self.key, self.value)
        if not by_weights:
            paths = None
            if any(shape.streamed for shape in shapes):
                raise SpecError(_CHANGED if apart else _unreadable(query))
        else:
            training = torch.is_grad_enabled() and query.requires_grad
            asking = Asking(query.shape[1], channels, *widths, self.heads, training)
            count = sum(shape.elements for shape in shapes)
            paths = choose_paths(shapes, asking, self.flat, has_room(query, count, asking))
        if paths is None:
            readable = None if elements.mask is None else elements.mask[:, None]
            first, *others = elements.in_memory
            if by_weights and not others and looks_up(first):
                return self._read_tokens(query, first, norm, readable)
            return self._read(query, norm(elements.joined), readable)
        read = attend_lifted(query, elements.parts, paths, norm, self.key, self.value, self.heads, elements.group)
        return self.output(read)

    def from_grid(
        self, queries: Lifted, norm: nn.LayerNorm, elements: Float[Tensor, "B N C"]
    ) -> Float[Tensor, "B O _"]:
        """`self(norm(queries.joined()), elements)`, by tables where the position is tables and that is cheaper.

        A query that the mask of `queries` leaves out reads nothing.
        """
        widths = self.query.out_features, self.value.out_features
        count, keys = queries.content.shape[1], elements.shape[1]
        by_tables = asks_by_tables(queries, keys, queries.channels, *widths, self.heads)
        by_tables = by_tables and reads_apart(elements) and is_plain(norm, self.query, self.output)
        training = torch.is_grad_enabled() and elements.requires_grad
        # Here it is the queries that are many, and the answers as wide as values.
        asking = Asking(keys, queries.channels, *widths, self.heads, training)
        if by_tables and not has_room(elements, count, asking):
            keys, values = self.key(elements), self.value(elements)
            return ask_grid(queries, keys, values, norm, self.query, self.output, self.heads)
        mask = None if queries.mask is None else queries.mask[..., None].expand(-1, -1, elements.shape[1])
        return self(norm(queries.joined()), elements, mask)

    def asked(self, queries: Float[Tensor, "B O E"], norm: nn.LayerNorm) -> Asked:
        """The queries as the paths take them, for reading `norm(elements)` in parts; see `answered`.

        Raises `SpecError` where a linear or the norm is more than its weights.
        """
        if not is_plain(norm, self.key, self.value):
            raise SpecError(_CHANGED)
        return asked(once(self.query, queries), norm, self.key, self.value, self.heads)

    def answered(
        self, queries: Asked, states: Sequence[State], paths: Sequence[Path], norm: nn.LayerNorm
    ) -> Float[Tensor, "B O _"]:
        """What `normed` gives for the elements whose states these are, each found by its path."""
        read = merged_values(queries, states, paths)
        return self.output(values_of(queries, read, norm, self.value, sure=False))

    def _read_tokens(self, query: Tensor, tokens: Lifted, norm: nn.LayerNorm, mask: Tensor | None) -> Tensor:
        made, done = [], 0
        for keys, values in looked_up(tokens, norm, self.key, self.value):
            some = slice(done, done := done + len(keys))
            made.append(attend(query[some], keys, values, self.heads, None if mask is None else mask[some]))
        return self.output(torch.cat(made))

    def _read(self, query: Tensor, elements: Tensor, mask: Tensor | None) -> Tensor:
        return self.output(attend(query, self.key(elements), self.value(elements), self.heads, mask))
