"""Sounds and videos all the way: tables and class folders of files, drafted, trained, scored and predicted."""

from pathlib import Path

import media
import numpy as np
import toys

import perceivers

TONES = {"low": 300.0, "middle": 900.0, "high": 2500.0}
WAYS = ("left", "right")


def tone(hertz: float, seed: int) -> np.ndarray:
    """Half a second at 8 kHz, of any phase and loudness, in noise."""
    random = np.random.default_rng(seed)
    steps = np.arange(4000) / 8000
    wave = np.sin(2 * np.pi * (hertz * random.uniform(0.95, 1.05) * steps + random.random()))
    return random.uniform(0.1, 0.8) * wave + random.normal(0, 0.05, 4000)


def moving(way: str, seed: int) -> np.ndarray:
    """Four frames of a bright square that goes one way; any single frame tells nothing."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 60, (4, 16, 16, 3))
    top, left = random.integers(0, 12), random.integers(0, 12)
    for n in range(4):
        place = (left + (3 if way == "right" else -3) * n) % 16
        frames[n, top : top + 4, np.arange(place, place + 4) % 16] += 180
    return frames.astype(np.uint8)


def write_sounds(folder: Path, count: int) -> Path:
    for label, hertz in TONES.items():
        (folder / label).mkdir(parents=True)
        for n in range(count):
            (folder / label / f"{n}.wav").write_bytes(media.wav_bytes(tone(hertz, 1000 * len(label) + n)))
    return folder


def test_tones_in_class_folders_are_learned_from_a_drafted_recipe(tmp_path):
    folder = write_sounds(tmp_path / "tones", 24)
    recipe = perceivers.init(folder, out=tmp_path / "recipe.yaml")
    overrides = ["training.epochs=null", "training.steps=40", "training.threads=1", "training.lr=0.003"]
    perceivers.train(recipe, out=tmp_path / "run", overrides=overrides, quiet=True)
    scores = perceivers.evaluate(tmp_path / "run", quiet=True)
    assert scores["scores"]["label"]["accuracy"] >= 0.9
    files = [folder / label / "0.wav" for label in TONES]
    assert [answer["label"] for answer in perceivers.predict(tmp_path / "run", files)] == list(TONES)


def test_a_file_that_cannot_be_read_is_a_row_with_an_error(tmp_path):
    table = [{"sound": f"{n}.wav", "label": "ab"[n % 2], "split": ("train", "validation")[n >= 8]} for n in range(18)]
    for row in table:
        (tmp_path / row["sound"]).write_bytes(media.wav_bytes(tone(300 if row["label"] == "a" else 2500, 7)))
    toys.write_csv(tmp_path / "sounds.csv", table)
    model = {
        "inputs": {
            "sound": {"kind": "audio", "samples": 4000, "rate": 8000, "lift": {"kind": "patches", "size": [40]}}
        },
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"label": {"kind": "category"}},
    }
    data = {"source": "sounds.csv", "splits": {"kind": "column", "column": "split"}}
    training = {"steps": 2, "batch_size": 4, "threads": 1}
    perceivers.train(
        {"model": model, "data": data, "training": training}, out=tmp_path / "run", base=tmp_path, quiet=True
    )
    (tmp_path / "bad.wav").write_bytes(media.wav_bytes(np.zeros(4000), rate=44_100))
    good, bad = perceivers.predict(tmp_path / "run", [tmp_path / "0.wav", tmp_path / "bad.wav"])
    assert good["label"] in "ab"
    assert "is at 44100 Hz, but the input takes 8000 Hz" in bad["error"]


def test_a_way_of_moving_is_learned(tmp_path):
    """From arrays in .npy files, through a table; a single frame would not tell."""
    table = []
    for n in range(240):
        way = WAYS[n % 2]
        np.save(tmp_path / f"{n}.npy", moving(way, n))
        split = "train" if n < 160 else "validation" if n < 200 else "test"
        table.append({"clip": f"{n}.npy", "way": way, "split": split})
    toys.write_csv(tmp_path / "clips.csv", table)
    model = {
        "inputs": {
            "clip": {
                "kind": "video",
                "size": [4, 16, 16],
                "lift": {"kind": "patches", "size": [4, 4, 4]},
                "position": {"kind": "fourier", "bands": 4},
            }
        },
        "latents": {"count": 8, "channels": 32},
        "encoder": {"layers": 2, "self_attend": {"heads": 4}},
        "outputs": {"way": {"kind": "category"}},
    }
    data = {"source": "clips.csv", "splits": {"kind": "column", "column": "split"}}
    training = {"steps": 80, "batch_size": 32, "lr": 0.003, "threads": 1, "evaluate_every": 40}
    perceivers.train(
        {"model": model, "data": data, "training": training}, out=tmp_path / "run", base=tmp_path, quiet=True
    )
    scores = perceivers.evaluate(tmp_path / "run", quiet=True)
    assert scores["scores"]["way"]["accuracy"] >= 0.9
    video = tmp_path / "new.mp4"
    video.write_bytes(media.mp4_bytes(moving("left", 1000)))
    (answer,) = perceivers.predict(tmp_path / "run", [video])
    assert answer["way"] == "left"
