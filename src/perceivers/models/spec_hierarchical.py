"""The encoder of a Hierarchical Perceiver as a spec, at the grain of the official table of variants [P4]."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from perceivers.inputs import KINDS, InputSettings
from perceivers.outputs import OutputSettings
from perceivers.settings import Settings

# Of one block; the published ones have 256 at most.
MOST_GROUPS = 65_536


class HierarchicalBlock(Settings):
    """One level of the hierarchy."""

    groups: int = Field(ge=1, le=MOST_GROUPS)
    latents: PositiveInt
    """N: in each group."""
    channels: PositiveInt
    """D."""
    self_attends: NonNegativeInt = 1
    cross_heads: PositiveInt = 1
    """Of the cross-attend, which is as wide as what it reads."""
    cross_widening: PositiveInt = 1
    self_heads: PositiveInt = 1
    self_widening: PositiveInt = 4


class HierarchicalSpec(Settings):
    """Blocks of groups, a U-Net of latents. One block with one group is a Perceiver IO with HiP's parts."""

    kind: Literal["hierarchical"] = "hierarchical"
    blocks: tuple[HierarchicalBlock, ...] = Field(min_length=1)
    """From the elements down to the centre, which has one group, and up again: an odd number of blocks."""
    embedding_channels: PositiveInt = 32
    """E: of the embedded elements and their learned positions."""
    project_positions: bool = False
    """A linear without bias behind the positions, each input's own."""
    regroup: Literal["reshape", "transpose_reshape"] = "reshape"
    """Whether neighbouring groups come together, or all mix."""
    train_latents: PositiveInt | None = None
    """In training so many of the centre's latents take part, drawn at random a sample; null: all."""
    central_inputs: tuple[str, ...] = ()
    """Inputs that skip all blocks but the centre, as labels do in the class bottleneck."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of self-attends."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a self-attend adds nothing to a sample, in training; not rescaled."""

    @property
    def middle(self) -> int:
        """The number of the centre."""
        return len(self.blocks) // 2

    @property
    def centre(self) -> HierarchicalBlock:
        """The block of one group."""
        return self.blocks[self.middle]

    @property
    def final(self) -> HierarchicalBlock:
        """The last block."""
        return self.blocks[-1]

    @property
    def widths(self) -> tuple[int, ...]:
        """C of what each block reads."""
        return (self.embedding_channels, *(block.channels for block in self.blocks[:-1]))

    @model_validator(mode="after")
    def _is_a_hierarchy(self) -> Self:
        count = len(self.blocks)
        if count % 2 == 0:
            raise ValueError(
                f"a hierarchy goes down to a centre and up again, so its blocks are odd in number; these are {count}"
            )
        if self.centre.groups != 1:
            raise ValueError(f"block {self.middle} is the centre and has one group, not {self.centre.groups}")
        for index in range(self.middle):
            one, other = self.blocks[index], self.blocks[count - 1 - index]
            if (one.groups, one.latents) != (other.groups, other.latents):
                raise ValueError(
                    f"blocks {index} and {count - 1 - index} are joined by a skip, so they need the same groups and "
                    f"latents; they have {one.groups} × {one.latents} and {other.groups} × {other.latents}"
                )
        return self

    @model_validator(mode="after")
    def _numbers_divide(self) -> Self:
        for index, (block, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for what, channels, heads in (
                ("self_heads", block.channels, block.self_heads),
                ("cross_heads", width, block.cross_heads),
            ):
                if channels % heads:
                    raise ValueError(f"blocks.{index}.{what} is {heads}, which does not divide {channels} channels")
            for latents in {block.latents, self._drawn(index)}:
                if index + 1 < len(self.blocks) and block.groups * latents % self.blocks[index + 1].groups:
                    raise ValueError(
                        f"block {index} gives {block.groups} × {latents} latents, which cannot be shared out to the "
                        f"{self.blocks[index + 1].groups} groups of block {index + 1}"
                    )
        if self.train_latents is not None and self.train_latents > self.centre.latents:
            raise ValueError(f"train_latents is {self.train_latents}, but the centre has {self.centre.latents} latents")
        return self

    def _drawn(self, index: int) -> int:
        return self.train_latents or self.blocks[index].latents if index == self.middle else self.blocks[index].latents

    @property
    def layers(self) -> int:
        """Self-attends of all blocks."""
        return sum(block.self_attends for block in self.blocks)


def without_positions(inputs: Any) -> Any:
    """Raw settings of inputs, those that leave their position out now with none: positions are learned here."""
    if not isinstance(inputs, Mapping):
        return inputs
    return {name: _placeless(settings) for name, settings in inputs.items()}


def _placeless(settings: Any) -> Any:
    if not isinstance(settings, Mapping) or "position" in settings or "position" not in _fields(settings.get("kind")):
        return settings
    return {**settings, "position": {"kind": "none"}}


def _fields(kind: Any) -> Mapping[str, Any]:
    return KINDS[kind].model_fields if isinstance(kind, str) and kind in KINDS else {}


def check_hierarchy(
    encoder: HierarchicalSpec,
    inputs: Mapping[str, InputSettings],
    outputs: Mapping[str, OutputSettings],
    averaging: bool,
) -> None:
    """Raise `ValueError` where inputs and outputs do not fit the encoder."""
    for name, kind in inputs.items():
        position = getattr(kind, "position", None)
        if position is not None and position.kind != "none":
            raise ValueError(
                f"inputs.{name}.position is {position.kind}, but a hierarchical encoder learns a position for every "
                "element itself; leave position out, or set kind: none"
            )
        if not kind.elements():
            raise ValueError(
                f"inputs.{name} has no fixed number of elements, and a hierarchy learns a position for each; "
                "give a rate, or set encoder.kind: perceiver"
            )
    for name in encoder.central_inputs:
        if name not in inputs:
            raise ValueError(f"encoder.central_inputs names '{name}', which is no input")
    outer = [name for name in inputs if name not in encoder.central_inputs]
    if not outer:
        raise ValueError("all inputs are in encoder.central_inputs, so the blocks have nothing to read")
    if len(encoder.blocks) > 1 and len(outer) > encoder.blocks[0].groups:
        raise ValueError(
            f"{len(outer)} inputs cannot share the {encoder.blocks[0].groups} groups of block 0, since no group mixes "
            "two; give it more groups"
        )
    if len(encoder.blocks) > 1 and not averaging and not any(kind.again in outer for kind in outputs.values()):
        raise ValueError(
            f"nothing asks the blocks behind the centre (block {encoder.middle}): add an output of kind "
            f"reconstruction, for example of {outer[0]}, or set decoder: {{kind: average}}"
        )
