"""The spec: what the weights need, at the grain of the papers' tables. Plain data, saved beside the weights."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag, model_validator
from torch import nn

from perceivers.errors import SpecError, near_miss
from perceivers.inputs import AnyInput, InputSettings
from perceivers.models.fusion import Chance, Masking, as_masking
from perceivers.models.spec_autoregressive import Activation, AutoregressiveSpec, check_autoregressive
from perceivers.models.spec_hierarchical import HierarchicalSpec, check_hierarchy, without_positions
from perceivers.nn.perceiver import Sharing
from perceivers.outputs import AnyOutput
from perceivers.settings import Settings, parse_settings

# Attributes that torch's containers have only as objects.
_TAKEN = {"training"}
# What a prediction says besides the answers, under these very names.
RESERVED_OUTPUTS = ("row", "file", "error")


class Latents(Settings):
    """The latent array (N, D)."""

    count: PositiveInt = 128
    """N."""
    channels: PositiveInt = 128
    """D."""
    init_std: float = Field(default=0.02, gt=0)


class AttentionSpec(Settings):
    """The sizes of one sort of attention block."""

    heads: PositiveInt = 1
    qk_channels: PositiveInt | None = None
    """F over all heads. None: cross-attends take the channels of what is read, self-attends the latents'."""
    v_channels: PositiveInt | None = None
    """None: as qk_channels."""
    widening: PositiveInt = 1
    """Hidden width of the MLP, in multiples of its channels."""
    qkv_bias: bool = True
    """Biases of queries, keys and values. The papers have them, other libraries often not."""


class CrossSpec(AttentionSpec):
    """A cross-attend."""

    query_residual: bool = True
    """Add the queries to what they read."""


class EncoderSpec(Settings):
    """How the latents read and think [P1 §3, P2 §3]."""

    kind: Literal["perceiver"] = "perceiver"
    cross_attends: PositiveInt = 1
    interleaved: bool = False
    """Spread the cross-attends between the latent blocks (2021), or put them all at the start."""
    cross_sharing: Sharing = "none"
    """Whether cross-attends share weights: none, all, or after_first (2021)."""
    blocks: NonNegativeInt = 1
    """Latent blocks."""
    layers: PositiveInt = 4
    """Self-attends in a block."""
    block_sharing: Sharing = "all"
    """Whether blocks share weights: all (Perceiver, Perceiver IO), none, or after_first."""
    cross: CrossSpec = CrossSpec()
    self_attend: AttentionSpec = AttentionSpec(heads=8)
    activation: Activation = "gelu_tanh"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    padding: NonNegativeInt = 4
    """With several inputs: channels of the learned modality embedding of the widest one [models.md §3]."""
    masking: Mapping[str, Chance | Masking] = {}
    """With several inputs: by input, the chance that an element is replaced by a learned one; in training, and in use
    where it is 1: then what the input holds is never read. {training: 0.5, otherwise: 1} says them apart
    [models.md §3 and §4.4]."""

    @model_validator(mode="after")
    def _order_exists(self) -> Self:
        if self.interleaved and self.cross_attends > self.blocks:
            raise ValueError(
                f"{self.cross_attends} interleaved cross-attends need as many latent blocks, "
                f"but blocks is {self.blocks}"
            )
        return self


def _encoder_kind(data: Any) -> str:
    """The `kind` of an encoder, which may be left out."""
    kind = data.get("kind", "perceiver") if isinstance(data, Mapping) else getattr(data, "kind", "perceiver")
    return str(kind)


AnyEncoder = Annotated[
    Annotated[EncoderSpec, Tag("perceiver")]
    | Annotated[AutoregressiveSpec, Tag("autoregressive")]
    | Annotated[HierarchicalSpec, Tag("hierarchical")],
    Discriminator(_encoder_kind),
]


