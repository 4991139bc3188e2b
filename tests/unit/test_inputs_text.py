"""`text`: UTF-8 bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs.text import VOCABULARY, TextInput
from perceivers.nn.position import LearnedPosition

TEXT = TextInput(length=12, channels=5, position={"kind": "learned", "channels": 5, "join": "add"})


@given(st.text(max_size=40))
def test_ids_are_bytes_plus_six(text):
    data = text.encode("utf-8")
    sample = TextInput(length=200).parse(text)
    assert (sample.values[sample.mask][:, 0] - 6).astype(np.uint8).tobytes() == data
    assert sample.values.shape == (200, 1)
    assert not sample.values[~sample.mask].any()
    np.testing.assert_array_equal(TextInput(length=200).parse(data).values, sample.values)


def test_there_are_262_ids():
    assert VOCABULARY == 262
    assert TEXT.build().embedding.num_embeddings == 262
    assert TEXT.elements() == 12


def test_numbers_in_a_text_column_are_their_digits():
    assert TEXT.parse(42).values[:2, 0].tolist() == [6 + ord("4"), 6 + ord("2")]


def test_long_text_may_be_cut():
    cut = TEXT.with_changes(overflow="truncate").parse("é" * 12)
    assert cut.mask.all()
    np.testing.assert_array_equal(cut.values[:, 0] - 6, list("é".encode() * 6))


def test_embeddings_and_positions():
    module = TEXT.build()
    lifted = module(TEXT.collate([TEXT.parse("ab"), None]))
    assert torch.equal(lifted.content[0, :2], module.embedding.weight[[6 + 97, 6 + 98]])
    torch.testing.assert_close(lifted.joined()[0, 1], module.embedding.weight[6 + 98] + module.position.table[1])
    assert lifted.mask.sum(1).tolist() == [2, 0]
    assert isinstance(module.position, LearnedPosition)


@pytest.mark.parametrize(
    ("position", "channels"),
    [({"kind": "none"}, 5), ({"kind": "sinusoidal", "channels": 8}, 13), ({"kind": "fourier", "bands": 2}, 10)],
)
def test_other_positions(position, channels):
    module = TEXT.with_changes(position=position).build()
    joined = module(TEXT.collate([TEXT.parse("ab")])).joined()
    assert joined.shape == (1, 12, channels)
    assert module.channels == channels


@pytest.mark.parametrize("garbage", [-1, VOCABULARY, 10**12])
def test_masked_ids_may_be_anything(garbage):
    module = TEXT.build()
    ids = torch.full((1, 12, 1), garbage)
    lifted = module(Elements(ids, grid=(12,), mask=torch.zeros(1, 12, dtype=torch.bool)))
    assert lifted.content.isfinite().all()


def test_widths_that_cannot_be_added():
    with pytest.raises(SpecError, match="positions of 64 channels cannot be added to elements of 32"):
        TextInput(channels=32, position={"kind": "learned", "channels": 64, "join": "add"}).build()


def test_positions_are_as_wide_as_the_embedding_unless_told_otherwise():
    assert TextInput(channels=32).build().channels == 32


def test_padding_is_counted_apart():
    sample = TextInput(length=8).parse("abc")
    assert (sample.padding, sample.masked) == (5, 0)


@pytest.mark.parametrize(("cell", "text"), [(7, "7"), (7.0, "7"), (np.float64(7), "7"), (7.5, "7.5")])
def test_numbers_read_alike_whatever_their_column_held(cell, text):
    np.testing.assert_array_equal(TextInput(length=8).parse(cell).values, TextInput(length=8).parse(text).values)


def test_nan_is_no_text():
    with pytest.raises(DataError, match="got NaN, not a text"):
        TextInput().parse(float("nan"))
    with pytest.raises(ValueError, match="text has no NaN to stop at"):
        TextInput(nan="error")
