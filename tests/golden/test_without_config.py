"""Recordings whose config is empty: shapes tell the model, and the recorded answers what shapes do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_recordings import DATA, drawn_parameters, shapes, write

from perceivers.elements import Batch, Elements
from perceivers.errors import ModelError
from perceivers.models.convert import official
from perceivers.models.convert.verify import verification
from perceivers.models.presets import spec_of

SOUND, FRAMES = [0, 7, 15], [3, 17, 31, 100, 255]


def inputs(name: str) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {key: draw.standard_normal(shape).astype(np.float32) for key, shape in shapes(name, "input/").items()}


def bare(tmp_path: Path, parameters: dict[str, np.ndarray]) -> Path:
    """The parameters alone, which a model is filled from."""
    np.savez(tmp_path / "parameters.npz", **parameters)
    return tmp_path / "parameters.npz"


@torch.no_grad()
def made_flow(tmp_path: Path) -> dict[str, np.ndarray]:
    """`paired_flow`, with the answers of the published model of other sizes."""
    arrays = {**drawn_parameters(shapes("paired_flow")), **inputs("paired_flow")}
    pair = {"size": [8, 12], "mean": 0.0, "std": 1.0}
    spec = {
        "preset": "perceiver-io-flow",
        "inputs": {"pair": pair},
        "latents": {"count": 16, "channels": 32},
        "encoder": {"layers": 2, "self_attend": {"heads": 4}},
    }
    model = official(bare(tmp_path, drawn_parameters(shapes("paired_flow"))), spec_of(spec))
    images = torch.from_numpy(arrays["input/images"])
    both = torch.cat([images[:, 0], images[:, 1]], dim=-1)
    flow = model(Batch({"pair": Elements(both.flatten(1, 2), grid=(8, 12))}, 1))["flow"] / 20
    padded = np.pad(arrays["input/images"], ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, :, y : y + 8, x : x + 12] for y in range(3) for x in range(3)]
    return {**arrays, "output/flow_unscaled": flow.numpy(), "output/patches": np.concatenate(windows, axis=-1)}


@torch.no_grad()
def made_clip(tmp_path: Path) -> dict[str, np.ndarray]:
    """`paired_multimodal`, likewise; the label is not recorded, since it is hidden."""
    arrays = {**drawn_parameters(shapes("paired_multimodal")), **inputs("paired_multimodal")}
    sound, video = {"resolution": [128]}, {"resolution": [4, 2, 2]}
    classes = [f"c{i}" for i in range(11)]
    frames: dict[str, Any] = {"size": [4, 8, 8], "std": [1.0] * 3, "position": video}
    spec = {
        "preset": "perceiver-io-multimodal",
        "inputs": {
            "audio": {"samples": 128, "lift": {"size": [8]}, "position": sound},
            "image": frames,
            "label": {"classes": {"label": classes}},
        },
        "latents": {"count": 10, "channels": 32},
        "encoder": {"layers": 2, "self_attend": {"heads": 4}},
        "decoder": {"output_channels": 24},
        "outputs": {
            "audio": {"size": [128], "patch": [8], "query": sound},
            "image": {"size": [4, 8, 8], "query": video},
            "label": {"classes": classes, "query": {"channels": 64}},
        },
    }
    model = official(bare(tmp_path, drawn_parameters(shapes("paired_multimodal"))), spec_of(spec))
    image, audio = (torch.from_numpy(arrays[f"input/{name}"]) for name in ("image", "audio"))
    elements = {"audio": Elements(audio, grid=(128,)), "image": Elements(image.flatten(1, 3), grid=(4, 8, 8))}
    points = {"audio": torch.tensor(SOUND), "image": torch.tensor(FRAMES)}
    answers = model.decode(model.encode(Batch(elements, 1)), points=points)
    found = {"audio": answers["audio"].flatten(1), "image": answers["image"], "label": answers["label"]}
    return {**arrays, **{f"output/{name}": answer.numpy() for name, answer in found.items()}}


MADE = {"paired_flow": made_flow, "paired_multimodal": made_clip}


def test_the_recorded_language_model():
    done = verification(DATA / "paired_mlm.npz")
    assert list(done.found) == ["logits"]
    assert done.found["logits"].within
    assert done.found["logits"].relative < 1e-5
    heads = "heads: 4 of the cross-attend, 4 of the self-attends, 8 of the decoder; queries are masked"
    assert heads in done.said[-1], "as transformers' model of the same sizes has them"
    assert "no config is recorded" in done.said[0]


@pytest.mark.parametrize("name", MADE)
def test_the_same_layout_with_other_numbers(name, tmp_path):
    done = verification(write(tmp_path / "made.npz", name, MADE[name](tmp_path)))
    assert {key: c for key, c in done.found.items() if not c.within} == {}
    assert "4 of the self-attends" in done.said[-1]
    if name == "paired_multimodal":
        assert "points of audio: 0, 7, 15; points of image: 3, 17, 31, 100, 255" in done.said[-1]
    else:
        assert set(done.found) == {"flow_unscaled", "patches"}


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("paired_flow", "params/perceiver_encoder/~/self_attention_1/mlp/linear/w"),
        ("paired_multimodal", "params/encoder/~/cross_attention/attention/linear_2/w"),
        ("paired_multimodal", "params/multimodal_decoder/~decoder_query/audio_padding/pos_embs"),
    ],
)
def test_another_weight_is_found_out(name, weight, tmp_path):
    arrays = MADE[name](tmp_path)
    arrays[weight] = arrays[weight] + np.float32(0.5)
    done = verification(write(tmp_path / "made.npz", name, arrays))
    assert [key for key, c in done.found.items() if not c.within]


def test_shapes_that_no_such_model_has(tmp_path):
    with np.load(DATA / "paired_mlm.npz") as stored:
        held = {key: stored[key] for key in stored.files}
    np.savez(tmp_path / "other.npz", **{**held, "params/embed/embeddings": np.zeros((300, 24), np.float32)})
    with pytest.raises(ModelError, match="it has 300 tokens, and texts here are bytes with 262 ids"):
        verification(tmp_path / "other.npz")
    del held["params/perceiver_encoder/~/trainable_position_encoding/pos_embs"]
    np.savez(tmp_path / "other.npz", **held)
    with pytest.raises(ModelError, match=r"is no language model of Perceiver IO of any size.*pos_embs' is missing"):
        verification(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("name", "array", "changed", "said"),
    [
        ("paired_flow", "input/images", np.zeros((2, 8, 12, 3), np.float32), "'input/images' is .*; wanted 5 axes"),
        ("paired_multimodal", "input/audio", np.zeros((1, 128), np.float32), "'input/audio' is .*; wanted 3 axes"),
        ("paired_multimodal", "input/image", None, "'input/image' is missing"),
        ("paired_multimodal", "output/audio", np.zeros((1, 23), np.float32), "which is no answer of 8 numbers a point"),
        ("paired_multimodal", "output/latents", np.zeros(3, np.float32), "output 'latents' is recorded"),
    ],
)
def test_what_cannot_be_compared(name, array, changed, said, tmp_path):
    arrays = {**MADE[name](tmp_path), array: changed}
    np.savez(tmp_path / "other.npz", config="{}", **{key: a for key, a in arrays.items() if a is not None})
    with pytest.raises(ModelError, match=said):
        verification(tmp_path / "other.npz")


def test_a_recording_without_outputs(tmp_path):
    with np.load(DATA / "paired_mlm.npz") as stored:
        held = {key: stored[key] for key in stored.files if not key.startswith("output/")}
    np.savez(tmp_path / "other.npz", **held)
    with pytest.raises(ModelError, match="records no output, so there is nothing to compare with"):
        verification(tmp_path / "other.npz")
