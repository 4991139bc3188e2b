"""Official weights → a model, and a model directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perceivers.bounded import read_bounded
from perceivers.errors import ModelError, SpecError, near_miss
from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.convert.autoregressive import autoregressive_entries
from perceivers.models.convert.deepmind import IGNORED
from perceivers.models.convert.deepmind import entries as perceiver_entries
from perceivers.models.convert.families import PUBLISHED, UNKNOWN, tensors_family
from perceivers.models.convert.folders import CONFIG
from perceivers.models.convert.imagenet import with_class_names
from perceivers.models.convert.mapping import Entry, assembled
from perceivers.models.convert.peers import is_peer, peer_model
from perceivers.models.convert.read import read_weights
from perceivers.models.convert.stored import Stored
from perceivers.models.convert.transformers import import_transformers
from perceivers.models.model import Model
from perceivers.models.presets import Preset
from perceivers.models.presets import preset as preset_called
from perceivers.models.spec import Spec, as_spec
from perceivers.models.weights import MOST_TEXT_BYTES, SPEC, check_replaced, is_model, save
from perceivers.plain_yaml import read_yaml


def official(source: str | Path, spec: "Spec | Mapping[str, Any]") -> Model:
    """The model of `spec` with the official weights in `source`: DeepMind's arrays, in any format that is read.

    Nothing in the file is executed. Raises `ModelError` that names the first missing, extra and mis-shaped array.
    """
    return assembled(as_spec(spec), read_weights(source), _entries, IGNORED)


def _entries(model: Model) -> list[Entry]:
    return autoregressive_entries(model) if isinstance(model, AutoregressiveModel) else perceiver_entries(model)


def import_weights(
    source: str | Path,
    out: str | Path,
    preset: str | None = None,
    spec: "Spec | Mapping[str, Any] | str | Path | None" = None,
    deviations: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the model directory `out` of the official weights in `source`; returns it.

    preset: the published model whose weights they are; classes of ImageNet get their names. spec: of another one;
    plain data, or a JSON or YAML file. A transformers folder needs neither: its config says it. Of weights of
    perceiver-pytorch or krasserm's perceiver-io the spec holds only what they do not tell (`peers`). deviations: of a
    transformers folder, compute what that library does where it differs from DeepMind's code (`import_transformers`).
    overwrite: a model directory that is there is replaced.
    Raises `SpecError` for what is missing or too much of these, and `ModelError` as `official` and `save`, with nothing
    written.
    """
    check_replaced(Path(out), overwrite)
    if (Path(source) / CONFIG).is_file() and not is_model(Path(source)):
        if preset is not None or spec is not None:
            raise SpecError(
                f"'{source}' is a transformers folder, whose config says it all; leave preset and spec out."
            )
        return _saved(import_transformers(source, deviations), source, out, _folder_card(Path(source), deviations))
    if deviations:
        raise SpecError("deviations are of a transformers folder, and this is none; leave them out.")
    stored = read_weights(source)
    if is_peer(stored):
        if preset is not None:
            raise SpecError(f"the weights in '{source}' are of a {stored.family}, and of no preset; leave it out.")
        return _saved(peer_model(stored, _given(spec)), source, out, _peer_card(stored))
    _check_whole(stored)
    if (preset is None) == (spec is None):
        raise SpecError(_choice(stored))
    known = None if preset is None else preset_called(preset)
    if known is not None:
        spec = with_class_names(known.build_spec())
    elif isinstance(spec, (str, Path)):
        spec = as_spec(_data_in(Path(spec)), str(spec))
    assert spec is not None, "one of the two"
    assert not isinstance(spec, (str, Path)), "read above"
    model = assembled(as_spec(spec), stored, _entries, IGNORED)
    return _saved(model, source, out, _card(Path(source), known))


