"""What a hierarchy costs: the same as `memory.Alive`, `layers.layers_of` and the parts of a plan, for groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from perceivers.models.flops import cross_flops, linear_flops, parameters, self_flops
from perceivers.models.layers import FLOAT, Layer, seconds_of
from perceivers.models.memory import Step, model_inputs, model_outputs, step_of
from perceivers.models.model import Model
from perceivers.models.spec_hierarchical import HierarchicalSpec
from perceivers.nn import CrossAttend, Decoder, SelfAttend
from perceivers.nn.attention.planner import Asking, PartShape, Path, choose_paths
from perceivers.nn.groups import assign_groups
from perceivers.nn.hierarchical import GroupBlock, Hierarchical


class _Level(NamedTuple):
    """A block, and what one of its groups reads: so many elements. latents: of one group."""

    block: GroupBlock
    groups: int
    elements: int
    latents: int


@dataclass(frozen=True)
class HierarchyAlive:
    """The numbers of a hierarchical `model` for inputs of so many `elements`; as `Alive` otherwise."""

    model: Model
    elements: Mapping[str, int]
    flat: bool = False
    recompute: bool = False

    @property
    def encoder(self) -> Hierarchical:
        """The model's."""
        assert isinstance(self.model.encoder, Hierarchical), "the plan is of a hierarchy"
        return self.model.encoder

    @property
    def spec(self) -> HierarchicalSpec:
        """The encoder's."""
        assert isinstance(self.model.spec.encoder, HierarchicalSpec), "the plan is of a hierarchy"
        return self.model.spec.encoder

    @property
    def channels(self) -> int:
        """Of the elements that the first block reads."""
        return self.spec.embedding_channels

    @property
    def latents(self) -> tuple[int, int]:
        """Count and channels, of the centre."""
        return self.spec.centre.latents, self.spec.centre.channels

    def levels(self) -> list[_Level]:
        """Every block with what a group of it reads."""
        spec, found = self.spec, []
        central = sum(self.elements[name] for name in spec.central_inputs)
        outer = [count for name, count in self.elements.items() if name not in spec.central_inputs]
        reads = sum(outer) if len(spec.blocks) == 1 else assign_groups(spec.blocks[0].groups, outer)[1]
        for index, (block, module) in enumerate(zip(spec.blocks, self.encoder.blocks, strict=True)):
            if index:
                before = spec.blocks[index - 1]
                reads = before.groups * before.latents // block.groups
            assert isinstance(module, GroupBlock), "blocks are GroupBlocks"
            found.append(_Level(module, block.groups, reads + (central if index == spec.middle else 0), block.latents))
        return found

    def training(self) -> int:
        """All that the backward pass needs of every step so far, and the gradients of the worst step, one sample's."""
        kept = peak = self._input()
        for step in self._steps(True):
            again = step.latent and self.recompute
            kept += step.entered if again else step.saved
            peak = max(peak, kept + step.gradients + (step.saved if again else 0))
        return peak

    def inference(self) -> int:
        """The inputs, the latents that wait for their block behind the centre, and the largest step, one sample's."""
        waiting = sum(block.groups * block.latents * block.channels for block in self.spec.blocks[: self.spec.middle])
        return self._input() + waiting + max(step.saved for step in self._steps(False))

    def tables(self, training: bool) -> int:
        """None: positions are learned."""
        return 0

    def paths(self, training: bool) -> dict[str, Path]:
        """How the first block reads each input, and the centre its own."""
        levels, spec = self.levels(), self.spec
        first, centre = self._path(levels[0], training), self._path(levels[spec.middle], training)
        return {name: centre if name in spec.central_inputs else first for name in self.elements}

    def rows(self) -> list[tuple[str, int, int]]:
        """Name, parameters and FLOPs of every part, in the order of the model."""
        encoder, model = self.encoder, self.model
        found = []
        for name, module, grid in model_inputs(model):
            own = encoder.central[name] if name in encoder.central else encoder.modalities[name]
            size = self.elements[name]
            embedding = sum(linear_flops(layer, size) for layer in own.modules() if isinstance(layer, nn.Linear))
            found.append((f"input {name}", parameters(module) + parameters(own), module.flops(size, grid) + embedding))
        for index, level in enumerate(self.levels()):
            found.append((f"block {index}", parameters(level.block), self._flops(level)))
        for head, what in ((encoder.head, "head"), (encoder.central_head, "head of the centre")):
            if head is not None:
                found.append((what, parameters(head), sum(self._head(head, name) for name in self._again(head))))
        found += [
            (f"output {n}", parameters(module), module.flops(self.elements))
            for n, module in model_outputs(model).items()
        ]
        if model.query_fusion is not None:
            found.append(("output embeddings", parameters(model.query_fusion), 0))
        if isinstance(model.decoder, Decoder):
            flops = cross_flops(model.decoder.cross_attend, self._asked(), self.latents[0])
            found.append(("decoder", parameters(model.decoder), flops))
        return found

    def layers(self) -> tuple[Layer, ...]:
        """A line for each block."""
        found = []
        for index, level in enumerate(self.levels()):
            path = self._path(level, False)
            size = max(step.saved for step in self._of_block(level, False)) * FLOAT
            many = f"{level.groups:,} groups" if level.groups > 1 else "one group"
            why = f"{many} of {level.elements:,} elements, read by {level.latents:,} latents each"
            chunks = {"elements": level.elements}
            seconds = seconds_of(self._flops(level) // 2)
            found.append(Layer(f"block {index}", {"elements": path}, chunks, seconds, size, why))
        return tuple(found)

    def _path(self, level: _Level, training: bool) -> Path:
        attention = level.block.cross_attend.attention
        read, qk, v = attention.key.in_features, attention.key.out_features, attention.value.out_features
        asking = Asking(level.latents, read, qk, v, attention.heads, training)
        chosen = choose_paths([PartShape(level.elements, read)], asking, self.flat)
        return "plain" if chosen is None else chosen[0]

    def _input(self) -> int:
        """Raw values as they come and standardised, lifted and embedded."""
        total = 0
        for name, module, _ in model_inputs(self.model):
            count = self.elements[name]
            total += 2 * self.model.spec.inputs[name].raw_numbers(count) + count * (module.channels + 2 * self.channels)
        return total

    def _of_block(self, level: _Level, training: bool) -> list[Step]:
        cross = level.block.cross_attend
        apart = self._path(level, training) != "plain"
        steps = [step_of(cross.attention, cross.mlp, level.latents, level.elements, apart)]
        steps += [step_of(layer.attention, layer.mlp, level.latents) for layer in _layers(level.block)]
        return [step.times(level.groups) for step in steps]

    def _steps(self, training: bool) -> list[Step]:
        found = [step for level in self.levels() for step in self._of_block(level, training)]
        for head in (self.encoder.head, self.encoder.central_head):
            if head is not None:
                asked, read = self._asks(head)
                found.append(step_of(head.attention, head.mlp, asked, read))
        if isinstance(self.model.decoder, Decoder):
            cross = self.model.decoder.cross_attend
            found.append(step_of(cross.attention, cross.mlp, self._asked(), self.latents[0]))
        return found

    def _flops(self, level: _Level) -> int:
        once = cross_flops(level.block.cross_attend, level.latents, level.elements)
        once += sum(self_flops(layer, level.latents) for layer in _layers(level.block))
        skip = level.block.skip
        return level.groups * (once + (0 if skip is None else linear_flops(skip, level.latents)))

    def _again(self, head: CrossAttend) -> list[str]:
        """The inputs that this head is asked for."""
        central = head is self.encoder.central_head
        asked = {kind.again for kind in self.model.spec.outputs.values()}
        return [name for name in self.elements if name in asked and (name in self.encoder.central) == central]

    def _head(self, head: CrossAttend, name: str) -> int:
        """Of one input's positions, each of which reads the latents of its own group."""
        if name in self.encoder.central:
            return cross_flops(head, self.elements[name], self.latents[0])
        share, final = self.encoder.shares[name], self.spec.final
        return share.groups * cross_flops(head, -(-self.elements[name] // share.groups) + share.each, final.latents)

    def _asks(self, head: CrossAttend) -> tuple[int, int]:
        """Positions that ask at once, of the input with the most, and latents that they read."""
        positions = max(self.elements[name] for name in self._again(head))
        central = head is self.encoder.central_head
        return positions, self.latents[0] if central else self.spec.final.groups * self.spec.final.latents

    def _asked(self) -> int:
        """Queries of all outputs."""
        return sum(output.count(self.elements) for output in model_outputs(self.model).values())


def _layers(block: GroupBlock) -> list[SelfAttend]:
    return list(block.self_attends)  # pyright: ignore[reportArgumentType, reportReturnType]
