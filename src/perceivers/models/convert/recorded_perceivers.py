"""Recordings of Perceiver IO and of the 2021 Perceiver: every recorded answer from a model of a spec.

The specs are those of the configs that stand in the recordings (`recorded_specs`), or of their shapes
(`recorded_without_config`).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from perceivers.elements import Batch, Elements
from perceivers.models.convert.deepmind import IGNORED, entries
from perceivers.models.convert.mapping import assembled
from perceivers.models.convert.recorded_specs import (
    composed_spec,
    flow_spec,
    image_spec,
    language_spec,
    multimodal_spec,
)
from perceivers.models.convert.stored import Stored, refused
from perceivers.models.model import Model
from perceivers.models.spec import Spec
from perceivers.nn.lifted import Lifted
from perceivers.nn.stem import windows_around


def image_classifier(stored: Stored) -> dict[str, Tensor]:
    """`dm_image_*`: logits, what leads to them, and the running averages behind a step of training."""
    spec = image_spec(stored)
    found = _images(stored, spec)
    if "output/logits_train_mode" in stored.arrays:
        model = _official(spec, stored).train()
        elements = _grid(recorded_input(stored, "images"), 2)
        found["logits_train_mode"] = model(Batch({"image": elements}, len(elements.values)))["label"]
        state = model.state_dict()
        for entry in entries(model):
            # Of the running averages after that step.
            after = entry.theirs.replace("state/", "state_after_train/", 1)
            if after != entry.theirs and after in stored.arrays:
                found[after] = state[entry.ours].reshape(stored.arrays[after].shape)
    return found


def composed(stored: Stored) -> dict[str, Tensor]:
    """The 2021 Perceiver."""
    return _images(stored, composed_spec(stored))


def language(stored: Stored) -> dict[str, Tensor]:
    """`dm_language_mlm`: logits with and without masks."""
    return {
        **language_answers(stored, language_spec(stored)),
        "logits_no_query_mask": language_answers(stored, language_spec(stored, mask_queries=False))["logits"],
    }


def flow(stored: Stored) -> dict[str, Tensor]:
    """`dm_optical_flow`."""
    return flow_answers(stored, flow_spec(stored))


def multimodal(stored: Stored) -> dict[str, Tensor]:
    """`dm_multimodal`: some points, all of them one by one, and all at once, whose last one of an axis is at 1."""
    points = {name: recorded_input(stored, f"sub_{name}").long() for name in ("audio", "image")}
    found: dict[str, Tensor] = {}
    for key, end, some in (("sub", False, points), ("fullsub", False, {}), ("nosub", True, {})):
        model, batch = autoencoder(stored, multimodal_spec(stored, end))
        latents, names = model.encode(batch), list(model.outputs)
        assert isinstance(latents, Tensor), "a Perceiver's"
        read = [part.joined() for part in model.lifted(batch).values() if isinstance(part, Lifted)]
        found["encoder_input"] = torch.cat(read, dim=1)
        found |= {f"{key}/{name}": answer for name, answer in clip_answers(model, latents, some).items()}
        contexts = model.contexts(names, latents, None, some)
        queries = [model.queries(name, context) for name, context in contexts.items()]
        found[f"decoder_query_{key}"] = torch.cat([q if isinstance(q, Tensor) else q.joined() for q in queries], dim=1)
    return found


# -- answers of one model ----------------------------------------------------------------------------------------------


def language_answers(stored: Stored, spec: Spec) -> dict[str, Tensor]:
    """Of `input/inputs` (B, L), with `input/input_mask` and without."""
    ids, mask = (recorded_input(stored, name, axes=2) for name in ("inputs", "input_mask"))
    ids, mask = ids.long()[..., None], mask.bool()
    grid = (ids.shape[1],)
    masked, whole = (Batch({"text": Elements(ids, grid=grid, mask=m)}, len(ids)) for m in (mask, None))
    model = _official(spec, stored)
    latents = model.encode(masked)
    assert isinstance(latents, Tensor), "a Perceiver's"
    # What the embedding reads: the decoder's own answers.
    asked = model.queries("text", model.contexts(["text"], latents, masked, {})["text"])
    return {
        "logits": model(masked)["text"],
        "decoder_output": model.decoder(asked, latents),
        "logits_no_mask": model(whole)["text"],
    }


def flow_answers(stored: Stored, spec: Spec) -> dict[str, Tensor]:
    """Of `input/images` (B, 2, H, W, 3)."""
    model = _official(spec, stored)
    images = recorded_input(stored, "images", axes=5)
    pair = torch.cat([images[:, 0], images[:, 1]], dim=-1)
    size = int(model.spec.model_dump()["inputs"]["pair"]["lift"]["size"])
    windows = [windows_around(image, size) for image in images.unbind(1)]
    return {
        "flow": model(Batch({"pair": _grid(pair, 2)}, len(pair)))["flow"],
        "patches": torch.stack(windows, dim=1),
    }


def autoencoder(stored: Stored, spec: Spec) -> tuple[Model, Batch]:
    """The autoencoder of clips, and `input/image`, `input/audio` and, where it is there, `input/label` for it."""
    image, audio = (recorded_input(stored, name) for name in ("image", "audio"))
    elements = {"audio": Elements(audio, grid=(audio.shape[1],)), "image": _grid(image, 3)}
    # A label is hidden in use, so a recording may do without.
    if "input/label" in stored.arrays:
        label = recorded_input(stored, "label").argmax(-1)
        elements["label"] = Elements(label[:, None, None], grid=(1,))
    return _official(spec, stored), Batch(elements, len(image))


def clip_answers(model: Model, latents: Tensor, points: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sounds (B, samples), frames (B, pixels, 3) and labels (B, classes), of some points or of all."""
    answers = model.decode(latents, points=points)
    return {
        "audio": answers["audio"].flatten(1),
        "image": answers["image"].flatten(1, -2),
        "label": answers["label"],
    }


def recorded_input(stored: Stored, name: str, axes: int | None = None) -> Tensor:
    """`input/<name>`, of as many axes where that is said. Raises `ModelError` where it is missing or has others."""
    array = stored.arrays.get(f"input/{name}")
    if array is None:
        raise refused(stored.path, f"'input/{name}' is missing.")
    if axes is not None and len(array.shape) != axes:
        raise refused(stored.path, f"'input/{name}' is {array.shape}; wanted {axes} axes.")
    return torch.from_numpy(np.array(array.read()))


def _images(stored: Stored, spec: Spec) -> dict[str, Tensor]:
    model = _official(spec, stored)
    found: dict[str, Tensor] = {}
    for name in sorted(stored.arrays):
        if not name.startswith("input/images"):
            continue
        suffix, elements = name.removeprefix("input/images"), _grid(recorded_input(stored, name.partition("/")[2]), 2)
        batch = Batch({"image": elements}, len(elements.values))
        latents = model.encode(batch)
        assert isinstance(latents, Tensor), "a Perceiver's"
        found[f"encoder_input{suffix}"] = model.inputs["image"](elements).joined()
        found[f"latents{suffix}"] = latents
        found[f"logits{suffix}"] = model.decode(latents)["label"]
    return found


def _official(spec: Spec, stored: Stored) -> Model:
    return assembled(spec, stored, entries, IGNORED)


def _grid(values: Tensor, axes: int) -> Elements:
    return Elements(values.flatten(1, axes), grid=tuple(values.shape[1 : axes + 1]))
