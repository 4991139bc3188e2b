"""The model directory: weights, spec, card, recipe, class names. Whole or not at all; checked before it is trusted.

    model.safetensors   the weights, and in its header what training saw
    spec.json           the spec, complete: with class names and statistics of the training split
    labels.json         class names by output, for people and programs that read no spec
    card.md             what it was trained on, scores, limits, how to load
    recipe.yaml         the recipe, when it was trained by one
    manifest.json       size and XXH3 of the others but the card; written last

Nothing executable, nothing pickled.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError

from perceivers.atomic import replace_folder
from perceivers.errors import ModelError, SpecError, near_miss
from perceivers.models.build import build, fill, uncollected
from perceivers.models.device import checked_device
from perceivers.models.model import SELDOM, Model, Trained
from perceivers.models.spec import EncoderSpec, Spec, as_spec
from perceivers.models.tensor_file import Reading, read_header, write_tensors

WEIGHTS, SPEC, LABELS, CARD, RECIPE, MANIFEST = (
    "model.safetensors",
    "spec.json",
    "labels.json",
    "card.md",
    "recipe.yaml",
    "manifest.json",
)
CHECKED = (WEIGHTS, SPEC, LABELS)  # and the recipe, where there is one: predict and evaluate go by it
FORMAT = 1
MOST_TEXT_BYTES = 64 * 2**20
# What finds damage, by its name in the manifest. Nobody is kept out by it: who can alter a file can alter the manifest.
# XXH3 of 128 bits reads 12 GB a second, SHA-256 one [docs/decisions/017]; models saved before have the latter.
CHECKSUM = "xxh3_128"
CHECKSUMS: dict[str, Callable[[], Any]] = {CHECKSUM: xxhash.xxh3_128, "sha256": hashlib.sha256}
# Of files, in a message.
_MOST_NAMES = 10
# Spec, header and tensors.
Saved = tuple[Spec, Mapping[str, Any], dict[str, torch.Tensor]]
# Steps of an encoder; the deepest published one has 68.
MOST_STEPS = 10_000


def save(
    model: Model,
    folder: Path,
    card: str | None = None,
    recipe: str | None = None,
) -> Path:
    """Write `model` to `folder`, replacing a model directory that is there; returns the folder.

    card: Markdown. recipe: YAML text. What `model.trained` knows of its training is saved too.
    Raises `ModelError` when `folder` holds something else than a model, or cannot be written.
    """
    check_replaced(folder, overwrite=True)
    labels = {n: list(names) for n, o in model.spec.outputs.items() if (names := o.labels()) is not None}
    trained = None if model.trained is None else asdict(model.trained)
    # One entry: safetensors writes several in an order that differs from run to run.
    about = json.dumps({"format": FORMAT, "trained": trained}, sort_keys=True)
    try:
        with replace_folder(folder) as temporary:
            tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            write_tensors(temporary / WEIGHTS, tensors, {"perceivers": about})
            (temporary / SPEC).write_text(json.dumps(model.spec.model_dump(mode="json"), indent=1) + "\n")
            (temporary / LABELS).write_text(json.dumps(labels, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            (temporary / CARD).write_text(card or _plain_card(model), encoding="utf-8")
            if recipe is not None:
                (temporary / RECIPE).write_text(recipe, encoding="utf-8")
            checked = CHECKED if recipe is None else (*CHECKED, RECIPE)
            files = {name: _entry(temporary / name) for name in checked}
            (temporary / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        # safetensors reports a full disk as an error of its own.
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"the model could not be written to '{folder}': {reason}. Nothing was changed.") from None
    return folder


def check_replaced(
    folder: Path, overwrite: bool, ours: Callable[[Path], bool] | None = None, what: str = "a model directory"
) -> None:
    """Raise `ModelError` for a `folder` to be written that holds something; with `overwrite`, where that is no `what`.

    ours: tells whether a folder is one; None: `is_model`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (ours or is_model)(folder):
        raise ModelError(f"'{folder}' exists and is not {what}; give another name.")
    if not overwrite:
        raise ModelError(
            f"'{folder}' exists, and would be replaced; give another name, or allow it by --overwrite (overwrite=True)."
        )


