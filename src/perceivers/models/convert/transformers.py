"""transformers' Perceivers in: a folder with config.json and weights as a `Model`."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from perceivers.errors import ModelError, near_miss
from perceivers.models.build import build, fill
from perceivers.models.convert.folders import CONFIG, folder_weights
from perceivers.models.convert.stored import Stored, damaged, quoted
from perceivers.models.convert.transformers_config import UPRIGHT, Config, Picture
from perceivers.models.convert.transformers_names import FAMILIES, Place, places
from perceivers.models.convert.transformers_spec import spec_data
from perceivers.models.model import Model
from perceivers.models.spec import Spec, as_spec
from perceivers.models.weights import WEIGHTS, read_json
from perceivers.settings import parse_settings

PICTURE = "preprocessor_config.json"
# The batches after which a running mean holds nothing of its beginning: 0.9^400 is less than 1e-18.
SETTLED = 400
DECAY = 0.9


def import_transformers(folder: str | Path, deviations: bool = False) -> Model:
    """The Perceiver of transformers in `folder`, in evaluation mode.

    As it stands on the hub the folder holds DeepMind's weights, and the model computes what DeepMind's code does.
    With `deviations` it computes what transformers does with them instead, where that differs: exact GELU where the
    config names it, the stem's padding and its kernels as they are stored, the queries of the learned-position model
    added to what they read, and all bytes of a text asked for. For a model that was trained with transformers those
    are no deviations. Either way the masks of texts differ where a text is empty: here such a text is read as nothing.

    Raises `ModelError` naming the first array that is missing, that is too much, or that has another shape.
    """
    return imported(Path(folder), deviations)[1]


def imported(folder: Path, deviations: bool, picture: Picture | None = None) -> tuple[str, Model]:
    """The name of their class and the model, as `import_transformers` gives it.

    picture: what there is to know of images; None: what stands beside config.json.
    """
    stored = _stored(folder)
    config = parse_settings(Config, stored.extra["config"], str(folder / CONFIG))
    name = _class_of(config, stored)
    data = spec_data(name, config, picture or _picture(folder), deviations)
    swapped = not deviations and config.kernels != UPRIGHT
    return name, _loaded(stored, as_spec(data, str(folder / CONFIG)), name, swapped)


def _stored(folder: Path) -> Stored:
    if not folder.is_dir():
        near = near_miss(folder.name, [p.name for p in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
        raise ModelError(f"there is no folder {quoted(str(folder))}.{near}")
    if not (folder / CONFIG).is_file():
        raise ModelError(f"'{folder}' has no {CONFIG}, so it holds no model of transformers.")
    return folder_weights(folder)


def _picture(folder: Path) -> Picture:
    path = folder / PICTURE
    return parse_settings(Picture, read_json(path) if path.is_file() else {}, str(path))


def _class_of(config: Config, stored: Stored) -> str:
    """The name of their class: what the config says, or what the names of the arrays tell where it says nothing."""
    named = next((name for name in config.architectures or () if name in FAMILIES), None)
    told = next((name for name, family in FAMILIES.items() if family.words == stored.family), None)
    if named or (told and not config.architectures):
        return named or str(told)
    what = ", ".join(config.architectures or ()) or "model of no class that is known"
    raise ModelError(f"'{stored.path}' is a {what}; those that can be imported are {', '.join(FAMILIES)}.")


def called(spec: Spec, name: str) -> dict[str, str]:
    """What `spec` calls its inputs and outputs, by the names that stand in the rules of their class `name`."""
    family = FAMILIES[name]
    roles = zip((*family.inputs, *family.outputs), (*sorted(spec.inputs), *sorted(spec.outputs)), strict=True)
    return dict(roles)


def _loaded(stored: Stored, spec: Spec, name: str, swapped: bool) -> Model:
    layers = spec.encoder.layers
    if layers > len(stored.arrays):
        raise ModelError(f"'{stored.path}' holds {len(stored.arrays)} arrays, too few for {layers} self-attends.")
    model = build(spec, device="meta")
    rules = places(FAMILIES[name], layers, called(spec, name))
    state = model.state_dict()
    check_arrays(stored, {theirs: theirs_shape(state[place.ours], place) for theirs, place in rules.items()})
    turn = _TURNS | {"kernel": _swapped} if swapped else _TURNS
    ours = {rules[theirs].ours: turn[rules[theirs].form](array) for theirs, array in _arrays(stored).items()}
    fill(model, ours | _running(ours))
    return model.eval()


def theirs_shape(ours: Tensor, place: Place) -> tuple[int, ...]:
    """The shape that our array has in their file."""
    shape = tuple(ours.shape)
    return (*shape, 1, 1) if place.form == "pixel" else shape


def check_arrays(stored: Stored, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `ModelError` that names the first array which is missing, too much, or of another shape."""
    missing = [name for name in wanted if name not in stored.arrays]
    extra = [name for name in stored.arrays if name not in wanted]
    if missing or extra:
        parts = [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
        parts += [f"{len(extra)} not wanted (first: {quoted(extra[0])})"] if extra else []
        raise ModelError(f"the arrays in '{stored.path}' are not those of its {CONFIG}: {'; '.join(parts)}.")
    for name, shape in wanted.items():
        if stored.arrays[name].shape != shape:
            raise ModelError(
                f"the arrays in '{stored.path}' are not those of its {CONFIG}: {name} is {stored.arrays[name].shape}, "
                f"wanted {shape}."
            )


def _arrays(stored: Stored) -> Mapping[str, Tensor]:
    """All arrays, as float32 where they are real numbers; each has memory of its own."""
    weights = stored.path / WEIGHTS
    if not weights.is_file():
        return {
            name: _own(torch.from_numpy(np.require(array.read(), requirements="W")))
            for name, array in stored.arrays.items()
        }
    try:
        return {name: _own(tensor) for name, tensor in load_file(weights).items()}
    except (SafetensorError, OSError) as error:
        raise damaged(weights, "it is no longer there as it was", error) from None


def _own(tensor: Tensor) -> Tensor:
    # Cloned as in `weights.load`: places in a file are not aligned, and a file may change.
    return tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()


def _same(array: Tensor) -> Tensor:
    return array


def _flat(array: Tensor) -> Tensor:
    return array.flatten(1)


def _swapped(array: Tensor) -> Tensor:
    return array.transpose(-1, -2).contiguous()


_TURNS: dict[str, Callable[[Tensor], Tensor]] = {"same": _same, "pixel": _flat, "kernel": _same}


def _running(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What our batch norms keep besides the averages: sums that training goes on from, as if all of it were ours.

    Their count of batches is often 0, since weights were converted; the averages are settled all the same.
    """
    found = {}
    for name, count in ours.items():
        norm, _, last = name.rpartition(".")
        if last == "count":
            batches = count if int(count) else torch.full_like(count, SETTLED)
            found[name] = batches
            for moment in ("mean", "variance"):
                found[f"{norm}.{moment}_hidden"] = ours[f"{norm}.{moment}_average"] * (1 - DECAY ** int(batches))
    return found
