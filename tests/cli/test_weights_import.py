"""`perceivers weights import` and `verify`: a model directory of official weights, and proof."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import perceivers
from perceivers.models.convert import read_weights
from perceivers.models.convert.mapping import assembled
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
    *lines, verdict = done.out.splitlines()
    assert [line.split()[0] for line in lines] == ["flow", "patches"]
    assert verdict == "agrees: 2 outputs within rtol=atol=1e-4"
    with np.load(GOLDEN / "dm_optical_flow.npz") as stored:
        held = {key: stored[key] for key in stored.files}
    np.savez(tmp_path / "off.npz", **{**held, "output/flow": held["output/flow"] + 1e-3})
    done = call("weights", "verify", tmp_path / "off.npz")
    assert done.code == 1
    assert "outside 1e-4 + 1e-4 · |recorded|" in done.out
    assert done.out.splitlines()[-1] == "differs: 1 of 2 outputs outside rtol=atol=1e-4: flow"
    done = call("weights", "verify", GOLDEN / "hf_masked_lm" / "model.safetensors")
    assert done.code == 2
    assert "is no recording" in done.err
    assert done.out == ""
    Path("damaged.npz").write_text("no zip")
    done = call("weights", "verify", "damaged.npz")
    assert done.code == 2
    assert done.err.startswith("not verified: 'damaged.npz' cannot be read")


def test_verify_weights_alone(call, monkeypatch):
    done = call("weights", "verify", PICKLE)
    assert done.code == 0
    *lines, said, run, verdict = done.out.splitlines()
    assert lines[2].split() == ["weights/embed", "absolute", "0.00e+00", "relative", "0.00e+00"]
    assert said.startswith("no outputs are recorded, so only the weights were compared")
    assert run == "the model's answers to random inputs are finite"
    assert verdict == f"agrees: {len(lines)} modules exactly"
    monkeypatch.setattr("perceivers.models.convert.recorded_weights.assembled", changed)
    done = call("weights", "verify", PICKLE)
    assert done.code == 1
    assert done.out.splitlines()[-1] == f"differs: 1 of {len(lines)} modules not exactly given back: weights/embed"


def changed(*given) -> torch.nn.Module:
    """The model with the least change of one number."""
    model = assembled(*given)
    model.state_dict()["inputs.text.embedding.weight"][7, 7] *= 1 + 2**-22
    return model


def test_verify_without_a_config(call):
    done = call("weights", "verify", GOLDEN / "paired_mlm.npz")
    assert done.code == 0
    logits, said, chosen, verdict = done.out.splitlines()
    assert logits.startswith("logits  absolute ")
    assert said.startswith("no config is recorded: the arrays' shapes tell widths and numbers of layers")
    assert "heads: 4 of the cross-attend, 4 of the self-attends, 8 of the decoder" in chosen
    assert verdict == "agrees: 1 output within rtol=atol=1e-4"


def test_errors_write_nothing(call, spec, tmp_path):
    done = call("weights", "import", PICKLE, "--out", "lm")
    assert done.code == 1
    assert "holds 89 arrays (language model of Perceiver IO). Give either the preset or" in done.err
    assert "--preset NAME or --spec FILE. The published one is the preset perceiver-io-language." in done.err
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


def test_numbers_that_are_none(call, tmp_path):
    """Such a model would answer NaN to everything: it is not written."""
    folder = shutil.copytree(GOLDEN / "hf_masked_lm", tmp_path / "diverged")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
    tensors[name][0, :2] = torch.tensor([math.nan, math.inf])
    save_file(tensors, folder / "model.safetensors")
    done = call("weights", "import", folder, "--out", "lm")
    assert done.code == 1
    assert "diverged' holds NaN or infinite numbers: 2 of the " in done.err
    assert "Nothing was written" in done.err
    tensors[name] = tensors[name].nan_to_num(0, 0).long()
    save_file(tensors, folder / "model.safetensors")
    done = call("weights", "import", folder, "--out", "lm")
    assert done.code == 1
    assert "are of torch.int64; wanted real numbers" in done.err
    assert not Path("lm").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_there_is_replaced_only_when_allowed(call, spec):
    importing = ("weights", "import", PICKLE, "--spec", spec, "--out", "lm")
    assert call(*importing).code == 0
    assert call("weights", "import", GOLDEN / "hf_masked_lm", "--deviations", "--out", "theirs").code == 0
    assert call("weights", "export", "theirs", "--out", "back").code == 0
    for folder, arguments in (
        ("lm", importing),
        ("lm", ("weights", "import", GOLDEN / "hf_masked_lm", "--out", "lm")),
        ("lm", ("weights", "resize", "theirs", "text=32", "--out", "lm")),
        ("back", ("weights", "export", "theirs", "--out", "back")),
    ):
        (Path(folder) / "note.txt").write_text("mine")
        before = contents(Path(folder))
        done = call(*arguments)
        assert done.code == 1
        assert done.err == (
            f"error: '{folder}' exists, and would be replaced; give another name, or allow it by --overwrite "
            "(overwrite=True).\n"
        )
        assert contents(Path(folder)) == before
        assert call(*arguments, "--overwrite").code == 0
        assert "note.txt" not in contents(Path(folder))
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("x")
    exporting = ("weights", "export", "theirs", "--out")
    for arguments, what in ((importing[:-1], "a model directory"), (exporting, "a folder of transformers")):
        done = call(*arguments, "thesis", "--overwrite")
        assert f"'thesis' exists and is not {what}" in done.err
        assert Path("thesis/chapter.tex").read_text() == "x"


def test_weights_alone_out_of_a_folder(call, tmp_path, run):
    theirs = GOLDEN / "hf_masked_lm" / "model.safetensors"
    (tmp_path / "alone.safetensors").write_bytes(theirs.read_bytes())
    np.savez(tmp_path / "alone.npz", **{name: tensor.numpy() for name, tensor in load_file(theirs).items()})
    for given, said in (
        (theirs, "by transformers' names; the rest stands in config.json, which lies beside it. Import a folder"),
        (tmp_path / "alone.safetensors", "config.json, which does not lie beside it. Import a folder that has both"),
        (tmp_path / "alone.npz", "73 arrays (language model of Perceiver IO), by transformers' names"),
        (run / "model" / "model.safetensors", "perceivers.load opens it: nothing has to be imported"),
        (run, "is a model of this library already; perceivers.load opens it"),
    ):
        for more in ((), ("--preset", "perceiver-io-language")):
            done = call("weights", "import", given, *more, "--out", "lm")
            assert done.code == 1
            assert said in done.err
            assert done.err.count("\n") == 1
    assert "perceivers weights import FOLDER --out DIR" in call("weights", "import", theirs, "--out", "lm").err
    assert not Path("lm").exists()


def test_an_archive_of_arrays(call):
    done = call("weights", "import", GOLDEN / "dm_image_conv.npz", "--out", "model")
    assert "holds 100 arrays (image classification of Perceiver IO, convolution stem). Give either" in done.err
    assert "The published one is the preset perceiver-io-imagenet-conv." in done.err
    done = call("weights", "import", GOLDEN / "dm_blocks.npz", "--out", "model")
    assert "arrays (no model that is known). Give either the preset or the spec" in done.err
