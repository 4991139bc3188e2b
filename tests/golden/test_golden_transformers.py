"""Recorded answers of transformers' own models come out of ours, with that library's deviations on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from perceivers.errors import ModelError
from perceivers.models.convert.transformers_vectors import recomputed

DATA = Path(__file__).parent / "data" / "hf_masked_lm"


def test_every_answer():
    """Two frameworks' float32 sums; the logits are of size 20."""
    with np.load(DATA / "io.npz") as stored:
        recorded = {name: stored[name] for name in stored.files if name.startswith("output/")}
    found = recomputed(DATA)
    assert set(found) == set(recorded)
    for name, array in recorded.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA, tmp_path / "copy"))


def rewrite(folder: Path, **arrays: np.ndarray | None) -> None:
    with np.load(folder / "io.npz") as stored:
        found = {name: stored[name] for name in stored.files} | arrays
    np.savez(folder / "io.npz", **{name: array for name, array in found.items() if array is not None})


def test_an_answer_that_is_not_known(folder):
    rewrite(folder, **{"output/attentions": np.zeros(3)})
    with pytest.raises(ModelError, match=r"output/attentions.*latents, logits"):
        recomputed(folder)


def test_an_input_that_is_missing(folder):
    rewrite(folder, **{"input/input_ids_short": None})
    with pytest.raises(ModelError, match=r"no input/input_ids_short, which 'output/logits_short_input'"):
        recomputed(folder)


def test_a_folder_without_answers(folder):
    (folder / "io.npz").unlink()
    with pytest.raises(ModelError, match=r"no io\.npz"):
        recomputed(folder)
