"""Without an optional package: which one, what for, and the line that installs it; never a traceback, never another."""

import subprocess
import sys
from typing import Any

import media
import numpy as np
import pytest
import toys

from perceivers.data.files import read_table
from perceivers.data.named import named
from perceivers.errors import PerceiversError
from perceivers.predictor import predict
from perceivers.training.evaluate import evaluate
from perceivers.training.journal import draw_curves
from perceivers.training.run import train


def block(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if `package` were not installed, though other tests have imported it."""
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)


def said(package: str, extra: str, purpose: str) -> str:
    return (
        f"{purpose} needs the package '{package}', which is not installed. Install it with: "
        f"pip install 'perceivers[{extra}]'"
    )


def message(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(PerceiversError) as caught:
        call(*arguments, **named)
    return str(caught.value)


@pytest.mark.parametrize("package", ["lightning", "torchmetrics", "tensorboard", "matplotlib"])
def test_training_says_so_before_it_reads_anything(trained, tmp_path, monkeypatch, package):
    block(monkeypatch, package)
    monkeypatch.setattr("perceivers.training.run.prepare", lambda *a: pytest.fail("asked for first"))
    found = message(train, toys.recipe(), out=tmp_path / "run", base=trained, quiet=True)
    assert found == said(package, "train", "training")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["torchmetrics", "matplotlib"])
def test_training_in_a_process_of_its_own(trained, tmp_path, package):
    """Where the engine itself may trip over what is missing, which is then not the engine."""
    code = f"import sys; sys.modules[{package!r}] = None; from perceivers.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", str(trained / "toy.yaml"), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, f"error: {said(package, 'train', 'training')}\n")


@pytest.mark.parametrize(
    ("package", "purpose"), [("torchmetrics", "scoring"), ("matplotlib", "drawing a confusion matrix")]
)
def test_evaluation(trained, tmp_path, monkeypatch, package, purpose):
    block(monkeypatch, package)
    assert message(evaluate, trained / "run", out=tmp_path / "e", quiet=True) == said(package, "train", purpose)
    assert not (tmp_path / "e").exists()


def test_scores_of_numbers(monkeypatch):
    from perceivers.outputs.base import Sizes
    from perceivers.outputs.number import NumberOutput

    head = NumberOutput(mean=(0.0,), std=(1.0,)).build(Sizes(4, 4, False, {}))
    block(monkeypatch, "torchmetrics")
    assert message(head.metrics) == said("torchmetrics", "train", "scoring")


def test_curves(tmp_path, monkeypatch):
    block(monkeypatch, "matplotlib")
    assert message(draw_curves, tmp_path) == said("matplotlib", "train", "drawing curves")


@pytest.mark.parametrize(
    ("package", "name", "install", "purpose"),
    [("PIL", "x.png", "pillow", "reading images"), ("tifffile", "x.tif", "tifffile", "reading TIFF images")],
)
def test_files(trained, tmp_path, monkeypatch, package, name, install, purpose):
    """A reader that is missing is no fault of a row."""
    toys.write_picture(tmp_path / name, "dark", 0)
    block(monkeypatch, package)
    assert message(predict, trained / "run", [tmp_path / name]) == said(install, "data", purpose)


def test_sounds_and_videos(tmp_path, monkeypatch):
    from perceivers.inputs.audio import AudioInput
    from perceivers.inputs.video import VideoInput

    sound, video = AudioInput(samples=64, rate=8000, resample=True), VideoInput(size=(2, 8, 8))
    clip = media.mp4_bytes(np.zeros((2, 8, 8, 3), np.uint8))
    for package in ("soundfile", "soxr", "av"):
        block(monkeypatch, package)
    assert sound.parse(media.wav_bytes(np.zeros(64))).mask is None, "plain WAV files need nothing"
    needed = said("soundfile", "audio", "reading sound that is no plain WAV")
    assert message(sound.parse, media.float_wav_bytes(np.zeros(64))) == needed
    found = message(sound.parse, media.wav_bytes(np.zeros(64), rate=16_000))
    assert found == said("soxr", "audio", "resampling sound")
    assert message(video.parse, clip) == said("av", "video", "reading video files")


def test_tables_and_data_sets(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    block(monkeypatch, "pyarrow")
    assert said("pyarrow", "data", "")[1:] in message(read_table, tmp_path / "x.parquet")
    block(monkeypatch, "sklearn")
    assert message(named("digits").load) == said("scikit-learn", "data", "the data set 'digits'")


def test_augmentation(trained, tmp_path, monkeypatch):
    block(monkeypatch, "torchvision")
    augment = {"photo": {"kind": "image", "erase": 0.5}}
    found = message(train, toys.recipe(training__augment=augment), out=tmp_path / "run", base=trained, quiet=True)
    assert found == said("torchvision", "data", "Erasing parts of images")
