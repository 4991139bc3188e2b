"""A model for inputs of another size: learned positions are interpolated, everything else stays."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from perceivers.errors import ModelError, SpecError
from perceivers.inputs import InputSettings, unknown_input
from perceivers.inputs.position import Fourier
from perceivers.models.build import build, fill
from perceivers.models.model import Model
from perceivers.models.spec import as_spec
from perceivers.models.weights import CARD, RECIPE, check_replaced, find_model, load, save
from perceivers.nn.position import LearnedPosition

Size = int | Sequence[int]

# Cells of an input's grid, and numbers of a table of learned positions (4 bytes each): more is a slip of the pen.
MOST_CELLS = 10**12
MOST_NUMBERS = 2**31


def resized(model: Model, sizes: Mapping[str, Size]) -> Model:
    """A new model with the weights of `model`, in evaluation mode, whose named inputs have other sizes.

    sizes: input name → the raw grid, as (288, 288) of an image in pixels, (16, 112, 112) of a video, or one number of a
    sound (samples), a regular series (time steps) or a text (bytes). The rows of learned positions, and of queries that
    are learned by position, are taken from the cubic through the old ones, axis by axis, which for two axes is the
    bicubic interpolation of transformers; a Fourier position keeps the frequencies of the old size. Nothing is trained:
    scores must be measured anew.

    Raises `SpecError` for an input that has no size or another number of axes and for a size that is no whole numbers
    or too large, and `ModelError` where some other weight depends on the size, as those of a hierarchy do.
    """
    inputs: dict[str, InputSettings] = {**model.spec.inputs}
    for name, size in sizes.items():
        if name not in inputs:
            raise SpecError(str(unknown_input(name, inputs)))
        inputs[name] = _of_size(name, inputs[name], model, _grid(name, size))
    given = {name: kind.model_dump(mode="json") for name, kind in inputs.items()}
    spec = as_spec({**model.spec.model_dump(mode="json"), "inputs": given})
    other = build(spec, device="meta")
    fill(other, _interpolated(model, other))
    other.trained = model.trained
    return other.eval()


def resize_folder(source: str | Path, sizes: Mapping[str, Size], out: str | Path, overwrite: bool = False) -> Path:
    """`resized` of the model directory or run folder `source`, written to the model directory `out`; returns it.

    Card and recipe come along; the card says what was done. A model directory that is there is replaced only when
    `overwrite` says so.
    """
    check_replaced(Path(out), overwrite)
    folder = find_model(Path(source))
    model = load(folder)
    other = resized(model, sizes)
    recipe = folder / RECIPE
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else None
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    lines = "".join(
        f"- `{name}` from {_said(model.spec.inputs[name])} to {_said(other.spec.inputs[name])}\n" for name in sizes
    )
    note = (
        f"## Resized\n\nLearned positions were interpolated after training, and nothing was trained since:\n\n{lines}"
    )
    return save(other, Path(out), f"{card.rstrip()}\n\n{note}".lstrip(), text)


def size_of(text: str) -> tuple[str, tuple[int, ...]]:
    """`image=288,288` as ("image", (288, 288)). Raises `SpecError`."""
    name, equals, numbers = text.partition("=")
    parts = numbers.replace("x", ",").split(",")
    if not name or not equals or not all(part.strip().isdecimal() for part in parts):
        raise SpecError(f"'{text}' is no size; write input=height,width (or input=length), such as image=288,288.")
    return name, tuple(int(part) for part in parts)


def _of_size(name: str, kind: InputSettings, model: Model, grid: tuple[int, ...]) -> InputSettings:
    before = kind.own_size()
    if before is None:
        raise SpecError(f"input '{name}' is of kind {_kind(kind)}, which has no size to change.")
    if len(grid) != len(before) or min(grid) < 1:
        wanted = _said(kind)
        raise SpecError(
            f"input '{name}' has {len(before)} {'axes' if len(before) > 1 else 'axis'} ({wanted} now); got {grid}. "
            "Give one whole number above 0 an axis."
        )
    if math.prod(grid) > MOST_CELLS:
        raise SpecError(f"input '{name}' would have {math.prod(grid):,} cells, and {MOST_CELLS:,} are the most.")
    changed = kind.of_size(grid)
    position: Any = getattr(kind, "position", None)
    if isinstance(position, Fourier) and position.resolution is None:
        lift: Any = getattr(model.inputs[name], "lift", None)
        cells = before if lift is None else lift.cells(before)
        changed = changed.with_changes(position={**position.model_dump(), "resolution": cells})
    return changed


def _grid(name: str, size: Any) -> tuple[int, ...]:
    """A size as whole numbers, one an axis. Raises `SpecError`."""
    several = isinstance(size, (Sequence, np.ndarray)) and not isinstance(size, (str, bytes))
    grid: tuple[Any, ...] = tuple(size) if several else (size,)
    if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in grid):
        raise SpecError(
            f"the size of input '{name}' is {size!r}; wanted one whole number, or (height, width) and the like."
        )
    return tuple(int(n) for n in grid)


def _said(kind: InputSettings) -> str:
    return " × ".join(str(n) for n in kind.own_size() or ())


def _kind(kind: InputSettings) -> str:
    return str(type(kind).model_fields["kind"].default)


def _interpolated(model: Model, other: Model) -> dict[str, Tensor]:
    """The weights of `model` as those of `other`, which is on the meta device."""
    old, new = dict(model.named_modules()), dict(other.named_modules())
    found = {}
    wanted = other.state_dict()
    for name, tensor in model.state_dict().items():
        place, _, leaf = name.rpartition(".")
        before, after = old[place], new.get(place)
        if isinstance(before, LearnedPosition) and isinstance(after, LearnedPosition) and leaf == "table":
            if wanted[name].numel() > MOST_NUMBERS:
                raise SpecError(
                    f"{name}, the table of learned positions, would have {wanted[name].numel():,} numbers, and "
                    f"{MOST_NUMBERS:,} are the most. Give a smaller size."
                )
            found[name] = before.resized(after.grid).table.detach().clone()
        elif name in wanted and wanted[name].shape == tensor.shape:
            found[name] = tensor.detach().clone()
        else:
            shape = tuple(wanted[name].shape) if name in wanted else "none"
            raise ModelError(
                f"this model cannot be resized: {name} is {tuple(tensor.shape)} and would be {shape}, and only learned "
                "positions are interpolated. Train a model of the new size."
            )
    return found
