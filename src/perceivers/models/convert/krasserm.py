"""krasserm's perceiver-io, versions 0.6 to 0.11: image classification, text classification and masked text.

Its Perceiver IO is DeepMind's but for the exact GELU. Encoder and decoder are the numbers 0 and 1 of a sequence, behind
`model.` in checkpoints of Lightning and `backend_model.` in its transformers folders. Checkpoints of Lightning hold the
settings too, from which heads, blocks and the input's shape are taken.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from perceivers.byte_tokens import VOCABULARY
from perceivers.errors import ModelError, SpecError
from perceivers.models.convert.mapping import Entry, same
from perceivers.models.convert.stored import Stored
from perceivers.models.convert.tensors import SETTINGS
from perceivers.models.model import Model
from perceivers.nn import Decoder
from perceivers.nn.perceiver import encoder_order

_LATENTS = ("0.latent", "0.latent_provider._query")
_QUERIES = ("1.output_adapter._output_query", "1.output_query_provider._query")
_TEXT_POSITIONS = ("0.input_adapter.pos_encoding", "0.input_adapter.pos_embedding.weight")
_TEXT, _HEAD = "0.input_adapter.txt_embedding.weight", "1.output_adapter.linear"
_TIED = "1.output_adapter.bias"
# Tables of Fourier features, which are made anew.
_BUFFERS = ("0.input_adapter.position_encoding",)
# Of its data sets' images: 0…255 becomes −1…1.
_HALF = 127.5
_COUNT = TypeAdapter(int)


class _File:
    """What a file holds, by names without what stands before the numbers of encoder and decoder."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        latents = next((name for name in stored.arrays if name.endswith(_LATENTS)), None)
        if latents is None:
            latents = " or ".join(f"'{name}'" for name in _LATENTS)
            raise ModelError(f"'{stored.path}' lacks {latents}, so it is no whole {stored.family}.")
        prefix = latents.removesuffix(next(end for end in _LATENTS if latents.endswith(end)))
        arrays = {name.removeprefix(prefix): a for name, a in stored.arrays.items() if name.startswith(prefix)}
        # What stands beside the model in a checkpoint, such as the state of a metric, is none of its weights.
        self.arrays = {name: array for name, array in arrays.items() if not name.startswith(_BUFFERS)}
        self.latents = self.one_of(_LATENTS)
        self.queries = self.one_of(_QUERIES)
        residual = "1.cross_attn.0.module"
        self.residual = any(name.startswith(residual) for name in self.arrays)
        self.cross = residual if self.residual else "1.cross_attn.0"

    def one_of(self, names: tuple[str, ...]) -> str:
        """The name that is there."""
        return next((name for name in names if name in self.arrays), names[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array of two axes that must be there."""
        found = self.arrays.get(name)
        if found is None or len(found.shape) != 2 or not all(found.shape):
            what = "lacks" if found is None else f"has the shape {found.shape} for"
            raise ModelError(f"'{self.stored.path}' {what} '{name}', so it is no whole {self.stored.family}.")
        return found.shape

    def layers(self) -> int:
        """Self-attends in a block."""
        count = 0
        while f"0.self_attn_1.{count}.0.module.norm.weight" in self.arrays:
            count += 1
        return count

    def several(self, part: str) -> bool:
        """Whether later cross-attends, or blocks, have weights of their own."""
        return any(name.startswith(f"0.{part}_n.") for name in self.arrays)

    def widths(self, attention: str, mlp: str) -> dict[str, Any]:
        """What the shapes of an attention and of the MLP behind it say."""
        hidden, width = self.shape(f"{mlp}.1.weight")
        return {
            "qk_channels": self.shape(f"{attention}.attention.q_proj.weight")[0],
            "v_channels": self.shape(f"{attention}.attention.v_proj.weight")[0],
            "widening": max(hidden // width, 1),
        }


def krasserm_spec(stored: Stored, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights, and settings beside them, tell of the spec."""
    file = _File(stored)
    count, channels = file.shape(file.latents)
    own = file.widths("0.self_attn_1.0.0.module", "0.self_attn_1.0.1.module")
    encoder: dict[str, Any] = {
        "activation": "gelu",
        "layers": file.layers(),
        "cross": file.widths("0.cross_attn_1.0.module", "0.cross_attn_1.1.module"),
        "self_attend": own,
        "cross_sharing": "after_first" if file.several("cross_attn") else "all",
        "block_sharing": "after_first" if file.several("self_attn") else "all",
    }
    mlp = "1.cross_attn.1.module"
    decoder = {"kind": "cross_attend", **file.widths(file.cross, mlp), "query_residual": file.residual}
    found = {"latents": {"count": count, "channels": channels}, "encoder": encoder, "decoder": decoder}
    settings = stored.extra.get(SETTINGS)
    if isinstance(settings, Mapping):
        _add_settings(found, settings, file)
    _add_ends(found, file, given)
    return _ordered(found, given)


def _add_settings(found: dict[str, Any], settings: Mapping[str, Any], file: _File) -> None:
    """What the settings of a checkpoint tell besides."""
    there, wanted = settings.get("encoder"), settings.get("decoder")
    there = there if isinstance(there, Mapping) else {}
    wanted = wanted if isinstance(wanted, Mapping) else {}
    encoder = found["encoder"]
    numbers = (
        (encoder, "cross_attends", there.get("num_cross_attention_layers")),
        (encoder, "blocks", there.get("num_self_attention_blocks")),
        (encoder["cross"], "heads", there.get("num_cross_attention_heads")),
        (encoder["self_attend"], "heads", there.get("num_self_attention_heads")),
        (found["decoder"], "heads", wanted.get("num_cross_attention_heads")),
    )
    for part, key, number in numbers:
        if type(number) is int:
            part[key] = number
    image, bands = there.get("image_shape"), there.get("num_frequency_bands")
    if not isinstance(image, list) or len(image) != 3 or type(bands) is not int or _TEXT in file.arrays:
        return
    if all(type(n) is int and 0 < n < 2**16 for n in image):
        found["inputs"] = {
            "image": {
                "kind": "image",
                "size": image[:2],
                "channels": image[2],
                "mean": [_HALF] * image[2],
                "std": [_HALF] * image[2],
                "position": {"kind": "fourier", "bands": bands},
            }
        }


def _add_ends(found: dict[str, Any], file: _File, given: Mapping[str, Any]) -> None:
    """Input and output, where the weights tell them."""
    if _TEXT in file.arrays:
        vocabulary, channels = file.shape(_TEXT)
        length = file.shape(file.one_of(_TEXT_POSITIONS))[0]
        if vocabulary != VOCABULARY:
            raise ModelError(
                f"'{file.stored.path}' cannot be imported: it has {vocabulary:,} kinds of tokens, and text is read "
                f"here as bytes, of which there are {VOCABULARY}."
            )
        position = {"kind": "learned", "channels": channels, "join": "add"}
        found["inputs"] = {"text": {"kind": "text", "length": length, "channels": channels, "position": position}}
    queries, width = file.shape(file.queries)
    if _TIED in file.arrays:
        file.shape(_TEXT)
        length = found["inputs"]["text"]["length"]
        if queries != length:
            raise ModelError(
                f"'{file.stored.path}' cannot be imported: it reads {length} tokens and answers {queries}; a text "
                "output answers as many as are read."
            )
        found["outputs"] = {"guess": {"kind": "text", "input": "text", "mask_queries": False}}
        return
    classes = file.shape(f"{_HEAD}.weight")[0]
    if queries != 1:
        raise ModelError(
            f"'{file.stored.path}' cannot be imported: it asks {queries} queries with an output of its own; the "
            "outputs here ask one, or read all answers by the embedding of a text."
        )
    if "outputs" not in given:
        names = [f"class_{number}" for number in range(classes)]
        query = {"kind": "learned", "channels": width}
        found["outputs"] = {"label": {"kind": "category", "classes": names, "query": query}}


def _ordered(found: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """With `interleaved`. Its cross-attends stand before the first blocks, one each; ours are spread evenly."""
    encoder = {**found["encoder"], **given.get("encoder", {})}
    try:
        # As the spec reads them: a file may say 5.0 or "5".
        crosses, blocks = (_COUNT.validate_python(encoder.get(key)) for key in ("cross_attends", "blocks"))
    except ValidationError:
        return found  # not known, or nothing that the spec takes
    if not 1 <= crosses <= blocks:
        raise SpecError(f"encoder.cross_attends is {crosses} and encoder.blocks {blocks}; there they are 1 to as many.")
    steps = encoder_order(crosses, blocks, interleaved=crosses > 1)
    before = [sum(kind == "block" for kind, _ in steps[:n]) for n, (kind, _) in enumerate(steps) if kind == "cross"]
    if before != list(range(crosses)):
        raise ModelError(
            f"{crosses} cross-attends stand before the first {crosses} of {blocks} blocks there, and here they are "
            "spread evenly; that is the same only for one, or as many as blocks, or nearly."
        )
    found["encoder"]["interleaved"] = crosses > 1
    for key, number in (("cross_sharing", crosses), ("block_sharing", blocks)):
        if found["encoder"][key] == "after_first" and number == 1:
            raise SpecError(
                f"later ones have weights of their own ({key}), so there is more than one; correct the spec."
            )
    return found


def krasserm_entries(model: Model, stored: Stored) -> tuple[list[Entry], Stored]:
    """The places of the model's tensors, and the weights by the names that those have."""
    file = _File(stored)
    if len(model.inputs) != 1 or len(model.outputs) != 1 or not isinstance(model.decoder, Decoder):
        raise SpecError(
            "a model of krasserm's perceiver-io has one input, one output and a decoder that cross-attends."
        )
    (given,), (answer,) = model.inputs, model.outputs
    found = [Entry("encoder.latents", file.latents, same)]
    for number in range(len(model.perceiver.cross_attends)):
        name = f"0.cross_attn_{'n' if number else 1}"
        found += _cross(f"encoder.cross_attends.{number}.", f"{name}.0.module", f"{name}.1.module")
    for number, block in enumerate(model.perceiver.blocks):
        name = f"0.self_attn_{'n' if number else 1}"
        for layer in range(len(block)):  # pyright: ignore[reportArgumentType]
            found += _own(f"encoder.blocks.{number}.{layer}.", f"{name}.{layer}")
    found += _cross("decoder.cross_attend.", file.cross, "1.cross_attn.1.module")
    if _TEXT in file.arrays:
        found.append(Entry(f"inputs.{given}.embedding.weight", _TEXT, same))
        found.append(Entry(f"inputs.{given}.position.table", file.one_of(_TEXT_POSITIONS), same))
    found.append(Entry(f"outputs.{answer}.query.table", file.queries, same))
    if _TIED in file.arrays:
        found.append(Entry(f"outputs.{answer}.bias", _TIED, same))
    else:
        found += _both(f"outputs.{answer}.head.", _HEAD)
    return found, replace(stored, arrays=file.arrays)


def _cross(ours: str, attention: str, mlp: str) -> Iterator[Entry]:
    yield from _both(f"{ours}query_norm.", f"{attention}.q_norm")
    yield from _both(f"{ours}element_norm.", f"{attention}.kv_norm")
    yield from _attention(f"{ours}attention.", attention)
    yield from _feed_forward(ours, mlp)


def _own(ours: str, theirs: str) -> Iterator[Entry]:
    yield from _both(f"{ours}norm.", f"{theirs}.0.module.norm")
    yield from _attention(f"{ours}attention.", f"{theirs}.0.module")
    yield from _feed_forward(ours, f"{theirs}.1.module")


def _attention(ours: str, theirs: str) -> Iterator[Entry]:
    for here, there in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
        yield from _both(f"{ours}{here}.", f"{theirs}.attention.{there}_proj")


def _feed_forward(ours: str, theirs: str) -> Iterator[Entry]:
    for here, there in (("mlp_norm", 0), ("mlp.hidden", 1), ("mlp.output", 3)):
        yield from _both(f"{ours}{here}.", f"{theirs}.{there}")


def _both(ours: str, theirs: str) -> Iterator[Entry]:
    yield Entry(f"{ours}weight", f"{theirs}.weight", same)
    yield Entry(f"{ours}bias", f"{theirs}.bias", same)
