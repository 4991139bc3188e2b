"""Perceiver AR: latents stand on the last tokens of a sequence, read all tokens up to their own, and predict the next
[P3 = arXiv 2202.07765; where the paper and its code differ, perceiver_ar_model.py of google-research/perceiver-ar].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perceivers.errors import SpecError
from perceivers.nn.attention import Attention, attend
from perceivers.nn.blocks import ACTIVATIONS, LAYER_NORM_EPS, CrossAttend, SelfAttend
from perceivers.nn.initialisers import block_linear, learned_array, plain_linear
from perceivers.nn.kv_cache import Cache, Memory
from perceivers.nn.rotary import Rotary
from perceivers.nn.tokens import Embedded, TokenEmbedding, latent_places, lengths

QueryStyle = Literal["token", "mlp", "learned"]


@dataclass(frozen=True)
class Masks:
    """Who reads what; None: everything may be read.

    cross: (B, n, T). own: (B, n, n), among latents. real: (B, n), False for latents before the beginning of their
    sequence, whose results mean nothing.
    """

    cross: Tensor | None = None
    own: Tensor | None = None
    real: Tensor | None = None


def causal_masks(present: Bool[Tensor, "B T"], places: Int[Tensor, "B n"]) -> Masks:
    """A latent reads the tokens up to its own, that included, and latents whose place is not behind its own."""
    steps = torch.arange(present.shape[1], device=present.device)
    cross = (places[..., None] >= steps) & present[:, None]
    real = places >= 0
    own = (places[..., None] >= places[:, None]) & real[:, None]
    # Itself always: no row of the softmax is empty.
    itself = torch.eye(places.shape[1], dtype=torch.bool, device=places.device)
    return Masks(cross, own | itself, real)


class InitialQuery(nn.Module):
    """What the latents start as: (B, n, E) embeddings of the tokens they stand on → (B, n·k, D).

    style: `token` a linear of that embedding, `mlp` that and `layers` more linears, each with its `activation` behind,
    `learned` an array that knows nothing of the tokens, one vector a latent or, `shared`, one for all. per_position
    (k): latents on one token, told apart by a learned vector each.
    """

    def __init__(
        self,
        element_channels: int,
        channels: int,
        latents: int,
        style: QueryStyle = "token",
        shared: bool = False,
        layers: int = 2,
        activation: str = "relu_squared",
        per_position: int = 1,
    ) -> None:
        super().__init__()
        if latents % per_position:
            raise SpecError(f"{latents} latents cannot stand {per_position} on a token; make it a multiple.")
        if style == "learned" and per_position > 1:
            raise SpecError("learned queries have one latent on a token; take another style for several.")
        learned = style == "learned"
        self.linear = None if learned else block_linear(element_channels, channels)
        self.learned = learned_array(1 if shared else latents, channels) if learned else None
        self.vectors = learned_array(per_position, channels) if per_position > 1 else None
        self.layers = nn.ModuleList(block_linear(channels, channels) for _ in range(layers if style == "mlp" else 0))
        self.activation = ACTIVATIONS[activation]
        self.per_position = per_position

    @property
    def any_count(self) -> bool:
        """Whether it can start any number of latents, not only that of training."""
        return self.learned is None or self.learned.shape[0] == 1

    def forward(self, last: Float[Tensor, "B n E"]) -> Float[Tensor, "B N D"]:
        """Latents on one token stand side by side."""
        batch, count = last.shape[:2]
        if self.learned is not None:
            rows = self.learned.shape[0]
            assert rows in (1, count), "learned queries that are not shared are as many as the latents"
            return self.learned.expand(batch, count, -1)
        assert self.linear is not None, "a query is learned or made of tokens"
        x = self.linear(last)
        if self.vectors is not None:
            x = x.repeat_interleave(self.per_position, dim=1) + self.vectors.repeat(count, 1)
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


class AutoregressiveEncoder(nn.Module):
    """Embedded tokens (B, T) → latents (B, N, D) on the last tokens, and their places (B, N/k).

    latents (N): with k on a token, N/k tokens are predicted at once. reads: which self-attends a cross-attend stands
    before, in order; 0 is the usual one, L one behind all. rotary: None where positions are in the tokens' content.
    token_dropout: share of the tokens that no latent of a sample reads in training (`encoder_dropout_prob`).
    latent_dropout: share of the latents that no other one reads in training.
    """

    def __init__(
        self,
        latents: int,
        query: InitialQuery,
        cross_attends: Sequence[CrossAttend],
        self_attends: Sequence[SelfAttend],
        reads: Sequence[int] = (0,),
        rotary: Rotary | None = None,
        token_dropout: float = 0.0,
        latent_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        assert len(reads) == len(cross_attends), "one place a cross-attend"
        self.latents = latents
        self.query = query
        self.cross_attends = nn.ModuleList(cross_attends)
        self.self_attends = nn.ModuleList(self_attends)
        self.reads = tuple(reads)
        self.rotary = rotary
        self.token_dropout = token_dropout
        self.latent_dropout = latent_dropout

    def forward(
        self, tokens: Embedded, latents: int | None = None, cache: Cache | None = None
    ) -> tuple[Float[Tensor, "B N D"], Int[Tensor, "B n"]]:
        """The latents, in the order of their places; the place of a latent is −1 where its sequence is too short.

        latents: another N than that of training. cache: is added to. With more than one latent it must be empty.
        """
        count = (self.latents if latents is None else latents) // self.query.per_position
        places, masks = self.places(tokens, count)
        rows = places % tokens.content.shape[1]
        latent = self.query(tokens.content.gather(1, rows[..., None].expand(-1, -1, tokens.content.shape[-1])))
        asked = tokens.positions.gather(1, rows) + (self.rotary.ahead if self.rotary else 0)
        asked = asked.repeat_interleave(self.query.per_position, dim=1)
        if self.training:
            masks = self._dropped(masks, tokens)
        for index, layer in enumerate([*self.self_attends, None]):
            for number in [number for number, place in enumerate(self.reads) if place == index]:
                latent = self._cross(number, latent, tokens, asked, masks, cache)
            if layer is not None:
                latent = self._own(index, latent, asked, masks, cache)
        return latent, places

    def places(self, tokens: Embedded, count: int) -> tuple[Int[Tensor, "B n"], Masks]:
        """Where `count` latents stand (once for those on one token), and the masks of all latents."""
        batch, steps = tokens.content.shape[:2]
        if tokens.present is None:
            full = torch.full((batch,), steps, device=tokens.content.device)
            places = latent_places(full, count)
            if count == 1:
                return places, Masks()
            present = torch.ones(batch, steps, dtype=torch.bool, device=places.device)
        else:
            present = tokens.present
            places = latent_places(lengths(present), count)
        return places, causal_masks(present, places.repeat_interleave(self.query.per_position, dim=1))

    def cache(self, batch: int, context: int, like: Tensor) -> Cache:
        """An empty cache for `batch` sequences of at most `context` tokens, on the device of `like`.

        Raises `SpecError` for models that cannot have one.
        """
        if self.query.per_position > 1 or not self.query.any_count:
            raise SpecError(
                "a model with several latents on a token, or with learned queries that are not shared, cannot "
                "generate from a cache; generate without (cache=False, --no-cache)."
            )
        sizes = [(context, layer) for layer in self.cross_attends] + [(self.latents, a) for a in self.self_attends]
        found = [Memory(batch, size, *_widths(layer), like) for size, layer in sizes]
        return Cache(found[: len(self.cross_attends)], found[len(self.cross_attends) :])

    def _dropped(self, masks: Masks, tokens: Embedded) -> Masks:
        """The masks without the tokens and latents that this training step leaves out, another draw a sample."""
        cross, own = masks.cross, masks.own
        if self.token_dropout:
            kept = torch.rand_like(tokens.content[..., 0], dtype=torch.float32) >= self.token_dropout
            cross = kept[:, None] if cross is None else cross & kept[:, None]
        if self.latent_dropout and own is not None:
            kept = torch.rand(own.shape[0], 1, own.shape[2], device=own.device) >= self.latent_dropout
            itself = torch.eye(own.shape[1], dtype=torch.bool, device=own.device)
            own = own & kept | itself
        return Masks(cross, own, masks.real)

    def _cross(
        self, number: int, latent: Tensor, tokens: Embedded, asked: Tensor, masks: Masks, cache: Cache | None
    ) -> Tensor:
        layer = self.cross_attends[number]
        assert isinstance(layer, CrossAttend), "cross-attends are CrossAttends"
        query, read = layer.query_norm(latent), layer.element_norm(tokens.content)
        memory = None if cache is None else cache.cross[number]
        heads = layer.attention.heads
        query = self._turned(layer.attention.query(query), asked, heads)
        keys = self._turned(layer.attention.key(read), tokens.positions, heads)
        mask = masks.cross
        if mask is not None and masks.real is not None:
            # A latent before the beginning may read nothing: it reads everything alike instead, as officially.
            query, mask = query * masks.real[..., None], mask | ~masks.real[..., None]
        return layer.after(latent, _read(layer.attention, query, keys, layer.attention.value(read), mask, memory))

    def _own(self, number: int, latent: Tensor, asked: Tensor, masks: Masks, cache: Cache | None) -> Tensor:
        layer = self.self_attends[number]
        assert isinstance(layer, SelfAttend), "self-attends are SelfAttends"
        x, memory = layer.norm(latent), None if cache is None else cache.own[number]
        heads = layer.attention.heads
        query = self._turned(layer.attention.query(x), asked, heads)
        keys = self._turned(layer.attention.key(x), asked, heads)
        read = _read(layer.attention, query, keys, layer.attention.value(x), masks.own, memory)
        return layer.after(latent, read, own=True)

    def _turned(self, x: Tensor, positions: Tensor, heads: int) -> Tensor:
        return x if self.rotary is None else self.rotary(x, positions, heads)


def _read(
    attention: Attention, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, memory: Memory | None
) -> Tensor:
    if memory is not None:
        keys, values = memory.added(keys, values)
    return attention.output(attend(query, keys, values, attention.heads, mask))


def _widths(layer: nn.Module) -> tuple[int, int]:
    assert isinstance(layer, (CrossAttend, SelfAttend)), "layers attend"
    return layer.attention.key.out_features, layer.attention.value.out_features


class NextToken(nn.Module):
    """Latents (B, n·k, D) → logits (B, n, vocabulary): a norm, the mean of the latents on one token, a linear that
    starts at zero."""

    def __init__(self, channels: int, vocabulary: int, per_position: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, LAYER_NORM_EPS)
        self.linear = plain_linear(channels, vocabulary, zero=True)
        self.per_position = per_position

    def forward(self, latents: Float[Tensor, "B N D"]) -> Float[Tensor, "B n K"]:
        """Logits of the token behind each latent's."""
        x = self.norm(latents)
        if self.per_position > 1:
            x = x.unflatten(1, (-1, self.per_position)).mean(2)
        return self.linear(x)


class Autoregressive(nn.Module):
    """The whole of Perceiver AR: tokens (B, T) → logits of the next token (B, n, vocabulary), latent by latent."""

    def __init__(self, embedding: TokenEmbedding, encoder: AutoregressiveEncoder, head: NextToken) -> None:
        super().__init__()
        self.embedding = embedding
        self.encoder = encoder
        self.head = head

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T A"] | None = None,
        latents: int | None = None,
        cache: Cache | None = None,
        padded: bool = True,
    ) -> Float[Tensor, "B n K"]:
        """Logits; the last are those of the token behind each sequence. positions: instead of the model's own rule."""
        embedded = self.embedding(tokens, positions, padded)
        return self.head(self.encoder(embedded, latents, cache)[0])
