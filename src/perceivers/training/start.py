"""Beginning with another model's weights (`training.start_from`): what has the same name and shape is taken over."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from perceivers.errors import ModelError
from perceivers.inputs import InputSettings
from perceivers.models.model import Model
from perceivers.models.spec import Spec, as_spec
from perceivers.models.weights import find_model, read_stored
from perceivers.training.recipe import Recipe

# What training data tells when a recipe does not.
LEARNED = ("mean", "std", "classes")
# Tensors of other shapes that a message names.
_SHOWN = 3
# Settings that say nothing of what weights mean: those that only training reads, and those that shapes and names tell.
_TRAINING_ONLY = {"dropout", "token_dropout", "latent_dropout", "drop_path", "masking", "train_latents"}
_SIZES = {"layers", "latents", "channels", "qk_channels", "v_channels", "widening", "cross_widening", "self_widening"}
_MORE_SIZES = {"padding", "output_channels", "embedding_channels", "project_positions", "qkv_bias", "norm"}
# Of inputs and outputs also: what is done with what lacks or is too much, where a value is found, how loss is counted.
_TOLERANCES = {"nan", "overflow", "columns", "input", "mask"}
_LOSSES = {"weight", "loss", "label_smoothing", "z_loss", "sampled", "mask_queries", "peak", "backward"}
_TOLD_ELSEWHERE = _TRAINING_ONLY | _SIZES | _MORE_SIZES | _TOLERANCES | _LOSSES
# A value of more characters is not shown.
_LONGEST = 60


@dataclass(frozen=True)
class Start:
    """The model to begin with: its directory, spec and weights."""

    folder: Path
    spec: Spec
    tensors: Mapping[str, Tensor]


def read_start(folder: Path) -> Start:
    """The model directory, or run folder, `folder`. Raises `ModelError` as `load` does."""
    try:
        found = find_model(folder)
    except ModelError as error:
        raise ModelError(f"training.start_from: {error} A path there is relative to the recipe's folder.") from None
    spec, _, tensors = read_stored(found)
    return Start(found, spec, tensors)


def with_learned(inputs: Mapping[str, InputSettings], learned: Mapping[str, InputSettings]) -> dict[str, InputSettings]:
    """Inputs with the statistics and class names of those of the same name in `learned`, where they have none yet.

    Weights were found for values standardised that way, and for classes in that order.
    """
    found = {}
    for name, kind in inputs.items():
        other, changes = learned.get(name), {}
        if other is not None and _same(kind, other, ("channels",)):
            wanted = [field for field in LEARNED if getattr(kind, field, 0) is None]
            changes = {field: getattr(other, field) for field in wanted if getattr(other, field) is not None}
        found[name] = kind.with_changes(**changes) if changes else kind
    return found


def located(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with the model to begin with where it is, wherever the recipe lies."""
    start = recipe.training.start_from
    if start is None:
        return recipe
    return recipe.with_changes(training=recipe.training.with_changes(start_from=str((base / start).resolve())))


def inputs_of(recipe: Recipe, start: Start | None, state: Mapping[str, Any] | None) -> Mapping[str, InputSettings]:
    """The recipe's inputs, with what the model that the run begins with had learned of data.

    state: the checkpoint of a run that goes on, whose spec has that, and the statistics of that run's own data.
    """
    if recipe.training.start_from is None:
        return recipe.model.inputs
    if start is not None:
        return with_learned(recipe.model.inputs, start.spec.inputs)
    assert state is not None, "a run begins or goes on"
    return with_learned(recipe.model.inputs, as_spec(state["spec"]).inputs)


def begin_with(model: Model, start: Start) -> tuple[str, ...]:
    """Put the weights of `start` into `model` where names and shapes agree, and say in lines which those are.

    An input is begun with only where its kind, columns and classes are the same, an output where its kind and classes
    are, encoder and decoder where theirs are. Settings that shapes do not tell, such as heads and activations, are
    told where they differ. Raises `ModelError` when nothing of inputs and encoder fits.
    """
    own = model.state_dict()
    alike = _alike_parts(model.spec, start.spec)
    meant = {n: t for n, t in own.items() if n in start.tensors and _part(n) in alike}
    taken = {n: start.tensors[n] for n, t in meant.items() if start.tensors[n].shape == t.shape}
    other = [
        f"{n} is {tuple(t.shape)} here and {tuple(start.tensors[n].shape)} there"
        for n, t in meant.items()
        if n not in taken
    ]
    hints = _hints(own, taken, start)
    if not any(name.startswith(("inputs.", "encoder.", "core.")) for name in taken):
        why = "; ".join(_first(other)) or "no part of it has a name and kind of this one's"
        raise ModelError(
            f"training.start_from: nothing of '{start.folder}' fits this model: {why}.{' '.join(['', *hints])} Take "
            "the sizes of its spec.json for latents, encoder and the inputs that both have, or leave start_from out."
        )
    model.load_state_dict(taken, strict=False)
    # Inputs and outputs without weights, as pixels with Fourier positions, are begun with by those that read them.
    begun = {_part(name) for name in taken} | {part for part in alike if "." in part}
    differing = _differences(model.spec, start.spec, begun)
    return (*_told(own, taken, start), *(f"  {text}" for text in (*_first(other), *differing, *hints)))