def load(folder: str | Path, device: torch.device | str = "cpu") -> Model:
    """The model in `folder` (or in that run folder), in evaluation mode.

    Runs no code from it, and reads nothing before its size is checked. Raises `ModelError` that names the file which is
    missing, altered or for another model, and `SpecError` for a device that is not there. Warns when the model has
    several inputs and hardly ever saw one of them absent in training.
    """
    device = checked_device(device)
    folder = find_model(Path(folder))
    with uncollected(), _as_saved(folder) as (spec, header, reading):
        model = build(spec, device="meta")
        # Names and shapes are enough for this; what they hold may still be on its way.
        _check_tensors(model, reading.unread, folder / WEIGHTS)
        on_cpu = device.type == "cpu"
        fill(model, reading.unread if on_cpu else {n: read.to(device) for n, read in reading.tensors().items()})
        model.trained = _trained(header, folder / WEIGHTS)
    _warn_of_absence(model, folder)
    return model.eval()


def read_stored(folder: Path) -> Saved:
    """The spec, the weights file's header and the weights of a model directory, which need not fit each other.

    Raises `ModelError` that names the file which is missing or altered.
    """
    with _as_saved(folder) as (spec, header, reading):
        return spec, header, reading.tensors()


@contextmanager
def _as_saved(folder: Path) -> Iterator[tuple[Spec, Mapping[str, Any], Reading]]:
    """What a model directory holds; its weights are being read, and whether they are as saved is known only at the end.

    That a file was changed says more than what is wrong in it, so that is said first.
    """
    with _readable():
        entry = _check_files(folder)
        try:
            spec = as_spec(read_json(folder / SPEC), str(folder / SPEC))
            header = read_header(folder / WEIGHTS)
            _check_size(spec, header, folder)
            checksum = _checksum(entry)
            reading = Reading(folder / WEIGHTS, header, CHECKSUMS[checksum]())
            yield spec, header, reading
            found = {"bytes": (folder / WEIGHTS).stat().st_size, checksum: reading.checksum()}
        except (ModelError, SpecError):
            _check_entry(folder / WEIGHTS, entry)
            raise
        _check_entry(folder / WEIGHTS, entry, found)


