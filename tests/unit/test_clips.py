"""Clips through an autoencoder: read as the model reads them, encoded once, given back in any chunks, and as files."""

import copy
import json
import wave

import media
import numpy as np
import pytest
import torch
from PIL import Image

import perceivers
from perceivers.errors import DataError, ModelError
from perceivers.inputs.decode_audio import read_sound
from perceivers.inputs.decode_track import has_track
from perceivers.inputs.decode_video import read_clip
from perceivers.inputs.resize import resized
from perceivers.models.presets import preset

FRAMES = np.repeat(np.arange(30, dtype=np.uint8) * 6, 12 * 16 * 3).reshape(30, 12, 16, 3)
RATE = 8000
TONE = 0.5 * np.sin(2 * np.pi * 400 * np.arange(9600) / RATE)


def spec() -> dict:
    data = copy.deepcopy(dict(preset("perceiver-io-multimodal").spec))
    sound = {"kind": "fourier", "bands": 3, "resolution": [64]}
    video = {"kind": "fourier", "bands": 2, "resolution": [4, 2, 2]}
    data["inputs"]["audio"] |= {"samples": 320, "rate": 2000, "position": sound}
    data["inputs"]["image"] |= {"size": [4, 8, 8], "position": video}
    data["inputs"]["label"] |= {"classes": {"label": ["a", "b", "c"]}}
    data["outputs"]["audio"] |= {"size": [320], "query": {**sound, "end": False}}
    data["outputs"]["image"] |= {"size": [4, 8, 8], "query": {**video, "end": False}}
    data["outputs"]["label"] |= {"classes": ["a", "b", "c"], "query": {"channels": 20}}
    data["latents"] = {"count": 6, "channels": 16}
    data["encoder"] = {**data["encoder"], "layers": 2, "self_attend": {"heads": 2}}
    data["decoder"] = {**data["decoder"], "output_channels": 12}
    return data


@pytest.fixture(scope="module")
def model():
    return perceivers.build(spec(), seed=0).eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    path.write_bytes(media.mp4_with_sound(FRAMES, TONE, RATE, 25))
    return path


def brightness(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / 6) for frame in frames]


class TestReading:
    def test_frames_by_their_time(self, clip):
        assert brightness(read_clip(clip, 3, 4, 25.0, 0.0)) == [0, 1, 2, 3]
        assert brightness(read_clip(clip, 3, 4, 25.0, 0.4)) == [10, 11, 12, 13]
        assert brightness(read_clip(clip, 3, 4, 12.5, 0.4)) == [10, 12, 14, 16]
        assert brightness(read_clip(clip, 1, 4, 50.0, 0.0)) == [0, 0, 1, 1]
        assert brightness(read_clip(clip, 3, 4, 25.0, 1.12)) == [28, 29], "the file ends"
        assert not len(read_clip(clip, 3, 4, 25.0, 9.0))

    def test_another_rate(self):
        ten = media.mp4_with_sound(FRAMES[:10], TONE[:8000], RATE, 10)
        assert brightness(read_clip(ten, 3, 6, 25.0, 0.0)) == [0, 0, 0, 1, 1, 2]

    def test_the_sound_of_a_video(self, clip):
        whole = read_sound(clip, lambda count, rate, what: (0, count))
        assert whole.rate == RATE
        assert whole.values.shape[1] == 1
        assert abs(len(whole.values) - len(TONE)) <= 1024, "AAC fills up its last frame"
        assert np.abs(whole.values[2000:4000, 0] - TONE[2000:4000]).max() < 0.05
        part = read_sound(clip, lambda count, rate, what: (2000, 3000))
        np.testing.assert_array_equal(part.values, whole.values[2000:3000])
        stereo = media.mp4_with_sound(FRAMES[:4], np.stack([TONE, -TONE], 1)[:2048], RATE, 25)
        assert read_sound(stereo, lambda count, rate, what: (0, 0)).values.shape == (0, 2)

    def test_an_audio_input_reads_it_too(self, clip):
        kind = perceivers.build(spec(), seed=0).spec.inputs["audio"]
        assert kind.parse(str(clip)).values.shape == (320, 1)

    def test_which_files_have_sound(self, clip, tmp_path):
        assert has_track(clip)
        assert not has_track(media.mp4_bytes(FRAMES[:3]))
        assert not has_track(media.wav_bytes(TONE))
        with pytest.raises(DataError, match="holds no sound"):
            read_sound(media.mp4_bytes(FRAMES[:3]), lambda count, rate, what: (0, count))

    def test_the_middle_is_cut_out_first(self):
        picture = np.zeros((9, 15, 1), np.float32)
        picture[:, 3:12] = np.arange(9)[:, None]
        # Rows 0 to 8 become three: centres at 1, 4 and 7, without the neighbours that antialiasing would bring in.
        found = resized(picture, (3, 3), "cut_first", "it")
        np.testing.assert_allclose(found[..., 0], [[1, 4, 7]] * 3)
        wide = np.zeros((4, 9, 1), np.uint8)
        wide[:, 2:6] = 8
        assert (resized(wide, (4, 4), "cut_first", "it") == 8).all(), "9 // 2 − 4 // 2 = 2, as in the notebook"
        assert resized(wide, (2, 3), "cut_first", "it").dtype == np.uint8


