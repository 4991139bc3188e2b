"""`plan`: what a model costs, from its spec alone. It is built on the meta device and never run: nothing is allocated.

Multiplications and additions are counted apart, as the papers do, and only those of matrix products and convolutions:
norms, softmax and activations add less than 1 % [checked against torch's own counter and against both papers' figures].
Memory is for float32 and one device, as `perceivers.train` works.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from perceivers.inputs import Input
from perceivers.models.build import build
from perceivers.models.model import Model
from perceivers.models.spec import Spec, as_spec
from perceivers.nn import MLP, Attention, CrossAttend, Decoder, SelfAttend
from perceivers.nn.attention.planner import Path, choose_paths
from perceivers.outputs import Output

FLOAT = 4  # bytes
ASSUMED_STEPS = 1000  # of an irregular series, which has no fixed count


@dataclass(frozen=True)
class Part:
    """One row of a plan. `flops`: of the forward pass for one sample, over every use of shared weights."""

    name: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class Memory:
    """Bytes. Gradients and the optimiser's two moments are of training; activations are an estimate (see `plan`)."""

    parameters: int
    gradients: int
    moments: int
    averages: int
    training_activations: int
    inference_activations: int

    @property
    def training(self) -> int:
        """All that training needs at once."""
        return self.parameters + self.gradients + self.moments + self.averages + self.training_activations

    @property
    def inference(self) -> int:
        """All that an answer needs at once."""
        return self.parameters + self.inference_activations


@dataclass(frozen=True)
class Plan:
    """What a model costs.

    elements: input name → M; joined they are an array (M, `channels`). paths: input name → how the encoder's attention
    reads it (`plain`: keys and values of all inputs joined). assumed: in words.
    """

    parts: tuple[Part, ...]
    elements: Mapping[str, int]
    channels: int
    paths: Mapping[str, Path]
    latents: tuple[int, int]
    batch: int
    memory: Memory
    assumed: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Trainable parameters of the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def flops(self) -> int:
        """Multiplications plus additions of one sample's forward pass."""
        return sum(part.flops for part in self.parts)


def plan(spec: "Spec | Mapping[str, Any]", batch: int = 1, averages: bool = False) -> Plan:
    """The cost of a model on batches of `batch` samples.

    `averages`: training keeps averaged weights (training.ema). Statistics and classes that training would learn are
    filled in neutrally, and `Plan.assumed` says where that changes a count.

    Activations are estimated from the arrays that are alive at once: in training all that the backward pass needs of
    every step so far, plus the gradients inside the step that is being undone, at the worst step; in inference the
    inputs and the arrays of the largest step. Attention weights are counted only where torch's fused kernels cannot do
    without (query/key and value widths differ). Expect the truth within a factor of 2. Raises `SpecError`.
    """
    assert batch >= 1, "a batch has a sample"
    spec, assumed = _completed(as_spec(spec))
    model = build(spec, device="meta")
    elements = {name: spec.inputs[name].elements() for name in model.inputs}
    for name in [name for name, count in elements.items() if count == 0]:
        elements[name] = ASSUMED_STEPS
        assumed.append(f"input '{name}' is irregular and has no fixed length: assumed {ASSUMED_STEPS:,} elements")
    size = sum(p.numel() for p in model.parameters()) * FLOAT
    memory = Memory(
        parameters=size + sum(b.numel() * b.element_size() for b in model.buffers()),
        gradients=size,
        moments=2 * size,
        averages=size if averages else 0,
        training_activations=(_training_floats(model, elements) * batch + _table_floats(model, elements)) * FLOAT,
        inference_activations=(_inference_floats(model, elements) * batch + _table_floats(model, elements)) * FLOAT,
    )
    shape = (spec.latents.count, spec.latents.channels)
    parts = tuple(_parts(model, elements))
    paths = _paths(model, elements)
    return Plan(parts, elements, _joined_channels(model), paths, shape, batch, memory, tuple(assumed))


