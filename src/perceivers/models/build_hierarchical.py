"""The spec of a hierarchy → its module."""

from collections.abc import Collection, Mapping

from perceivers.models.spec_hierarchical import HierarchicalSpec
from perceivers.nn import MLP, CrossAttend, SelfAttend
from perceivers.nn.hierarchical import DropPath, GroupBlock, Hierarchical, Modality
from perceivers.nn.initialisers import block_linear

ACTIVATION = "relu_squared"


def build_hierarchical(
    spec: HierarchicalSpec, sizes: Mapping[str, tuple[int, int]], again: Collection[str]
) -> Hierarchical:
    """The module for modalities of (elements, channels), in this order; heads for those that are asked for `again`."""
    outer = {name: size for name, size in sizes.items() if name not in spec.central_inputs}
    central = {name: size for name, size in sizes.items() if name in spec.central_inputs}
    width = spec.widths[spec.middle]
    return Hierarchical(
        {name: Modality(*size, spec.embedding_channels, spec.project_positions) for name, size in outer.items()},
        [_block(spec, index) for index in range(len(spec.blocks))],
        _head(spec.embedding_channels, spec.final.channels) if set(again) & set(outer) else None,
        spec.regroup,
        {name: Modality(*size, width) for name, size in central.items()},
        _head(width, spec.centre.channels) if set(again) & set(central) else None,
    )


def _block(spec: HierarchicalSpec, index: int) -> GroupBlock:
    block, width = spec.blocks[index], spec.widths[index]
    mlp = MLP(block.channels, block.cross_widening, ACTIVATION)
    cross = CrossAttend(block.channels, width, block.cross_heads, mlp=mlp)
    other = spec.blocks[len(spec.blocks) - 1 - index].channels
    return GroupBlock(
        block.groups,
        block.latents,
        cross,
        [_self_attend(spec, index) for _ in range(block.self_attends)],
        block_linear(other, block.channels) if index > spec.middle and other != block.channels else None,
        spec.train_latents if index == spec.middle else None,
    )


def _self_attend(spec: HierarchicalSpec, index: int) -> SelfAttend:
    block = spec.blocks[index]
    mlp = MLP(block.channels, block.self_widening, ACTIVATION)
    skipped = DropPath(spec.drop_path, block.groups)
    return SelfAttend(block.channels, block.self_heads, mlp=mlp, dropout=spec.dropout, skipped=skipped)


def _head(query_channels: int, channels: int) -> CrossAttend:
    """Positions read latents: one head, as wide as the latents, no residual [`ReconstructionHead`]."""
    return CrossAttend(query_channels, channels, mlp=MLP(query_channels, activation=ACTIVATION), query_residual=False)