class TestAutoencode:
    def test_what_the_model_gives(self, model, clip):
        steps = []
        found = perceivers.autoencode(model, clip, chunk=50, advance=lambda *step: steps.append(step))
        frames = read_clip(clip, 3, 4, 25.0, 0.0)
        sample = {"image": resized(frames, (8, 8), "cut_first", "it"), "audio": str(clip)}
        with torch.no_grad():
            latents = model.encode(sample)
            whole = model.decode(latents)
        np.testing.assert_array_equal(found.given["image"], sample["image"])
        np.testing.assert_allclose(found.again["image"], whole["image"][0] * 255, atol=1e-3)
        np.testing.assert_allclose(found.again["audio"], whole["audio"][0], atol=1e-5)
        assert list(found.guesses["label"][0].values()) == pytest.approx(
            sorted(whole["label"][0].softmax(-1).tolist())[::-1]
        )
        assert found.rates == {"audio": 2000.0, "image": 25.0}
        assert found.numbers == (6 * 16, 4 * 8 * 8 * 3 + 320)
        error = np.square(found.again["image"] - found.given["image"].astype(float)).mean()
        assert found.psnr["image"] == pytest.approx(10 * np.log10(255**2 / error), rel=1e-4)
        assert [done for name, done, _ in steps if name == "image"] == [48, 64, 112, 128, 176, 192, 240, 256]

    def test_encoded_once(self, model, clip, monkeypatch):
        calls = []
        encode = model.encode
        monkeypatch.setattr(model, "encode", lambda *given: calls.append(1) or encode(*given))
        perceivers.autoencode(model, clip, chunk=7)
        assert len(calls) == 1

    def test_a_sound_and_frames_of_their_own(self, model):
        found = perceivers.autoencode(model, FRAMES, TONE[:2000].astype(np.float32))
        assert brightness(found.given["image"]) == [0, 1, 2, 3]
        assert len(found.given["audio"]) == 320, "an array without a rate is at the input's"
        later = perceivers.autoencode(model, FRAMES, {"values": TONE, "rate": RATE}, start=0.4)
        assert brightness(later.given["image"]) == [10, 11, 12, 13]

    def test_clip_behind_clip(self, model, clip):
        with pytest.warns(UserWarning, match="there is room for 7 of 100 whole clips"):
            found = perceivers.autoencode(model, clip, clips=100)
        assert found.given["image"].shape == (28, 8, 8, 3), "30 frames hold seven whole clips"
        assert brightness(found.given["image"]) == list(range(28))
        assert len(found.guesses["label"]) == 7
        one = perceivers.autoencode(model, clip, start=0.16)
        np.testing.assert_allclose(found.again["image"][4:8], one.again["image"], atol=1e-3)

    def test_a_short_video(self, model):
        with (
            pytest.warns(UserWarning, match="there is no sound at that time"),
            pytest.warns(UserWarning, match="the video has 2 of the 4 frames that the model reads"),
        ):
            found = perceivers.autoencode(model, FRAMES[:2])
        assert found.given["image"].shape == found.again["image"].shape == (2, 8, 8, 3)
        assert "audio" not in found.again

    def test_errors(self, model, clip):
        with pytest.raises(DataError, match="the video shows nothing at 9 s"):
            perceivers.autoencode(model, clip, start=9.0)
        for wrong in ({"clips": 0}, {"clips": 1.5}, {"start": float("nan")}, {"start": "1"}, {"start": -1}):
            with pytest.raises(DataError, match="wanted a second from 0 on and at least one clip"):
                perceivers.autoencode(model, clip, **wrong)
        twice = spec()
        twice["outputs"]["small"] = {**twice["outputs"]["image"]}
        with pytest.raises(ModelError, match="outputs 'image' and 'small' both give 'image' back"):
            perceivers.autoencode(perceivers.build(twice, seed=0), clip)
        data = spec()
        data["outputs"]["image"]["input"] = None
        with pytest.raises(ModelError, match="a grid output that names it"):
            perceivers.autoencode(perceivers.build(data, seed=0), clip)

    def test_other_ways_read_the_same_frames(self, model):
        """At the input's rate, whatever the file's."""
        fast = media.mp4_bytes(FRAMES[:20], rate=50)
        with pytest.warns(UserWarning, match="no sound"):
            found = perceivers.autoencode(model, fast)
        assert brightness(found.given["image"]) == [0, 2, 4, 6]
        np.testing.assert_array_equal(model.spec.inputs["image"].parse(fast).values, found.given["image"])

    def test_without_a_rate_pictures_last_as_long_as_sound(self):
        data = spec()
        del data["inputs"]["image"]["rate"]
        plain = perceivers.build(data, seed=0)
        fast = media.mp4_bytes(FRAMES[:40], rate=50)
        found = perceivers.autoencode(plain, fast, {"values": TONE, "rate": RATE}, clips=3)
        # 320 samples at 2,000 a second are 4 frames at 25.
        assert found.rates["image"] == 25
        assert len(found.given["image"]) / 25 == len(found.given["audio"]) / 2000
        assert brightness(found.given["image"]) == list(range(0, 24, 2))

    def test_the_model_stays_in_its_mode_and_unknown_pixels_count_neither_way(self, tmp_path):
        learning = perceivers.build(spec(), seed=0).train()
        holed = FRAMES[:4].astype(np.float32)
        holed[1, 5, 8] = np.nan
        found = perceivers.autoencode(learning, holed, TONE[:2000].astype(np.float32))
        assert learning.training
        assert np.isfinite(found.psnr["image"])
        perceivers.write_clips(found, tmp_path / "again")


