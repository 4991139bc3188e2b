"""Multiplications and additions of blocks, counted apart, as the papers do; only those of matrix products."""

from torch import nn

from perceivers.nn import MLP, Attention, CrossAttend, SelfAttend


def parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters())


def linear_flops(layer: nn.Linear, rows: int) -> int:
    """Of a linear over so many rows."""
    return 2 * rows * layer.in_features * layer.out_features


def cross_flops(cross: nn.Module, queries: int, elements: int) -> int:
    """Of a cross-attend of so many queries that read so many elements."""
    assert isinstance(cross, CrossAttend), "encoders and decoders cross-attend"
    return _attention_flops(cross.attention, queries, elements) + _mlp_flops(cross.mlp, queries)


def self_flops(layer: SelfAttend, latents: int) -> int:
    """Of a self-attend among so many latents."""
    return _attention_flops(layer.attention, latents, latents) + _mlp_flops(layer.mlp, latents)


def _mlp_flops(mlp: MLP, rows: int) -> int:
    return linear_flops(mlp.hidden, rows) + linear_flops(mlp.output, rows)


def _attention_flops(attention: Attention, queries: int, elements: int) -> int:
    """Four linears, the scores 2·O·M·F and the weighted sum 2·O·M·V."""
    projections = linear_flops(attention.query, queries) + linear_flops(attention.output, queries)
    projections += linear_flops(attention.key, elements) + linear_flops(attention.value, elements)
    return projections + 2 * queries * elements * (attention.query.out_features + attention.value.out_features)
