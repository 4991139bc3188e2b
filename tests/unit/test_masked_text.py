"""Masked language modelling: words hidden from a text input, which its text output guesses."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceivers
from perceivers.byte_tokens import MASK, SEP, SPECIAL_TOKENS, ids_of, text_of, word_spans
from perceivers.data.loader import Augmenter, Batches, Key, evaluation_batches
from perceivers.data.prepare import Split
from perceivers.data.reader import Missing, Reader
from perceivers.data.table import Table
from perceivers.errors import SpecError
from perceivers.inputs.augment_text import TextAugmentation
from perceivers.inputs.text import TextInput
from perceivers.models.spec import as_spec
from perceivers.outputs.base import Sizes
from perceivers.outputs.text import TextHead, TextOutput, WordMask
from perceivers.training.recipe import as_recipe

TEXTS = [
    "one two three four five six seven eight nine ten",
    "a much longer text, of which the model reads only the start, since it has more bytes than that",
    "short",
    None,
    "  ",
    "the same words again and again and again and again",
]
OUTPUT = TextOutput(mask=WordMask(share=0.3))


def split(texts=TEXTS, kept=True, output=OUTPUT):
    kind = TextInput(length=50, overflow="truncate")
    reader = Reader({"text": kind}, {"text": output}, {"text": "body"})
    table = Table({"body": texts}, "texts")
    rows = [reader.row(table, i) for i in range(len(texts))] if kept else None
    return Split("train", table, reader, rows, Missing(["text"]))


def batch(epoch=0, seed=5, texts=TEXTS, kept=True, augment=None, step=0):
    made = split(texts, kept)
    augmenter = Augmenter(made.reader.inputs, augment or {}, seed)
    return Batches(made, augmenter)[Key(step, epoch, tuple(range(len(texts))))]


def shown(made, row):
    """A sample as text, with _ for each hidden byte."""
    elements = made.inputs["text"]
    ids = elements.values[row, elements.mask[row], 0]
    return "".join("_" if i == MASK else chr(i - SPECIAL_TOKENS) for i in ids.tolist())


@given(st.text(max_size=40))
def test_words_are_runs_without_white_space(text):
    data = text.encode("utf-8")
    ids = ids_of(data)
    found = [bytes((ids[a:b] - SPECIAL_TOKENS).astype(np.uint8)) for a, b in word_spans(ids)]
    # `bytes.split` takes the vertical tab and form feed for white space too.
    assert found == data.split()


def test_special_tokens_are_no_part_of_words():
    ids = np.concatenate([ids_of(b"ab"), [SEP], ids_of(b"c"), [MASK, MASK]])
    assert word_spans(ids).tolist() == [[0, 2], [3, 4]]


class TestHiding:
    def test_whole_words_are_hidden_and_are_the_target(self):
        made = batch()
        target = made.targets["text"]
        for row, text in enumerate(TEXTS):
            if text is None or not text.strip():
                assert (target[row] == -1).all()
                continue
            text = text[:50]
            masked = shown(made, row)
            assert len(masked) == len(text)
            hidden = [(a, b) for a, b in zip(text.split(), masked.split(), strict=True) if a != b]
            assert all(b == "_" * len(a) for a, b in hidden)
            assert len(hidden) == max(round(0.3 * len(text.split())), 1)
            known = target[row] >= 0
            assert [text[i] for i in known.nonzero().flatten()] == [text[i] for i, c in enumerate(masked) if c == "_"]
            assert text_of(target[row, known].tolist()) == "".join(a for a, _ in hidden)

    def test_only_seed_epoch_and_row_decide(self):
        words = [shown(batch(), row) for row in (0, 1, 5)]
        assert words == [shown(batch(kept=False, step=3), row) for row in (0, 1, 5)]
        assert words != [shown(batch(epoch=1), row) for row in (0, 1, 5)]
        assert words != [shown(batch(seed=6), row) for row in (0, 1, 5)]
        same = batch(texts=["one two three four five six seven eight nine ten"] * 8)
        assert len({shown(same, row) for row in range(8)}) > 3

    def test_every_word_has_the_same_chance(self):
        counts = np.zeros(10)
        for epoch in range(400):
            counts += [word == "_" * len(word) for word in shown(batch(epoch, texts=TEXTS[:1]), 0).split()]
        # 400 draws of 3 in 10: 120 each, give or take 9.
        assert counts.sum() == 1200
        assert (abs(counts - 120) < 40).all()

    def test_what_is_scored_is_always_the_same(self):
        once, again, alone = (
            [shown(made, r) for made in evaluation_batches(split(texts, kept), size) for r in range(made.size)]
            for texts, kept, size in ((TEXTS, True, 6), (TEXTS, False, 2), (TEXTS[::-1], True, 3))
        )
        assert once == again
        assert once == alone[::-1]
        assert all("_" in text for text in once if text.strip())

    def test_the_split_keeps_its_texts(self):
        made = split()
        before = [None if row.inputs["text"] is None else row.inputs["text"].values.copy() for row in made.rows]
        Batches(made, Augmenter(made.reader.inputs, {}, 0))[Key(0, 0, (0, 1, 2))]
        for values, row in zip(before, made.rows, strict=True):
            assert values is None or (values == row.inputs["text"].values).all()

    def test_bytes_that_a_cell_hides_are_no_target(self):
        made = batch(texts=[{"text": "one two", "mask": "one"}])
        assert shown(made, 0) == "___ ___"
        assert text_of(made.targets["text"][0].clamp(min=0).tolist()) == "two"

    def test_documents_and_crops_are_hidden_after_they_are_made(self):
        augment = {"text": TextAugmentation(documents=3, crop=True)}
        made = batch(augment=augment)
        assert shown(made, 0) == shown(batch(augment=augment, kept=False), 0)
        assert made.inputs["text"].mask.sum(1).tolist()[:2] == [50, 50]
        assert "\n" in shown(made, 2)
        assert (made.targets["text"][0] >= 0).any()
        assert shown(made, 0) != shown(batch(augment=augment, epoch=1), 0)


def test_scores_are_of_hidden_bytes_alone():
    embedding = TextInput(length=4, channels=3).build()
    head = TextHead(OUTPUT.with_changes(input="text"), Sizes(3, 3, False, {"text": embedding}))
    target = torch.tensor([[-1, 70, 71, -1], [-1, -1, -1, -1]])
    logits = torch.zeros(2, 4, 262)
    logits[0, 1, 70] = 20.0
    losses, known = head.loss(logits, target)
    assert known.tolist() == [True, False]
    torch.testing.assert_close(losses[0], torch.tensor(np.log(262) / 2), rtol=1e-4, atol=0, check_dtype=False)
    metrics = head.metrics()
    head.measure(metrics, logits, target)
    assert head.scores(metrics)["accuracy"] == 0.5
    # The other byte costs log2(262) bits.
    assert head.scores(metrics)["bits_per_byte"] == pytest.approx(np.log2(262) / 2, rel=1e-4)


class TestHonesty:
    def test_the_same_column_needs_a_mask(self):
        reader = Reader({"text": TextInput()}, {"text": TextOutput()}, {})
        with pytest.raises(SpecError, match=r"'text' is the target .* Or set mask: \{kind: words\} on the output"):
            reader.check_apart()
        Reader({"text": TextInput()}, {"text": OUTPUT}, {}).check_apart()

    def test_it_is_no_cure_where_another_input_reads_the_target(self):
        reader = Reader({"text": TextInput(), "note": TextInput()}, {"guess": TextOutput()}, {"guess": "note"})
        with pytest.raises(SpecError) as caught:
            reader.check_apart()
        assert "kind: words" not in str(caught.value)

    def test_two_outputs_cannot_hide_one_input(self):
        output = {"kind": "text", "mask": {"kind": "words"}}
        with pytest.raises(SpecError, match=r"outputs\.a and outputs\.b both hide parts of 'text'"):
            as_spec({"inputs": {"text": {"kind": "text"}}, "outputs": {"a": output, "b": output}})

    def test_documents_have_no_common_label(self):
        augment = {"text": {"kind": "text", "documents": 10}}
        model = {"inputs": {"text": {"kind": "text"}}, "outputs": {"label": {"kind": "category"}}}
        recipe = {"model": model, "data": {"source": "a.csv"}, "training": {"augment": augment}}
        with pytest.raises(SpecError, match="puts several samples together, so the target of output 'label'"):
            as_recipe(recipe)
        recipe["model"] = {**model, "outputs": {"text": {"kind": "text", "mask": {"kind": "words"}}}}
        assert as_recipe(recipe).training.augment["text"].documents == 10


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Texts in which every third word follows from the two before it."""
    random = np.random.default_rng(0)
    animals, verbs = ["cat", "dog", "cow"], {"cat": "meows", "dog": "barks", "cow": "moos"}
    folder = tmp_path_factory.mktemp("corpus")
    lines = []
    for _ in range(240):
        chosen = random.choice(animals, 3)
        lines.append({"body": " ".join(f"the {animal} {verbs[animal]}" for animal in chosen)})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def run(corpus):
    recipe = {
        "model": {
            "inputs": {"text": {"kind": "text", "length": 48, "channels": 32, "overflow": "truncate"}},
            "latents": {"count": 24, "channels": 32},
            "encoder": {"layers": 1, "self_attend": {"heads": 4}, "cross": {"heads": 4, "qk_channels": 32}},
            "decoder": {"kind": "cross_attend", "heads": 4, "query_residual": False},
            "outputs": {"text": {"kind": "text", "mask": {"kind": "words"}}},
        },
        "data": {"source": "corpus.jsonl", "columns": {"text": "body"}},
        "training": {"steps": 40, "batch_size": 32, "lr": 0.01, "threads": 1, "evaluate_every": 20},
    }
    perceivers.train(recipe, out=corpus / "run", quiet=True, base=corpus)
    return corpus / "run"


