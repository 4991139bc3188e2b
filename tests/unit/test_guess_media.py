"""What `init` takes columns of sounds, videos and points for, and what it writes for them."""

import media
import numpy as np
import pytest

from perceivers.data.guess import guess_column
from perceivers.data.table import Table
from perceivers.inputs import KINDS
from perceivers.inputs.points import PointsInput
from perceivers.models.plan import plan
from perceivers.training.draft import draft_recipe


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return name


def guessed(folder, names):
    return guess_column(Table({"x": names}, "table", folder), "x")


def settings(guess, rows=100):
    """What is drafted for the guess; it builds."""
    why, drafted = KINDS[guess.kind].drafted(guess.why, guess.facts, rows)
    plan({"inputs": {"x": drafted}, "outputs": {"y": {"kind": "number"}}})
    return why, drafted


def test_sounds_of_one_sort(tmp_path):
    names = [written(tmp_path, f"{n}.wav", media.wav_bytes(np.zeros(4000 + 100 * n))) for n in range(4)]
    guess = guessed(tmp_path, names)
    assert guess.kind == "audio"
    assert guess.why == "opened 4 of 4: 0.5 to 0.537 s at 8,000 Hz, 1 channel"
    _, drafted = settings(guess)
    assert (drafted["samples"], drafted["rate"], drafted["channels"]) == (4300, 8000, 1)
    assert drafted["lift"]["kind"] == "log_mel"
    assert not {"overflow", "resample", "mix"} & set(drafted)


def test_sounds_of_several_rates_and_channels(tmp_path):
    names = [written(tmp_path, f"{n}.wav", media.wav_bytes(np.zeros(8000))) for n in range(3)]
    names.append(written(tmp_path, "3.wav", media.wav_bytes(np.zeros((16_000, 2)), 16_000)))
    why, drafted = settings(guessed(tmp_path, names))
    assert (drafted["samples"], drafted["rate"], drafted["channels"]) == (8000, 8000, 1)
    assert drafted["resample"]
    assert drafted["mix"]
    kind = KINDS["audio"](**drafted)
    assert all(kind.parse(tmp_path / name).values.shape == (8000, 1) for name in names)
    assert "other rates are resampled to 8000 Hz; channels are averaged" in why


def test_long_and_short_sounds(tmp_path):
    name = written(tmp_path, "0.wav", media.wav_bytes(np.zeros(12_000), 1000))
    why, drafted = settings(guessed(tmp_path, [name] * 2))
    assert (drafted["samples"], drafted["overflow"]) == (10_000, "truncate")
    assert "only the first 10 seconds are read" in why
    name = written(tmp_path, "1.wav", media.wav_bytes(np.zeros(100)))
    _, drafted = settings(guessed(tmp_path, [name] * 2))
    assert drafted["lift"] == {"kind": "patches", "size": [4]}


def test_videos_in_files(tmp_path):
    small = media.mp4_bytes(np.zeros((5, 32, 48, 3), np.uint8))
    names = [written(tmp_path, f"{n}.mp4", small) for n in range(2)]
    _, drafted = settings(guessed(tmp_path, names))
    assert (drafted["kind"], drafted["size"], drafted["channels"]) == ("video", [5, 32, 48], 3)
    assert drafted["lift"] == {"kind": "patches", "size": [1, 8, 8]}
    assert not {"overflow", "resize"} & set(drafted)
    names.append(written(tmp_path, "2.mp4", media.mp4_bytes(np.zeros((20, 96, 144, 3), np.uint8))))
    why, drafted = settings(guessed(tmp_path, names))
    assert (drafted["overflow"], drafted["resize"]) == ("spread", "crop")
    assert "frames spread over each" in why
    kind = KINDS["video"](**drafted)
    assert all(kind.parse(tmp_path / name).values.shape[1:] == (*kind.size[1:], 3) for name in names)


@pytest.mark.parametrize("as_files", [True, False])
def test_videos_in_arrays(tmp_path, as_files):
    clip = np.zeros((20, 10, 12, 2), np.uint8)
    np.save(tmp_path / "x.npy", clip)
    guess = guessed(tmp_path, ["x.npy"] * 3 if as_files else [clip] * 3)
    assert guess.kind == "video"
    _, drafted = settings(guess)
    assert (drafted["size"], drafted["channels"], drafted["overflow"]) == ([16, 10, 12], 2, "spread")


@pytest.mark.parametrize("name", ["x.wav", "x.mp4"])
def test_files_that_cannot_be_opened(tmp_path, name):
    written(tmp_path, name, b"nothing")
    guess = guessed(tmp_path, [name] * 4)
    assert guess.kind == "skip"
    assert "none of 4 could be opened (first: x." in guess.why


def test_clouds_of_points(tmp_path):
    for number in range(4):
        rows = np.arange(30.0).reshape(5 * (number + 1) if number < 2 else 5, -1)[:, :3]
        (tmp_path / f"{number}.xyz").write_text("\n".join(" ".join(map(str, row)) for row in rows))
    guess = guessed(tmp_path, [f"{n}.xyz" for n in range(4)])
    assert guess.kind == "points"
    assert guess.why == "opened 4 of 4: clouds of 5 to 10 points, 3 numbers each"
    assert settings(guess)[1] == {
        "kind": "points",
        "count": 10,
        "axes": 3,
        "overflow": "spread",
        "position": {"kind": "fourier", "bands": 16, "resolution": [64, 64, 64]},
    }
    (tmp_path / "4.ply").write_text("no such thing")
    assert guessed(tmp_path, ["4.ply"] * 4).why.startswith("looks like points, but")


def test_clouds_in_arrays(tmp_path):
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(5 + number, 3)))
    guess = guessed(tmp_path, [f"{n}.npy" for n in range(4)])
    assert guess.kind == "points"
    assert guess.why.startswith("opened 4 of 4: clouds of 5 to 8 points, 3 numbers each")
    assert "write kind: series" in guess.why
    assert settings(guess)[1]["count"] == 8
    alike = guessed(tmp_path, ["0.npy"] * 3)
    assert alike.kind == "series"
    assert "write kind: points" in alike.why
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", np.zeros((5 + number, 2)))
    assert guessed(tmp_path, ["0.npy", "1.npy"]).kind == "series"


def test_class_folders_of_clouds_become_a_recipe(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / "clouds" / ("ball" if number % 2 else "rod") / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, draw.normal(size=(6 + number, 3)).astype(np.float32))
    text = draft_recipe(str(tmp_path / "clouds"))
    assert "kind: points" in text
    assert "kind: category" in text


def test_large_clouds_are_thinned():
    why, drafted = PointsInput.drafted("Clouds", {"count": 9000, "numbers": 6}, 100)
    assert drafted["count"] == 2048
    assert drafted["channels"] == 3
    assert "spread evenly" in why
