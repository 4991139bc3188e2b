"""`perceivers fill`, and masked texts on standard input and in tables."""

import json

import pytest

import perceivers

TEXT = "This is an incomplete sentence where some words are missing."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    spec = {
        "inputs": {"note": {"kind": "text", "length": 64, "channels": 16}},
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"filled": {"kind": "text", "input": "note"}},
    }
    return perceivers.build(spec, seed=0).save(tmp_path_factory.mktemp("fill") / "model")


def test_a_part_is_filled_in(call, model):
    done = call("fill", model, TEXT, "--mask", " missing.")
    assert done.code == 0
    filled, _, *guesses = done.out.splitlines()
    assert filled.startswith("This is an incomplete sentence where some words are")
    assert len(guesses) == 5
    assert all("%  '" in guess or '%  "' in guess for guess in guesses)


def test_several_parts_as_json(call, model):
    done = call("fill", model, TEXT, "--mask", "incomplete", "--mask", " missing.", "--json")
    answer = json.loads(done.out)
    assert answer == perceivers.Predictor(model)({"note": {"text": TEXT, "mask": ["incomplete", " missing."]}})
    assert len(answer["filled_masked"]) == len(answer["filled_guesses"]) == 2


@pytest.mark.parametrize("mask", [" missing.", [[51, 60]], [" missing."]])
def test_standard_input_and_tables_take_masks_too(call, model, mask, tmp_path):
    line = json.dumps({"note": {"text": TEXT, "mask": mask}})
    wanted = perceivers.Predictor(model)({"note": {"text": TEXT, "mask": " missing."}})
    answer = json.loads(call("predict", model, "-", stdin=line).out)
    assert answer == {"row": 1, **wanted}
    (tmp_path / "texts.jsonl").write_text(line + "\n", encoding="utf-8")
    assert json.loads(call("predict", model, "texts.jsonl", "--quiet").out) == {"row": 1, **wanted}


@pytest.mark.parametrize(
    ("text", "mask", "said"),
    [
        (TEXT, "msising", "mask holds 'msising', which is not in the text. Did you mean 'missing.'?"),
        (TEXT, "is", "which stands in the text 3 times"),
        ("long " * 20 + "!", "!", "the text has 101 bytes, but the input reads 64. Raise length"),
    ],
)
def test_what_cannot_be(call, model, text, mask, said):
    done = call("fill", model, text, "--mask", mask)
    assert done.code == 1
    assert said in done.err


def test_a_mask_is_needed(call, model):
    assert call("fill", model, TEXT).code == 2


def test_a_model_that_fills_in_nothing(call, trained):
    done = call("fill", trained / "run", TEXT, "--mask", "is")
    assert done.code == 1
    assert "the model fills in no text: it has no output of kind text. Outputs: label (category)." in done.err


def test_a_part_that_is_cut_off(call, tmp_path):
    spec = {
        "inputs": {"note": {"kind": "text", "length": 16, "channels": 16, "overflow": "truncate"}},
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"filled": {"kind": "text", "input": "note"}},
    }
    done = call("fill", perceivers.build(spec, seed=0).save(tmp_path / "model"), TEXT, "--mask", " missing.")
    assert done.code == 1
    assert "mask holds ' missing.', bytes 51 to 60 of a text of 60, but the model reads only its first 16" in done.err
