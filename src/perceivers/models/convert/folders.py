"""Folders with weights: transformers' Perceivers, and this library's own model directories."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from perceivers.errors import ModelError
from perceivers.models.convert.stored import Stored, printable, refused
from perceivers.models.convert.tensors import safetensors_weights, torch_weights
from perceivers.models.spec import as_spec
from perceivers.models.weights import SPEC, WEIGHTS, find_model, is_model, read_json

CONFIG, OLD_WEIGHTS = "config.json", "pytorch_model.bin"
_KIND = "perceiver"
_MOST_NAMES = 10


def folder_weights(folder: Path) -> Stored:
    """The weights in a folder of transformers, a model directory, or a run folder. Raises `ModelError`."""
    if is_model(find_model(folder)):
        return _own(find_model(folder))
    if (folder / CONFIG).is_file():
        return _transformers(folder)
    raise ModelError(
        f"'{folder}' holds no weights that are read. Wanted {CONFIG} with {WEIGHTS} or {OLD_WEIGHTS} (transformers), "
        f"or {SPEC} with {WEIGHTS} (a model directory). It holds: {_listed(folder)}."
    )


def _own(folder: Path) -> Stored:
    plain = read_json(folder / SPEC)
    spec = as_spec(plain, str(folder / SPEC))
    reads = ", ".join(f"{name} ({kind.kind})" for name, kind in spec.inputs.items())
    answers = ", ".join(f"{name} ({kind.kind})" for name, kind in spec.outputs.items())
    stored = safetensors_weights(folder / WEIGHTS)
    family = printable(f"Perceiver that reads {reads} and answers {answers}")
    return replace(stored, path=folder, format="model directory", family=family, extra={"spec": plain})


def _transformers(folder: Path) -> Stored:
    config: Any = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise refused(folder / CONFIG, f"it holds a {type(config).__name__}; wanted a mapping of settings to values.")
    # Configs of old versions may say nothing of the kind of model.
    kind = config.get("model_type", _KIND)
    if kind != _KIND:
        raise refused(folder / CONFIG, f"it is of the model type {kind!r:.80}; wanted '{_KIND}'.")
    if (folder / WEIGHTS).is_file():
        stored = safetensors_weights(folder / WEIGHTS)
    elif (folder / OLD_WEIGHTS).is_file():
        stored = torch_weights(folder / OLD_WEIGHTS)
    else:
        raise ModelError(
            f"'{folder}' has a {CONFIG}, but neither {WEIGHTS} nor {OLD_WEIGHTS}. It holds: {_listed(folder)}."
        )
    return replace(stored, path=folder, format=f"transformers, {stored.format}", extra={"config": config})


def _listed(folder: Path) -> str:
    names = sorted(printable(path.name) for path in folder.iterdir())
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more or "nothing"
