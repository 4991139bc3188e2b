"""A tiny twin of a preset: the same spec with small numbers, so that every path of it runs in milliseconds."""

from typing import Any

import numpy as np
import torch

from perceivers.models.model import Model
from perceivers.models.presets import Preset
from perceivers.models.spec import Spec, as_spec

SIZE = 12
CLASSES = ("a", "b", "c")


def tiny_twin(preset: Preset) -> Spec:
    """The preset's spec with its kinds, sharing, orders and options kept and its sizes shrunk."""
    data = preset.build_spec().model_dump()
    if data["encoder"]["kind"] == "autoregressive":
        return _tiny_sequence(data)
    for image in data["inputs"].values():
        image |= {"size": (SIZE, SIZE), "mean": (100.0,) * 3, "std": (50.0,) * 3}
        image["position"] |= _small(image["position"], bands=3, channels=6, project=6)
        image["lift"] |= _small(image["lift"], channels=5)
    for output in data["outputs"].values():
        output["classes"] = CLASSES
    data["latents"] |= {"count": 4, "channels": 16}
    data["encoder"] |= {"layers": 2}
    return as_spec(data)


def _small(settings: dict[str, Any], **sizes: int) -> dict[str, int]:
    """Those of `sizes` that the settings have."""
    return {name: size for name, size in sizes.items() if settings.get(name) is not None}


def _tiny_sequence(data: dict[str, Any]) -> Spec:
    """Of a model of tokens: fewer, narrower, and the deep one of two layers."""
    (tokens,) = data["inputs"].values()
    image = tokens["image"]
    tokens |= {"channels": 16, "length": 32, "image": None if image is None else (2, 3, 3)}
    tokens["position"]["sizes"] = (33,) if image is None else (5, 4, 5)
    data["latents"] |= {"count": 8, "channels": 16}
    layers = {1: 1, 6: 2, 60: 3}
    data["encoder"]["layers"] = layers[data["encoder"]["layers"]]
    data["encoder"]["cross"]["heads"] = data["encoder"]["self_attend"]["heads"] = 4
    return as_spec(data)


def samples(model: Model, count: int) -> list[dict[str, np.ndarray]]:
    """Raw samples for a tiny twin."""
    generator = np.random.default_rng(0)
    shape = (SIZE, SIZE, 3) if "image" in model.inputs else (2, 3, 3)
    return [{name: generator.integers(0, 256, shape, dtype=np.uint8) for name in model.inputs} for _ in range(count)]


def answered(model: Model, given: list[dict[str, np.ndarray]]) -> torch.Tensor:
    """The prediction of the one output."""
    (prediction,) = model(given).values()
    return prediction


def target(model: Model) -> torch.Tensor:
    """What three samples are to be answered."""
    if "label" in model.outputs:
        return torch.tensor([0, 1, 2])
    return torch.full((3, 19), 7)
