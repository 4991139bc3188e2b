"""Every input kind and lift, small: its settings, its raw values, and models of any mix of them."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.random import Generator
from torch import Tensor

from perceivers.elements import Batch, Elements
from perceivers.models.build import build
from perceivers.models.model import Model

# Sums of float64 in another order, as another number of rows or elements makes BLAS take another kernel.
FP64_SUM = {"rtol": 0, "atol": 1e-12}

Raw = Callable[[Generator, float], Any]


def _image(generator: Generator, holes: float) -> np.ndarray:
    image = generator.normal(100, 50, (4, 6, 2)).astype(np.float32)
    image[generator.random((4, 6)) < holes, generator.integers(0, 2)] = np.nan
    return image


def _series(steps: int) -> Raw:
    def raw(generator: Generator, holes: float) -> np.ndarray:
        # Shorter ones too: their end is padding.
        length = int(generator.integers(1, steps + 1)) if holes else steps
        series = generator.normal(0, 3, (length, 2))
        series[generator.random(length) < holes, 0] = np.inf
        return series

    return raw


def _events(generator: Generator, holes: float) -> dict[str, np.ndarray]:
    count = int(generator.integers(0, 7))
    values = generator.normal(0, 3, (count, 2))
    values[generator.random(count) < holes] = np.nan
    return {"values": values, "times": generator.uniform(0, 5, count)}


def _cloud(numbers: int) -> Raw:
    def raw(generator: Generator, holes: float) -> np.ndarray:
        cloud = generator.normal(2, 3, (int(generator.integers(1, 7)) if holes else 6, numbers))
        cloud[generator.random(len(cloud)) < holes, generator.integers(0, numbers)] = np.nan
        return cloud

    return raw


def _clip(frames: int) -> Raw:
    def raw(generator: Generator, holes: float) -> np.ndarray:
        # Shorter ones too: their end is padding.
        length = int(generator.integers(frames // 2 + 1, frames + 1)) if holes else frames
        clip = generator.normal(100, 50, (length, 2, 3, 2)).astype(np.float32)
        clip[generator.random((length, 2, 3)) < holes, generator.integers(0, 2)] = np.nan
        return clip

    return raw


def _sound(generator: Generator, holes: float) -> np.ndarray:
    sound = generator.normal(0, 0.2, (int(generator.integers(5, 25)) if holes else 24, 1))
    sound[generator.random(len(sound)) < holes] = np.nan
    return sound


def _numbers(generator: Generator, holes: float) -> list[float | None]:
    return [None if generator.random() < holes else float(generator.normal()) for _ in range(3)]


def _classes(generator: Generator, holes: float) -> dict[str, str | None]:
    return {c: None if generator.random() < holes else str(generator.choice(["p", "q", "r"])) for c in "xy"}


def _text(generator: Generator, holes: float) -> str:
    return "".join(generator.choice(list("aé☃"), int(generator.integers(1, 4))))


_PIXELS = {"kind": "image", "size": [4, 6], "channels": 2, "mean": [90, 110], "std": [40, 60]}
_CLIP = {"kind": "video", "channels": 2, "mean": [90, 110], "std": [40, 60]}
_SOUND = {"kind": "audio", "samples": 24, "rate": 1000, "mean": [0], "std": [0.2]}
_REGULAR = {"kind": "series", "channels": 2, "rate": 2, "seconds": 4, "mean": [1, -1], "std": [2, 3]}

# Input name → settings and how a raw value is drawn. The names are not in the order of the alphabet.
KINDS: dict[str, tuple[Mapping[str, Any], Raw]] = {
    "words": ({"kind": "text", "length": 10}, _text),
    "photo": ({**_PIXELS, "position": {"kind": "fourier", "bands": 2}}, _image),
    "tiles": ({**_PIXELS, "lift": {"kind": "patches", "size": [2, 3], "channels": 5}}, _image),
    "grid": (
        {**_PIXELS, "lift": {"kind": "conv1x1", "channels": 4, "stride": 2}, "position": {"kind": "learned"}},
        _image,
    ),
    "stem": ({**_PIXELS, "lift": {"kind": "conv", "channels": 4, "kernel": 3, "pool": False}}, _image),
    "clip": ({**_CLIP, "size": [4, 2, 3], "lift": {"kind": "patches", "size": [2, 1, 3]}}, _clip(4)),
    "film": ({**_CLIP, "size": [3, 2, 3], "lift": {"kind": "pixels", "stride": [2, 1, 2]}}, _clip(3)),
    "voice": ({**_SOUND, "lift": {"kind": "patches", "size": [4]}}, _sound),
    "noise": ({**_SOUND, "lift": {"kind": "log_mel", "bins": 2, "window": 16, "hop": 8}}, _sound),
    "wave": (_REGULAR, _series(8)),
    "beats": ({**_REGULAR, "lift": {"kind": "patches", "size": [4]}, "position": {"kind": "sinusoidal"}}, _series(8)),
    "hum": ({**_REGULAR, "lift": {"kind": "conv", "channels": 4, "kernel": 3}}, _series(8)),
    "events": ({"kind": "series", "channels": 2, "seconds": 5, "mean": [0, 0], "std": [1, 2]}, _events),
    "cloud": ({"kind": "points", "count": 6, "axes": 2}, _cloud(2)),
    "scan": (
        {"kind": "points", "count": 6, "channels": 1, "bounds": [[-20, 20]] * 3, "mean": [2], "std": [3]},
        _cloud(4),
    ),
    "stations": (
        {"kind": "points", "count": 6, "axes": 2, "channels": 2, "project": 5, "mean": [2, 1], "std": [3, 2]},
        _cloud(4),
    ),
    "units": (
        {
            "kind": "points",
            "count": 6,
            "axes": 0,
            "channels": 3,
            "project": 6,
            "position": {"kind": "none"},
            "mean": [2, 2, 2],
            "std": [3, 3, 3],
        },
        _cloud(3),
    ),
    "row": (
        {"kind": "number", "columns": ["a", "b", "c"], "mean": [0, 0, 0], "std": [1, 1, 1], "channels": 6},
        _numbers,
    ),
    "tags": (
        {"kind": "category", "columns": ["x", "y"], "classes": {"x": ["p", "q"], "y": ["p", "q", "r"]}, "channels": 6},
        _classes,
    ),
}


def spec(names: tuple[str, ...]) -> dict[str, Any]:
    """A small spec over the named inputs, in that order."""
    return {
        "inputs": {name: KINDS[name][0] for name in names},
        "latents": {"count": 3, "channels": 8},
        "encoder": {
            "cross_attends": 2,
            "interleaved": True,
            "blocks": 2,
            "layers": 1,
            "self_attend": {"heads": 2},
            "cross": {"heads": 2, "qk_channels": 8, "v_channels": 6},
        },
        "outputs": {
            "label": {"kind": "category", "classes": ["m", "n", "o"]},
            "age": {"kind": "number", "mean": [0], "std": [1]},
        },
    }


@lru_cache(maxsize=64)
def _model(names: tuple[str, ...]) -> Model:
    model = build(spec(names), seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # No bias at zero and no norm at one: what should have no effect must have none.
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


def model_of(names: tuple[str, ...], training: bool = False) -> Model:
    """A fresh copy of the one model, in float64, that reads the named inputs."""
    return copy.deepcopy(_model(tuple(sorted(names)))).train(training)


@dataclass(frozen=True)
class Mix:
    """Names of inputs and raw samples of them, some inputs absent in some samples."""

    names: tuple[str, ...]
    samples: list[dict[str, Any]]
    seed: int

    def batch(self) -> Batch:
        """The samples as a batch of the model that reads them."""
        return model_of(self.names).collate(self.samples)


@st.composite
def mixes(draw, absent: bool = True, holes: bool = True, least: int = 1) -> Mix:
    """Any one to three inputs, one to four samples; `absent` inputs and `holes` of NaN and padding where allowed."""
    names = tuple(draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3, unique=True)))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    share = draw(st.sampled_from([0.2, 0.7])) if holes else 0.0
    rows = draw(st.lists(st.lists(st.booleans(), min_size=len(names), max_size=len(names)), min_size=least, max_size=4))
    samples = [
        {n: KINDS[n][1](generator, share) for n, here in zip(names, row, strict=True) if here or not absent}
        for row in rows
    ]
    return Mix(names, samples, seed)


def with_masked(batch: Batch, seed: int, fill: float) -> Batch:
    """`batch` with more elements masked at random, the values (and coordinates) of all masked ones being `fill`."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for name in sorted(batch.inputs):
        elements = batch.inputs[name]
        mask = elements.present & (torch.rand(elements.present.shape, generator=generator) < 0.6)
        values = elements.values.float() if elements.values.dtype == torch.uint8 else elements.values
        number = fill if values.is_floating_point() or fill == 0 else 2**40 if fill > 0 else -(2**40)
        coords = elements.coords
        inputs[name] = replace(
            elements,
            values=torch.where(mask[..., None], values, number),
            coords=None if coords is None else torch.where(mask[..., None], coords, fill),
            mask=mask,
        )
    return Batch(inputs, batch.size)


def without_elements(elements: Elements) -> Elements:
    """The same input with no element at all."""
    coords = None if elements.coords is None else elements.coords[:, :0]
    grid = None if elements.grid is None else (0,) * len(elements.grid)
    mask = None if elements.mask is None else elements.mask[:, :0]
    return Elements(elements.values[:, :0], coords, grid, mask)


def gradients(model: Model, batch: Batch) -> dict[str, Tensor]:
    """The gradient of every parameter that gets one, of the sum of the squares of all predictions."""
    model.zero_grad()
    torch.cat(list(model(batch).values()), dim=1).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
