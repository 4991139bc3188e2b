"""The three blocks of every Perceiver: MLP, cross-attend, self-attend [official perceiver.py; P2 §E.1]."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from perceivers.errors import unknown
from perceivers.nn.attention import Attention
from perceivers.nn.attention.planner import Path
from perceivers.nn.attention.read import Asked
from perceivers.nn.attention.state import State
from perceivers.nn.initialisers import block_linear
from perceivers.nn.lifted import Lifted
from perceivers.nn.linear import (
    NUMBERS_AT_ONCE,
    Affine,
    in_a_row,
    is_plain,
    is_watched,
    once,
    whole_rows,
    without_graph,
)
from perceivers.nn.streamed import Gathered

LAYER_NORM_EPS = 1e-5


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2 is x·σ(x·(_LINEAR + _CUBIC·x²)).
_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
# So many numbers and what is made of them stay in a processor's cache; fewer than half as many are not worth it.
_CACHED = 2**18


def _gelu_tanh_in_place(x: Tensor) -> Tensor:
    """`x` as `_gelu_tanh` makes it: on processors torch's tanh takes three times as long as its sigmoid.

    [docs/log.md, "GELU by a sigmoid"]
    """
    for some in x.view(-1).split(_CACHED):
        some.mul_(torch.mul(some, some).mul_(_CUBIC).add_(_LINEAR).mul_(some).sigmoid_())
    return x


def _relu_squared(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def _geglu(x: Tensor) -> Tensor:
    values, gates = x.chunk(2, dim=-1)
    return values * F.gelu(gates)


# gelu_tanh: Perceiver and Perceiver IO. relu_squared: Perceiver AR and HiP. gelu: the exact form, used by other ports.
# geglu: half of the channels times the exact GELU of the other half [Shazeer 2020, arXiv 2002.05202], used by others.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": _gelu_tanh,
    "gelu": F.gelu,
    "relu_squared": _relu_squared,
    "geglu": _geglu,
}
# How many times as many channels go in as come out.
_HALVING = {"geglu": 2}


class MLP(nn.Module):
    """Linear(C → w·C), activation, Linear(w·C → C); biases on both. With `geglu` the first is Linear(C → 2·w·C)."""

    def __init__(self, channels: int, widening: int = 1, activation: str = "gelu_tanh") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.activation = ACTIVATIONS[activation]
        self.hidden = block_linear(channels, widening * channels * _HALVING.get(activation, 1))
        self.output = block_linear(widening * channels, channels)

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """The same shape as `x`."""
        hidden = self.hidden(x)
        return self.output(self._activated(hidden, is_plain(self.hidden)))

    def _activated(self, hidden: Tensor, own: bool) -> Tensor:
        """The activation of what the first linear gave; `own`: nobody else has that array."""
        slow = self.activation is _gelu_tanh and hidden.device.type == "cpu"
        if slow and own and without_graph(hidden) and 2 * hidden.numel() >= _CACHED:
            return _gelu_tanh_in_place(hidden)
        return self.activation(hidden)

    def added(self, x: Float[Tensor, "*B C"], norm: nn.LayerNorm, linears: Sequence[Affine]) -> Float[Tensor, "*B F"]:
        """`linears`, one behind the other, of x + self(norm(x)), with the first of them drawn into the last product.

        R(x + W·h + b) = R·x + (R·W)·h + R·b: where R is narrow, so is what h goes through. As many of them are drawn
        in as makes the fewest products. For no gradients, and modules that are plain (`is_plain`).
        """
        drawn = min(range(len(linears) + 1), key=lambda count: self._products(x.numel(), linears, count))
        if not drawn:
            return in_a_row(x + self(norm(x)), linears)
        reader = linears[0]
        for linear in linears[1:drawn]:
            reader = linear.behind(reader)
        hidden = Affine(self.hidden.weight, self.hidden.bias)
        by_hidden = reader.behind(Affine(self.output.weight, self.output.bias))
        if self.output.in_features == self.hidden.out_features:
            # What the activation makes of the zeros is multiplied by zeros.
            width = whole_rows(self.output.in_features)
            hidden, by_hidden = hidden.widened(width), by_hidden.reaching(width)
        found = [
            by_hidden(self._activated(hidden(norm(rows)), own=True)).add_(F.linear(rows, reader.weight))
            for rows in x.flatten(0, -2).split(max(NUMBERS_AT_ONCE // x.shape[-1], 1))
        ]
        return in_a_row(torch.cat(found).unflatten(0, x.shape[:-1]), linears[drawn:])

    def _products(self, numbers: int, linears: Sequence[Affine], drawn: int) -> float:
        """Multiply-adds of `added` behind the activation, for `numbers` of x."""
        width, hidden = self.output.out_features, self.output.in_features
        rows, own = numbers / width, sum(linear.weight.numel() for linear in linears[drawn:])
        if not drawn:
            return rows * (width * hidden + own)
        narrow = linears[drawn - 1].weight.shape[0]
        made = sum(narrow * linear.weight.shape[1] * width for linear in linears[1:drawn]) + narrow * width * hidden
        return rows * (narrow * (width + hidden) + own) + made


class CrossAttend(nn.Module):
    """Queries read elements: x = [q +] Attention(LN(q), LN(elements)); x = x + MLP(LN(x)).

    `qk_channels` defaults to the elements' channels (`shape_for_attn='kv'` of the official code), `v_channels` to
    `qk_channels`, `mlp` to `MLP(query_channels)`. The output has the queries' channels. Dropout acts on the attention's
    and the MLP's output.
    """

    def __init__(
        self,
        query_channels: int,
        element_channels: int,
        heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        mlp: MLP | None = None,
        query_residual: bool = True,
        dropout: float = 0.0,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        qk, v = qk_channels or element_channels, v_channels or qk_channels or element_channels
        self.query_norm = nn.LayerNorm(query_channels, LAYER_NORM_EPS)
        self.element_norm = nn.LayerNorm(element_channels, LAYER_NORM_EPS)
        self.attention = Attention(query_channels, element_channels, qk, v, query_channels, heads, qkv_bias)
        self.mlp_norm = nn.LayerNorm(query_channels, LAYER_NORM_EPS)
        self.mlp = mlp or MLP(query_channels)
        self.query_residual = query_residual
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "B O E"] | Lifted,
        elements: Float[Tensor, "B M C"] | Gathered,
        mask: Bool[Tensor, "B #O M"] | None = None,
        linears: Sequence[Affine] = (),
    ) -> Float[Tensor, "B O _"]:
        """The queries after reading the elements that `mask` (True = may read), or their own masks, allow.

        Queries that are positions of a grid may be given as `Lifted`; its mask is True where a query asks. They read
        an array, all of it. linears: what the answers then go through, one behind the other.
        """
        if isinstance(queries, Lifted):
            assert isinstance(elements, Tensor), "a grid of queries asks an array"
            assert mask is None, "a grid of queries has its own mask"
            read = self.attention.from_grid(queries, self.query_norm, self.element_norm(elements))
            return self.after(queries.joined() if self.query_residual else read, read, linears)
        read = self.attention.normed(once(self.query_norm, queries), elements, self.element_norm, mask)
        return self.after(queries, read, linears)

    def asked(self, queries: Float[Tensor, "B O E"]) -> Asked:
        """The queries as `attention.read.part_state` takes them, to read elements in parts; see `answered`."""
        return self.attention.asked(once(self.query_norm, queries), self.element_norm)

    def answered(
        self, queries: Float[Tensor, "B O E"], asked: Asked, states: Sequence[State], paths: Sequence[Path]
    ) -> Float[Tensor, "B O E"]:
        """What `forward` gives for the elements whose states these are; `asked` is that of the same queries."""
        return self.after(queries, self.attention.answered(asked, states, paths, self.element_norm))

    def after(self, queries: Tensor, read: Tensor, linears: Sequence[Affine] = ()) -> Tensor:
        """The queries (B, O, E) once their attention has `read` as much: residual, MLP and the linears behind it."""
        read = self.dropout(read)
        x = queries + read if self.query_residual else read
        if linears and without_graph(x) and self._drops_nothing(linears):
            return self.mlp.added(x, self.mlp_norm, linears)
        return in_a_row(x + self.dropout(self.mlp(self.mlp_norm(x))), linears)

    def _drops_nothing(self, linears: Sequence[Affine]) -> bool:
        """Whether what is behind the attention is products and an activation alone."""
        # Asked of the dropout itself: drawing answers at random in use turns on nothing else.
        if self.dropout.training and self.dropout.p:
            return False
        if type(self.mlp) is not MLP or is_watched(self.mlp) or is_watched(self.dropout):
            return False
        return all(a.drawable for a in linears) and is_plain(self.mlp.hidden, self.mlp.output, self.mlp_norm)


class SelfAttend(nn.Module):
    """Latents think among themselves, pre-norm: x = x + Attention(LN(x)); x = x + MLP(LN(x)).

    `qk_channels` defaults to the latents' channels, `v_channels` to `qk_channels`, `mlp` to `MLP(channels)`. `skipped`
    may leave out what attention and MLP would add (see `nn.hierarchical.DropPath`).
    """

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        mlp: MLP | None = None,
        dropout: float = 0.0,
        skipped: nn.Module | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        qk = qk_channels or channels
        self.norm = nn.LayerNorm(channels, LAYER_NORM_EPS)
        self.attention = Attention(channels, channels, qk, v_channels or qk, channels, heads, qkv_bias)
        self.mlp_norm = nn.LayerNorm(channels, LAYER_NORM_EPS)
        self.mlp = mlp or MLP(channels)
        self.dropout = nn.Dropout(dropout)
        self.skipped = skipped or nn.Identity()

    def forward(self, latents: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The latents after one round of self-attention and MLP."""
        x = self.norm(latents)
        return self.after(latents, self.attention(x, x), own=True)

    def after(self, latents: Tensor, read: Tensor, own: bool = False) -> Tensor:
        """The latents (B, N, D) once their attention has `read` as much: residual and MLP.

        own: nobody else holds `read`, which is of the latents' shape and may be overwritten.
        """
        read = self.skipped(self.dropout(read))
        if own and without_graph(latents) and self._owns_what_it_adds():
            # New memory for the sums would have to be cleared and mapped by the system [docs/log.md, "Sums in place"].
            x = read.add_(latents)
            return self.skipped(self.dropout(self.mlp(self.mlp_norm(x)))).add_(x)
        x = latents + read
        return x + self.skipped(self.dropout(self.mlp(self.mlp_norm(x))))

    def _owns_what_it_adds(self) -> bool:
        """Whether what attention and MLP give are arrays that nobody else holds."""
        types = tuple(map(type, (self.attention, self.mlp, self.dropout, self.skipped)))
        if types != (Attention, MLP, nn.Dropout, nn.Identity):
            return False
        if any(is_watched(module) for module in (self.attention, self.mlp, self.dropout, self.skipped)):
            return False
        return is_plain(self.attention.output, self.mlp.output)