@contextmanager
def _readable() -> Iterator[None]:
    """`ModelError` where a file cannot be read, or went away meanwhile."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"'{error.filename}' cannot be read: {error.strerror}.") from None


def is_model(folder: Path) -> bool:
    """Whether `folder` looks like a model directory."""
    return (folder / SPEC).is_file() and (folder / WEIGHTS).is_file()


@_readable()
def find_model(path: Path) -> Path:
    """The model directory at `path`, or in the run folder `path`. Raises `ModelError`."""
    if is_model(path / "model"):
        return path / "model"
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        raise ModelError(
            f"'{path}' looks like a recipe; wanted a model directory or a run folder. Train it: perceivers train "
            f"{path} --out runs/{path.stem}. The model is then in runs/{path.stem}."
        )
    if path.is_file() and is_model(path.parent):
        raise ModelError(f"'{path}' is a file of a model directory; give the directory, '{path.parent}'.")
    if not path.exists():
        near = near_miss(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise ModelError(f"there is no model directory or run folder '{path}'.{near}")
    return path


def _entry(path: Path, checksum: str = CHECKSUM) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, CHECKSUMS[checksum])
    return {"bytes": path.stat().st_size, checksum: digest.hexdigest()}


def _checksum(entry: Any) -> str:
    """The checksum that an entry of a manifest has."""
    return next((name for name in CHECKSUMS if isinstance(entry, Mapping) and name in entry), CHECKSUM)


def _check_files(folder: Path) -> Any:
    """All files are there and as they were saved, but for what the weights hold: the entry of those is returned."""
    if not folder.is_dir():
        near = near_miss(folder.name, [p.name for p in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
        raise ModelError(f"there is no model directory '{folder}'.{near}")
    for name in (*CHECKED, MANIFEST):
        if not (folder / name).is_file():
            names = sorted(p.name for p in folder.iterdir())
            more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
            present = ", ".join(names[:_MOST_NAMES]) + more or "nothing"
            raise ModelError(f"'{folder}' is not a whole model directory: {name} is missing. It holds: {present}.")
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, Mapping) else None
    if not isinstance(files, Mapping) or manifest.get("format") != FORMAT:
        raise ModelError(f"'{folder / MANIFEST}' is not a manifest of format {FORMAT}.")
    for name in (*CHECKED, RECIPE) if RECIPE in files else CHECKED:
        if not (folder / name).is_file():
            raise ModelError(
                f"'{folder}' is not a whole model directory: {name} is missing. Copy the directory again, or save the "
                "model anew from Python to be without a recipe."
            )
        if name != WEIGHTS:
            _check_entry(folder / name, files.get(name))
    return files.get(WEIGHTS)


def _check_entry(path: Path, wanted: Any, found: Mapping[str, Any] | None = None) -> None:
    """`found`: what its entry would be, where that is known already."""
    found = found or _entry(path, _checksum(wanted))
    if not isinstance(wanted, Mapping) or any(wanted.get(key) != value for key, value in found.items()):
        raise ModelError(
            f"'{path}' is not the file that was saved: its size or checksum differs from manifest.json. "
            "Copy the directory again, or save the model anew from Python to change it."
        )


def read_json(path: Path) -> Any:
    """What the JSON file at `path` holds. Raises `ModelError` when it is too large, or is not JSON."""
    if path.stat().st_size > MOST_TEXT_BYTES:
        raise ModelError(f"'{path}' has {path.stat().st_size} bytes; the most is {MOST_TEXT_BYTES}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' is not JSON: {error}.") from None


def _check_size(spec: Spec, header: Mapping[str, Any], folder: Path) -> None:
    """A spec that asks for more layers than there are tensors is refused before building them could take for ever."""
    if not isinstance(spec.encoder, EncoderSpec):
        layers = spec.encoder.layers
        if layers > len(header):
            raise ModelError(
                f"'{folder / WEIGHTS}' does not fit spec.json: it holds {len(header)} tensors, but the spec asks for "
                f"{layers} layers."
            )
        return
    encoder = spec.encoder
    distinct = {"all": 1, "after_first": 2, "none": encoder.blocks}[encoder.block_sharing]
    layers = min(distinct, encoder.blocks) * encoder.layers
    if max(encoder.blocks, encoder.cross_attends) > MOST_STEPS or layers > len(header):
        raise ModelError(
            f"'{folder / WEIGHTS}' does not fit spec.json: it holds {len(header)} tensors, but the spec asks for "
            f"{layers} layers, {encoder.blocks} blocks and {encoder.cross_attends} cross-attends."
        )


def _check_tensors(model: Model, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    wanted = model.state_dict()
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or extra:
        parts = [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
        parts += [f"{len(extra)} not wanted (first: {extra[0]})"] if extra else []
        raise ModelError(f"'{path}' does not fit spec.json: {'; '.join(parts)}.")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            given, shape = tuple(tensors[name].shape), tuple(tensor.shape)
            raise ModelError(f"'{path}' does not fit spec.json: {name} is {given}, wanted {shape}.")
        given, kind = tensors[name].dtype, tensor.dtype
        if given != kind and not (given.is_floating_point and kind.is_floating_point):
            raise ModelError(f"'{path}' does not fit spec.json: {name} is of {given}, wanted {kind}.")


def _trained(header: Mapping[str, Any], path: Path) -> Trained | None:
    try:
        about = json.loads(header.get("__metadata__", {}).get("perceivers", "{}")).get("trained")
        if about is None:
            return None
        splits = {str(name): str(digest) for name, digest in about["splits"].items()}
        # Of models saved before shares were kept it is known only that there was some absence.
        absent = about["absent"] if "absent" in about else dict.fromkeys(about["absence_seen"], 1.0)
        begun = tuple(str(line) for line in about.get("begun_with", ()))
        return Trained({str(name): float(share) for name, share in absent.items()}, splits, begun)
    except (AttributeError, TypeError, ValueError, KeyError, RecursionError):
        raise ModelError(f"'{path}' has a damaged safetensors header.") from None


def _warn_of_absence(model: Model, folder: Path) -> None:
    # What is never read in use cannot be missed.
    names = model.spec.read_in_use
    if model.trained is None or len(names) < 2:
        return
    untried = model.trained.untried(names)
    never = [name for name in untried if not model.trained.absent.get(name)]
    seldom = [name for name in untried if name not in never]
    parts = [f"the input{'s' if len(never) > 1 else ''} {', '.join(never)} never went missing"] if never else []
    parts += [f"{', '.join(seldom)} went missing in less than {SELDOM:.0%} of the samples"] if seldom else []
    if parts:
        warnings.warn(
            f"{folder}: in training {' and '.join(parts)}, so answers without are untried. Train with "
            "training.input_dropout to make them trustworthy.",
            UserWarning,
            stacklevel=3,
        )


def _plain_card(model: Model) -> str:
    count = sum(p.numel() for p in model.parameters())
    inputs = ", ".join(f"{name} ({kind.kind})" for name, kind in model.spec.inputs.items())
    outputs = ", ".join(f"{name} ({kind.kind})" for name, kind in model.spec.outputs.items())
    return (
        f"# A Perceiver of {count:,} parameters\n\nInputs: {inputs}. Outputs: {outputs}.\n\n"
        "Saved from Python; nothing is known of its training.\n\n"
        "```python\nimport perceivers\n\nmodel = perceivers.load('this folder')\n```\n"
    )
