"""perceiver-pytorch (lucidrains) up to 0.11: its `Perceiver` and `PerceiverIO` → a spec and a model's tensors.

Its blocks: no biases for queries, keys and values, keys and values in one linear, GEGLU with exact GELU, and in
`Perceiver` a norm behind the mean of the latents. An element is [data | of each axis: sines, cosines, position], ours
[data | positions | sines | cosines]: a permutation of channels, which the norm and the linears do not mind. Layers
whose weights were tied stand there once for each use; they are known by equal numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from perceivers.errors import ModelError, SpecError
from perceivers.models.convert.mapping import Change, Entry, same
from perceivers.models.convert.stored import Stored, StoredArray
from perceivers.models.model import Model
from perceivers.nn import Decoder
from perceivers.nn.position import FourierPosition

# How a fused array is called where it is two.
_KEYS, _VALUES = " (keys)", " (values)"


@dataclass(frozen=True)
class _Style:
    """Where layers stand: `cross`, `cross_ff` of the layer {i}; `own`, `own_ff` of its self-attend {j}."""

    cross: str
    cross_ff: str
    own: str
    own_ff: str


_PERCEIVER = (
    _Style(
        "layers.{i}.cross_attn", "layers.{i}.cross_ff", "layers.{i}.self_attns.{j}.0", "layers.{i}.self_attns.{j}.1"
    ),
    _Style("layers.{i}.0", "layers.{i}.1", "layers.{i}.2.{j}.0", "layers.{i}.2.{j}.1"),
)
_IO = (
    _Style(
        "cross_attend_block.cross_attn",
        "cross_attend_block.cross_ff",
        "layers.{i}.self_attns.{j}.0",
        "layers.{i}.self_attns.{j}.1",
    ),
    _Style("cross_attend_blocks.0", "cross_attend_blocks.1", "layers.{i}.0", "layers.{i}.1"),
)


class _File:
    """What a file holds, by the names of one style."""

    def __init__(self, stored: Stored, styles: tuple[_Style, ...]) -> None:
        self.stored = stored
        self.style = next((s for s in styles if self.has(f"{s.cross.format(i=0)}.fn.to_q.weight")), None) or styles[0]
        for name in stored.arrays:
            if name.startswith("attn_residuals."):
                raise ModelError(
                    f"'{stored.path}' cannot be imported: its layers have attention residuals ('{name}'), which no "
                    "spec can say."
                )

    def has(self, name: str) -> bool:
        return name in self.stored.arrays

    def shape(self, name: str, axes: int = 2) -> tuple[int, ...]:
        """Of an array that must be there, with so many axes."""
        found = self.stored.arrays.get(name)
        if found is None or len(found.shape) != axes or not all(found.shape):
            what = "lacks" if found is None else f"has the shape {found.shape} for"
            raise ModelError(f"'{self.stored.path}' {what} '{name}', so it is no whole {self.stored.family}.")
        return found.shape

    def layers(self) -> int:
        """How many numbered layers there are."""
        return self._count("layers.{}.")

    def selves(self) -> int:
        """How many self-attends the first layer has."""
        start, _, _ = self.style.own.format(i=0, j="{}").partition("{}")
        return self._count(f"{start}{{}}.") if "{j}" in self.style.own else 1

    def _count(self, pattern: str) -> int:
        count = 0
        while any(name.startswith(pattern.format(count)) for name in self.stored.arrays):
            count += 1
        return count

    def tied(self, first: int) -> bool:
        """Whether the layers from `first` on have the same numbers."""
        start = f"layers.{first}."
        own = {name.removeprefix(start): a for name, a in self.stored.arrays.items() if name.startswith(start)}
        return all(
            self._equal(array, f"layers.{layer}.{name}")
            for layer in range(first + 1, self.layers())
            for name, array in own.items()
        )

    def _equal(self, array: StoredArray, name: str) -> bool:
        other = self.stored.arrays.get(name)
        return other is not None and other.shape == array.shape and np.array_equal(other.read(), array.read())

    def widths(self, attention: str) -> dict[str, Any]:
        """What the shapes of an attention and its MLP's say."""
        return {"qk_channels": self.shape(f"{attention}.fn.to_q.weight")[0], "qkv_bias": False}

    def widening(self, name: str) -> int:
        hidden, width = self.shape(f"{name}.fn.net.0.weight")
        return max(hidden // (2 * width), 1)


def perceiver_spec(stored: Stored, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights of a `Perceiver` tell of its spec."""
    file = _File(stored, _PERCEIVER)
    depth = file.layers()
    found = _told(file, depth)
    if not file.has("to_logits.2.weight"):
        raise ModelError(
            f"'{stored.path}' cannot be imported: it has no to_logits (final_classifier_head=False), so it answers "
            "nothing."
        )
    # The first layer is never tied; the others are when weight_tie_layers was set.
    sharing = "after_first" if depth > 2 and file.tied(1) else "none"
    found["encoder"] |= {
        "cross_attends": depth,
        "interleaved": depth > 1,
        "cross_sharing": sharing,
        "blocks": depth,
        "layers": file.selves(),
        "block_sharing": sharing,
    }
    found["decoder"] = {"kind": "average", "norm": True}
    if "outputs" not in given:
        classes = file.shape("to_logits.2.weight")[0]
        found["outputs"] = {"label": {"kind": "category", "classes": [f"class_{n}" for n in range(classes)]}}
    _check_positions(given)
    return found


def io_spec(stored: Stored, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights of a `PerceiverIO` tell of its spec. What it reads and asks with is not in them."""
    file = _File(stored, _IO)
    if not file.has("to_logits.weight"):
        raise ModelError(
            f"'{stored.path}' cannot be imported: it has no to_logits (logits_dim=None), so it answers nothing."
        )
    depth = file.layers()
    found = _told(file, depth)
    sharing = "all" if depth > 1 and file.tied(0) else "none"
    found["encoder"] |= {"cross_attends": 1, "blocks": depth, "layers": 1, "block_sharing": sharing}
    found["decoder"] = {
        "kind": "cross_attend",
        "query_residual": False,
        "widening": file.widening("decoder_ff") if file.has("decoder_ff.norm.weight") else 1,
        **file.widths("decoder_cross_attn"),
    }
    return found


def _told(file: _File, depth: int) -> dict[str, Any]:
    if not depth:
        raise ModelError(f"'{file.stored.path}' cannot be imported: it has no layers.")
    count, channels = file.shape("latents")
    style = file.style
    cross, own = style.cross.format(i=0), style.own.format(i=0, j=0)
    return {
        "latents": {"count": count, "channels": channels},
        "encoder": {
            "activation": "geglu",
            "cross": {**file.widths(cross), "widening": file.widening(style.cross_ff.format(i=0))},
            "self_attend": {**file.widths(own), "widening": file.widening(style.own_ff.format(i=0, j=0))},
        },
    }


def _check_positions(given: Mapping[str, Any]) -> None:
    """Raise `SpecError` where nobody said what max_freq was."""
    for name, kind in given.get("inputs", {}).items():
        position = kind.get("position")
        if not isinstance(position, Mapping) or (position.get("kind") == "fourier" and not position.get("resolution")):
            raise SpecError(
                f"give inputs.{name}.position with a resolution, max_freq once for each axis: the weights do not tell "
                "it. For data with positions of its own (fourier_encode_data=False) give position: {kind: none}."
            )


def perceiver_entries(model: Model, stored: Stored) -> tuple[list[Entry], Stored]:
    """The places of a `Perceiver`'s tensors, and the weights as they want them."""
    file = _File(stored, _PERCEIVER)
    channels = _permutation(model)
    found = [Entry("encoder.latents", "latents", same)]
    crosses, blocks = len(model.perceiver.cross_attends), len(model.perceiver.blocks)
    for layer in range(crosses):
        found += _cross(f"encoder.cross_attends.{layer}.", file.style, layer, channels)
    for layer in range(blocks):
        for number in range(file.selves()):
            found += _own(f"encoder.blocks.{layer}.{number}.", file.style, layer, number)
    (answer,) = model.outputs
    found += _norm("decoder.norm.", "to_logits.1")
    found += _both(f"outputs.{answer}.head.", "to_logits.2")
    # Uses of tied layers beyond the first are the same numbers again.
    again = tuple(f"layers.{layer}." for layer in range(crosses, file.layers()))
    return found, _split(stored, again)


def io_entries(model: Model, stored: Stored) -> tuple[list[Entry], Stored]:
    """The places of a `PerceiverIO`'s tensors, and the weights as they want them."""
    file = _File(stored, _IO)
    if len(model.outputs) != 1 or not isinstance(model.decoder, Decoder):
        raise SpecError("a PerceiverIO of perceiver-pytorch has one output, and a decoder that cross-attends.")
    found = [Entry("encoder.latents", "latents", same)]
    found += _cross("encoder.cross_attends.0.", file.style, 0, None)
    blocks = len(model.perceiver.blocks)
    for layer in range(blocks):
        found += _own(f"encoder.blocks.{layer}.0.", file.style, layer, 0)
    found += _attention("decoder.cross_attend.attention.", "decoder_cross_attn.fn", None)
    found += _norm("decoder.cross_attend.query_norm.", "decoder_cross_attn.norm")
    found += _norm("decoder.cross_attend.element_norm.", "decoder_cross_attn.norm_context")
    found += _feed_forward("decoder.cross_attend.", "decoder_ff")
    (answer,) = model.outputs
    found += _both(f"outputs.{answer}.head.", "to_logits")
    changed = _split(stored, tuple(f"layers.{layer}." for layer in range(blocks, file.layers())))
    if not file.has("decoder_ff.norm.weight"):
        changed = _with_nothing(changed, model.decoder.cross_attend.mlp.hidden.in_features)
    return found, changed


def _permutation(model: Model) -> list[int] | None:
    """Their place of each of our channels of an element; None where all stand in one order."""
    if len(model.inputs) != 1:
        raise SpecError(f"a Perceiver of perceiver-pytorch has one input, not {len(model.inputs)}.")
    (module,) = model.inputs.values()
    position = getattr(module, "position", None)
    if not isinstance(position, FourierPosition):
        return None
    if position.sine_only or not position.concat_position:
        raise SpecError("perceiver-pytorch has sines, cosines and positions; leave sine_only and concat_position out.")
    axes, bands = len(position.resolution), position.bands
    data = int(module.channels) - position.channels  # pyright: ignore[reportArgumentType]
    start = [data + axis * (2 * bands + 1) for axis in range(axes)]
    waves = [[first + part * bands + band for first in start for band in range(bands)] for part in range(2)]
    return [*range(data), *(first + 2 * bands for first in start), *waves[0], *waves[1]]


def _cross(ours: str, style: _Style, layer: int, channels: list[int] | None) -> Iterator[Entry]:
    theirs = style.cross.format(i=layer)
    yield from _norm(f"{ours}query_norm.", f"{theirs}.norm")
    yield from _norm(f"{ours}element_norm.", f"{theirs}.norm_context", channels)
    yield from _attention(f"{ours}attention.", f"{theirs}.fn", channels)
    yield from _feed_forward(ours, style.cross_ff.format(i=layer))


def _own(ours: str, style: _Style, layer: int, number: int) -> Iterator[Entry]:
    theirs = style.own.format(i=layer, j=number)
    yield from _norm(f"{ours}norm.", f"{theirs}.norm")
    yield from _attention(f"{ours}attention.", f"{theirs}.fn", None)
    yield from _feed_forward(ours, style.own_ff.format(i=layer, j=number))


def _attention(ours: str, theirs: str, channels: list[int] | None) -> Iterator[Entry]:
    change = _chosen(channels)
    yield Entry(f"{ours}query.weight", f"{theirs}.to_q.weight", same)
    yield Entry(f"{ours}key.weight", f"{theirs}.to_kv.weight{_KEYS}", change)
    yield Entry(f"{ours}value.weight", f"{theirs}.to_kv.weight{_VALUES}", change)
    yield from _both(f"{ours}output.", f"{theirs}.to_out")


def _feed_forward(ours: str, theirs: str) -> Iterator[Entry]:
    yield from _norm(f"{ours}mlp_norm.", f"{theirs}.norm")
    yield from _both(f"{ours}mlp.hidden.", f"{theirs}.fn.net.0")
    yield from _both(f"{ours}mlp.output.", f"{theirs}.fn.net.2")


def _norm(ours: str, theirs: str, channels: list[int] | None = None) -> Iterator[Entry]:
    change = _chosen(channels)
    yield Entry(f"{ours}weight", f"{theirs}.weight", change)
    yield Entry(f"{ours}bias", f"{theirs}.bias", change)


def _both(ours: str, theirs: str) -> Iterator[Entry]:
    yield Entry(f"{ours}weight", f"{theirs}.weight", same)
    yield Entry(f"{ours}bias", f"{theirs}.bias", same)


def _chosen(channels: list[int] | None) -> Change:
    """Channels, of the last axis, in our order. Raises `ValueError` for another number of them."""
    if channels is None:
        return same

    def change(array: np.ndarray) -> np.ndarray:
        if not array.ndim or array.shape[-1] != len(channels):
            raise ValueError("another number of channels")
        return array[..., channels]

    return change


def _split(stored: Stored, left_out: tuple[str, ...]) -> Stored:
    """Keys and values apart, and without the arrays whose names begin like `left_out`."""
    found: dict[str, StoredArray] = {}
    for name, array in stored.arrays.items():
        if left_out and name.startswith(left_out):
            continue
        if not name.endswith(".to_kv.weight") or len(array.shape) != 2 or array.shape[0] % 2:
            found[name] = array
            continue
        half = array.shape[0] // 2
        for part, rows in ((_KEYS, slice(0, half)), (_VALUES, slice(half, None))):
            shape = (half, array.shape[1])
            found[name + part] = replace(array, name=array.name + part, shape=shape, read=partial(_rows, array, rows))
    return replace(stored, arrays=found)


def _rows(array: StoredArray, rows: slice) -> np.ndarray:
    return array.read()[rows]


def _with_nothing(stored: Stored, width: int) -> Stored:
    """With an MLP behind the decoder that adds nothing, where the model had none (decoder_ff=False)."""
    shapes = {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"fn.net.0.weight": (2 * width, width), "fn.net.0.bias": (2 * width,)}
    shapes |= {"fn.net.2.weight": (width, width), "fn.net.2.bias": (width,)}
    made = {}
    for name, shape in shapes.items():
        fill = 1.0 if name == "norm.weight" else 0.0
        read = partial(np.full, shape, fill, np.float32)
        made[f"decoder_ff.{name}"] = StoredArray("decoder_ff", name, shape, "float32", True, read)
    return replace(stored, arrays={**stored.arrays, **made})
