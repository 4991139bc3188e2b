"""What a log-mel spectrum hides in training: runs of frames and of bins, and single values."""

import numpy as np
import pytest
import torch

from perceivers.errors import SpecError
from perceivers.inputs.audio import AudioInput
from perceivers.nn.mel import kept_of_spectrum

SOUND = AudioInput(
    samples=640, rate=16000, mean=(0,), std=(1,), lift={"kind": "log_mel", "bins": 4, "window": 128, "hop": 64}
)


def kept(times=(0, 0), frequencies=(0, 0), dropout=0.0, batch=200):
    torch.manual_seed(0)
    return kept_of_spectrum(torch.zeros(batch, 10, 6, 1), times, frequencies, dropout)


def runs(row: torch.Tensor) -> list[int]:
    """The lengths of the runs of False."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~row.numpy(), [False]])))
    return (edges[1::2] - edges[::2]).tolist()


def test_nothing_is_hidden_unless_it_is_asked_for():
    assert kept().all()


def test_one_run_of_frames_of_any_length_and_place():
    found = kept(times=(1, 3))
    assert (found == found[:, :, :1]).all(), "all bins of a frame"
    lengths = [runs(row) for row in found[:, :, 0]]
    assert {len(row) for row in lengths} == {0, 1}
    assert {sum(row) for row in lengths} == {0, 1, 2, 3}
    hidden = (~found[:, :, 0]).float().mean(0)
    assert (hidden > 0).all(), "every frame at times"


def test_runs_of_bins_may_meet():
    found = kept(frequencies=(2, 2))
    assert (found == found[:, :1]).all(), "all frames of a bin"
    assert {sum(runs(row)) for row in found[:, 0]} == {0, 1, 2, 3, 4}


def test_a_run_is_never_longer_than_the_axis():
    assert {sum(runs(row)) for row in kept(frequencies=(1, 99))[:, 0]} == set(range(7))


def test_dropout_hides_its_share():
    assert float(kept(dropout=0.1).float().mean()) == pytest.approx(0.9, abs=0.01)


def test_it_hides_in_training_only_and_never_shows_what_was_masked():
    hiding = SOUND.with_changes(
        lift={
            **SOUND.lift.model_dump(),
            "hide": {"kind": "spec_augment", "times": [1, 5], "frequencies": [1, 3], "dropout": 0.1},
        }
    )
    module, plain = hiding.build(), SOUND.build()
    wave = np.random.default_rng(0).uniform(-1, 1, 320)
    batch = hiding.collate([hiding.parse(wave), hiding.parse(np.tile(wave, 2))])
    whole = plain(batch)
    torch.manual_seed(1)
    seen = module(batch)
    assert torch.equal(seen.content, whole.content)
    assert not (seen.mask & ~whole.mask).any()
    assert seen.mask[1].sum() < whole.mask[1].sum() == 40
    torch.manual_seed(1)
    assert torch.equal(module(batch).mask, seen.mask)
    assert torch.equal(module.eval()(batch).mask, whole.mask)
    alone = hiding.collate([hiding.parse(np.tile(wave, 2))])
    assert module(alone).mask is None
    assert module.train()(alone).mask is not None


def test_a_share_that_hides_all_is_refused():
    with pytest.raises(SpecError, match=r"dropout: input should be less than 1"):
        SOUND.with_changes(lift={"kind": "log_mel", "hide": {"kind": "spec_augment", "dropout": 1}})
