"""Recordings of the layouts whose values are not here: names and shapes are the official ones, numbers are drawn."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"
LAYOUTS: Mapping[str, Any] = json.loads((DATA / "layouts_without_values.json").read_text())


def shapes(name: str, section: str = "params/") -> dict[str, tuple[int, ...]]:
    """Of the arrays of that section in the layout `name`."""
    return {full: tuple(s) for full, s in LAYOUTS[name]["arrays"].items() if full.startswith(section)}


def drawn_parameters(wanted: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """So that every layer hands on numbers of size 1; no bias is zero and no scale of a norm one."""
    draw = np.random.default_rng(seed)
    found = {}
    for name, shape in wanted.items():
        noise = draw.standard_normal(shape)
        if name.endswith("scale"):
            noise = 1 + 0.1 * noise
        elif name.endswith(("/w", "embeddings")):
            noise = 1.5 * noise * shape[0 if name.endswith("/w") else 1] ** -0.5
        elif not name.endswith("pos_embs"):
            noise = 0.1 * noise
        found[name] = noise.astype(np.float32)
    return found


def write(path: Path, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
    """An npz with the config of the layout `name`; its arrays must be exactly those of the layout."""
    given = {full: list(array.shape) for full, array in arrays.items()}
    assert given == LAYOUTS[name]["arrays"]
    np.savez(path, config=json.dumps(LAYOUTS[name]["config"]), **arrays)
    return path
