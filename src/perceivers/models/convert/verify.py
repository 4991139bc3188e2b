"""Do recorded answers come out again? The model is built through its spec and the converter, and reads every input.

What is recorded: `params/…`, `state/…`, `input/…` and `output/…` of an official implementation, and its config.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perceivers.elements import Batch, Elements
from perceivers.errors import ModelError
from perceivers.models.convert.deepmind import IGNORED, entries
from perceivers.models.convert.hierarchical import recomputed_groups, recomputed_hierarchy
from perceivers.models.convert.mapping import assembled
from perceivers.models.convert.npz import npz_weights
from perceivers.models.convert.read import read_weights
from perceivers.models.convert.recorded_autoregressive import recomputed_autoregressive
from perceivers.models.convert.recorded_blocks import recomputed_blocks
from perceivers.models.convert.recorded_functions import recomputed_functions, recomputed_postprocessors
from perceivers.models.convert.recorded_specs import (
    composed_spec,
    flow_spec,
    image_spec,
    language_spec,
    multimodal_spec,
)
from perceivers.models.convert.stored import Stored, refused
from perceivers.models.convert.transformers_vectors import VECTORS, recomputed
from perceivers.models.model import Model
from perceivers.models.spec import Spec
from perceivers.nn.lifted import Lifted
from perceivers.nn.stem import windows_around

# Recorded answers are float32 from another framework, whose sums run in another order.
RELATIVE = ABSOLUTE = 1e-4
Recomputed = Mapping[str, Tensor]


class UnsupportedRecordingError(ModelError):
    """A recording of a kind that is not verified."""


@dataclass(frozen=True)
class Comparison:
    """How far an output is from the recorded one.

    absolute: the largest difference. relative: that over the largest recorded number. within: every number keeps to
    |difference| ≤ 1e-4 + 1e-4·|recorded|.
    """

    absolute: float
    relative: float
    within: bool


def verify(path: str | Path) -> dict[str, float]:
    """The largest absolute difference of each recorded output; see `compare`."""
    return {name: found.absolute for name, found in compare(path).items()}


def compare(path: str | Path) -> dict[str, Comparison]:
    """Each output that is recorded in `path` beside what this library computes from the inputs recorded there.

    Raises `UnsupportedRecordingError` for what is no recording or one of another kind, and `ModelError` for one whose
    arrays do not fit the config that stands in it.
    """
    stored, found = _recorded(Path(path))
    wanted = {name.partition("/")[2]: array for name, array in stored.arrays.items() if name.startswith("output/")}
    left = sorted(wanted.keys() - found.keys())
    if left:
        raise UnsupportedRecordingError(f"'{path}': output '{left[0]}' is recorded, and it is not known what it is.")
    extra = {name: array for name, array in stored.arrays.items() if name in found and name not in wanted}
    return {name: _compared(name, found[name], array.read(), stored) for name, array in {**wanted, **extra}.items()}


def _recorded(path: Path) -> tuple[Stored, Recomputed]:
    """What is recorded in a file, or in a transformers folder with its io.npz, and the same computed here."""
    if (path / VECTORS).is_file():
        answers = {name.partition("/")[2]: torch.from_numpy(array) for name, array in recomputed(path).items()}
        return npz_weights(path / VECTORS), answers
    stored = read_weights(path)
    with torch.no_grad():
        return stored, _recorder(stored)(stored)


def _compared(name: str, found: Tensor, recorded: np.ndarray, stored: Stored) -> Comparison:
    ours = found.detach().cpu().numpy()
    if ours.shape != recorded.shape:
        raise ModelError(f"'{stored.path}': output '{name}' is {recorded.shape}, but {ours.shape} was computed.")
    difference = np.abs(ours.astype(np.float64) - recorded.astype(np.float64))
    size = np.abs(recorded.astype(np.float64))
    largest = float(difference.max(initial=0.0))
    within = bool((difference <= ABSOLUTE + RELATIVE * size).all())
    return Comparison(largest, largest / max(float(size.max(initial=0.0)), 1e-30), within)


def _recorder(stored: Stored) -> Callable[[Stored], Recomputed]:
    """What computes the outputs of a recording, by what its config and arrays are called."""
    config = stored.extra.get("config")
    if stored.format != "npz" or not isinstance(config, dict):
        raise UnsupportedRecordingError(
            f"'{stored.path}' is no recording: wanted an npz with a config, inputs and outputs beside the weights."
        )
    for known, recorder in _RECORDERS.items():
        if known in config or known in stored.arrays:
            return recorder
    raise UnsupportedRecordingError(f"'{stored.path}' is a recording of no kind that is verified.")


def _official(spec: Spec, stored: Stored) -> Model:
    return assembled(spec, stored, entries, IGNORED)


def _input(stored: Stored, name: str) -> Tensor:
    if f"input/{name}" not in stored.arrays:
        raise refused(stored.path, f"'input/{name}' is missing.")
    return torch.from_numpy(np.array(stored.arrays[f"input/{name}"].read()))


def _grid(values: Tensor, axes: int) -> Elements:
    return Elements(values.flatten(1, axes), grid=tuple(values.shape[1 : axes + 1]))


def _images(stored: Stored, spec: Spec) -> dict[str, Tensor]:
    model = _official(spec, stored)
    found: dict[str, Tensor] = {}
    for name in sorted(stored.arrays):
        if not name.startswith("input/images"):
            continue
        suffix, elements = name.removeprefix("input/images"), _grid(_input(stored, name.removeprefix("input/")), 2)
        batch = Batch({"image": elements}, len(elements.values))
        latents = model.encode(batch)
        assert isinstance(latents, Tensor), "a Perceiver's"
        found[f"encoder_input{suffix}"] = model.inputs["image"](elements).joined()
        found[f"latents{suffix}"] = latents
        found[f"logits{suffix}"] = model.decode(latents)["label"]
    return found


def _image_classifier(stored: Stored) -> Recomputed:
    spec = image_spec(stored)
    found = _images(stored, spec)
    if "output/logits_train_mode" in stored.arrays:
        model = _official(spec, stored).train()
        elements = _grid(_input(stored, "images"), 2)
        found["logits_train_mode"] = model(Batch({"image": elements}, len(elements.values)))["label"]
        state = model.state_dict()
        for entry in entries(model):
            # Of the running averages after that step.
            after = entry.theirs.replace("state/", "state_after_train/", 1)
            if after != entry.theirs and after in stored.arrays:
                found[after] = state[entry.ours].reshape(stored.arrays[after].shape)
    return found


def _composed(stored: Stored) -> Recomputed:
    return _images(stored, composed_spec(stored))


def _language(stored: Stored) -> Recomputed:
    ids, mask = _input(stored, "inputs").long()[..., None], _input(stored, "input_mask").bool()
    grid = (ids.shape[1],)
    masked, whole = (Batch({"text": Elements(ids, grid=grid, mask=m)}, len(ids)) for m in (mask, None))
    model = _official(language_spec(stored), stored)
    unmasked = _official(language_spec(stored, mask_queries=False), stored)
    latents = model.encode(masked)
    assert isinstance(latents, Tensor), "a Perceiver's"
    # What the embedding reads: the decoder's own answers.
    asked = model.queries("text", model.contexts(["text"], latents, masked, {})["text"])
    return {
        "logits": model(masked)["text"],
        "decoder_output": model.decoder(asked, latents),
        "logits_no_query_mask": unmasked(masked)["text"],
        "logits_no_mask": model(whole)["text"],
    }


def _flow(stored: Stored) -> Recomputed:
    model = _official(flow_spec(stored), stored)
    images = _input(stored, "images")
    pair = torch.cat([images[:, 0], images[:, 1]], dim=-1)
    windows = [windows_around(image, int(stored.extra["config"]["patch_size"])) for image in images.unbind(1)]
    return {
        "flow": model(Batch({"pair": _grid(pair, 2)}, len(pair)))["flow"],
        "patches": torch.stack(windows, dim=1),
    }


def _multimodal(stored: Stored) -> Recomputed:
    model, whole = (_official(multimodal_spec(stored, end), stored) for end in (False, True))
    image, audio, label = (_input(stored, name) for name in ("image", "audio", "label"))
    elements = {
        "audio": Elements(audio, grid=(audio.shape[1],)),
        "image": _grid(image, 3),
        "label": Elements(label.argmax(-1)[:, None, None], grid=(1,)),
    }
    batch = Batch(elements, len(image))
    latents, names = model.encode(batch), list(model.outputs)
    assert isinstance(latents, Tensor), "a Perceiver's"
    read = [part.joined() for part in model.lifted(batch).values() if isinstance(part, Lifted)]
    found = {"encoder_input": torch.cat(read, dim=1)}
    points = {name: _input(stored, f"sub_{name}").long() for name in ("audio", "image")}
    for key, asked, some in (("sub", model, points), ("fullsub", model, {}), ("nosub", whole, {})):
        answers = asked.decode(latents, points=some)
        found |= {
            f"{key}/audio": answers["audio"].flatten(1),
            f"{key}/image": answers["image"].flatten(1, -2),
            f"{key}/label": answers["label"],
        }
        contexts = asked.contexts(names, latents, None, some)
        queries = [asked.queries(name, context) for name, context in contexts.items()]
        found[f"decoder_query_{key}"] = torch.cat([q if isinstance(q, Tensor) else q.joined() for q in queries], dim=1)
    return found


# A key of the config, or an array, that only recordings of that kind have.
_RECORDERS: Mapping[str, Callable[[Stored], Recomputed]] = {
    "iterations": _composed,
    "video_patch": _multimodal,
    "flow_scale_factor": _flow,
    "position_encoding_type": recomputed_autoregressive,
    "output/rotary_full": recomputed_autoregressive,
    "vocab": _language,
    "input_preprocessor": _image_classifier,
    "params/att/linear/w": recomputed_blocks,
    "modality_order": recomputed_hierarchy,
    "assign_groups_cases": recomputed_groups,
    "params/up2/~/transp_conv_1/w": recomputed_postprocessors,
    "input/gelu": recomputed_functions,
}