class CrossDecoder(Settings):
    """Queries cross-attend the latents [P2 §3.2]."""

    kind: Literal["cross_attend"] = "cross_attend"
    heads: PositiveInt = 1
    qk_channels: PositiveInt | None = None
    v_channels: PositiveInt | None = None
    widening: PositiveInt = 1
    query_residual: bool = True
    qkv_bias: bool = True
    """Biases of queries, keys and values."""
    padding: NonNegativeInt = 2
    """With several outputs: channels of the learned output embedding of the widest query [models.md §1]."""
    output_channels: PositiveInt | None = None
    """Width of a linear behind the cross-attend that all outputs share; None: there is none."""


class AverageDecoderSpec(Settings):
    """The mean of the latents, then a linear that starts at zero: the 2021 Perceiver's read-out [P1 §3.1]."""

    kind: Literal["average"] = "average"
    norm: bool = False
    """A layer norm behind the mean, which the paper has not."""


class Spec(Settings):
    """A whole model. Names of inputs and outputs are free; their order never matters (sorted by name)."""

    inputs: Mapping[str, AnyInput] = Field(min_length=1)
    latents: Latents = Latents()
    encoder: AnyEncoder = EncoderSpec()
    decoder: Annotated[CrossDecoder | AverageDecoderSpec, Field(discriminator="kind")] = CrossDecoder()
    outputs: Mapping[str, AnyOutput] = Field(min_length=1)

    @property
    def perceiver(self) -> EncoderSpec:
        """The encoder of a Perceiver or Perceiver IO. Raises `SpecError` for encoders of other kinds."""
        if isinstance(self.encoder, EncoderSpec):
            return self.encoder
        raise SpecError(f"this is for models with encoder.kind: perceiver, and this one's is {self.encoder.kind}.")

    @model_validator(mode="before")
    @classmethod
    def _positions_of_a_hierarchy(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and _encoder_kind(data.get("encoder")) == "hierarchical" and "inputs" in data:
            return {**data, "inputs": without_positions(data["inputs"])}
        return data

    @model_validator(mode="after")
    def _encoder_fits(self) -> Self:
        if isinstance(self.encoder, AutoregressiveSpec):
            sizes = self.latents.count, self.latents.channels
            check_autoregressive(self.encoder, self.inputs, self.outputs, sizes)
            if self.decoder != CrossDecoder() or self.latents.init_std != Latents().init_std:
                raise ValueError(
                    "an autoregressive encoder has no decoder and no learned latents; leave decoder and "
                    "latents.init_std out"
                )
            return self
        for group, kinds in (("inputs", self.inputs), ("outputs", self.outputs)):
            for name, kind in kinds.items():
                if kind.continued if isinstance(kind, InputSettings) else kind.continues:
                    raise ValueError(f"{group}.{name}, of kind {kind.kind}, needs encoder.kind: autoregressive")
        for name, output in self.outputs.items():
            source = output.again
            if source is None:
                continue
            if source not in self.inputs:
                raise ValueError(
                    f"outputs.{name}.input is '{source}', which is no input{near_miss(source, self.inputs)}"
                )
            read = self.inputs[source]
            if fault := output.unlike(read.raw_grid(), read.raw_numbers(read.elements())):
                raise ValueError(f"outputs.{name} cannot be of input '{source}': {fault}")
            if output.again is None:
                continue
            if not isinstance(self.encoder, HierarchicalSpec):
                raise ValueError(f"outputs.{name} is a reconstruction, which needs encoder.kind: hierarchical")
            if self.inputs[source].plain_patch() is None:
                raise ValueError(
                    f"outputs.{name} cannot be of '{source}': its elements are no plain values; an image of pixels or "
                    "of patches without channels, or a series with a rate and without convolutions, can be had again"
                )
        if isinstance(self.encoder, HierarchicalSpec):
            if self.latents != Latents():
                raise ValueError("each block of a hierarchical encoder has latents of its own; leave latents out")
            averaging = isinstance(self.decoder, AverageDecoderSpec)
            check_hierarchy(self.encoder, self.inputs, self.outputs, averaging)
        return self

    @model_validator(mode="after")
    def _queries_are_asked(self) -> Self:
        if isinstance(self.decoder, AverageDecoderSpec):
            for name, output in self.outputs.items():
                if not output.averaged:
                    raise ValueError(
                        f"an average decoder asks no queries, so those of outputs.{name} would do nothing; "
                        "leave its query out, or set decoder.kind: cross_attend"
                    )
        return self

    @property
    def read_in_use(self) -> tuple[str, ...]:
        """The inputs but those that are `hidden`."""
        return tuple(name for name in self.inputs if name not in self.hidden)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The inputs that are never read in use, as `encoder.masking` says."""
        masking = self.encoder.masking if isinstance(self.encoder, EncoderSpec) else {}
        return tuple(name for name, given in masking.items() if as_masking(given).otherwise == 1)

    @property
    def read_channels(self) -> int:
        """Channels of the latents that the decoder reads."""
        if not isinstance(self.encoder, HierarchicalSpec):
            return self.latents.channels
        averaging = isinstance(self.decoder, AverageDecoderSpec)
        return self.encoder.final.channels if averaging else self.encoder.centre.channels

    @model_validator(mode="after")
    def _masked_inputs_exist(self) -> Self:
        if not isinstance(self.encoder, EncoderSpec):
            return self
        for name in self.encoder.masking:
            if name not in self.inputs:
                raise ValueError(f"encoder.masking names '{name}', which is no input.{near_miss(name, self.inputs)}")
        if self.encoder.masking and len(self.inputs) == 1:
            raise ValueError("encoder.masking is of models with several inputs")
        return self

    @model_validator(mode="after")
    def _asked_inputs_exist(self) -> Self:
        for name, output in self.outputs.items():
            for given in output.asks_with:
                if given not in self.inputs:
                    hint = near_miss(given, self.inputs)
                    raise ValueError(f"outputs.{name}.input is '{given}', which is no input.{hint}")
        return self

    @model_validator(mode="after")
    def _hidden_once(self) -> Self:
        hiding: dict[str | None, str] = {}
        for name, output in self.outputs.items():
            if output.hides:
                other = hiding.setdefault(output.of_input, name)
                if other != name:
                    raise ValueError(f"outputs.{other} and outputs.{name} both hide parts of '{output.of_input}'")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if isinstance(self.encoder, AutoregressiveSpec):
            return self
        # What the encoder's cross-attends read is as wide as the inputs make it: without a width of their own, `build`
        # looks at those.
        width = self.read_channels
        parts: list[tuple[str, AttentionSpec | CrossDecoder, int | None]] = []
        if isinstance(self.encoder, EncoderSpec):
            parts += [
                ("encoder.self_attend", self.encoder.self_attend, width),
                ("encoder.cross", self.encoder.cross, None),
            ]
        if isinstance(self.decoder, CrossDecoder):
            parts.append(("decoder", self.decoder, width))
        for key, part, default in parts:
            qk = part.qk_channels or default
            for name, channels in (("qk_channels", qk), ("v_channels", part.v_channels or qk)):
                if channels and channels % part.heads:
                    own = "the centre's channels" if isinstance(self.encoder, HierarchicalSpec) else "latents.channels"
                    what = f"{key}.{name}" if getattr(part, name) else own
                    raise ValueError(
                        f"{key}.heads is {part.heads}, which does not divide {what} = {channels}; "
                        f"make {what} a multiple of {part.heads}, or change the heads"
                    )
        return self

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        for name in [*self.inputs, *self.outputs]:
            if not name.isidentifier():
                raise ValueError(f"'{name}' cannot be a name: use letters, digits and underscores, no leading digit")
            if hasattr(nn.ModuleDict, name) or hasattr(nn.ParameterDict, name) or name in _TAKEN:
                raise ValueError(f"'{name}' is taken by torch's containers; call it '{name}_input' or the like")
        for name in RESERVED_OUTPUTS:
            if name in self.outputs:
                raise ValueError(
                    f"an output cannot be called '{name}': predictions have a key of that name "
                    f"({', '.join(RESERVED_OUTPUTS)} are taken); call it '{name}_answer' or the like"
                )
        return self


def as_spec(data: "Spec | Mapping[str, Any]", where: str = "spec") -> Spec:
    """A `Spec` from a spec or plain data. Raises `SpecError` with every fault and its near misses."""
    return parse_settings(Spec, data, where)
