"""`perceivers generate`: text and ids, the same draws for the same seed, errors in a line."""

import json

import pytest
import torch

from perceivers.models.build import build


def spec(**tokens):
    encoding = tokens.get("encoding", "bytes")
    vocabulary = tokens.get("vocabulary", 259)
    return {
        "inputs": {"text": {"kind": "tokens", "length": 24, "channels": 16, **tokens}},
        "latents": {"count": 4, "channels": 16},
        "encoder": {"kind": "autoregressive", "layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"next": {"kind": "next_token", "encoding": encoding, "vocabulary": vocabulary}},
    }


def saved(folder, **tokens):
    model = build(spec(**tokens), seed=0)
    with torch.no_grad():
        model.core.head.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.core.head.linear.bias[1] = -1e3  # no end
    return model.save(folder)


@pytest.fixture
def texts(tmp_path):
    return saved(tmp_path / "texts")


@pytest.fixture
def numbers(tmp_path):
    return saved(tmp_path / "numbers", encoding="ids", vocabulary=12)


def test_text(call, texts):
    done = call("generate", texts, "--prompt", "ab", "--length", 8, "--seed", 3)
    assert done.code == 0
    assert done.out.endswith("\n")
    again = call("generate", texts, "--prompt", "ab", "--length", 8, "--seed", 3, "--json")
    plain = json.loads(again.out)
    assert plain["value"] + "\n" == done.out
    assert len(plain["ids"]) == 8
    assert call("generate", texts, "--ids", "100,101", "--length", 8, "--seed", 3).out == done.out
    assert call("generate", texts, "--length", 2).code == 0


def test_ids(call, numbers):
    done = call("generate", numbers, "--ids", "5,7", "--length", 6, "--temperature", 0)
    assert len(done.out.split()) == 6
    assert call("generate", numbers, "--ids", "[5, 7]", "--length", 6, "--top-k", 1).out == done.out
    exact = call("generate", numbers, "--ids", "5 7", "--length", 3, "--no-cache", "--top-p", 0.9)
    assert len(exact.out.split()) == 3
    assert call("generate", numbers, "--length", 3, "--top-k", 2).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompt", "a", "--ids", "5"), "give --prompt or --ids, not both"),
        (("--prompt", "a"), "this model reads token ids of its own tokenizer; give --ids"),
        (("--ids", "5,12"), "token 2 is 12, but ids of data go from 3 to 11"),
        (("--ids", "5,x"), "'5,x' is no list of token ids"),
        (("--ids", "5", "--length", 40), "do not fit into the model's context of 24: at most 23 can follow"),
        (("--ids", ",".join(["5"] * 30)), "the sequence has 30 tokens and begins with SOS, but the input reads 24"),
        (("--ids", "5", "--top-p", 0), "top_p is 0.0; it is a share above 0"),
    ],
)
def test_what_cannot_be(call, numbers, arguments, said):
    done = call("generate", numbers, *arguments)
    assert done.code == 1
    assert said in done.err
    assert done.err.count("\n") == 1


def test_unknown_options_are_bad_usage(call, numbers):
    for arguments in (("--legnth", 3), ("--length", 0), ("--top-k", 0), ("--temperature", -1)):
        assert call("generate", numbers, *arguments).code == 2


def test_a_model_that_does_not_generate(call, run):
    done = call("generate", run, "--prompt", "a")
    assert done.code == 1
    assert "does not generate: its encoder.kind is perceiver; wanted autoregressive" in done.err


def test_bytes_take_ids_of_bytes(call, texts):
    assert "token 1 is 300, but ids of data go from 3 to 258" in call("generate", texts, "--ids", "300").err