def _completed(spec: Spec) -> tuple[Spec, list[str]]:
    """The spec with neutral statistics and assumed classes where it has none, and what was assumed."""
    assumed: list[str] = []
    inputs, outputs = {}, {}
    for name, kind in spec.inputs.items():
        inputs[name], words = kind.completed()
        assumed += [f"input '{name}': {words}"] if words else []
    for name, kind in spec.outputs.items():
        outputs[name], words = kind.completed(name)
        assumed += [f"output '{name}': {words}"] if words else []
    return spec.with_changes(inputs=inputs, outputs=outputs), assumed


def _inputs(model: Model) -> Iterator[tuple[str, Input, tuple[int, ...] | None]]:
    """Name, module and raw grid of every input."""
    for name, module in model.inputs.items():
        assert isinstance(module, Input), "inputs are Inputs"
        yield name, module, model.spec.inputs[name].raw_grid()


def _outputs(model: Model) -> dict[str, Output]:
    return {name: output for name, output in model.outputs.items() if isinstance(output, Output)}


# -- parameters and FLOPs ----------------------------------------------------------------------------------------------


def _parts(model: Model, elements: Mapping[str, int]) -> list[Part]:
    encoder, total = model.encoder, sum(elements.values())
    latents = model.spec.latents.count
    crosses = sum(
        _cross_flops(encoder.cross_attends[i], latents, total) for kind, i in encoder.order if kind == "cross"
    )
    thinks = sum(
        _self_flops(layer, latents) for kind, i in encoder.order if kind == "block" for layer in _layers(model, i)
    )
    outputs = _outputs(model)
    parts = [
        Part(f"input {name}", _count(module), module.flops(elements[name], grid))
        for name, module, grid in _inputs(model)
    ]
    if model.fusion is not None:
        parts.append(Part("input embeddings", _count(model.fusion), 0))
    parts += [
        Part("latents", encoder.latents.numel(), 0),
        Part("cross-attends", _count(encoder.cross_attends), crosses),
        Part("self-attends", _count(encoder.blocks), thinks),
    ]
    parts += [Part(f"output {name}", _count(module), module.flops()) for name, module in outputs.items()]
    if model.query_fusion is not None:
        parts.append(Part("output embeddings", _count(model.query_fusion), 0))
    if isinstance(model.decoder, Decoder):
        flops = _cross_flops(model.decoder.cross_attend, sum(o.count for o in outputs.values()), latents)
        parts.append(Part("decoder", _count(model.decoder), flops))
    return parts


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _layers(model: Model, block: int) -> list[SelfAttend]:
    return list(model.encoder.blocks[block])  # pyright: ignore[reportArgumentType]


def _linear_flops(layer: nn.Linear, rows: int) -> int:
    return 2 * rows * layer.in_features * layer.out_features


def _mlp_flops(mlp: MLP, rows: int) -> int:
    return _linear_flops(mlp.hidden, rows) + _linear_flops(mlp.output, rows)


def _attention_flops(attention: Attention, queries: int, elements: int) -> int:
    """Four linears, the scores 2·O·M·F and the weighted sum 2·O·M·V."""
    projections = _linear_flops(attention.query, queries) + _linear_flops(attention.output, queries)
    projections += _linear_flops(attention.key, elements) + _linear_flops(attention.value, elements)
    return projections + 2 * queries * elements * (attention.query.out_features + attention.value.out_features)


def _cross_flops(cross: nn.Module, queries: int, elements: int) -> int:
    assert isinstance(cross, CrossAttend), "encoders and decoders cross-attend"
    return _attention_flops(cross.attention, queries, elements) + _mlp_flops(cross.mlp, queries)


def _self_flops(layer: SelfAttend, latents: int) -> int:
    return _attention_flops(layer.attention, latents, latents) + _mlp_flops(layer.mlp, latents)


# -- activations, in numbers of one sample -----------------------------------------------------------------------------


def _joined_channels(model: Model) -> int:
    """C of the array that the encoder reads."""
    if model.fusion is not None:
        return model.fusion.channels
    return int(next(iter(model.inputs.values())).channels)  # pyright: ignore[reportArgumentType]


