"""Bad sounds and videos: one `DataError` each that says what was given, what was wanted and the fix."""

import contextlib
import io
import struct
from typing import Any

import media
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.errors import DataError, MissingFileError
from perceivers.inputs.audio import AudioInput
from perceivers.inputs.base import InputSettings
from perceivers.inputs.decode import MOST_PIXELS
from perceivers.inputs.decode_audio import sound_header
from perceivers.inputs.decode_video import video_header
from perceivers.inputs.video import VideoInput

SOUND = AudioInput(samples=64, rate=8000)
VIDEO = VideoInput(size=(4, 32, 48))
TONE = np.sin(np.arange(64) / 3) * 0.5
CLIP = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)


def refused(kind: InputSettings, value: Any, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        kind.parse(value)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# -- sounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (np.zeros((64, 2)), ["2 channels, but the input takes 1", "Set channels: 2", "mix: true"]),
        (np.zeros((1, 64)), ["64 channels, but the input takes 1", "Transpose it: samples come first"]),
        (np.zeros((4, 4, 4)), ["shape (4, 4, 4); wanted (samples,) or (samples, channels)"]),
        (
            np.zeros(65),
            ["65 samples, but the input takes 64 (0.008 s at 8000 Hz)", "overflow: truncate", "raise samples"],
        ),
        (np.zeros(9), ["has 9 samples, but a patch needs 16", "leave its cell empty"]),
        (np.zeros(0), ["has no samples"]),
        (np.full(64, 300.0), ["numbers up to 300", "between -1 and 1", "int16"]),
        (np.zeros(64, np.int64), ["holds int64", "between -1 and 1, or int16, int32 or uint8"]),
        (np.array(["a"]), ["holds <U1"]),
        ([[1, 2], [3]], ["not a rectangle of numbers"]),
        ({"values": np.zeros(64), "rate": 16_000}, ["at 16000 Hz, but the input takes 8000 Hz", "set resample: true"]),
        ({"values": np.zeros(64), "rate": "fast"}, ["'fast' is not a number"]),
        ({"values": np.zeros(64), "rate": float("nan")}, ["at nan Hz"]),
        ({"sound": 1}, ["needs 'values', 'bytes' or 'path'; got sound"]),
        (None, ["shape (); wanted (samples,)"]),
        ("gone.wav", ["sound file 'gone.wav' does not exist."]),
        (b"", ["a sound of 0 bytes is empty"]),
    ],
)
def test_sounds(value, parts):
    refused(SOUND, value, *parts)


def test_the_rate_and_length_of_a_file(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(media.wav_bytes(TONE, rate=44_100))
    refused(SOUND, path, str(path), "at 44100 Hz, but the input takes 8000 Hz", "set resample: true", "change its rate")
    refused(
        SOUND.with_changes(resample=True), media.wav_bytes(np.zeros(1000), 16_000), "has 1,000 samples", "takes 128"
    )
    path.write_bytes(media.wav_bytes(np.zeros(100)))
    refused(SOUND, path, str(path), "has 100 samples, but the input takes 64")
    with pytest.raises(MissingFileError):
        SOUND.parse(tmp_path / "gone.wav")


def test_no_rate_is_not_resampled_to():
    resampled = SOUND.with_changes(resample=True)
    for rate in (0, -1, float("inf")):
        refused(resampled, {"values": TONE, "rate": rate}, f"at {rate:g} Hz, but the input takes 8000 Hz")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("data", [media.wav_bytes(TONE), media.float_wav_bytes(TONE)], ids=["plain", "float"])
def test_truncated_files(data, share, tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(data[: int(len(data) * share)])
    refused(SOUND, path, str(path), "truncated")


@pytest.mark.parametrize("data", [b"hello, world", b"RIFF\0\0\0\0WAVE", bytes(100), b"\x93NUMPY\x01\x00"])
def test_files_that_are_no_sound(data, tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(data)
    refused(SOUND, path, str(path), "truncated or damaged")
    with pytest.raises(DataError):
        sound_header(path)


def test_a_sound_of_too_many_bits():
    data = bytearray(media.wav_bytes(TONE, bits=32))
    place = data.index(b"fmt ") + 8
    struct.pack_into("<HH", data, place + 12, 8, 64)
    refused(SOUND, bytes(data), "samples of 64 bits; at most 32 are read")


def test_nan_where_it_is_an_error():
    sound = TONE.copy()
    sound[5:7] = np.nan
    refused(SOUND.with_changes(nan="error"), sound, "the sound holds 2 NaN or infinite elements", "set nan: mask")


def test_an_array_has_no_rate(tmp_path):
    np.save(tmp_path / "x.npy", TONE)
    with pytest.raises(DataError, match="it says nothing of its rate"):
        sound_header(tmp_path / "x.npy")


@settings(max_examples=200)
@given(
    st.sampled_from([media.wav_bytes(TONE, bits=b) for b in (8, 16, 24)] + [media.float_wav_bytes(TONE)]),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 255)), max_size=5),
    st.floats(0, 1),
)
def test_damaged_sounds_are_a_sound_or_one_error(data, changes, share):
    damaged = bytearray(data)
    for place, byte in changes:
        damaged[place] = byte
    with contextlib.suppress(DataError):
        sample = SOUND.with_changes(overflow="truncate", mix=True, resample=True).parse(
            bytes(damaged[: int(len(data) * share) + 1])
        )
        assert sample.values.shape == (64, 1)


