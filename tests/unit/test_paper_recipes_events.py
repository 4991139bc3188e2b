"""The papers' recipes of AudioSet and ModelNet40: what they say and build, and small forms on data made here."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from media import mp4_bytes, wav_bytes

import perceivers
from perceivers.models.build import build
from perceivers.models.presets import preset
from perceivers.training.recipe import read_recipe

# The small forms keep a few rows to look at, so that they are quick.
pytestmark = pytest.mark.filterwarnings("ignore:the validation split has")

PAPER = Path(__file__).resolve().parents[2] / "recipes" / "paper"
CLIPS = ("audioset-raw.yaml", "audioset-mel.yaml")


def small(name: str) -> list[str]:
    """The overrides of the recipe's header."""
    text = (PAPER / name).read_text(encoding="utf-8")
    found = re.search(r"^# small:((?:.*\n)(?:#            .*\n)*)", text, re.MULTILINE)
    assert found is not None, "the header has a small form"
    return shlex.split(found[1].replace("#", ""))


def parameters(name: str, output: str, classes: int, overrides: tuple[str, ...] = ()) -> int:
    spec = read_recipe(PAPER / name, overrides).model
    known = spec.outputs[output].with_labels([f"class_{n}" for n in range(classes)])
    return sum(p.numel() for p in build(spec.with_changes(outputs={output: known}), device="meta").parameters())


@pytest.mark.parametrize("sound", ["raw", "mel"])
@pytest.mark.parametrize("family", ["perceiver", "perceiver-io"])
def test_audioset_is_the_presets_of_both_papers(sound, family):
    name = f"{family}-audioset-{sound}"
    built = parameters(f"audioset-{sound}.yaml", "sounds", 527, (f"model.preset={name}",))
    assert built == preset(name).parameters


@pytest.mark.parametrize("name", CLIPS)
def test_audioset_trains_as_the_paper_says(name):
    training = read_recipe(PAPER / name).training
    assert (training.epochs, training.optimiser, training.lr) == (100, "lamb", 4e-3)
    assert training.input_dropout == {"video": 0.3}


def test_modelnet40_is_the_preset_and_trains_as_the_paper_says():
    assert parameters("modelnet40.yaml", "label", 40) == preset("perceiver-modelnet40").parameters
    training = read_recipe(PAPER / "modelnet40.yaml").training
    assert (training.steps, training.batch_size, training.optimiser, training.lr) == (50_000, 512, "lamb", 1e-3)
    assert training.schedule.kind == "constant"
    assert training.augment["points"].scaling == (0.99, 1.01)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips with a tone, a flicker, both or neither."""
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    lines = ["audio,video,sounds"]
    for row in range(60):
        tone, flicker = row % 2, row // 2 % 2
        samples = 0.5 * tone * np.sin(np.arange(1024)) + 0.01 * random.normal(size=1024)
        frames = np.full((4, 16, 16, 3), 60, np.uint8)
        frames[::2] += np.uint8(120 * flicker)
        (folder / f"{row}.wav").write_bytes(wav_bytes(samples))
        (folder / f"{row}.mp4").write_bytes(mp4_bytes(frames))
        names = "|".join(name for name, there in (("tone", tone), ("flicker", flicker), ("any", 1)) if there)
        lines.append(f"{row}.wav,{row}.mp4,{names}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.filterwarnings("ignore:.*in training the input audio never went missing")  # the paper drops only videos
@pytest.mark.parametrize("name", CLIPS)
def test_the_small_form_of_audioset_runs(clips, name, tmp_path):
    shutil.copy(PAPER / name, clips / name)
    splits = "data.splits={kind: fraction, validation: 0.1, test: 0.2}"
    overrides = [*small(name), splits]
    run = perceivers.train(clips / name, overrides=overrides, out=tmp_path / "run", quiet=True)
    assert 0 <= perceivers.evaluate(run.run, quiet=True)["scores"]["sounds"]["map"] <= 1
    predictor = perceivers.Predictor(tmp_path / "run")
    whole = predictor({"audio": clips / "1.wav", "video": clips / "1.mp4"})
    assert set(whole["sounds_probabilities"]) == {"any", "flicker", "tone"}
    heard = predictor({"video": None, "audio": clips / "1.wav"})
    assert heard["sounds_probabilities"] != whole["sounds_probabilities"]


def test_the_small_form_of_modelnet40_learns(tmp_path):
    random = np.random.default_rng(0)
    lines = ["points,label,split"]
    for row in range(160):
        kind = ("rod", "disc")[row % 2]
        points = random.normal(size=(80, 3)) * ([1, 0.05, 0.05] if kind == "rod" else [1, 1, 0.05])
        np.save(tmp_path / f"{row}.npy", points.astype(np.float32))
        lines.append(f"{row}.npy,{kind},{('train', 'train', 'test', 'validation')[row // 2 % 4]}")
    (tmp_path / "shapes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copy(PAPER / "modelnet40.yaml", tmp_path / "modelnet40.yaml")
    run = perceivers.train(
        tmp_path / "modelnet40.yaml", overrides=small("modelnet40.yaml"), out=tmp_path / "run", quiet=True
    )
    assert perceivers.evaluate(run.run, quiet=True)["scores"]["label"]["accuracy"] > 0.8
    assert perceivers.Predictor(tmp_path / "run")({"points": tmp_path / "0.npy"})["label"] == "rod"
