"""`perceivers autoencode`: a model directory and a video file in, files out."""

import copy

import media
import numpy as np

import perceivers
from perceivers.models.presets import preset


def model_folder(tmp_path):
    data = copy.deepcopy(dict(preset("perceiver-io-multimodal").spec))
    del data["inputs"]["label"], data["outputs"]["label"], data["encoder"]["masking"]
    sound, video = ({"kind": "fourier", "bands": 2, "resolution": size} for size in ([64], [4, 2, 2]))
    data["inputs"]["audio"] |= {"samples": 320, "rate": 2000, "position": sound}
    data["inputs"]["image"] |= {"size": [4, 8, 8], "position": video}
    data["outputs"]["audio"] |= {"size": [320], "query": sound}
    data["outputs"]["image"] |= {"size": [4, 8, 8], "query": video}
    data["latents"] = {"count": 6, "channels": 16}
    data["decoder"] = {**data["decoder"], "output_channels": 12}
    return perceivers.build(data, seed=0).save(tmp_path / "model")


def test_files_and_what_is_said(call, tmp_path):
    model = model_folder(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (8, 12, 16, 3), np.uint8)
    (tmp_path / "clip.mp4").write_bytes(media.mp4_with_sound(frames, 0.3 * np.sin(np.arange(3000)), 8000, 25))
    done = call("autoencode", model, "clip.mp4", "--out", "again", "--chunk", "100")
    assert done.code == 0, done.err
    assert "again: answers.json, audio-given.wav, audio.wav, image.gif, image.png" in done.out
    assert "1,088 numbers through 96, 11 times fewer" in done.out
    assert "image: " in done.out
    assert " dB" in done.out
    assert (tmp_path / "again" / "image.gif").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    refused = call("autoencode", model, "clip.mp4", "--out", "mine")
    assert refused.code == 1
    assert "'mine' exists and is not a clip that was given back" in refused.err
    assert call("autoencode", model, "gone.mp4", "--out", "other").code == 1