# -- videos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (CLIP[..., :2], ["2 channels, but the input takes 3", "Set channels: 2"]),
        (CLIP[..., 0], ["1 channels, but the input takes 3"]),
        (CLIP[0, 0], ["shape (48, 3); wanted (frames, height, width, 3)"]),
        (CLIP[:, :16], ["the video is 16×48, but the input takes 32×48", "Set resize: crop"]),
        (np.zeros((5, 32, 48, 3)), ["has 5 frames, but the input takes 4", "overflow: truncate, middle or spread"]),
        (np.zeros((0, 32, 48, 3)), ["shape (0, 32, 48, 3): there are no pixels"]),
        (np.array([["a"]]), ["holds <U1, not numbers"]),
        ([[1, 2], [3]], ["not a rectangle of numbers"]),
        (None, ["holds object, not numbers"]),
        ({"a": 1}, ["holds object, not numbers"]),
        ("gone.mp4", ["video file 'gone.mp4' does not exist."]),
        (b"", ["a video of 0 bytes is empty"]),
    ],
)
def test_videos(value, parts):
    refused(VIDEO, value, *parts)


def test_too_few_frames_for_a_patch():
    kind = VIDEO.with_changes(lift={"kind": "patches", "size": [4, 8, 8]})
    refused(kind, CLIP[:1], "has 1 frame, but 4 of them are read together", "change the lift's size")


def test_files_of_another_size_or_length(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(media.mp4_bytes(CLIP[:, :16]))
    refused(VIDEO, path, "the video is 16×48, but the input takes 32×48")
    path.write_bytes(media.mp4_bytes(np.concatenate([CLIP, CLIP])))
    refused(VIDEO, path, str(path), "has more than 4 frames, but the input takes 4")
    refused(VIDEO.with_changes(channels=4), path, "1 or 3 channels, but the input takes 4")


@pytest.mark.parametrize("form", ["mp4", "index first", "avi"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.95])
def test_a_truncated_video(form, share, tmp_path):
    data = media.mp4_bytes(CLIP, "mp4" if form == "index first" else form, index_first=form == "index first")
    path = tmp_path / "x.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    refused(VIDEO, path, str(path), "truncated or damaged")


def test_a_matroska_file_that_ends_early_is_a_shorter_video():
    """It says nowhere how many frames there should be."""
    data = media.mp4_bytes(CLIP, form="matroska")
    sample = VIDEO.parse(data[: len(data) // 2])
    assert 0 < sample.padding < sample.mask.size
    refused(VIDEO, data[: len(data) // 20], "truncated or damaged")


@pytest.mark.parametrize("data", [b"hello, world", b"\0\0\0\x18ftypmp42", bytes(1000), media.wav_bytes(np.zeros(4000))])
def test_files_that_are_no_video(data, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(data)
    refused(VIDEO, path, str(path))
    with pytest.raises(DataError):
        video_header(path)


def test_lists_of_other_files_are_not_opened(tmp_path):
    """A play list or a script names files and addresses, which FFmpeg would open."""
    (tmp_path / "x.mp4").write_bytes(media.mp4_bytes(CLIP))
    for name, text in (
        ("x.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nx.mp4\n#EXT-X-ENDLIST\n"),
        ("x.ffconcat", "ffconcat version 1.0\nfile x.mp4\n"),
    ):
        (tmp_path / name).write_text(text)
        refused(VIDEO, tmp_path / name, "no video, or truncated or damaged")


def test_a_sound_in_a_container_is_no_video():
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused(VIDEO, buffer.getvalue(), "holds no video")


def test_frames_too_large(monkeypatch):
    monkeypatch.setattr("perceivers.inputs.decode_video.MOST_PIXELS", 1000)
    refused(VIDEO, media.mp4_bytes(CLIP), "frames of 1,536 pixels; the most is 1,000")
    assert MOST_PIXELS > 1000


def test_nan_in_a_video_where_it_is_an_error():
    clip = CLIP.astype(np.float32)
    clip[0, 0, 0] = np.nan
    refused(VIDEO.with_changes(nan="error"), clip, "the video holds 1 NaN or infinite elements", "set nan: mask")


MP4 = media.mp4_bytes(CLIP)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6), st.floats(0, 1))
def test_damaged_videos_are_a_video_or_one_error(changes, share):
    damaged = bytearray(MP4)
    for place, byte in changes:
        damaged[int(place * len(MP4))] = byte
    with contextlib.suppress(DataError):
        sample = VIDEO.with_changes(resize="stretch", overflow="spread").parse(
            bytes(damaged[: int(len(MP4) * share) + 1])
        )
        assert sample.values.shape == (4, 32, 48, 3)


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.binary(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["values", "array", "rate", "bytes", "path"]), inner),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", [SOUND, SOUND.with_changes(resample=True), VIDEO], ids=["sound", "resampled", "video"])
@given(value=ANYTHING)
def test_anything_at_all_is_read_or_refused_with_our_error(kind, value):
    with contextlib.suppress(DataError):
        kind.parse(value)
