"""Tokens one after another, each drawn from what Perceiver AR predicts behind those before [sample_utils.py; P3 §3.3].

Two ways. Without a cache every token is predicted by the whole model as in training. With one, a new token costs a
single latent, but sees what earlier latents left in the cache, which training never showed: when the latents' memories
are full, they are filled to the half anew, by a run of the whole model with half the latents.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perceivers.errors import DataError, SpecError
from perceivers.nn.attention.plain import MASKED_SCORE
from perceivers.nn.autoregressive import Autoregressive
from perceivers.nn.kv_cache import Cache
from perceivers.nn.tokens import lengths


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn.

    temperature: divides the logits; 0 takes the likeliest. top_k: only the so many likeliest. top_p: only the likeliest
    that together have this share (nucleus, Holtzman et al. 2020). never: tokens that are not drawn at all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise SpecError(f"temperature is {self.temperature}; it is at least 0, and 0 takes the likeliest token.")
        if self.top_k is not None and self.top_k < 1:
            raise SpecError(f"top_k is {self.top_k}; at least one token must be left.")
        if not 0 < self.top_p <= 1:
            raise SpecError(f"top_p is {self.top_p}; it is a share above 0, and 1 leaves every token.")


PLAIN = Sampling()


def allowed(logits: Float[Tensor, "B K"], sampling: Sampling) -> Float[Tensor, "B K"]:
    """Logits, those of tokens that are not to be drawn at −1e30, divided by the temperature.

    The nucleus is cut at the first token, from the least likely up, at which the sum of probabilities reaches 1 − p;
    it and all at least as likely stay [process_logits].
    """
    logits = logits.float()
    if sampling.never:
        logits = logits.index_fill(-1, torch.tensor(sampling.never, device=logits.device), MASKED_SCORE)
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[..., -1:]
        logits = torch.where(logits >= least, logits, MASKED_SCORE)
    if sampling.top_p < 1:
        ascending = logits.sort(-1).values
        enough = ascending.softmax(-1).cumsum(-1) >= 1 - sampling.top_p
        least = ascending.gather(-1, enough.long().argmax(-1, keepdim=True))
        logits = torch.where(logits >= least, logits, MASKED_SCORE)
    return logits / max(sampling.temperature, 1e-12)


def drawn(
    logits: Float[Tensor, "B K"], sampling: Sampling, generator: torch.Generator | None = None
) -> Int[Tensor, " B"]:
    """One token a row."""
    processed = allowed(logits, sampling)
    if sampling.temperature == 0:
        return processed.argmax(-1)
    return torch.multinomial(processed.softmax(-1), 1, generator=generator)[:, 0]


class CachedSteps:
    """Logits of the next token from a cache: `prefill` reads the beginning, each `step` one more token.

    positions: (B, T, A) of every place up to the last, or None for the model's own rule.
    """

    def __init__(self, model: Autoregressive, batch: int, context: int, positions: Tensor | None = None) -> None:
        embedding = model.embedding
        if embedding.counting != "start":
            raise SpecError(
                "positions that count from the end change with every token, so nothing can be kept in a cache; "
                "generate without (cache=False, --no-cache)."
            )
        like = embedding.tokens.weight
        if positions is None:
            whole = torch.ones(batch, context, dtype=torch.bool, device=like.device)
            positions = embedding.positions(whole)
        self.model = model
        self.positions = positions
        self.memories: Cache = model.encoder.cache(batch, context, like)

    def prefill(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B K"]:
        """Read the first tokens, none of which is padding, with one latent."""
        self.memories.clear()
        return self._logits(tokens, 0, 1)

    def step(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B K"]:
        """Read the last of `tokens` with one latent; all others have been read before."""
        return self._logits(tokens[:, -1:], tokens.shape[1] - 1, 1)

    def refill(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B K"]:
        """Forget all, and read all tokens with half as many latents as there is room for."""
        self.memories.clear()
        return self._logits(tokens, 0, max(self.model.encoder.latents // 2, 1))

    def next(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B K"]:
        """`step`, or `refill` where the latents' memories are full."""
        return self.refill(tokens) if self.memories.full else self.step(tokens)

    @torch.no_grad()
    def _logits(self, tokens: Tensor, start: int, latents: int) -> Tensor:
        positions = self.positions[:, start : start + tokens.shape[1]]
        return self.model(tokens, positions, latents, self.memories, padded=latents > 1)[:, -1]


@torch.no_grad()
def generate(
    model: Autoregressive,
    prompt: Int[Tensor, "B T"],
    count: int,
    sampling: Sampling = PLAIN,
    *,
    cache: bool = True,
    positions: Int[Tensor, "B S A"] | None = None,
    stop: int | None = None,
    generator: torch.Generator | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Int[Tensor, "B R"]:
    """The prompts (at least one token each, padded by 0 on the right) and `count` tokens behind each, padded by 0.

    cache: prompts must then be of one length. positions: of all places that are read, for rules of their own. stop: the
    token behind which a sequence has ended. generator: makes draws that can be repeated, on the prompt's device.
    advance: is told how many tokens there are so far. Raises `DataError` for prompts that cannot be continued.
    """
    ends = lengths(prompt > 0)
    if not bool((ends > 0).all()):
        raise DataError("a prompt holds no token; begin it with one, usually that for the start of a sequence.")
    if cache and bool((ends != prompt.shape[1]).any()):
        raise DataError(
            "prompts of different lengths cannot share a cache; give prompts of one length, or generate without one "
            "(cache=False, --no-cache)."
        )
    tokens = torch.cat([prompt, prompt.new_zeros(prompt.shape[0], count)], dim=1)
    over = torch.zeros_like(ends, dtype=torch.bool)
    steps = CachedSteps(model, len(tokens), max(tokens.shape[1] - 1, 1), positions) if cache else None
    for done in range(count):
        read = tokens[:, : int(ends.max())]
        if steps is not None:
            logits = steps.prefill(read) if done == 0 else steps.next(read)
        else:
            logits = model(read, None if positions is None else positions[:, : read.shape[1]])[:, -1]
        new = drawn(logits, sampling, generator).to(tokens.dtype)
        tokens[torch.arange(len(tokens), device=tokens.device), ends] = torch.where(over, 0, new)
        ends += 1
        advance(done + 1)
        if stop is not None:
            over |= new == stop
            if bool(over.all()):
                break
    return tokens[:, : int(ends.max())]
