"""Spec → Model: the only file that knows every class, but for those of `autoregressive`, which has its own."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from perceivers.errors import ModelError, SpecError
from perceivers.inputs import Input
from perceivers.models.autoregressive import build_autoregressive
from perceivers.models.build_hierarchical import ACTIVATION, build_hierarchical
from perceivers.models.device import checked_device
from perceivers.models.fusion import Fusion
from perceivers.models.model import Model
from perceivers.models.presets import spec_of
from perceivers.models.spec import AttentionSpec, AverageDecoderSpec, CrossDecoder, EncoderSpec, Spec
from perceivers.models.spec_hierarchical import HierarchicalSpec
from perceivers.nn import MLP, AverageDecoder, CrossAttend, Decoder, Encoder, SelfAttend
from perceivers.nn.hierarchical import Hierarchical
from perceivers.nn.initialisers import nothing_drawn, plain_linear
from perceivers.nn.perceiver import encoder_order
from perceivers.outputs.base import Sizes


def build(spec: "str | Spec | Mapping[str, Any]", device: torch.device | str = "cpu", seed: int | None = None) -> Model:
    """A model with freshly drawn weights.

    `spec`: a `Spec`, plain data of its shape, or a preset's name; the data may name a `preset` to change.
    `device='meta'` gives shapes and counts at once, without memory. `seed` fixes the draw and leaves
    torch's global generator as it was; None draws from that generator.
    Raises `SpecError` for a spec that cannot be understood or is not complete, and for a device that is not there.
    """
    spec = spec_of(spec)
    if str(device) != "meta":
        device = checked_device(device)
    if seed is None:
        with uncollected(), torch.device(device):
            return _build(spec)
    with uncollected(), torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return _build(spec)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's garbage collector, for work that makes many objects which stay.

    It would come by after some thousands of them, and go through all that torch has: 0.2 s in a new process.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def fill(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Make `model`, from the meta device, one with the weights `tensors`, where they are; all names must fit.

    Raises `ModelError` for weights that are whole numbers.
    """
    for name, _ in model.named_parameters():
        if name in tensors and not tensors[name].is_floating_point():
            raise ModelError(f"the weights {name} (their name here) are of {tensors[name].dtype}; wanted real numbers.")
    model.load_state_dict(tensors, assign=True)
    # The modules below are made for their buffers only; what torch's own draw must not move anyone's generator.
    grids = {name: kind.raw_grid() for name, kind in model.spec.inputs.items()}
    with torch.random.fork_rng(devices=[]), nothing_drawn():
        for name, module in model.inputs.items():
            if _has_own_buffers(module):
                _fill_buffers(module, model.spec.inputs[name].build(), next(model.parameters()))
        for name, module in model.outputs.items():
            if _has_own_buffers(module):
                source = model.spec.outputs[name].build(Sizes(1, 1, False, model.inputs, grids))  # pyright: ignore[reportArgumentType]
                _fill_buffers(module, source, next(model.parameters()))


def _has_own_buffers(module: nn.Module) -> bool:
    """Whether it has buffers that a state dict leaves out: statistics that live in the spec."""
    return any(part._non_persistent_buffers_set for part in module.modules())


def _fill_buffers(module: nn.Module, source: nn.Module, like: Tensor) -> None:
    """Copy the buffers that a state dict leaves out into a module from meta.

    They take the device of `like`, and those of real numbers its dtype, as if the whole model had been converted; but
    float64 stays: targets' statistics have it, since float32 cannot tell one second of 2026 from the next.
    """
    for name, buffer in source.named_buffers():
        owner, _, leaf = name.rpartition(".")
        target = module.get_submodule(owner)
        if leaf in target._non_persistent_buffers_set:
            follows = buffer.is_floating_point() and buffer.dtype != torch.float64
            dtype = like.dtype if follows else buffer.dtype
            target.register_buffer(leaf, buffer.to(like.device, dtype), persistent=False)