def test_it_trains_and_is_scored_alike_each_time(run):
    scores = perceivers.evaluate(run, quiet=True, out=run.parent / "once")["scores"]["text"]
    again = perceivers.evaluate(run, quiet=True, out=run.parent / "again", batch_size=7)["scores"]["text"]
    assert scores["bits_per_byte"] < 5
    assert again == pytest.approx(scores, rel=1e-5)


def test_a_part_of_a_text_is_filled_in(run):
    predictor = perceivers.Predictor(run)
    answer = predictor({"text": {"text": "the cat meows", "mask": " meows"}})
    assert len(answer["text_masked"]) == 1
    assert answer["text"] == f"the cat{answer['text_masked'][0]}"
    (guesses,) = answer["text_guesses"]
    assert guesses[0]["text"] == answer["text_masked"][0]
    chances = [guess["probability"] for guess in guesses]
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 1
    assert predictor({"text": "the cat meows"})["text_guesses"] == []


def test_guesses_are_the_likeliest_readings():
    embedding = TextInput(length=3, channels=3).build()
    kind = TextInput(length=3)
    head = TextHead(TextOutput(), Sizes(3, 3, False, {"text": embedding}))
    logits = torch.full((1, 3, 262), -50.0)
    for place, chances in ((1, {"a": 0.6, "b": 0.4}), (2, {"c": 0.7, "d": 0.3})):
        for letter, chance in chances.items():
            logits[0, place, ord(letter) + 6] = float(np.log(chance))
    read = kind.collate([kind.parse({"text": "xyz", "mask": [[1, 3]]})])
    ((answer,),) = (head.answer("text", logits, {"text": read}),)
    assert (answer["text"], answer["text_masked"]) == ("xac", ["ac"])
    found = [(guess["text"], round(guess["probability"], 4)) for guess in answer["text_guesses"][0]]
    assert found[:4] == [("ac", 0.42), ("bc", 0.28), ("ad", 0.18), ("bd", 0.12)]
