"""perceivers: declare what goes in and what comes out; one Perceiver does everything in between."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from perceivers.models.build import build as build
    from perceivers.models.weights import load as load
    from perceivers.predictor import Predictor as Predictor
    from perceivers.predictor import predict as predict
    from perceivers.sources import Source as Source
    from perceivers.training.evaluate import evaluate as evaluate
    from perceivers.training.run import train as train

# Public names and where they live. Nothing heavy is imported until a name is used.
_PUBLIC = {
    "build": "perceivers.models.build",
    "load": "perceivers.models.weights",
    "train": "perceivers.training.run",
    "evaluate": "perceivers.training.evaluate",
    "predict": "perceivers.predictor",
    "Predictor": "perceivers.predictor",
    "Source": "perceivers.sources",
}

__all__ = ["Predictor", "Source", "__version__", "build", "evaluate", "load", "predict", "train"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'perceivers' has no attribute '{name}'")
