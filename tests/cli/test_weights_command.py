"""`perceivers weights show`: a table for people, JSON for programs, one line for what cannot be read."""

import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from perceivers.models import convert
from perceivers.models.build import build
from perceivers.models.weights import load

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "data"
CONV = GOLDEN / "imagenet_conv_like.pystate"


def test_the_table(call):
    done = call("weights", "show", CONV)
    assert (done.code, done.err) == (0, "")
    assert "params/perceiver_encoder/~/trainable_position_encoding" in done.out
    assert "w (7, 7, 3, 64) float32" in done.out
    assert "counter () int32" in done.out
    total = next(line for line in done.out.splitlines() if "all, 81 arrays" in line)
    assert "52,608" in total
    assert "family: image classification of Perceiver IO, convolution stem\n" in done.out


def test_a_narrow_window(call, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # a terminal
    monkeypatch.setenv("COLUMNS", "80")
    done = call("weights", "show", GOLDEN / "hf_masked_lm")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", done.out)
    assert max(map(len, shown.splitlines())) <= 80
    assert "config: 40 entries; --json prints them" in done.out


@pytest.mark.parametrize("columns", ["20", None])
def test_lines_are_whole_where_there_is_no_window(call, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS")
    name = "perceiver." + ".".join(f"a_long_name_{n}" for n in range(30))
    file = "a_file_with_a_long_name_" * 6 + ".safetensors"
    save_file({f"{name}.weight": np.zeros((2, 3), np.float32), "b.w": np.zeros(1)}, file)
    done = call("weights", "show", file)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].strip() == file
    line = next(line for line in done.out.splitlines() if name in line)
    assert "weight (2, 3) float32" in line
    assert "6" in line


def test_json(call):
    plain = json.loads(call("weights", "show", CONV, "--json").out)
    assert list(plain) == ["path", "format", "family", "parameters", "modules", "arrays", "extra"]
    assert plain["parameters"] == sum(plain["modules"].values()) == 52_608
    stem = "image_preprocessor/~/conv2_d_downsample/~"
    assert plain["arrays"][f"params/{stem}/conv/w"] == {"shape": [7, 7, 3, 64], "dtype": "float32", "trained": True}
    assert not plain["arrays"][f"state/{stem}/batchnorm/~/mean_ema/average"]["trained"]


def test_a_model_of_our_own(call, run):
    done = call("weights", "show", run, "--json")
    assert json.loads(done.out)["format"] == "model directory"


class Hostile:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_hostile_file_is_one_line(call):
    Path("hostile.pickle").write_bytes(pickle.dumps({"m": {"w": Hostile()}}))
    done = call("weights", "show", "hostile.pickle")
    assert done.code == 1
    assert done.err.startswith(f"error: 'hostile.pickle' cannot be read: it names '{os.name}.system'")
    assert done.err.count("\n") == 1
    assert not Path("executed").exists()


def test_names_cannot_move_the_cursor(call):
    tree = {"global_step\x1b[2J": "\x1b]0;title\x07", "params": {"m\x1b[2J[red]": {"w\x9b1A\ud800": np.zeros(3)}}}
    Path("names.pickle").write_bytes(pickle.dumps(tree))
    for arguments in ((), ("--json",)):
        done = call("weights", "show", "names.pickle", *arguments)
        assert done.code == 0
        assert all(c.isprintable() or c == "\n" for c in done.out)
    assert "m\\x1b[2J[red]" in call("weights", "show", "names.pickle").out


def test_what_is_nested_too_deep_to_print(call, monkeypatch):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    nested = replace(convert.read_weights(CONV), extra={"config": deep})
    monkeypatch.setattr(convert, "read_weights", lambda path: nested)
    assert "config: 1 entries; --json prints them" in call("weights", "show", CONV).out
    done = call("weights", "show", CONV, "--json")
    assert done.code == 1
    assert "nested too deep to print" in done.err
    assert done.err.count("\n") == 1


def test_what_is_not_there(call):
    done = call("weights", "show", "nothing.pickle")
    assert (done.code, done.err) == (1, "error: there is no file or folder 'nothing.pickle'.\n")


def test_resize(call, tmp_path):
    image = {
        "kind": "image",
        "size": [4, 4],
        "channels": 1,
        "mean": [0.0],
        "std": [1.0],
        "position": {"kind": "learned"},
    }
    spec = {"inputs": {"image": image}, "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}}}
    build(spec, seed=0).save(tmp_path / "small")
    done = call("weights", "resize", "small", "image=6,8", "--out", "large")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("large: ")
    assert load(tmp_path / "large").spec.inputs["image"].size == (6, 8)
    done = call("weights", "resize", "small", "image=6", "--out", "other")
    assert done.code == 1
    assert "input 'image' has 2 axes (4 × 4 now); got (6,)" in done.err
