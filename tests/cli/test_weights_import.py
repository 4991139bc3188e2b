"""`perceivers weights import` and `verify`: a model directory of official weights, and proof."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import perceivers
from perceivers.models.convert import read_weights
from perceivers.models.convert.recorded_specs import language_spec

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "data"
PICKLE = GOLDEN / "language_like_flatmapping.pickle"


@pytest.fixture
def spec(tmp_path) -> Path:
    file = tmp_path / "language.json"
    made = language_spec(read_weights(GOLDEN / "dm_language_mlm.npz"))
    file.write_text(json.dumps(made.model_dump(mode="json")))
    return file


def test_import_and_predict(call, spec):
    done = call("weights", "import", PICKLE, "--spec", spec, "--out", "lm")
    assert (done.code, done.err) == (0, "")
    predictor = perceivers.Predictor("lm")
    answer = predictor({"text": {"text": "a text with a hole", "mask": [[14, 18]]}})
    assert answer["text"].startswith("a text with a ")
    assert len(answer["text_masked"]) == 1
    whole = predictor({"text": "nothing to guess"})
    assert whole == {"text": "nothing to guess", "text_masked": [], "text_guesses": []}


def test_verify(call, tmp_path):
    done = call("weights", "verify", GOLDEN / "dm_optical_flow.npz")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == ["flow", "patches"]
    with np.load(GOLDEN / "dm_optical_flow.npz") as stored:
        held = {key: stored[key] for key in stored.files}
    np.savez(tmp_path / "off.npz", **{**held, "output/flow": held["output/flow"] + 1e-3})
    done = call("weights", "verify", tmp_path / "off.npz")
    assert done.code == 1
    assert "outside 1e-4 + 1e-4 · |recorded|" in done.out
    done = call("weights", "verify", PICKLE)
    assert done.code == 2
    assert "is no recording" in done.err


def test_errors_write_nothing(call, spec, tmp_path):
    done = call("weights", "import", PICKLE, "--out", "lm")
    assert done.code == 1
    assert "--preset NAME or --spec FILE" in done.err
    done = call("weights", "import", PICKLE, "--preset", "perceiver-io-langauge", "--out", "lm")
    assert "Did you mean 'perceiver-io-language'?" in done.err
    done = call("weights", "import", PICKLE, "--preset", "perceiver-io-language", "--out", "lm")
    assert done.code == 1
    assert "arrays are missing, the first 'params/perceiver_encoder/~/self_attention_" in done.err
    done = call("weights", "import", PICKLE, "--spec", tmp_path / "langauge.json", "--out", "lm")
    assert "Did you mean 'language.json'?" in done.err
    cut = tmp_path / "cut.pickle"
    cut.write_bytes(PICKLE.read_bytes()[:1000])
    done = call("weights", "import", cut, "--spec", spec, "--out", "lm")
    assert done.code == 1
    assert not Path("lm").exists()


def test_a_transformers_folder_there_and_back(call, tmp_path):
    folder = GOLDEN / "hf_masked_lm"
    done = call("weights", "import", folder, "--deviations", "--out", "lm")
    assert (done.code, done.err) == (0, "")
    done = call("weights", "export", "lm", "--out", "back")
    assert done.code == 0
    mine, theirs = (load_file(place / "model.safetensors") for place in (Path("back"), folder))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    done = call("weights", "verify", folder)
    assert done.code == 0
    done = call("weights", "import", folder, "--preset", "perceiver-io-language", "--out", "other")
    assert "leave preset and spec out" in done.err
    done = call("weights", "import", PICKLE, "--deviations", "--out", "other")
    assert "deviations are of a transformers folder" in done.err
    done = call("weights", "export", "lm", "--format", "onnx", "--out", "other")
    assert "unknown format 'onnx'" in done.err
    assert not Path("other").exists()
