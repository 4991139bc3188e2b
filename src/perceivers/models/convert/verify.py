"""Do recorded answers come out again? The model is built through its spec and the converter, and reads every input.

What is recorded: `params/…`, `state/…`, `input/…` and `output/…` of an official implementation, and its config. Where
the config is empty the shapes say what they can (`recorded_without_config`); of a pickle, which holds weights alone,
these are compared (`recorded_weights`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from perceivers.errors import ModelError, PerceiversError
from perceivers.models.convert.comparison import Comparison, compared
from perceivers.models.convert.hierarchical import recomputed_groups, recomputed_hierarchy
from perceivers.models.convert.npz import npz_weights
from perceivers.models.convert.read import read_weights
from perceivers.models.convert.recorded_autoregressive import recomputed_autoregressive
from perceivers.models.convert.recorded_blocks import recomputed_blocks
from perceivers.models.convert.recorded_functions import recomputed_functions, recomputed_postprocessors
from perceivers.models.convert.recorded_perceivers import composed, flow, image_classifier, language, multimodal
from perceivers.models.convert.recorded_weights import compared_weights
from perceivers.models.convert.recorded_without_config import WITHOUT_CONFIG, recomputed_without_config
from perceivers.models.convert.stored import Stored, printable
from perceivers.models.convert.transformers_vectors import VECTORS, recomputed

Recomputed = Mapping[str, Tensor]


class UnsupportedRecordingError(ModelError):
    """A recording of a kind that is not verified."""


@dataclass(frozen=True)
class Verification:
    """What was compared, by name, and in lines what has to be known of how.

    weights_only: no outputs are recorded; each name is of some weights, `weights/<module>`.
    """

    found: Mapping[str, Comparison]
    said: tuple[str, ...] = ()
    weights_only: bool = False


def verify(path: str | Path) -> dict[str, float]:
    """The largest absolute difference of each recorded output, or of a pickle's weights; see `verification`."""
    return {name: found.absolute for name, found in compare(path).items()}


def compare(path: str | Path) -> dict[str, Comparison]:
    """Each output that is recorded in `path` beside what this library computes of it; see `verification`."""
    return dict(verification(path).found)


def verification(path: str | Path) -> Verification:
    """Each output that is recorded in `path` beside what this library computes from the inputs recorded there.

    Of a pickle of DeepMind's, which holds no outputs: each weight beside what the model gives back of it.
    Raises `UnsupportedRecordingError` for what is no recording or one of another kind, and `ModelError` for one whose
    arrays do not fit the config that stands in it, or no model of their family.
    """
    path = Path(path)
    try:
        return _verified(path)
    except PerceiversError:
        raise
    # What a stranger's config or inputs lack, or hold otherwise than their kind does, stops the computation somewhere.
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = printable(f"{type(error).__name__}: {error!s:.200}")
        raise UnsupportedRecordingError(
            f"'{path}': its config, inputs and weights do not belong together, so nothing can be computed ({why})."
        ) from error


def _verified(path: Path) -> Verification:
    if (path / VECTORS).is_file():
        answers = {name.partition("/")[2]: torch.from_numpy(array) for name, array in recomputed(path).items()}
        return Verification(_beside(npz_weights(path / VECTORS), answers))
    stored = read_weights(path)
    with torch.no_grad():
        if stored.format.startswith("haiku pickle"):
            return Verification(*compared_weights(stored), weights_only=True)
        if stored.extra.get("config") == {} and stored.family in WITHOUT_CONFIG:
            answers, said = recomputed_without_config(stored)
            return Verification(_beside(stored, answers), said)
        return Verification(_beside(stored, _recorder(stored)(stored)))


def _beside(stored: Stored, found: Recomputed) -> dict[str, Comparison]:
    wanted = {name.partition("/")[2]: array for name, array in stored.arrays.items() if name.startswith("output/")}
    if not wanted:
        raise UnsupportedRecordingError(f"'{stored.path}' records no output, so there is nothing to compare with.")
    left = sorted(wanted.keys() - found.keys())
    if left:
        raise UnsupportedRecordingError(
            f"'{stored.path}': output '{left[0]}' is recorded, and it is not known what it is."
        )
    extra = {name: array for name, array in stored.arrays.items() if name in found and name not in wanted}
    return {
        name: compared(name, found[name].detach().cpu().numpy(), array.read(), stored.path)
        for name, array in {**wanted, **extra}.items()
    }


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


# A key of the config, or an array, that only recordings of that kind have.
_RECORDERS: Mapping[str, Callable[[Stored], Recomputed]] = {
    "iterations": composed,
    "video_patch": multimodal,
    "flow_scale_factor": flow,
    "position_encoding_type": recomputed_autoregressive,
    "output/rotary_full": recomputed_autoregressive,
    "vocab": language,
    "input_preprocessor": image_classifier,
    "params/att/linear/w": recomputed_blocks,
    "modality_order": recomputed_hierarchy,
    "assign_groups_cases": recomputed_groups,
    "params/up2/~/transp_conv_1/w": recomputed_postprocessors,
    "input/gelu": recomputed_functions,
}
