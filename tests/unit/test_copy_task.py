"""The copy task: mirrored sequences that are drawn when they are read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from perceivers.data.copy_task import CopySplits, copy_tables
from perceivers.data.prepare import open_source
from perceivers.data.settings import DataSettings
from perceivers.errors import SpecError
from perceivers.settings import parse_settings


def test_the_second_half_is_the_first_in_reverse_order():
    tables = copy_tables(CopySplits(length=10, train=5, validation=3, test=2))
    assert {split: len(table) for split, table in tables.items()} == {"train": 5, "validation": 3, "test": 2}
    for table in tables.values():
        for sequence in table.columns["tokens"]:
            assert (sequence.shape, sequence.dtype) == ((10,), np.uint8)
            np.testing.assert_array_equal(sequence, sequence[::-1])


def test_sequences_are_the_same_anywhere_and_differ_by_seed_split_and_number():
    first = copy_tables(CopySplits(length=64, seed=7))["train"].columns["tokens"]
    assert first[3].tobytes()[:32] == hashlib.shake_128(b"7 train 3").digest(32)
    others = copy_tables(CopySplits(length=64, seed=8))
    drawn = [first[0], first[1], others["train"].columns["tokens"][0], others["test"].columns["tokens"][0]]
    assert len({sequence.tobytes() for sequence in drawn}) == 4
    with pytest.raises(IndexError):
        first[len(first)]


def test_bytes_are_drawn_alike():
    drawn = np.concatenate(
        [s[:500] for s in copy_tables(CopySplits(length=1000, train=200))["train"].columns["tokens"]]
    )
    counts = np.bincount(drawn, minlength=256)
    # 100,000 draws, 390.6 ± 19.7 of each byte.
    assert counts.min() > 300
    assert counts.max() < 480


def test_a_split_of_nothing_is_none_and_rows_can_be_taken():
    tables = open_source(DataSettings(splits=CopySplits(length=4, train=6, validation=0, test=0)), Path())
    assert list(tables) == ["train"]
    taken = tables["train"].take([4, 1])
    np.testing.assert_array_equal(taken.columns["tokens"][0], tables["train"].columns["tokens"][4])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": "digits", "splits": {"kind": "copy", "length": 4}}, "draw their sequences themselves"),
        ({"splits": {"kind": "copy", "length": 5}}, "splits.length"),
        ({"splits": {"kind": "copy"}}, "splits.length: is missing"),
    ],
)
def test_wrong_settings(data, said):
    with pytest.raises(SpecError, match=said):
        parse_settings(DataSettings, data, "data")
