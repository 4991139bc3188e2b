"""Pickles of weights without inputs and answers: is every array in the model, and can the model be run?

The spec is that of the arrays' shapes (`inferred_specs`). The weights go in through the converter, and each array is
then taken out of the model again and compared with the stored one.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceivers.byte_tokens import VOCABULARY
from perceivers.elements import Batch, Elements
from perceivers.errors import ModelError
from perceivers.models.convert.comparison import Comparison
from perceivers.models.convert.deepmind import IGNORED, entries
from perceivers.models.convert.inferred_specs import Sizes, inferred_data
from perceivers.models.convert.mapping import Entry, assembled, undone
from perceivers.models.convert.stored import Stored, quoted
from perceivers.models.model import Model
from perceivers.models.presets import spec_of

SAID = (
    "no outputs are recorded, so only the weights were compared, each with what the model gives back of it",
    "the model's answers to random inputs are finite",
)
# Inside an attend: all of it is one line.
_INSIDE = re.compile(r"/(attention|mlp|layer_norm)(_\d+)?(/.*)?$")
# Elements on an axis of an input whose size the weights do not tell, in patches where it is read in patches.
_CELLS, _FRAMES = 16, 2


def compared_weights(stored: Stored) -> tuple[dict[str, Comparison], tuple[str, ...]]:
    """Of each module `weights/<module>`, how far its arrays are from those in the model; and what to say of it.

    Raises `ModelError` for arrays of no released family, for shapes that none of its models has, and where the model's
    answers are not finite.
    """
    data = inferred_data(stored)
    model = assembled(spec_of(inferred_data(stored, _small(data))), stored, entries, IGNORED)
    by_module: dict[str, list[Comparison]] = {}
    for theirs, entry in _taken_out(model, stored):
        array = stored.arrays[theirs]
        module = _INSIDE.sub("", array.module.partition("/")[2])
        by_module.setdefault(f"weights/{module}", []).append(_same(model, entry, array.read()))
    _check_answers(model, stored)
    return {name: _worst(found) for name, found in by_module.items()}, SAID


def _small(data: Mapping[str, Any]) -> Sizes:
    """Sizes for the inputs that lie on a grid of Fourier features: their weights are the same at any size."""
    inputs = data["inputs"]
    if "audio" in inputs:
        (samples,), (_, *sides) = (inputs[name]["lift"]["size"] for name in ("audio", "image"))
        return {"audio": [_CELLS * samples], "image": [_FRAMES, *(_CELLS * side for side in sides)]}
    # Of a learned position every cell has a row.
    grids = [name for name in ("image", "pair") if name in inputs and "channels" not in inputs[name]["position"]]
    return {name: [_CELLS, _CELLS] for name in grids}


def _taken_out(model: Model, stored: Stored) -> list[tuple[str, Entry]]:
    """Every stored array, and the tensor that it has become."""
    made = {entry.theirs: entry for entry in entries(model)}
    # Two averages count alike, and one counter is kept.
    made |= {name: made[name.replace("var_ema", "mean_ema")] for name in stored.arrays if name.startswith(IGNORED)}
    return [(name, made[name]) for name in stored.arrays]


def _same(model: Model, entry: Entry, recorded: np.ndarray) -> Comparison:
    tensor = model.state_dict()[entry.ours]
    back = undone(entry, tensor.numpy(), recorded.shape)
    difference = np.abs(back.astype(np.float64) - recorded.astype(np.float64))
    largest = float(difference.max(initial=0.0))
    size = float(np.abs(recorded.astype(np.float64)).max(initial=0.0))
    return Comparison(largest, largest / max(size, 1e-30), np.array_equal(back, recorded.astype(back.dtype)))


def _worst(found: list[Comparison]) -> Comparison:
    return Comparison(max(c.absolute for c in found), max(c.relative for c in found), all(c.within for c in found))


def _check_answers(model: Model, stored: Stored) -> None:
    """Raise `ModelError` where the weights, or what the model answers to random inputs, are not finite."""
    for name, array in stored.arrays.items():
        if not np.isfinite(array.read()).all():
            raise ModelError(
                f"'{stored.path}': {quoted(name)} holds NaN or infinity, so nothing can be computed of it."
            )
    generator = torch.Generator().manual_seed(0)
    fusion = model.fusion
    read = {name: kind for name, kind in model.spec.inputs.items() if fusion is None or not fusion.hides(name)}
    batch = Batch({name: _random(kind, generator) for name, kind in read.items()}, 1)
    for name, answer in model(batch).items():
        if not bool(answer.isfinite().all()):
            raise ModelError(
                f"'{stored.path}': output '{name}' of random inputs is not finite, so it is no such model."
            )


def _random(kind: Any, generator: torch.Generator) -> Elements:
    """One sample of an input in its own units."""
    if kind.kind == "text":
        ids: Tensor = torch.randint(VOCABULARY, (1, kind.length, 1), generator=generator)
        return Elements(ids, grid=(kind.length,))
    grid = kind.raw_grid()
    channels = kind.raw_numbers(kind.elements()) // math.prod(grid)
    scale = 1.0 if kind.kind == "audio" else 255.0
    return Elements(scale * torch.rand(1, math.prod(grid), channels, generator=generator), grid=grid)
