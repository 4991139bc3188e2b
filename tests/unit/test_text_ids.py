"""Text as ids of a tokenizer [P2 App. F]: read, masked, hidden in training, filled in."""

import json

import numpy as np
import pytest
import torch

import perceivers
from perceivers.byte_tokens import MASK, SEP
from perceivers.errors import DataError, ModelError, SpecError
from perceivers.inputs.augment_text import TextAugmentation
from perceivers.inputs.text import TextInput
from perceivers.models.build import build
from perceivers.models.convert import export_transformers
from perceivers.models.weights import load
from perceivers.outputs.text import TextOutput

IDS = {"encoding": "ids", "vocabulary": 40_000}


def text(**changes) -> TextInput:
    return TextInput(**{**IDS, "length": 6, "channels": 8, **changes})


def spec(**output):
    return {
        "inputs": {"text": {"kind": "text", **IDS, "length": 6, "channels": 8}},
        "latents": {"count": 3, "channels": 8},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"text": {"kind": "text", **IDS, **output}},
    }


@pytest.mark.parametrize("value", [[6, 17, 39_999], "6 17 39999", "[6, 17, 39999]", np.array([6, 17, 39_999])])
def test_a_list_and_what_a_cell_holds(value):
    sample = text().parse(value)
    assert sample.values[:, 0].tolist() == [6, 17, 39_999, 0, 0, 0]
    assert sample.mask.tolist() == [True] * 3 + [False] * 3


def test_masks_are_places():
    assert text().parse({"text": [9, 8, 7], "mask": [1, 3]}).values[:3, 0].tolist() == [9, MASK, MASK]


def test_columns_are_joined_and_one_may_be_missing():
    kind = text(columns=["a", "b"])
    assert kind.parse({"a": [9, 8], "b": "7"}).values[:4, 0].tolist() == [9, 8, SEP, 7]
    assert kind.parse({"a": None, "b": [7]}).values[:2, 0].tolist() == [SEP, 7]


def test_documents_are_joined_by_the_special_token():
    kind = text()
    change = kind.augmenter(TextAugmentation(documents=2))
    assert change(kind.parse([9]), (0,), [kind.parse([8])]).values[:3, 0].tolist() == [9, SEP, 8]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a word", "is no list of token ids"),
        ([0.5], r"holds no whole numbers; give a list of token ids, such as \[17, 311\]"),
        ([[7, 8]], "got lists in a list; give one list of token ids"),
        ([[7], [8, 9]], "got lists in a list"),
        (np.array([[7, 8]]), "got lists in a list"),
        (
            [6, 5],
            r"token 2 is 5, but ids of data go from 6 to 39999 \(those below are PAD, BOS, EOS, MASK, CLS and SEP",
        ),
        ([40_000], "token 1 is 40000"),
        ([7] * 7, "the text has 7 ids, but the input reads 6"),
        ({"text": [7, 8], "mask": "8"}, r"mask holds '8'; of ids wanted their places"),
        ({"text": [7, 8], "mask": [1, 3]}, r"ids of the text, which has 2\."),
    ],
)
def test_what_is_no_list_of_ids(value, words):
    with pytest.raises(DataError, match=words):
        text().parse(value)


def test_bytes_have_one_vocabulary():
    with pytest.raises(ValueError, match="bytes have 262 ids"):
        TextInput(vocabulary=300)


def test_an_output_of_another_vocabulary():
    with pytest.raises(SpecError, match="guesses ids of a vocabulary of 300, but input 'text' reads ids of 40000"):
        build(spec(vocabulary=300))


def test_every_id_is_a_word():
    output = TextOutput(**IDS, mask={"kind": "words", "share": 0.5})
    ids = np.array([[9], [8], [7], [SEP]])
    shown, target = output.hidden(ids, None, (0,))
    hidden = shown[:, 0] == MASK
    assert hidden.sum() == 2, "half of three, rounded"
    assert not hidden[3]
    np.testing.assert_array_equal(target, np.where(hidden, ids[:, 0], -1))


def test_it_is_filled_in_with_ids(tmp_path):
    model = build(spec(), seed=0)
    assert model.outputs["text"].bias.shape == (40_000,)
    predictor = perceivers.Predictor(load(model.save(tmp_path / "model")))
    answer = predictor({"text": {"text": [9, 8, 7], "mask": [[1, 2]]}})
    assert [answer["text"][0], answer["text"][-1]] == [9, 7]
    (found,), (guesses,) = answer["text_masked"], answer["text_guesses"]
    assert answer["text"][1:-1] == found == guesses[0]["ids"]
    assert 0 < guesses[0]["probability"] < 1
    json.dumps(answer)


def test_it_learns_to_fill_in(tmp_path):
    rows = ["text"] + [" ".join(["7", "8", "9", "10"])] * 40
    (tmp_path / "texts.csv").write_text("\n".join(rows) + "\n")
    recipe = {
        "model": spec(mask={"kind": "words", "share": 0.25}),
        "data": {"source": "texts.csv", "splits": {"kind": "fraction", "validation": 0.25, "test": 0.25}},
        "training": {"steps": 60, "batch_size": 10, "lr": 0.02, "threads": 1, "evaluate_every": 30},
    }
    run = perceivers.train(recipe, out=tmp_path / "run", quiet=True, base=tmp_path)
    answer = perceivers.Predictor(run.model)({"text": {"text": [7, 8, 9, 10], "mask": [2, 3]}})
    assert answer["text"] == [7, 8, 9, 10]


def test_transformers_has_no_such_model(tmp_path):
    with pytest.raises(ModelError, match="read text as bytes, and this model reads ids"):
        export_transformers(build(spec()), tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_fill_says_what_to_do(tmp_path):
    from typer.testing import CliRunner

    from perceivers.cli.main import app

    build(spec(), seed=0).save(tmp_path / "model")
    said = CliRunner().invoke(app, ["fill", str(tmp_path / "model"), "7 8", "--mask", "8"])
    assert said.exit_code != 0
    assert "the model reads ids of a tokenizer" in str(said.exception or said.output)
    assert torch.is_grad_enabled()
