"""`plan`: what a model costs, from its spec alone. It is built on the meta device and never run: nothing is allocated.

Multiplications and additions are counted apart, as the papers do, and only those of matrix products and convolutions:
norms, softmax and activations add less than 1 % [checked against torch's own counter and against both papers' figures].
Memory is for float32 and one device, as `perceivers.train` works.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.build import build
from perceivers.models.flops import cross_flops, parameters, self_flops
from perceivers.models.layers import Layer, layers_of
from perceivers.models.memory import Alive, block_layers, joined_channels, model_inputs, model_outputs
from perceivers.models.model import Model
from perceivers.models.plan_hierarchical import HierarchyAlive
from perceivers.models.presets import spec_of
from perceivers.models.spec import Spec
from perceivers.models.spec_hierarchical import HierarchicalSpec
from perceivers.nn import Decoder
from perceivers.nn.attention.planner import Path

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

    layers: each with its path, chunks, time and bytes. budget: bytes that training was to keep within, or None; flat
    and recompute say what was changed for it (see `Encoder.save_memory`), and `fits` whether that was enough.
    elements: input name → M; joined they are an array (M, `channels`). paths: input name → how the encoder's attention
    reads it (`plain`: keys and values of all inputs joined); training_paths: in training, where other costs may decide
    otherwise. assumed: in words.
    """

    parts: tuple[Part, ...]
    elements: Mapping[str, int]
    channels: int
    paths: Mapping[str, Path]
    training_paths: Mapping[str, Path]
    latents: tuple[int, int]
    batch: int
    memory: Memory
    assumed: tuple[str, ...]
    layers: tuple[Layer, ...]
    budget: int | None = None
    flat: bool = False
    recompute: bool = False

    @property
    def parameters(self) -> int:
        """Trainable parameters of the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def flops(self) -> int:
        """Multiplications plus additions of one sample's forward pass."""
        return sum(part.flops for part in self.parts)

    @property
    def fits(self) -> bool:
        """Whether training keeps within the budget; True without one."""
        return self.budget is None or self.memory.training <= self.budget

    @property
    def largest_batch(self) -> int:
        """Samples of a batch with which training would keep within the budget; 0: not with one."""
        assert self.budget is not None, "only a budget limits a batch"
        fixed = self.memory.training - self.memory.training_activations
        return max(int((self.budget - fixed) * self.batch // max(self.memory.training_activations, 1)), 0)


def plan(
    spec: "str | Spec | Mapping[str, Any]", batch: int = 1, averages: bool = False, budget: float | None = None
) -> Plan:
    """The cost of a model on batches of `batch` samples.

    `averages`: training keeps averaged weights (training.ema). Statistics and classes that training would learn are
    filled in neutrally, and `Plan.assumed` says where that changes a count. `budget`: bytes that training should keep
    within: the plan then leaves out keys and values of all elements, and next what latent blocks keep for the backward
    pass, as far as it must; `Plan.fits` says whether that is enough.

    Activations are estimated from the arrays that are alive at once: in training all that the backward pass needs of
    every step so far, plus the gradients inside the step that is being undone, at the worst step; in inference the
    inputs and the arrays of the largest step. Attention weights are counted only where torch's fused kernels cannot do
    without (query/key and value widths differ). Expect the truth within a factor of 2. Raises `SpecError`.
    """
    assert batch >= 1, "a batch has a sample"
    spec, assumed = completed(spec_of(spec))
    model = build(spec, device="meta")
    if isinstance(model, AutoregressiveModel):
        from perceivers.models.plan_autoregressive import autoregressive_plan

        return autoregressive_plan(model, batch, averages, budget)
    elements = {name: spec.inputs[name].elements() for name in model.inputs}
    for name in [name for name, count in elements.items() if count == 0]:
        elements[name] = ASSUMED_STEPS
        assumed.append(f"input '{name}' is irregular and has no fixed length: assumed {ASSUMED_STEPS:,} elements")
    changes = [(False, False)] if budget is None else [(False, False), (True, False), (False, True), (True, True)]
    kind = HierarchyAlive if isinstance(spec.encoder, HierarchicalSpec) else Alive
    found = [_plan(model, kind(model, elements, *change), batch, averages, assumed, budget) for change in changes]
    return next((made for made in found if made.fits), min(found, key=lambda made: made.memory.training))


def _plan(
    model: Model, alive: Alive | HierarchyAlive, batch: int, averages: bool, assumed: list[str], budget: float | None
) -> Plan:
    size = sum(p.numel() for p in model.parameters()) * FLOAT
    memory = Memory(
        parameters=size + sum(b.numel() * b.element_size() for b in model.buffers()),
        gradients=size,
        moments=2 * size,
        averages=size if averages else 0,
        training_activations=(alive.training() * batch + alive.tables(True)) * FLOAT,
        inference_activations=(alive.inference() * batch + alive.tables(False)) * FLOAT,
    )
    if isinstance(alive, HierarchyAlive):
        parts, layers = [Part(*row) for row in alive.rows()], alive.layers()
        channels, latents = alive.channels, alive.latents
    else:
        parts, layers = _parts(model, alive.elements), layers_of(model, alive)
        channels, latents = joined_channels(model), (model.spec.latents.count, model.spec.latents.channels)
    return Plan(
        parts=tuple(parts),
        elements=alive.elements,
        channels=channels,
        paths=alive.paths(False),
        training_paths=alive.paths(True),
        latents=latents,
        batch=batch,
        memory=memory,
        assumed=tuple(assumed),
        layers=layers,
        budget=None if budget is None else int(budget),
        flat=alive.flat,
        recompute=alive.recompute,
    )


def completed(spec: Spec) -> tuple[Spec, list[str]]:
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


# -- parameters and FLOPs ----------------------------------------------------------------------------------------------


def _parts(model: Model, elements: Mapping[str, int]) -> list[Part]:
    encoder, total = model.perceiver, sum(elements.values())
    latents = model.spec.latents.count
    crosses = sum(cross_flops(encoder.cross_attends[i], latents, total) for kind, i in encoder.order if kind == "cross")
    thinks = sum(
        self_flops(layer, latents) for kind, i in encoder.order if kind == "block" for layer in block_layers(model, i)
    )
    outputs = model_outputs(model)
    parts = [
        Part(f"input {name}", parameters(module), module.flops(elements[name], grid))
        for name, module, grid in model_inputs(model)
    ]
    if model.fusion is not None:
        parts.append(Part("input embeddings", parameters(model.fusion), 0))
    parts += [
        Part("latents", encoder.latents.numel(), 0),
        Part("cross-attends", parameters(encoder.cross_attends), crosses),
        Part("self-attends", parameters(encoder.blocks), thinks),
    ]
    parts += [Part(f"output {name}", parameters(module), module.flops(elements)) for name, module in outputs.items()]
    if model.query_fusion is not None:
        parts.append(Part("output embeddings", parameters(model.query_fusion), 0))
    if isinstance(model.decoder, Decoder):
        flops = cross_flops(model.decoder.cross_attend, sum(o.count(elements) for o in outputs.values()), latents)
        parts.append(Part("decoder", parameters(model.decoder), flops))
    return parts
