"""`text`: UTF-8 bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.byte_tokens import MASK, SEP, text_of
from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs.augment_text import TextAugmentation
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
    """When samples are put together: training may crop a text elsewhere."""
    kind = TEXT.with_changes(overflow="truncate")
    whole = kind.parse("é" * 12)
    assert (len(whole.values), whole.padding, whole.values.dtype) == (24, 0, np.int16)
    cut = kind.collate([whole, None])
    assert cut.mask.tolist() == [[True] * 12, [False] * 12]
    assert cut.values.dtype == torch.int64
    np.testing.assert_array_equal(cut.values[0, :, 0] - 6, list("é".encode() * 6))


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


class TestMask:
    KIND = TextInput(length=60)

    def masked(self, mask, text="some words are missing, some are not"):
        sample = self.KIND.parse({"text": text, "mask": mask})
        return "".join("_" if i == MASK else chr(i - 6) for i in sample.values[sample.mask, 0])

    @pytest.mark.parametrize("mask", [[[14, 22]], [(14, 22)], " missing", [" missing"]])
    def test_bytes_or_words(self, mask):
        assert self.masked(mask) == "some words are________, some are not"

    def test_several(self):
        assert self.masked(["words", [0, 4], " not"]) == "____ _____ are missing, some are____"

    @pytest.mark.parametrize("mask", [None, []])
    def test_none(self, mask):
        assert "_" not in self.masked(mask)

    def test_one_pair_alone(self):
        assert self.masked([0, 4]) == self.masked([[0, 4]]) == "____ words are missing, some are not"

    @pytest.mark.parametrize(
        ("mask", "at"), [(" not", "32 to 36"), ([9, 11], "9 to 11"), (["sore", [30, 31]], "30 to 31")]
    )
    def test_what_is_cut_off_cannot_be_hidden(self, mask, at):
        kind = TextInput(length=10, overflow="truncate")
        text = "sore words are missing, some are not"
        said = rf"bytes {at} of a text of 36, but the model reads only its first 10: the text is cut there"
        with pytest.raises(DataError, match=said):
            kind.parse({"text": text, "mask": mask})
        assert (kind.parse({"text": text, "mask": [8, 10]}).values[:11, 0] == MASK).tolist() == [False] * 8 + [
            True,
            True,
            False,
        ]

    def test_bytes_of_the_text_not_characters(self):
        sample = self.KIND.parse({"text": "né à", "mask": "à"})
        assert (sample.values[:6, 0] == MASK).tolist() == [False] * 4 + [True] * 2

    @pytest.mark.parametrize(
        ("mask", "said"),
        [
            ("some", r"mask holds 'some', which stands in the text 2 times: .* the first is \[0, 4\]"),
            ("wrds", "mask holds 'wrds', which is not in the text. Did you mean 'words'?"),
            (
                [[3, 3]],
                r"mask holds \[3, 3\]; wanted \[start, stop\], start before stop.* has 36; or words",
            ),
            ([[30, 40]], r"mask holds \[30, 40\]"),
            ([3, 5, 7], "mask holds 3;"),
            (5, r"mask is 5; wanted \[start, stop\] of bytes, words of the text, or a list of such"),
            ({"start": 0}, "mask is {'start': 0}; wanted"),
            ("", "mask holds '', which is not in the text"),
        ],
    )
    def test_what_cannot_be(self, mask, said):
        with pytest.raises(DataError, match=said):
            self.masked(mask)

    def test_other_keys(self):
        with pytest.raises(DataError, match=r"got \{txt, mask\}; wanted \{text: …"):
            self.KIND.parse({"txt": "a", "mask": []})


class TestColumns:
    KIND = TextInput(length=8, columns=("first", "second"))

    def ids(self, value):
        sample = self.KIND.parse(value)
        return sample.values[sample.mask, 0].tolist()

    @pytest.mark.parametrize(
        "value", [{"first": "ab", "second": "c"}, ["ab", "c"], {"second": "c", "first": {"text": "ab"}}]
    )
    def test_texts_are_joined_by_a_token_of_their_own(self, value):
        assert self.ids(value) == [103, 104, SEP, 105]

    def test_a_missing_one_leaves_the_token(self):
        assert self.ids({"first": "ab"}) == [103, 104, SEP]
        assert self.ids({"first": float("nan"), "second": "ab"}) == [SEP, 103, 104]

    def test_each_may_be_masked(self):
        assert self.ids([{"text": "ab", "mask": "b"}, "c"]) == [103, MASK, SEP, 105]

    def test_what_is_cut_off_cannot_be_hidden(self):
        kind = self.KIND.with_changes(overflow="truncate")
        assert kind.parse(["abcd", {"text": "efgh", "mask": "fg"}]).values[5:9, 0].tolist() == [107, MASK, MASK, 110]
        with pytest.raises(DataError, match=r"column 'second': mask holds 'gh', bytes 2 to 4 .* only its first 3:"):
            kind.parse(["abcd", {"text": "efgh", "mask": "gh"}])

    def test_errors_name_the_column(self):
        with pytest.raises(DataError, match=r"column 'second': got a list, not a text"):
            self.KIND.parse({"first": "a", "second": ["b"]})
        with pytest.raises(DataError, match=r"there is no column 'secnd'. Did you mean 'second'?"):
            self.KIND.parse({"first": "a", "secnd": "b"})
        with pytest.raises(DataError, match=r"the text has 9 bytes, but the input reads 8. Raise length"):
            self.KIND.parse(["abcde", "fgh"])


class TestAugmentation:
    KIND = TextInput(length=10, overflow="truncate")

    def changed(self, text, seed=(0, 0, 0), others=(), **settings):
        change = self.KIND.augmenter(TextAugmentation(**settings))
        sample = change(self.KIND.parse(text), seed, *([[self.KIND.parse(t) for t in others]] if others else []))
        assert sample.values.shape == (10, 1)
        assert sample.padding == int((~sample.mask).sum())
        return text_of(sample.values[sample.mask, 0])

    def test_crops_are_parts_from_anywhere(self):
        text = "abcdefghijklmnopqrstuvwxyz"
        found = {self.changed(text, (7, 0, n), crop=True) for n in range(300)}
        assert found == {text[i : i + 10] for i in range(17)}
        assert self.changed(text, (7, 0, 1), crop=True) == self.changed(text, (7, 0, 1), crop=True)

    def test_short_texts_stay(self):
        assert self.changed("abc", crop=True) == "abc"
        assert self.changed("abcdefghijklm") == "abcdefghij"

    def test_documents_are_joined(self):
        assert self.changed("ab", others=["cd", "e"], documents=3) == "ab\ncd\ne"
        assert self.KIND.companions(TextAugmentation(documents=3)) == 2

    def test_a_crop_that_cannot_be(self):
        with pytest.raises(SpecError, match=r"crop does nothing, since no text is longer .* overflow: truncate"):
            TextInput(length=10).augmenter(TextAugmentation(crop=True))
        assert TextInput(length=10).augmenter(TextAugmentation(crop=True, documents=2))
