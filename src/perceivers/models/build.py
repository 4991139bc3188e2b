"""Spec → Model: the only file that knows every class, but for those of `autoregressive`, which has its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perceivers.errors import SpecError
from perceivers.models.autoregressive import build_autoregressive
from perceivers.models.model import Fusion, Model
from perceivers.models.spec import AttentionSpec, AverageDecoderSpec, CrossDecoder, EncoderSpec, Spec, as_spec
from perceivers.nn import MLP, AverageDecoder, CrossAttend, Decoder, Encoder, SelfAttend
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.perceiver import encoder_order
from perceivers.outputs.base import Sizes


def build(spec: "Spec | Mapping[str, Any]", device: torch.device | str = "cpu", seed: int | None = None) -> Model:
    """A model with freshly drawn weights.

    `spec`: a `Spec` or plain data of its shape. `device='meta'` gives shapes and counts at once, without memory.
    `seed` fixes the draw and leaves torch's global generator as it was; None draws from that generator.
    Raises `SpecError` for a spec that cannot be understood or is not complete.
    """
    spec = as_spec(spec)
    if seed is None:
        with torch.device(device):
            return _build(spec)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return _build(spec)


def fill(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Make `model`, from the meta device, one with the weights `tensors`, where they are; all names must fit."""
    model.load_state_dict(tensors, assign=True)
    # The modules below are made for their buffers only; the weights that they draw must not move anyone's generator.
    with torch.random.fork_rng(devices=[]):
        for name, module in model.inputs.items():
            if _has_own_buffers(module):
                _fill_buffers(module, model.spec.inputs[name].build(), next(model.parameters()))
        for name, module in model.outputs.items():
            if _has_own_buffers(module):
                source = model.spec.outputs[name].build(Sizes(1, 1, False, model.inputs))  # pyright: ignore[reportArgumentType]
                _fill_buffers(module, source, next(model.parameters()))


def _has_own_buffers(module: nn.Module) -> bool:
    """Whether it has buffers that a state dict leaves out: statistics that live in the spec."""
    return any(part._non_persistent_buffers_set for part in module.modules())


def _fill_buffers(module: nn.Module, source: nn.Module, like: Tensor) -> None:
    """Copy the buffers that a state dict leaves out into a module from meta.

    They take the device of `like`, and those of real numbers its dtype, as if the whole model had been converted.
    """
    for name, buffer in source.named_buffers():
        owner, _, leaf = name.rpartition(".")
        target = module.get_submodule(owner)
        if leaf in target._non_persistent_buffers_set:
            dtype = like.dtype if buffer.is_floating_point() else buffer.dtype
            target.register_buffer(leaf, buffer.to(like.device, dtype), persistent=False)


def _build(spec: Spec) -> Model:
    if spec.encoder.kind == "autoregressive":
        return build_autoregressive(spec)
    inputs = {name: spec.inputs[name].build() for name in sorted(spec.inputs)}
    widths = {name: module.channels for name, module in inputs.items()}
    fusion = Fusion(widths, spec.perceiver.padding, spec.perceiver.masking) if len(inputs) > 1 else None
    channels = fusion.channels if fusion else next(iter(widths.values()))
    encoder = _encoder(spec, channels)
    averaging = isinstance(spec.decoder, AverageDecoderSpec)
    queries = {name: output.query_channels(spec.latents.channels, inputs) for name, output in spec.outputs.items()}
    read = dict.fromkeys(queries, spec.latents.channels) if averaging else queries
    several = len(queries) > 1 and isinstance(spec.decoder, CrossDecoder)
    query_fusion = Fusion(queries, spec.decoder.padding) if several and isinstance(spec.decoder, CrossDecoder) else None
    asked = {name: query_fusion.channels if query_fusion else read[name] for name in queries}
    shared = spec.decoder.output_channels if isinstance(spec.decoder, CrossDecoder) else None
    sizes = {name: Sizes(queries[name], shared or asked[name], averaging, inputs) for name in queries}
    outputs = {name: spec.outputs[name].build(sizes[name]) for name in sorted(queries)}
    return Model(spec, inputs, fusion, encoder, outputs, query_fusion, _decoder(spec, max(asked.values())))


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
    )


def _self_attend(e: EncoderSpec, channels: int) -> SelfAttend:
    a = e.self_attend
    return SelfAttend(channels, a.heads, a.qk_channels, a.v_channels, _mlp(channels, a, e.activation), e.dropout)


def _mlp(channels: int, attention: AttentionSpec, activation: str) -> MLP:
    return MLP(channels, attention.widening, activation)


def _decoder(spec: Spec, query_channels: int) -> Decoder | AverageDecoder:
    d = spec.decoder
    if isinstance(d, AverageDecoderSpec):
        return AverageDecoder()
    mlp = MLP(query_channels, d.widening, spec.perceiver.activation)
    cross = CrossAttend(
        query_channels, spec.latents.channels, d.heads, d.qk_channels, d.v_channels, mlp, d.query_residual
    )
    return Decoder(cross, plain_linear(query_channels, d.output_channels) if d.output_channels else None)
