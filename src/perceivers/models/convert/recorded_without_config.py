"""Recordings of Perceiver IO whose config is empty: shapes tell the spec, and the recorded answers what shapes do not.

That is heads, whether queries are masked, in which units flow is, and which points of a clip were asked for. Of the
possible ones those are taken whose answers are nearest to the recorded ones; had the weights been others, none would be
near.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceivers.models.convert.comparison import compared
from perceivers.models.convert.families import FLOW, LANGUAGE, MULTIMODAL
from perceivers.models.convert.inferred_specs import inferred_data
from perceivers.models.convert.recorded_perceivers import (
    autoencoder,
    clip_answers,
    flow_answers,
    language_answers,
    recorded_input,
)
from perceivers.models.convert.stored import Stored, refused
from perceivers.models.presets import spec_of

# Tried after the published number, where they divide the widths.
_HEADS = (4, 8, 2, 1)
_BLOCKS = {
    "cross": "encoder/~/cross_attention",
    "self_attend": "encoder/~/self_attention",
    "decoder": "basic_decoder/cross_attention",
}
_OUTPUT = "output/"
# In parts of the largest number: no other choice comes so near, and trying ends.
_NEAR = 1e-5

# Answers, and in words what was chosen for them.
Tried = tuple[Mapping[str, Tensor], str]


def recomputed_without_config(stored: Stored) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """The answers of the model that is nearest to what is recorded, and in lines how it was found.

    Raises `ModelError` for shapes that no model of the family has, and for an input that is missing.
    """
    nearest, best, tried = math.inf, None, 0
    for one in WITHOUT_CONFIG[stored.family](stored):
        tried += 1
        distance = _distance(one[0], stored)
        if best is None or distance < nearest:
            nearest, best = distance, one
        if nearest < _NEAR:
            break
    assert best is not None, "one head divides every width"
    answers, chosen = best
    return answers, (
        "no config is recorded: the arrays' shapes tell widths and numbers of layers, the published model of that "
        "family tells the rest, but for what the recorded outputs must tell",
        f"nearest to them of {tried} tried: {chosen}",
    )


def _distance(answers: Mapping[str, Tensor], stored: Stored) -> float:
    """Of the output that is furthest off, in parts of its largest number."""
    known = {n.removeprefix(_OUTPUT): array for n, array in stored.arrays.items() if n.startswith(_OUTPUT)}
    found = [
        compared(name, answers[name].numpy(), array.read(), stored.path).relative
        for name, array in known.items()
        if name in answers
    ]
    return max(found, default=0.0)


def _headed(stored: Stored, data: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """`data` with every choice of heads, and the choice in words."""
    encoder, decoder = data["encoder"], data["decoder"]
    named = {"cross": encoder["cross"], "self_attend": encoder["self_attend"], "decoder": decoder}
    options = []
    for name, part in named.items():
        ends = tuple(f"{_BLOCKS[name]}/attention/{linear}/b" for linear in ("linear", "linear_2"))
        widths = [array.size for full, array in stored.arrays.items() if full.endswith(ends)]
        heads = dict.fromkeys([part["heads"], *_HEADS])
        options.append([{**part, "heads": h} for h in heads if all(width % h == 0 for width in widths)])
    for cross, own, asked in itertools.product(*options):
        changed = {**data, "encoder": {**encoder, "cross": cross, "self_attend": own}, "decoder": asked}
        counts = (f"{cross['heads']} of the cross-attend", f"{own['heads']} of the self-attends")
        yield changed, f"heads: {', '.join(counts)}, {asked['heads']} of the decoder"


def _language(stored: Stored) -> Iterator[Tried]:
    for masked, words in ((True, "queries are masked"), (False, "queries are not masked")):
        for data, heads in _headed(stored, inferred_data(stored)):
            spec = spec_of({**data, "outputs": {"text": {"mask_queries": masked}}})
            yield language_answers(stored, spec), f"{heads}; {words}"


def _flow(stored: Stored) -> Iterator[Tried]:
    size = recorded_input(stored, "images", axes=5).shape[2:4]
    inferred = inferred_data(stored, {"pair": size})
    inferred["inputs"]["pair"] |= {"mean": 0.0, "std": 1.0}
    for data, heads in _headed(stored, inferred):
        spec = spec_of(data)
        answers = flow_answers(stored, spec)
        output: Any = spec.outputs["flow"]
        whole = answers["flow"] * output.rescale / output.pixels
        for rescale in (output.rescale, 1.0):
            flow = {"flow": whole / rescale * output.pixels, "flow_unscaled": whole / rescale}
            yield {**answers, **flow}, f"{heads}; flow is divided by {rescale:g}"


def _multimodal(stored: Stored) -> Iterator[Tried]:
    sizes = {name: recorded_input(stored, name, axes).shape[1:-1] for name, axes in (("audio", 3), ("image", 5))}
    inferred = inferred_data(stored, sizes)
    # Recorded frames are what the network reads and answers.
    inferred["inputs"]["image"]["std"], inferred["outputs"]["image"]["std"] = [1.0] * 3, 1.0
    for data, heads in _headed(stored, inferred):
        model, batch = autoencoder(stored, spec_of(data))
        latents = model.encode(batch)
        assert isinstance(latents, Tensor), "a Perceiver's"
        found, said = clip_answers(model, latents, {}), heads
        (patch,) = data["outputs"]["audio"]["patch"]
        for name, numbers in (("audio", patch), ("image", 3)):
            points = _points(found[name], numbers, stored, name)
            asked = found[name].reshape(len(latents), -1, numbers)[:, points]
            found[name] = asked.flatten(1) if name == "audio" else asked
            said += f"; points of {name}: {', '.join(map(str, points.tolist()))}"
        yield found, said


def _points(answers: Tensor, numbers: int, stored: Stored, name: str) -> Tensor:
    """The numbers of the points that were asked for: those recorded, else those with the nearest answers."""
    if f"input/sub_{name}" in stored.arrays:
        return recorded_input(stored, f"sub_{name}").long()
    if f"{_OUTPUT}{name}" not in stored.arrays:
        raise refused(stored.path, f"'{_OUTPUT}{name}' is missing.")
    recorded = torch.from_numpy(np.array(stored.arrays[f"{_OUTPUT}{name}"].read(), np.float32))
    known = answers.reshape(len(answers), -1, numbers)
    if recorded.numel() % (len(known) * numbers):
        shape = tuple(recorded.shape)
        raise refused(stored.path, f"'{_OUTPUT}{name}' is {shape}, which is no answer of {numbers} numbers a point.")
    some = recorded.reshape(len(known), -1, numbers)
    return (known[:, :, None] - some[:, None]).abs().amax((0, 3)).argmin(0)


WITHOUT_CONFIG: Mapping[str, Callable[[Stored], Iterator[Tried]]] = {
    LANGUAGE: _language,
    FLOW: _flow,
    MULTIMODAL: _multimodal,
}
