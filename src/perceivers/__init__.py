"""perceivers: declare what goes in and what comes out; one Perceiver does everything in between."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from perceivers.clips.autoencoding import autoencode as autoencode
    from perceivers.clips.files import write_clips as write_clips
    from perceivers.data.look import tables as tables
    from perceivers.data.named import data_sets as data_sets
    from perceivers.data.pictures import picture_grid as picture_grid
    from perceivers.data.sources import open_source as open_source
    from perceivers.flow_tiles import flow_picture as flow_picture
    from perceivers.flow_tiles import optical_flow as optical_flow
    from perceivers.live import LiveEncoder as LiveEncoder
    from perceivers.models.build import build as build
    from perceivers.models.convert import read_weights as read_weights
    from perceivers.models.presets import presets as presets
    from perceivers.models.resize import resized as resized
    from perceivers.models.weights import load as load
    from perceivers.predictor import Predictor as Predictor
    from perceivers.predictor import predict as predict
    from perceivers.sources import Source as Source
    from perceivers.training.draft import draft_recipe as draft_recipe
    from perceivers.training.draft import init as init
    from perceivers.training.evaluate import evaluate as evaluate
    from perceivers.training.plan import plan as plan
    from perceivers.training.run import train as train

# Public names and where they live. Nothing heavy is imported until a name is used.
_PUBLIC = {
    "build": "perceivers.models.build",
    "load": "perceivers.models.weights",
    "presets": "perceivers.models.presets",
    "read_weights": "perceivers.models.convert",
    "resized": "perceivers.models.resize",
    "init": "perceivers.training.draft",
    "draft_recipe": "perceivers.training.draft",
    "plan": "perceivers.training.plan",
    "data_sets": "perceivers.data.named",
    "tables": "perceivers.data.look",
    "picture_grid": "perceivers.data.pictures",
    "train": "perceivers.training.run",
    "evaluate": "perceivers.training.evaluate",
    "predict": "perceivers.predictor",
    "Predictor": "perceivers.predictor",
    "optical_flow": "perceivers.flow_tiles",
    "flow_picture": "perceivers.flow_tiles",
    "autoencode": "perceivers.clips.autoencoding",
    "write_clips": "perceivers.clips.files",
    "LiveEncoder": "perceivers.live",
    "Source": "perceivers.sources",
    "open_source": "perceivers.data.sources",
}

__all__ = [
    "LiveEncoder",
    "Predictor",
    "Source",
    "__version__",
    "autoencode",
    "build",
    "data_sets",
    "draft_recipe",
    "evaluate",
    "flow_picture",
    "init",
    "load",
    "open_source",
    "optical_flow",
    "picture_grid",
    "plan",
    "predict",
    "presets",
    "read_weights",
    "resized",
    "tables",
    "train",
    "write_clips",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'perceivers' has no attribute '{name}'")
