"""Toy data and recipes small enough to train in a second, for every test that needs a trained model."""

import copy
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceivers.nn.attention import planner

CLASSES = ("bright", "dark", "even")
ROWS = 48
# A picture 4×4, two numbers, four latents of sixteen channels: what is tested is what happens around the model.
RECIPE: dict[str, Any] = {
    "model": {
        "inputs": {
            "photo": {"kind": "image", "size": [4, 4], "channels": 1, "position": {"kind": "fourier", "bands": 2}},
            "facts": {"kind": "number", "columns": ["age", "height"], "channels": 8},
        },
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"label": {"kind": "category"}},
    },
    "data": {
        "source": "people.csv",
        "splits": {"kind": "column", "column": "split"},
        "columns": {"photo": "picture"},
    },
    "training": {"steps": 12, "batch_size": 8, "lr": 0.01, "evaluate_every": 4, "log_every": 1, "threads": 1},
}
# Both inputs go missing at times, or loading the model warns that it never saw that.
RECIPE["training"]["input_dropout"] = {"photo": 0.2, "facts": 0.2}


def recipe(**changes: Any) -> dict[str, Any]:
    """`RECIPE` with `a__b=value` set at a.b; None takes a key out."""
    changed = copy.deepcopy(RECIPE)
    for key, value in changes.items():
        *path, last = key.split("__")
        place = changed
        for part in path:
            place = place.setdefault(part, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return changed


def rows(seed: int = 0, count: int = ROWS) -> list[dict[str, Any]]:
    """Rows of people.csv: the picture's brightness decides the class, age and height are noise."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        split = ("train", "train", "validation", "test")[i % 4]
        label = CLASSES[int(random.integers(3))]
        age, height = int(random.integers(20, 60)), round(float(random.normal(170, 10)), 1)
        made.append(
            {
                "picture": f"pictures/{i}.png",
                "age": age,
                "height": height,
                "label": label,
                "split": split,
                "score": age / 10,
            }
        )
    return made


def write_people(folder: Path, table: Sequence[Mapping[str, Any]] | None = None, seed: int = 0) -> Path:
    """people.csv and its pictures in `folder`; returns the path of the table."""
    table = rows(seed) if table is None else table
    for i, row in enumerate(table):
        write_picture(folder / str(row.get("picture") or f"pictures/{i}.png"), str(row.get("label")), i)
    return write_csv(folder / "people.csv", table)


def write_picture(path: Path, label: str, seed: int, shape: tuple[int, ...] = (4, 4)) -> Path:
    """A grey picture whose brightness says its class."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    middle = {"bright": 200, "dark": 50}.get(label, 125)
    noise = np.random.default_rng(seed).integers(-30, 30, shape)
    Image.fromarray((middle + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> Path:
    """A table with the keys of the first row as columns; what a row lacks is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]), restval="")
        writer.writeheader()
        writer.writerows(table)
    return path


def write_recipe(path: Path, data: Mapping[str, Any] | None = None) -> Path:
    """A recipe file beside the data that it names."""
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(data or RECIPE), sort_keys=False), encoding="utf-8")
    return path


def silent(label: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` with its bytes, to show that nothing was touched."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def train_people(folder: Path) -> Path:
    """people.csv, toy.yaml and the finished run of it, `run`, in `folder`, which is returned."""
    from perceivers.training.run import train

    write_people(folder)
    train(write_recipe(folder / "toy.yaml"), out=folder / "run", quiet=True)
    return folder


def make_cheap(patch: pytest.MonkeyPatch, path: str) -> None:
    """Costs by which `path` is chosen wherever it can read a part, however small."""
    patch.setattr(planner, "COSTS", {key: (float(key[0] != path),) * 6 for key in planner.COSTS})
