"""Answers recorded here and now of transformers' models, as `weights verify` computes them again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from their_models import saved, their_model

from perceivers.models.convert.transformers_vectors import recomputed

pytestmark = pytest.mark.parity


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def agree(folder: Path, inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> None:
    """float32 sums in another order."""
    arrays = {f"input/{name}": tensor.numpy() for name, tensor in inputs.items()}
    arrays |= {f"output/{name}": tensor.numpy() for name, tensor in outputs.items()}
    np.savez(folder / "io.npz", meta='{"transformers": "any"}', **arrays)
    found = recomputed(folder)
    assert set(found) == {f"output/{name}" for name in outputs}
    for name, tensor in outputs.items():
        np.testing.assert_allclose(found[f"output/{name}"], tensor.numpy(), rtol=0, atol=1e-5)


@torch.no_grad()
def test_learned_positions_at_another_size(tmp_path):
    theirs = their_model("PerceiverForImageClassificationLearned")
    pixels, larger = drawn(2, 3, 8, 8), drawn(1, 3, 10, 12)
    outputs = {
        "logits": theirs(inputs=pixels).logits,
        "logits_interpolated": theirs(inputs=larger, interpolate_pos_encoding=True).logits,
    }
    agree(saved(theirs, tmp_path / "theirs"), {"pixel_values": pixels, "pixel_values_10": larger}, outputs)


@torch.no_grad()
def test_text_with_a_mask(tmp_path):
    theirs = their_model("PerceiverForSequenceClassification")
    ids = torch.randint(0, 262, (3, 32), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(32)[None] < torch.tensor([[20], [32], [3]])).long()
    logits = theirs(inputs=ids, attention_mask=mask).logits
    agree(saved(theirs, tmp_path / "theirs"), {"input_ids": ids, "attention_mask": mask}, {"logits": logits})


@torch.no_grad()
def test_patches_that_are_of_no_image(tmp_path):
    theirs = their_model("PerceiverForOpticalFlow")
    patches = drawn(2, 2, 27, 8, 12)
    agree(saved(theirs, tmp_path / "theirs"), {"patches": patches}, {"flow": theirs(inputs=patches).logits})