def _saved(model: Model, source: str | Path, out: str | Path, card: str | None) -> Path:
    """The model directory `out`; `ModelError` where weights hold numbers that are none: all answers would be NaN."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            number = tensor.numel() - int(finite.sum())
            raise ModelError(
                f"'{source}' holds NaN or infinite numbers: {number:,} of the {tensor.numel():,} of {name} (its name "
                "here). The file is damaged, or its training diverged. Nothing was written."
            )
    return save(model, Path(out), card=card)


def _check_whole(stored: Stored) -> None:
    """Raise `ModelError` for the weights alone out of a folder, whose other files say what they are."""
    path, folder = stored.path, stored.path.parent
    if stored.format == "model directory":
        raise ModelError(f"'{path}' is a model of this library already; perceivers.load opens it.")
    if any(name.removeprefix("perceiver.") == "embeddings.latents" for name in stored.arrays):
        said = _said(stored, tensors_family(stored.arrays))
        there = "lies beside it" if (folder / CONFIG).is_file() else "does not lie beside it"
        raise ModelError(
            f"'{path}' holds {said}, by transformers' names; the rest stands in {CONFIG}, which {there}. "
            f"Import a folder that has both, as save_pretrained writes it: perceivers weights import FOLDER --out DIR."
        )
    if "encoder.latents" in stored.arrays:
        raise ModelError(
            f"'{path}' holds {len(stored.arrays):,} arrays by the names of this library. A model directory has "
            f"{SPEC} beside them, and perceivers.load opens it: nothing has to be imported."
        )


def _choice(stored: Stored) -> str:
    """What the weights look like, and what must be given with them."""
    known = f" The published one is the preset {PUBLISHED[stored.family]}." if stored.family in PUBLISHED else ""
    return (
        f"'{stored.path}' holds {_said(stored, stored.family)}. Give either the preset or the spec of these weights: "
        f"--preset NAME or --spec FILE.{known}"
    )


def _said(stored: Stored, family: str) -> str:
    return f"{len(stored.arrays):,} arrays ({'no model that is known' if family == UNKNOWN else family})"


def _given(spec: "Spec | Mapping[str, Any] | str | Path | None") -> Mapping[str, Any]:
    """Part of a spec, or a whole one, as plain data: what was said, without defaults."""
    if spec is None:
        return {}
    if isinstance(spec, Spec):
        return spec.model_dump(mode="json", exclude_unset=True)
    if isinstance(spec, (str, Path)):
        spec = _data_in(Path(spec))
    if not isinstance(spec, Mapping):
        raise SpecError(f"part of a spec is wanted, a mapping of names to values; got a {type(spec).__name__}.")
    return spec


def _data_in(path: Path) -> Any:
    """The plain data in a JSON or YAML file; JSON is YAML too."""
    if not path.is_file():
        near = near_miss(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise SpecError(f"there is no spec file '{path}'.{near}")
    try:
        text = read_bounded(path, MOST_TEXT_BYTES, f"'{path}'").decode()
    except UnicodeDecodeError as error:
        raise SpecError(f"'{path}' is not UTF-8: byte {error.start}; save it as UTF-8.") from None
    return read_yaml(text, str(path))


def _folder_card(source: Path, deviations: bool) -> str:
    """What a card says of the weights of a transformers folder."""
    computes = "that library does, where it differs from DeepMind's code too" if deviations else "DeepMind's code does"
    return f"""# A Perceiver IO of transformers

- Weights: imported from `{source.resolve().name}`; whose they are and under which licence, that folder's card may say.
- It computes what {computes}.

```python
import perceivers
model = perceivers.load("this folder")
```
"""


def _peer_card(stored: Stored) -> str:
    """What a card says of the weights of another library."""
    return f"""# {stored.family}

- Weights: imported from `{stored.path.name}`; whose they are and under which licence, their giver knows.
- Parameters there: {stored.parameters:,}.

```python
import perceivers
model = perceivers.load("this folder")
```
"""


def _card(source: Path, known: Preset | None) -> str | None:
    """What a card says of imported weights; None: what it says of any model."""
    if known is None:
        return None
    return f"""# {known.name}

{known.paper}: {known.table}.

- Weights: imported from `{source.name}`; {known.licence}.
- Parameters: {known.parameters:,}.
- The paper's result: {known.result}.

```python
import perceivers
model = perceivers.load("this folder")
```
"""
