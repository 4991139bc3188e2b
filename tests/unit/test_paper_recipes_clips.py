"""The papers' recipes of clips and optical flow: what they say and build, and small forms on data made here."""

import re
import shlex
import shutil
from pathlib import Path

import media
import numpy as np
import pytest

import perceivers
from perceivers.models.build import build
from perceivers.models.presets import preset
from perceivers.training.recipe import read_recipe

# The small forms keep a few rows to look at, so that they are quick.
pytestmark = pytest.mark.filterwarnings("ignore:the validation split has")

PAPER = Path(__file__).resolve().parents[2] / "recipes" / "paper"
KINETICS = PAPER / "kinetics-autoencoding.yaml"
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def small(path: Path) -> list[str]:
    """The overrides of the recipe's header."""
    found = re.search(r"^# small:((?:.*\n)(?:#            .*\n)*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, "the header has a small form"
    return shlex.split(found[1].replace("#", ""))


@pytest.mark.parametrize("variant", ["", "-392", "-196"])
def test_kinetics_is_the_preset_with_as_many_latents(variant):
    name = f"perceiver-io-multimodal{variant}"
    spec = read_recipe(KINETICS, [f"model.preset={name}"]).model
    classes = [f"class_{n}" for n in range(700)]
    inputs = {**spec.inputs, "label": spec.inputs["label"].with_changes(classes={"label": classes})}
    outputs = {**spec.outputs, "label": spec.outputs["label"].with_labels(classes)}
    model = build(spec.with_changes(inputs=inputs, outputs=outputs), device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == preset(name).parameters


def test_kinetics_trains_as_the_paper_says():
    recipe = read_recipe(KINETICS)
    assert (recipe.training.batch_size, recipe.training.lr) == (1024, 1e-3)
    outputs = recipe.model.outputs
    assert {name: output.weight for name, output in outputs.items()} == {"audio": 1.0, "image": 0.03, "label": 1e-4}
    assert (outputs["audio"].sampled, outputs["image"].sampled) == (512, 512)
    assert (outputs["audio"].loss, outputs["image"].loss) == ("l1", "l1")
    assert recipe.model.encoder.masking["label"].training == 0.5
    assert recipe.model.hidden == ("label",)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of one colour that grows brighter, larger than what is read, with a tone that fits the colour."""
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    lines = ["clip,label,split"]
    for row in range(36):
        label = list(COLOURS)[row % 3]
        bright = np.linspace(0.4, 1, 6)[:, None, None, None] * random.uniform(0.8, 1)
        frames = (np.ones((6, 24, 32, 1)) * bright * np.array(COLOURS[label])).astype(np.uint8)
        sound = 0.5 * np.sin(2 * np.pi * 200 * (1 + row % 3) * np.arange(1000) / 8000)
        (folder / f"{row}.mp4").write_bytes(media.mp4_with_sound(frames, sound, frames_a_second=25))
        lines.append(f"{row}.mp4,{label},{('train', 'train', 'train', 'validation')[row // 3 % 4]}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.filterwarnings("ignore:.*in training the inputs audio, image never went missing")
@pytest.mark.filterwarnings("ignore:the sound ends within the clip")
@pytest.mark.slow
def test_the_small_form_of_kinetics_learns_to_give_clips_back(clips, tmp_path):
    shutil.copy(KINETICS, clips / KINETICS.name)
    overrides = [*small(KINETICS), "data.splits={kind: column, column: split}", "evaluation.split=validation"]
    run = perceivers.train(clips / KINETICS.name, overrides=overrides, out=tmp_path / "run", quiet=True)
    scores = perceivers.evaluate(run.run, quiet=True)["scores"]
    # Always answering the mean colour has an error of about 55.
    assert scores["image"]["mae"] < 30
    assert scores["image"]["psnr"] > 15
    assert {"psnr", "mae"} <= set(scores["audio"])
    found = perceivers.autoencode(run.model, clips / "0.mp4", chunk=100)
    assert found.again["image"].shape == (4, 16, 16, 3)
    assert found.again["image"].mean((0, 1, 2)).argmax() == 0, "red"
    assert set(found.guesses["label"][0]) == set(COLOURS)


FLOW = PAPER / "optical-flow.yaml"


def test_flow_is_the_preset_and_trains_as_the_paper_says():
    recipe = read_recipe(FLOW)
    model = build(recipe.model, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == preset("perceiver-io-flow").parameters
    training = recipe.training
    assert (training.epochs, training.batch_size, training.optimiser, training.lr) == (480, 512, "lamb", 4e-4)
    assert training.schedule.kind == "cosine"
    change = training.augment["pair"]
    assert change.plain_epochs > 0
    assert change.reverse == 0.5


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Smooth random textures that move one pixel to a side, up, down, or not at all, and how they moved both ways."""
    folder = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(0)
    lines = ["first,second,flow,backward,split"]
    for row in range(160):
        right, down = random.integers(-1, 2, 2).tolist()
        waves = random.normal(size=(6, 3)) * 25
        angles, phases = random.uniform(0, 2 * np.pi, 6), random.uniform(0, 2 * np.pi, 6)
        y, x = np.mgrid[:16, :20]

        def texture(dy: int, dx: int, waves=waves, angles=angles, phases=phases, y=y, x=x) -> np.ndarray:
            along = np.cos(angles) * (x - dx)[..., None] + np.sin(angles) * (y - dy)[..., None]
            return (127 + np.sin(along + phases) @ waves).clip(0, 255).astype(np.uint8)

        np.save(folder / f"{row}-first.npy", texture(0, 0))
        np.save(folder / f"{row}-second.npy", texture(down, right))
        for name, sign in (("flow", 1), ("backward", -1)):
            flow = np.full((16, 20, 2), [sign * right, sign * down], np.float32)
            np.save(folder / f"{row}-{name}.npy", flow)
        split = ("train", "train", "train", "train", "validation")[row % 5]
        lines.append(",".join([f"{row}-{name}.npy" for name in ("first", "second", "flow", "backward")] + [split]))
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_small_form_of_flow_learns(pairs, tmp_path):
    shutil.copy(FLOW, pairs / FLOW.name)
    overrides = [*small(FLOW), "data.splits={kind: column, column: split}", "evaluation.split=validation"]
    run = perceivers.train(pairs / FLOW.name, overrides=overrides, out=tmp_path / "run", quiet=True)
    scores = perceivers.evaluate(run.run, quiet=True)["scores"]["flow"]
    rows = [line.split(",") for line in (pairs / "pairs.csv").read_text().splitlines()[1:]]
    moved = [np.linalg.norm(np.load(pairs / row[2])[0, 0]) for row in rows if row[4] == "validation"]
    assert scores["epe"] < 0.7 * np.mean(moved), "clearly better than that nothing moves"
    first, second = np.load(pairs / "4-first.npy"), np.load(pairs / "4-second.npy")
    assert perceivers.Predictor(run.run)({"pair": [first, second]})["flow"].shape == (12, 16, 2)