def _first(other: list[str]) -> list[str]:
    """Those that a message shows, and how many more there are."""
    more = len(other) - _SHOWN
    return [*other[:_SHOWN], *[f"and {more} more of another shape"] * (more > 0)]


def _differences(own: Spec, other: Spec, taken: set[str]) -> list[str]:
    """A line for each setting of what is begun with that its weights were not found with, and that no shape tells."""
    # An autoregressive encoder's module is the whole `core`.
    begun = taken | ({"encoder"} if "core" in taken else set())
    here, there = (_settings_of(spec, begun) for spec in (own, other))
    return [
        f"{name} {_apart(here[name], there[name])}: its weights were found with that"
        for name in here
        if name in there
        and here[name] != there[name]
        and not _TOLD_ELSEWHERE & {name.rpartition(".")[2]}
        and not {"augmentation", "masking"} & set(name.split("."))
    ]


def _settings_of(spec: Spec, parts: set[str]) -> dict[str, Any]:
    """Dotted name → value of the settings of those parts."""
    kinds: dict[str, Any] = {"encoder": spec.encoder, "decoder": spec.decoder}
    kinds |= {f"inputs.{name}": kind for name, kind in spec.inputs.items()}
    kinds |= {f"outputs.{name}": kind for name, kind in spec.outputs.items()}
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        found |= _flat(name, kind.model_dump(mode="json")) if name in parts else {}
    return found


def _apart(here: Any, there: Any) -> str:
    """How two values differ, if that is short enough to show."""
    return f"is {here} here and {there} there" if len(f"{here}{there}") <= _LONGEST else "is another there"


def _flat(name: str, data: Any) -> dict[str, Any]:
    """Dotted name → value of nested plain data."""
    if isinstance(data, Mapping):
        return {n: v for key, value in data.items() for n, v in _flat(f"{name}.{key}", value).items()}
    if isinstance(data, list) and any(isinstance(value, Mapping) for value in data):
        return {n: v for i, value in enumerate(data) for n, v in _flat(f"{name}.{i}", value).items()}
    return {name: data}


def _told(own: Mapping[str, Tensor], taken: Mapping[str, Tensor], start: Start) -> list[str]:
    """What was taken over, what is new, and what was left."""
    wanted, found = (Counter(_part(name) for name in names) for names in (own, taken))
    parts = []
    for part, count in wanted.items():
        if found[part]:
            parts.append(part if found[part] == count else f"{part} ({found[part]} of {count} tensors)")
    mine, whole = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (taken, own))
    lines = [f"begun with '{start.folder}': {mine:,} of {whole:,} numbers are its: {', '.join(parts)}"]
    new = [part for part in wanted if not found[part]]
    left = sorted({_part(name) for name in start.tensors} - set(found))
    if new:
        lines.append(f"  new here: {', '.join(new)}")
    if left:
        lines.append(f"  left there: {', '.join(left)}")
    return lines


def _hints(own: Mapping[str, Tensor], taken: Mapping[str, Tensor], start: Start) -> list[str]:
    """A sentence for each new input that has the shapes of one there of another name."""
    mine, theirs = _shapes(own), _shapes(start.tensors)
    begun = {_part(name) for name in taken}
    lines = []
    for part, shapes in mine.items():
        near = [other for other in theirs if other not in mine and theirs[other] == shapes]
        if part.startswith("inputs.") and part not in begun and near:
            here, there = (names.partition(".")[2] for names in (part, near[0]))
            lines.append(f"Input '{here}' is new; '{there}' there has its shapes: call it so to begin with that.")
    return lines


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Part → name in it → shape."""
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        part = _part(name)
        found.setdefault(part, {})[name.removeprefix(part)] = tuple(tensor.shape)
    return found


def _part(name: str) -> str:
    """`inputs.text` of `inputs.text.embedding.weight`, `encoder` of `encoder.latents`."""
    names = name.split(".")
    return ".".join(names[: 2 if names[0] in ("inputs", "outputs") else 1])


def _alike_parts(own: Spec, other: Spec) -> set[str]:
    """The parts of which a weight of the same name and shape means the same."""
    found = {"fusion", "query_fusion"}
    found |= {"encoder", "core"} if type(own.encoder) is type(other.encoder) else set()
    found |= {"decoder"} if type(own.decoder) is type(other.decoder) else set()
    for name, kind in own.inputs.items():
        if name in other.inputs and _same(kind, other.inputs[name], ("classes",)):
            found.add(f"inputs.{name}")
    for name, kind in own.outputs.items():
        if name in other.outputs and _same(kind, other.outputs[name], ("classes", "columns")):
            found.add(f"outputs.{name}")
    return found


def _same(kind: Any, other: Any, fields: tuple[str, ...]) -> bool:
    """Whether two are of one kind and equal in those fields, of which a kind need not have all, and in columns."""
    if isinstance(kind, InputSettings) and kind.columnwise:
        fields = (*fields, "columns")
    return type(kind) is type(other) and all(getattr(kind, n, None) == getattr(other, n, None) for n in fields)
