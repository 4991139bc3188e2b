"""A model whose encoder is autoregressive: one input of tokens, latents on its last ones, and what comes next."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from perceivers.elements import Batch, Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs import Input, InputSettings
from perceivers.models.model import Model
from perceivers.models.spec import Spec
from perceivers.models.spec_autoregressive import AutoregressiveSpec
from perceivers.nn import MLP, CrossAttend, SelfAttend
from perceivers.nn.autoregressive import Autoregressive, AutoregressiveEncoder, InitialQuery, NextToken
from perceivers.nn.generation import PLAIN, Sampling, generate
from perceivers.nn.hierarchical import Levels
from perceivers.nn.lifted import Lifted
from perceivers.nn.tokens import TokenEmbedding
from perceivers.outputs import Context, Output
from perceivers.outputs.base import Sizes
from perceivers.sources import Source
from perceivers.tokens import EOS, PAD, SOS


class AutoregressiveModel(Model):
    """Perceiver AR over a named input and output. Made by `perceivers.build` or `perceivers.load`.

    `model(batch)` gives {output: logits (B, n, K)} of the tokens behind the last n; `generate` continues a prompt.
    """

    encoder: AutoregressiveEncoder  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, spec: Spec, read: Input, encoder: AutoregressiveEncoder, answer: Output) -> None:
        (name,), (output,) = spec.inputs, spec.outputs
        nothing = nn.Identity()
        super().__init__(spec, {name: read}, None, encoder, {output: answer}, None, nothing)  # pyright: ignore[reportArgumentType]

    @property
    def core(self) -> Autoregressive:
        """The three parts as one module of tokens: the same weights, not copies."""
        (read,), (answer,) = self.inputs.values(), self.outputs.values()
        embedding, head = read.embedding, answer.next
        assert isinstance(embedding, TokenEmbedding), "its input embeds tokens"
        assert isinstance(head, NextToken), "its output predicts the next"
        core = Autoregressive(embedding, self.encoder, head)
        core.training = self.training
        return core

    @property
    def kind(self) -> InputSettings:
        """The settings of its one input."""
        return next(iter(self.spec.inputs.values()))

    @property
    def encoding(self) -> str:
        """What its tokens are: `bytes` or `ids`."""
        return self.kind.encoding  # pyright: ignore[reportAttributeAccessIssue]

    def written(self, ids: Sequence[int]) -> Any:
        """Ids as a raw value: a str, or a list."""
        return self.kind.written(ids)  # pyright: ignore[reportAttributeAccessIssue]

    def _encoded(self, batch: Any, ready: Mapping[str, Lifted], group: ProcessGroup | None) -> Tensor:
        """Latents (B, N, D), the last ones on the last token of each sample; nothing is `ready`.

        The latents of a sample with fewer tokens than latents begin with some that mean nothing. Raises `SpecError` for
        a group: no sample is read by several processes.
        """
        if group is not None:
            raise SpecError("a model with encoder.kind: autoregressive reads a sample in one process; leave group out.")
        batch = self.collated(batch)
        (name,) = self.inputs
        if batch.sources:
            raise DataError(f"input '{name}': tokens are read whole; give them themselves instead of a source.")
        elements = batch.inputs.get(name)
        if elements is None or not elements.values.shape[1]:
            nothing = torch.full((batch.size, 1, 1), PAD, device=self.device)
            elements = Elements(nothing, grid=(1,), mask=nothing[..., 0] > PAD)
        return self.encoder(self.inputs[name].embedded(elements))[0]  # pyright: ignore[reportCallIssue]

    def _decoded(
        self,
        latents: Tensor | Levels,
        contexts: Mapping[str, Context],
        chunk: int | None = None,
        advance: Callable[[str, int, int], None] | None = None,
    ) -> dict[str, Tensor]:
        """{output: logits (B, n, K)} of the token behind each latent's; the last ones continue the samples.

        All are answered at once: they are the latents themselves.
        """
        assert isinstance(latents, Tensor), "read, and so checked"
        return {name: self.output_module(name).predict(latents, context) for name, context in contexts.items()}

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """A `Batch` from raw samples: input name → text, bytes or ids."""
        for sample in samples:
            for name, value in sample.items():
                if isinstance(value, Source):
                    raise DataError(f"input '{name}': tokens are read whole; give them themselves instead of a source.")
        return super().collate(samples)

    def generate(
        self,
        prompts: Sequence[Any],
        count: int,
        sampling: Sampling = PLAIN,
        *,
        cache: bool = True,
        seed: int | None = None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[list[int]]:
        """For each prompt (a raw value of the input; empty: from the very start) the ids that it goes on with.

        At most `count` each; EOS ends one, and is not in it. Padding and SOS are never drawn. cache: see
        `perceivers.nn.generation`; prompts must then be equally long. Raises `DataError` for a prompt that cannot be
        read, or that leaves no room for `count` tokens in the model's context.
        """
        length = int(self.kind.elements())
        read = [self.kind.parse(prompt).values[:, 0].tolist() for prompt in prompts]
        if not read or count < 1:
            raise DataError("there is nothing to generate: give at least one prompt and a length of at least 1.")
        longest = max(map(len, read))
        if longest + count - 1 > length:
            room = length - longest + 1
            raise DataError(
                f"a prompt of {longest - 1} tokens (and SOS) and {count} more do not fit into the model's context of "
                f"{length}: at most {room} can follow. Shorten the prompt, or generate fewer."
            )
        generator = None
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        tokens = torch.full((len(read), longest), PAD, device=self.device)
        for row, ids in enumerate(read):
            tokens[row, : len(ids)] = torch.tensor(ids, device=self.device)
        never = tuple({*sampling.never, PAD, SOS})
        drawn = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, never)
        training = self.training
        self.eval()
        try:
            found = generate(
                self.core, tokens, count, drawn, cache=cache, stop=EOS, generator=generator, advance=advance
            )
        finally:
            self.train(training)
        return [_until_end(row[len(ids) :]) for row, ids in zip(found.tolist(), read, strict=True)]


def _until_end(ids: list[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in (EOS, PAD):
            return ids[:place]
    return ids


def build_autoregressive(spec: Spec) -> AutoregressiveModel:
    """A model with freshly drawn weights, of a spec whose encoder is autoregressive."""
    e, (read,), (answer,) = spec.encoder, spec.inputs.values(), spec.outputs.values()
    assert isinstance(e, AutoregressiveSpec), "the encoder is autoregressive"
    count, width = spec.latents.count, spec.latents.channels
    module = read.build()
    q = e.query
    query = InitialQuery(module.channels, width, count, q.style, q.shared, q.layers, q.activation, q.per_token)
    mlp = lambda widening: MLP(width, widening, e.activation)  # noqa: E731
    crosses = [
        CrossAttend(
            width,
            module.channels,
            e.cross.heads,
            e.cross.qk_channels,
            None,
            mlp(e.cross.widening),
            e.cross.query_residual,
            e.dropout,
        )
        for _ in e.reads
    ]
    own = e.self_attend
    selves = [SelfAttend(width, own.heads, mlp=mlp(own.widening), dropout=e.dropout) for _ in range(e.layers)]
    rotary = read.rotary(q.ahead)  # pyright: ignore[reportAttributeAccessIssue]
    encoder = AutoregressiveEncoder(count, query, crosses, selves, e.reads, rotary, e.token_dropout, e.latent_dropout)
    (name,) = spec.inputs
    model = AutoregressiveModel(spec, module, encoder, answer.build(Sizes(width, width, False, {name: module})))
    model.core.head.per_position = q.per_token
    return model