def _paths(model: Model, elements: Mapping[str, int]) -> dict[str, Path]:
    """How the first cross-attend reads each input; the others have the same shapes."""
    index = next(index for kind, index in model.encoder.order if kind == "cross")
    attention = model.encoder.cross_attends[index].attention
    assert isinstance(attention, Attention), "a cross-attend attends"
    channels = _joined_channels(model)
    shapes = [module.part(elements[name], channels, grid) for name, module, grid in _inputs(model)]
    widths = attention.key.out_features, attention.value.out_features
    chosen = choose_paths(shapes, model.spec.latents.count, channels, *widths, attention.heads)
    return dict(zip(elements, chosen or ("plain",) * len(shapes), strict=True))


def _input_floats(model: Model, elements: Mapping[str, int]) -> int:
    """Raw values as they come and normalised, each input's elements, and all joined where they are."""
    paths = _paths(model, elements)
    total = sum(elements.values()) * _joined_channels(model) if "plain" in paths.values() else 0
    for name, module, grid in _inputs(model):
        count, factorised = elements[name], paths[name] == "factorised"
        lifted = module.part(count, module.channels, grid).content if factorised else module.channels
        total += 2 * model.spec.inputs[name].raw_numbers(count) + count * lifted
    return total


def _table_floats(model: Model, elements: Mapping[str, int]) -> int:
    """Fourier features joined for the plain path, once for all samples; as tables they are next to nothing."""
    paths = _paths(model, elements)
    return sum(module.table_floats(elements[name]) for name, module, _ in _inputs(model) if paths[name] != "factorised")


def _stem_floats(model: Model) -> list[int]:
    """Of each layer below the elements of each input."""
    return [count for _, module, grid in _inputs(model) for count in module.kept(grid)]


def _steps(model: Model, elements: Mapping[str, int]) -> list[tuple[int, int]]:
    """Of each step of encoder and decoder: what the backward pass needs, and what undoing it needs besides."""
    latents, total = model.spec.latents.count, sum(elements.values())
    apart = "plain" not in _paths(model, elements).values()
    found = []
    for kind, index in model.encoder.order:
        if kind == "cross":
            cross = model.encoder.cross_attends[index]
            found.append(_block_floats(cross.attention, cross.mlp, latents, total, apart))  # pyright: ignore[reportArgumentType]
        else:
            found += [_block_floats(layer.attention, layer.mlp, latents) for layer in _layers(model, index)]
    if isinstance(model.decoder, Decoder):
        cross = model.decoder.cross_attend
        queries = sum(output.count for output in _outputs(model).values())
        found.append(_block_floats(cross.attention, cross.mlp, queries, latents))
    return found


def _block_floats(
    attention: Attention, mlp: MLP, queries: int, elements: int | None = None, apart: bool = False
) -> tuple[int, int]:
    """Numbers that a block of `queries` rows keeps when it reads `elements` rows (None: itself), and its gradients.

    apart: the elements are read without keys and values.
    """
    width, read = attention.output.out_features, attention.key.in_features
    qk, v = attention.query.out_features, attention.value.out_features
    # Normalised, query, read, residual sum, normalised, hidden before and after its activation, result.
    own = queries * (4 * width + qk + v + 2 * mlp.hidden.out_features)
    if elements is not None and apart:
        # No keys, values or normalised copy: each head's queries and what they read are as wide as the elements.
        wide = attention.heads * queries * read
        return own + 2 * wide, 4 * wide + elements * read
    others = queries if elements is None else elements
    read_in = others * (qk + v) + (0 if elements is None else elements * read)
    weights = 0 if qk == v else attention.heads * queries * others
    gradients = weights + others * (qk + v + 2 * read) + queries * (2 * width + qk + v)
    return own + read_in + weights, gradients


def _training_floats(model: Model, elements: Mapping[str, int]) -> int:
    kept = peak = _input_floats(model, elements) + sum(_stem_floats(model))
    for saved, gradients in _steps(model, elements):
        kept += saved
        peak = max(peak, kept + gradients)
    return peak


def _inference_floats(model: Model, elements: Mapping[str, int]) -> int:
    return _input_floats(model, elements) + max([saved for saved, _ in _steps(model, elements)] + _stem_floats(model))
