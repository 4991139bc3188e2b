"""Recorded answers of transformers' Perceivers: a folder with config.json, weights and io.npz, computed anew here.

io.npz holds `input/<name>` and `output/<name>`. Its inputs are what transformers' models take: images that are
normalised already, ids and attention masks.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perceivers.elements import Batch, Elements
from perceivers.errors import ModelError
from perceivers.models.build import build, fill
from perceivers.models.convert.npz import npz_weights
from perceivers.models.convert.stored import quoted
from perceivers.models.convert.transformers import imported
from perceivers.models.convert.transformers_config import Picture
from perceivers.models.model import Model
from perceivers.models.resize import resized
from perceivers.nn.stem import ConvStem

VECTORS = "io.npz"
_INPUT, _OUTPUT = "input/", "output/"

Arrays = Mapping[str, Tensor]


def recomputed(folder: str | Path) -> dict[str, np.ndarray]:
    """Every `output/<name>` of io.npz in `folder` as this library computes it, with transformers' deviations on.

    Raises `ModelError` for an output that is none of its class's, for one whose inputs are missing, and all that
    `import_transformers` raises.
    """
    folder = Path(folder)
    if not (folder / VECTORS).is_file():
        raise ModelError(f"'{folder}' has no {VECTORS}, so it holds no recorded answers.")
    stored = npz_weights(folder / VECTORS)
    given = {
        name.removeprefix(_INPUT): torch.from_numpy(array.read())
        for name, array in stored.arrays.items()
        if name.startswith(_INPUT)
    }
    name, model = imported(folder, deviations=True, picture=Picture(do_rescale=False, do_normalize=False))
    known = _ANSWERS[name]
    found = {}
    with torch.no_grad():
        for full in (array for array in stored.arrays if array.startswith(_OUTPUT)):
            output = full.removeprefix(_OUTPUT)
            if output not in known:
                raise ModelError(
                    f"'{stored.path}': {quoted(full)} is no output of a {name}; those are {', '.join(sorted(known))}."
                )
            try:
                found[full] = known[output](model, given).numpy()
            except KeyError as missing:
                raise ModelError(
                    f"'{stored.path}' has no input/{missing.args[0]}, which {quoted(full)} is of."
                ) from None
    return found


def _answered(model: Model, elements: Elements) -> Tensor:
    """What the only output says to the only input."""
    batch = Batch({next(iter(model.inputs)): elements}, len(elements.values))
    return next(iter(model(batch).values()))


def _image(pixels: Tensor) -> Elements:
    """(B, C, H, W) as elements."""
    return Elements(pixels.flatten(2).transpose(1, 2), grid=tuple(pixels.shape[2:]))


def _image_logits(model: Model, given: Arrays) -> Tensor:
    return _answered(model, _image(given["pixel_values"]))


def _interpolated(model: Model, given: Arrays) -> Tensor:
    pixels = given["pixel_values_10"]
    return _answered(resized(model, {next(iter(model.inputs)): tuple(pixels.shape[2:])}), _image(pixels))


def _stem(model: Model, given: Arrays) -> Tensor:
    stem = next(module for module in model.modules() if isinstance(module, ConvStem))
    return stem(given["pixel_values"].movedim(1, -1)).movedim(-1, 1).contiguous()


def _text(model: Model, ids: Tensor, mask: Tensor | None) -> Elements:
    """Ids (B, n) as a text of the model's length; what is behind them is masked."""
    length = next(iter(model.spec.inputs.values())).elements()
    behind = length - ids.shape[1]
    read = torch.ones_like(ids) if mask is None else mask
    read = torch.nn.functional.pad(read, (0, behind)).bool()
    return Elements(torch.nn.functional.pad(ids, (0, behind))[..., None], grid=(length,), mask=read)


def _text_logits(model: Model, given: Arrays) -> Tensor:
    return _answered(model, _text(model, given["input_ids"], given["attention_mask"]))


def _text_logits_unmasked(model: Model, given: Arrays) -> Tensor:
    return _answered(model, _text(model, given["input_ids"], None))


def _short_text_logits(model: Model, given: Arrays) -> Tensor:
    return _answered(model, _text(model, given["input_ids_short"], None))


def _text_latents(model: Model, given: Arrays) -> Tensor:
    elements = _text(model, given["input_ids"], given["attention_mask"])
    latents = model.encode(Batch({next(iter(model.inputs)): elements}, len(elements.values)))
    assert isinstance(latents, Tensor), "a Perceiver's"
    return latents


def _flow(model: Model, given: Arrays) -> Tensor:
    """Of patches (B, 2, 27, H, W), as if each pixel were one of 54 channels: then the lift is a linear of that."""
    patches = given["patches"]
    name, spec = next(iter(model.inputs)), model.spec.model_dump(mode="json")
    width = patches.shape[1] * patches.shape[2]
    pair = spec["inputs"][name]
    lift = {"kind": "conv1x1", "channels": pair["lift"]["channels"]}
    image = {"kind": "image", "channels": width, "mean": [0.0] * width, "std": [1.0] * width, "lift": lift}
    spec["inputs"][name] = {**image, "size": pair["size"], "position": pair["position"]}
    flat = build(spec, device="meta")
    fill(flat, model.state_dict())
    return _answered(flat.eval(), _image(patches.flatten(1, 2)))


def _multimodal(output: str, model: Model, given: Arrays) -> Tensor:
    """What the points of `sub_image` and `sub_audio` are answered; their images are (B, T, C, H, W), from 0 to 1."""
    frames, audio, label = 255 * given["image"].movedim(2, -1), given["audio"], given["label"].argmax(-1)
    elements = {
        "audio": Elements(audio, grid=(audio.shape[1],)),
        "image": Elements(frames.flatten(1, 3), grid=tuple(frames.shape[1:4])),
        "label": Elements(label[:, None, None], grid=(1,)),
    }
    latents = model.encode(Batch(elements, len(frames)))
    assert isinstance(latents, Tensor), "a Perceiver's"
    points = {name: given[f"sub_{name}"] for name in ("audio", "image")}
    answer = model.decode(latents, points=points)[output]
    return answer.flatten(1) if output == "audio" else answer


_TEXTS = {"logits": _text_logits, "logits_nomask": _text_logits_unmasked, "latents": _text_latents}
_TEXTS["logits_short_input"] = _short_text_logits
_ANSWERS: dict[str, dict[str, Callable[[Model, Arrays], Tensor]]] = {
    "PerceiverForImageClassificationFourier": {"logits": _image_logits},
    "PerceiverForImageClassificationLearned": {"logits": _image_logits, "logits_interpolated": _interpolated},
    "PerceiverForImageClassificationConvProcessing": {"logits": _image_logits, "conv_out": _stem},
    "PerceiverForSequenceClassification": _TEXTS,
    "PerceiverForMaskedLM": _TEXTS,
    "PerceiverForOpticalFlow": {"flow": _flow},
    "PerceiverForMultimodalAutoencoding": {name: partial(_multimodal, name) for name in ("audio", "image", "label")},
}
