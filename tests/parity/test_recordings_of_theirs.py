"""Recordings without a config, made of transformers' models: their weights by DeepMind's names, and their answers.

With the activation that DeepMind's code has, transformers computes the same of flow and of some points of a clip.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from their_models import saved, their_model

from perceivers.models.convert import import_transformers
from perceivers.models.convert.deepmind import entries
from perceivers.models.convert.mapping import undone
from perceivers.models.convert.verify import verification
from perceivers.nn.stem import windows_around

pytestmark = pytest.mark.parity
LAYOUTS = json.loads(
    (Path(__file__).resolve().parents[1] / "golden" / "data" / "layouts_without_values.json").read_text()
)
SIZES = {"num_blocks": 1, "hidden_act": "gelu_pytorch_tanh"}


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def recording(name: str, theirs: torch.nn.Module, folder: Path, given: dict, answers: dict) -> Path:
    """The layout `name` with these inputs and outputs; every array must be of that layout."""
    layout = {full: tuple(shape) for full, shape in LAYOUTS[name]["arrays"].items()}
    ours = import_transformers(saved(theirs, folder / "theirs"))
    state = ours.state_dict()
    arrays = {e.theirs: undone(e, state[e.ours].numpy(), layout[e.theirs]) for e in entries(ours)}
    arrays |= {f"input/{key}": tensor.numpy() for key, tensor in given.items()}
    arrays |= {f"output/{key}": tensor.numpy() for key, tensor in answers.items()}
    assert {full: array.shape for full, array in arrays.items()} == layout
    np.savez(folder / "made.npz", config="{}", **arrays)
    return folder / "made.npz"


@torch.no_grad()
def test_flow(tmp_path):
    theirs = their_model("PerceiverForOpticalFlow", num_latents=16, **SIZES)
    images = drawn(1, 2, 8, 12, 3)
    patches = torch.stack([windows_around(image, 3) for image in images.unbind(1)], dim=1)
    answers = {"flow_unscaled": theirs(inputs=patches.movedim(-1, 2)).logits, "patches": patches}
    done = verification(recording("paired_flow", theirs, tmp_path, {"images": images}, answers))
    assert all(comparison.within for comparison in done.found.values())
    assert "heads: 1 of the cross-attend, 4 of the self-attends, 1 of the decoder" in done.said[-1]


@torch.no_grad()
def test_a_clip(tmp_path):
    theirs = their_model("PerceiverForMultimodalAutoencoding", num_latents=10, num_labels=11, **SIZES)
    image, audio = drawn(1, 4, 8, 8, 3), drawn(1, 128, 1)
    points = {"image": torch.tensor([0, 9, 77, 200, 255]), "audio": torch.tensor([1, 8, 15]), "label": None}
    inputs = {"image": image.movedim(-1, 2), "audio": audio, "label": torch.zeros(1, 11)}
    logits = theirs(inputs=inputs, subsampled_output_points=points).logits
    answers = {"audio": logits["audio"], "image": logits["image"].reshape(1, 5, 3), "label": logits["label"]}
    done = verification(recording("paired_multimodal", theirs, tmp_path, {"image": image, "audio": audio}, answers))
    assert all(comparison.within for comparison in done.found.values())
    assert "points of audio: 1, 8, 15; points of image: 0, 9, 77, 200, 255" in done.said[-1]
