"""`encoder.kind: autoregressive`: Perceiver AR at the grain of its configurations [P3; experiment.py; models.md §5]."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from perceivers.inputs import InputSettings
from perceivers.nn.autoregressive import QueryStyle
from perceivers.outputs import OutputSettings
from perceivers.settings import Settings

Elementwise = Literal["gelu_tanh", "gelu", "relu_squared"]
# Of an MLP: geglu halves the channels, for which the MLP makes up.
Activation = Literal["gelu_tanh", "gelu", "relu_squared", "geglu"]


class TokenCross(Settings):
    """Latents read tokens."""

    heads: PositiveInt = 1
    qk_channels: PositiveInt | None = None
    """F over all heads, which are the values' too. None: as the tokens (`shape_for_attn: kv`)."""
    widening: PositiveInt = 4
    """Hidden width of the MLP, in multiples of the latents' channels."""
    query_residual: bool = True
    """Add the queries to what they read."""
    first: bool = True
    """Read once before the first self-attend (`include_initial_cross_attention`)."""
    after: tuple[NonNegativeInt, ...] = ()
    """Read again, with weights of its own, after these self-attends; the first is 0."""


class TokenSelfAttend(Settings):
    """Latents read latents."""

    heads: PositiveInt = 8
    widening: PositiveInt = 4
    """Hidden width of the MLP, in multiples of its channels."""


class TokenQuery(Settings):
    """What the latents start as."""

    style: QueryStyle = "token"
    """`token`: a linear of the embedding of the token that the latent stands on; `mlp`: that and more linears;
    `learned`: vectors that know nothing of the tokens."""
    layers: PositiveInt = 2
    """Of `mlp`: linears, each with its activation behind."""
    activation: Elementwise = "relu_squared"
    """Of `mlp`."""
    shared: bool = False
    """Of `learned`: one vector for all latents, or one each."""
    ahead: bool = False
    """Latents stand a place further on, on that of the token that they predict (`initial_query_offsetting`); for
    rotary positions."""
    per_token: PositiveInt = 1
    """k latents on each of the last N/k tokens, whose mean predicts (`num_latents_per_position`)."""

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        own = {"layers": "mlp", "activation": "mlp", "shared": "learned"}
        for name, style in own.items():
            if self.style != style and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of style: {style}, and the style is {self.style}; leave it out")
        if self.style == "learned" and self.per_token > 1:
            raise ValueError("learned queries have one latent on a token; leave per_token out, or take another style")
        return self


class AutoregressiveSpec(Settings):
    """Latents stand on the last tokens of a sequence, read what is before them, and predict the next."""

    kind: Literal["autoregressive"]
    layers: PositiveInt = 12
    """Self-attends."""
    cross: TokenCross = TokenCross()
    self_attend: TokenSelfAttend = TokenSelfAttend()
    query: TokenQuery = TokenQuery()
    activation: Activation = "relu_squared"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of what attentions and MLPs give; officially 0.1."""
    token_dropout: float = Field(default=0.0, ge=0, lt=1)
    """In training, share of the tokens of a sample that no cross-attend reads (the paper's cross-attend dropout)."""
    latent_dropout: float = Field(default=0.0, ge=0, lt=1)
    """In training, share of the latents of a sample that no other latent reads."""

    @model_validator(mode="after")
    def _places_exist(self) -> Self:
        after = self.cross.after
        if len(set(after)) != len(after) or any(place >= self.layers for place in after):
            raise ValueError(f"cross.after is {list(after)}; name each of the self-attends 0 to {self.layers - 1} once")
        return self

    @property
    def reads(self) -> tuple[int, ...]:
        """Which self-attends a cross-attend stands before, in order; `layers`: behind the last."""
        return (0,) * self.cross.first + tuple(place + 1 for place in sorted(self.cross.after))


def check_autoregressive(
    encoder: AutoregressiveSpec,
    inputs: Mapping[str, InputSettings],
    outputs: Mapping[str, OutputSettings],
    latents: tuple[int, int],
) -> None:
    """Raise `ValueError` for what an autoregressive model cannot have. latents: their count N and channels D."""
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"encoder.kind: autoregressive continues one input and has one output, not {len(inputs)} and {len(outputs)}"
        )
    (name, read), (answer, output) = next(iter(inputs.items())), next(iter(outputs.items()))
    if not read.continued:
        raise ValueError(f"encoder.kind: autoregressive reads tokens: inputs.{name}.kind must be tokens")
    if not output.continues:
        raise ValueError(f"encoder.kind: autoregressive says what comes next: outputs.{answer}.kind must be next_token")
    for setting in ("encoding", "vocabulary"):
        mine, theirs = getattr(read, setting), getattr(output, setting)
        if mine != theirs:
            raise ValueError(
                f"outputs.{answer}.{setting} is {theirs}, and that of inputs.{name} is {mine}; make them one"
            )
    count, width = latents
    if count % encoder.query.per_token:
        raise ValueError(
            f"latents.count = {count} is no multiple of encoder.query.per_token = {encoder.query.per_token}"
        )
    cross = encoder.cross.qk_channels or read.channels  # pyright: ignore[reportAttributeAccessIssue]
    for key, heads, channels in (
        ("self_attend", encoder.self_attend.heads, width),
        ("cross", encoder.cross.heads, cross),
    ):
        if channels % heads:
            raise ValueError(f"encoder.{key}.heads is {heads}, which does not divide {channels} channels")