class TestFiles:
    def test_as_files(self, model, clip, tmp_path):
        found = perceivers.autoencode(model, clip)
        files = perceivers.write_clips(found, tmp_path / "again")
        names = ["answers.json", "audio-given.wav", "audio.wav", "image.gif", "image.png"]
        assert [path.name for path in files] == names
        with Image.open(tmp_path / "again" / "image.gif") as moving:
            assert (moving.n_frames, moving.size) == (4, (16, 8))
            assert moving.info["duration"] == 40
        with Image.open(tmp_path / "again" / "image.png") as still:
            assert still.size == (4 * 12 - 4, 20)
            shown = np.asarray(still)
        np.testing.assert_array_equal(shown[:8, 12:20], found.given["image"][1])
        with wave.open(str(tmp_path / "again" / "audio-given.wav")) as heard:
            assert (heard.getframerate(), heard.getnframes()) == (2000, 320)
            samples = np.frombuffer(heard.readframes(320), "<i2") / 32767
        np.testing.assert_allclose(samples, found.given["audio"][:, 0], atol=1e-4)
        told = json.loads((tmp_path / "again" / "answers.json").read_text())
        assert set(told["guesses"]["label"][0]) == {"a", "b", "c"}
        assert told["psnr"]["image"] == found.psnr["image"]
        with pytest.raises(DataError, match="is an earlier clip, and would be replaced"):
            perceivers.write_clips(found, tmp_path / "again")
        assert perceivers.write_clips(found, tmp_path / "again", overwrite=True) == files, "an earlier one is replaced"
        (tmp_path / "again" / "holiday.png").write_bytes(b"mine")
        with pytest.raises(DataError, match="is not a clip that was given back"):
            perceivers.write_clips(found, tmp_path / "again", overwrite=True)
        assert (tmp_path / "again" / "holiday.png").read_bytes() == b"mine"

    def test_another_folder_is_left_alone(self, model, clip, tmp_path):
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(DataError, match="is not a clip that was given back"):
            perceivers.write_clips(perceivers.autoencode(model, clip), tmp_path)