def _build(spec: Spec) -> Model:
    if spec.encoder.kind == "autoregressive":
        return build_autoregressive(spec)
    inputs = {name: spec.inputs[name].build() for name in sorted(spec.inputs)}
    fusion, grids = None, {name: kind.raw_grid() for name, kind in spec.inputs.items()}
    if isinstance(spec.encoder, HierarchicalSpec):
        encoder = _hierarchical(spec, spec.encoder, inputs)
    else:
        widths = {name: module.channels for name, module in inputs.items()}
        fusion = Fusion(widths, spec.perceiver.padding, spec.perceiver.masking) if len(inputs) > 1 else None
        channels = fusion.channels if fusion else next(iter(widths.values()))
        encoder = _encoder(spec, channels)
    averaging = isinstance(spec.decoder, AverageDecoderSpec)
    asking = {name: kind for name, kind in spec.outputs.items() if kind.again is None}
    queries = {name: kind.query_channels(spec.read_channels, inputs) for name, kind in asking.items()}
    read = dict.fromkeys(queries, spec.read_channels) if averaging else queries
    several = len(queries) > 1 and isinstance(spec.decoder, CrossDecoder)
    query_fusion = Fusion(queries, spec.decoder.padding) if several and isinstance(spec.decoder, CrossDecoder) else None
    asked = {name: query_fusion.channels if query_fusion else read[name] for name in queries}
    shared = spec.decoder.output_channels if isinstance(spec.decoder, CrossDecoder) else None
    sizes = {n: Sizes(queries[n], shared or asked[n], averaging, inputs, grids) for n in queries}
    # Those that are an input again are read out of its positions' answers, which the encoder's own heads give.
    again = {n: _position_channels(spec, kind.again) for n, kind in spec.outputs.items() if kind.again}
    sizes |= {n: Sizes(width, width, False, inputs, grids) for n, width in again.items()}
    outputs = {name: spec.outputs[name].build(sizes[name]) for name in sorted(sizes)}
    decoder = _decoder(spec, max(asked.values())) if asked else AverageDecoder()
    return Model(spec, inputs, fusion, encoder, outputs, query_fusion, decoder)


def _position_channels(spec: Spec, name: str) -> int:
    """E of the positions that a hierarchy has for that input."""
    assert isinstance(spec.encoder, HierarchicalSpec), "the spec is valid"
    central = name in spec.encoder.central_inputs
    return spec.encoder.widths[spec.encoder.middle] if central else spec.encoder.embedding_channels


def _hierarchical(spec: Spec, encoder: HierarchicalSpec, inputs: Mapping[str, Input]) -> Hierarchical:
    sizes = {name: (spec.inputs[name].elements(), module.channels) for name, module in inputs.items()}
    return build_hierarchical(encoder, sizes, {kind.again for kind in spec.outputs.values() if kind.again})


def _encoder(spec: Spec, channels: int) -> Encoder:
    e, width = spec.perceiver, spec.latents.channels
    order = encoder_order(e.cross_attends, e.blocks, e.interleaved, e.cross_sharing, e.block_sharing)
    crosses = {index for kind, index in order if kind == "cross"}
    blocks = {index for kind, index in order if kind == "block"}
    return Encoder(
        spec.latents.count,
        width,
        [_cross_attend(e, width, channels) for _ in crosses],
        [[_self_attend(e, width) for _ in range(e.layers)] for _ in blocks],
        order,
        spec.latents.init_std,
    )


def _cross_attend(e: EncoderSpec, latent_channels: int, channels: int) -> CrossAttend:
    if e.cross.qk_channels is None and channels % e.cross.heads:
        raise SpecError(
            f"encoder.cross.heads is {e.cross.heads}, which does not divide the {channels} channels of what is read; "
            f"set encoder.cross.qk_channels to a multiple of {e.cross.heads}, or change the heads."
        )
    return CrossAttend(
        latent_channels,
        channels,
        e.cross.heads,
        e.cross.qk_channels,
        e.cross.v_channels,
        _mlp(latent_channels, e.cross, e.activation),
        e.cross.query_residual,
        e.dropout,
        e.cross.qkv_bias,
    )


def _self_attend(e: EncoderSpec, channels: int) -> SelfAttend:
    a = e.self_attend
    mlp = _mlp(channels, a, e.activation)
    return SelfAttend(channels, a.heads, a.qk_channels, a.v_channels, mlp, e.dropout, qkv_bias=a.qkv_bias)


def _mlp(channels: int, attention: AttentionSpec, activation: str) -> MLP:
    return MLP(channels, attention.widening, activation)


def _decoder(spec: Spec, query_channels: int) -> Decoder | AverageDecoder:
    d = spec.decoder
    if isinstance(d, AverageDecoderSpec):
        return AverageDecoder(spec.read_channels if d.norm else None)
    activation = ACTIVATION if isinstance(spec.encoder, HierarchicalSpec) else spec.perceiver.activation
    mlp = MLP(query_channels, d.widening, activation)
    facts = (d.heads, d.qk_channels, d.v_channels, mlp, d.query_residual)
    cross = CrossAttend(query_channels, spec.read_channels, *facts, qkv_bias=d.qkv_bias)
    output = plain_linear(query_channels, d.output_channels) if d.output_channels else None
    return Decoder(cross, output)
