"""A tiny twin of a preset: the same spec with small numbers, so that every path of it runs in milliseconds."""

from typing import Any

import numpy as np

from perceivers.models.presets import Preset
from perceivers.models.spec import Spec, as_spec

SIZE = 12
CLASSES = ("a", "b", "c")


def tiny_twin(preset: Preset) -> Spec:
    """The preset's spec with its kinds, sharing, orders and options kept and its sizes shrunk."""
    data = preset.build_spec().model_dump()
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


def photographs(count: int) -> list[dict[str, np.ndarray]]:
    """Raw samples for a tiny twin."""
    generator = np.random.default_rng(0)
    return [{"image": generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)} for _ in range(count)]
