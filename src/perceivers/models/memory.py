"""What a model keeps in memory, estimated from shapes: the arrays of one sample that are alive at once, in numbers.

flat, recompute: as `Encoder.save_memory` has them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from perceivers.inputs import Input
from perceivers.models.model import Model
from perceivers.nn import MLP, Attention, Decoder, SelfAttend
from perceivers.nn.attention.planner import Asking, PartShape, Path, choose_paths
from perceivers.outputs import Output


@dataclass(frozen=True)
class Alive:
    """The numbers of `model` for inputs of so many `elements`."""

    model: Model
    elements: Mapping[str, int]
    flat: bool = False
    recompute: bool = False

    def training(self) -> int:
        """All that the backward pass needs of every step so far, and the gradients of the worst step, one sample's."""
        kept = peak = self._input(True) + sum(self._stems())
        for step in self._steps(True):
            # What is computed again is alive only while its step is undone.
            again = step.latent and self.recompute
            kept += step.entered if again else step.saved
            peak = max(peak, kept + step.gradients + (step.saved if again else 0))
        return peak

    def inference(self) -> int:
        """The inputs and the arrays of the largest step, one sample's."""
        return self._input(False) + max([step.saved for step in self._steps(False)] + self._stems())

    def tables(self, training: bool) -> int:
        """Fourier features joined for the plain path, once for all samples; as tables they are next to nothing."""
        paths = self.paths(training)
        return sum(
            module.table_floats(self.elements[name])
            for name, module, _ in model_inputs(self.model)
            if paths[name] == "plain"
        )

    def shapes(self) -> dict[str, PartShape]:
        """What the choice of paths needs to know of each input."""
        channels = joined_channels(self.model)
        return {n: module.part(self.elements[n], channels, grid) for n, module, grid in model_inputs(self.model)}

    def asking(self, training: bool) -> Asking:
        """Who reads in the first cross-attend; the others have the same shapes. Training may take other paths."""
        index = next(index for kind, index in self.model.perceiver.order if kind == "cross")
        attention = self.model.perceiver.cross_attends[index].attention
        assert isinstance(attention, Attention), "a cross-attend attends"
        widths = attention.key.out_features, attention.value.out_features
        count = self.model.spec.latents.count
        return Asking(count, joined_channels(self.model), *widths, attention.heads, training)

    def paths(self, training: bool) -> dict[str, Path]:
        """How a cross-attend reads each input."""
        shapes, asking = self.shapes(), self.asking(training)
        chosen = choose_paths(list(shapes.values()), asking, self.flat)
        return dict(zip(shapes, chosen or ("plain",) * len(shapes), strict=True))

    def _input(self, training: bool) -> int:
        """Raw values as they come and normalised, each input's elements, and all joined where they are.

        Of elements whose position is tables the content alone: other paths than the plain one join a chunk at a time.
        """
        plain = "plain" in self.paths(training).values()
        total = sum(self.elements.values()) * joined_channels(self.model) if plain else 0
        for name, module, grid in model_inputs(self.model):
            count = self.elements[name]
            lifted = module.part(count, module.channels, grid).content
            total += 2 * self.model.spec.inputs[name].raw_numbers(count) + count * lifted
        return total

    def _stems(self) -> list[int]:
        """Of each layer below the elements of each input."""
        return [count for _, module, grid in model_inputs(self.model) for count in module.kept(grid)]

    def _steps(self, training: bool) -> list["Step"]:
        model = self.model
        latents, total = model.spec.latents.count, sum(self.elements.values())
        apart = "plain" not in self.paths(training).values()
        found = []
        for kind, index in model.perceiver.order:
            if kind == "cross":
                cross = model.perceiver.cross_attends[index]
                found.append(step_of(cross.attention, cross.mlp, latents, total, apart))  # pyright: ignore[reportArgumentType]
            else:
                found += [step_of(layer.attention, layer.mlp, latents) for layer in block_layers(model, index)]
        if isinstance(model.decoder, Decoder):
            cross = model.decoder.cross_attend
            queries = sum(output.count(self.elements) for output in model_outputs(model).values())
            found.append(step_of(cross.attention, cross.mlp, queries, latents))
        return found


@dataclass(frozen=True)
class Step:
    """saved: what the backward pass needs. gradients: what undoing needs besides. entered: what enters. latent: a
    self-attend."""

    saved: int
    gradients: int
    entered: int
    latent: bool

    def times(self, count: int) -> "Step":
        """So many of them side by side."""
        return Step(count * self.saved, count * self.gradients, count * self.entered, self.latent)


def step_of(attention: Attention, mlp: MLP, queries: int, elements: int | None = None, apart: bool = False) -> Step:
    """A block of `queries` rows that reads `elements` rows (None: itself). apart: without keys and values of all."""
    width, read = attention.output.out_features, attention.key.in_features
    qk, v = attention.query.out_features, attention.value.out_features
    # Normalised, query, read, residual sum, normalised, hidden before and after its activation, result.
    own = queries * (4 * width + qk + v + 2 * mlp.hidden.out_features)
    if elements is not None and apart:
        # No keys, values or normalised copy: each head's queries and what they read are as wide as the elements.
        wide = attention.heads * queries * read
        return Step(own + 2 * wide, 4 * wide + elements * read, queries * width, latent=False)
    others = queries if elements is None else elements
    read_in = others * (qk + v) + (0 if elements is None else elements * read)
    weights = 0 if qk == v else attention.heads * queries * others
    gradients = weights + others * (qk + v + 2 * read) + queries * (2 * width + qk + v)
    return Step(own + read_in + weights, gradients, queries * width, latent=elements is None)


def model_inputs(model: Model) -> Iterator[tuple[str, Input, tuple[int, ...] | None]]:
    """Name, module and raw grid of every input."""
    for name, module in model.inputs.items():
        assert isinstance(module, Input), "inputs are Inputs"
        yield name, module, model.spec.inputs[name].raw_grid()


def model_outputs(model: Model) -> dict[str, Output]:
    """The outputs by name."""
    return {name: output for name, output in model.outputs.items() if isinstance(output, Output)}


def block_layers(model: Model, block: int) -> list[SelfAttend]:
    """The self-attends of a latent block."""
    return list(model.perceiver.blocks[block])  # pyright: ignore[reportArgumentType]


def joined_channels(model: Model) -> int:
    """C of the array that the encoder reads."""
    if model.fusion is not None:
        return model.fusion.channels
    return int(next(iter(model.inputs.values())).channels)  # pyright: ignore[reportArgumentType]
