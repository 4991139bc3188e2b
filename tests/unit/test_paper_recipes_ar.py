"""Perceiver AR's recipes: what is known of each stands there, and the small form trains, scores and goes on writing."""

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import perceivers
from perceivers.models.presets import preset
from perceivers.nn.generation import Sampling
from perceivers.plain_yaml import read_yaml
from perceivers.training.recipe import read_recipe, recipe_schema

# The small forms keep a few rows to look at, so that they are quick.
pytestmark = pytest.mark.filterwarnings("ignore:the validation split has")

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "paper"
LIKELIEST = Sampling(temperature=0)
ADAM = {"optimiser": "adamw", "weight_decay": 0, "betas": (0.9, 0.999), "eps": 1e-8, "clip": 1.0}
# Name: parameters, the preset's or counted; length, latents, layers; learning rate, warm-up, batch; earliest end.
NUMBERS = {
    "ar-copy-32": (preset("perceiver-ar-copy-32").parameters, (32, 16, 1), (3e-4, 1000, 1024), 15),
    "ar-copy-131072": (preset("perceiver-ar-copy-131072").parameters, (131_072, 1024, 6), (3e-4, 1000, 4096), 65_535),
    "ar-imagenet64": (preset("perceiver-ar-imagenet64").parameters, (12_416, 1024, 60), (3e-4, 10_000, 2048), 1),
    "ar-music": (165_605_767, (4096, 2048, 12), (1e-4, 10_000, 64), 2048),
    "ar-text": (974_220_547, (4096, 1024, 60), (3e-4, 10_000, 512), 1024),
}


def small(name: str) -> list[str]:
    """The changes that the recipe's header gives for a small form."""
    lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
    return [change for line in lines if line.startswith("# small:") for change in shlex.split(line)[2:]]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_a_recipe(name):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    parameters, sizes, (lr, warmup, batch), crop = NUMBERS[name]
    model = perceivers.build(recipe.model, device="meta")
    assert sum(p.numel() for p in model.parameters()) == parameters
    (kind,), encoder, training = recipe.model.inputs.values(), recipe.model.encoder, recipe.training
    assert (kind.length, recipe.model.latents.count, encoder.layers) == sizes
    assert {key: getattr(training, key) for key in ADAM} == ADAM
    assert (training.lr, training.schedule.warmup_steps, training.batch_size) == (lr, warmup, batch)
    assert next(iter(training.augment.values())).crop == crop
    assert next(iter(recipe.model.outputs.values())).z_loss == 1e-4
    assert encoder.dropout == 0.1
    assert encoder.activation == "relu_squared"
    assert encoder.cross.widening == encoder.self_attend.widening == 4
    text = (RECIPES / f"{name}.yaml").read_text()
    assert all(f"# {part}:" in text for part in ("command", "hardware", "expect", "small"))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_recipe_is_as_the_schema_has_it(name):
    jsonschema.validate(read_yaml((RECIPES / f"{name}.yaml").read_text(), name), recipe_schema())


def test_what_is_of_one_recipe_alone():
    image = read_recipe(RECIPES / "ar-imagenet64.yaml")
    assert image.model.inputs["tokens"].image == (64, 64, 3)
    assert image.model.inputs["tokens"].position.sizes == (66, 66, 5)
    assert image.training.steps - image.training.schedule.flat == 50_000
    music = read_recipe(RECIPES / "ar-music.yaml").model
    assert (music.encoder.cross.heads, music.encoder.self_attend.heads, music.encoder.token_dropout) == (1, 4, 0.7)
    assert music.inputs["events"].position.fraction == 0.25


def ran(name: str, folder: Path, *more: str) -> tuple[Any, dict[str, float], list[dict[str, Any]]]:
    """The run of the small form, its test scores, and its looks at the validation split."""
    run = perceivers.train(
        RECIPES / f"{name}.yaml", out=folder / "run", overrides=[*small(name), *more], quiet=True, base=folder
    )
    scores = perceivers.evaluate(folder / "run", quiet=True)["scores"]["next"]
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return run, scores, [line for line in lines if line["group"] == "validation"]


FEW = ("training.steps=40", "training.schedule.warmup_steps=10", "training.evaluate_every=20", "data.splits.train=512")


def test_copying_is_learned_a_little_in_few_steps(tmp_path):
    _, scores, looks = ran("ar-copy-32", tmp_path, *FEW)
    assert looks[-1]["loss"] < looks[0]["loss"]
    assert scores["bits_per_token"] < 8.3


@pytest.mark.slow
def test_copying_is_learned(tmp_path):
    _, scores, _ = ran("ar-copy-32", tmp_path)
    assert scores["accuracy"] > 0.99
    model = perceivers.load(tmp_path / "run" / "model")
    half = np.frombuffer(b"perceivers read any elements...", np.uint8)
    (ids,) = model.generate([half], 31, LIKELIEST, cache=False)
    assert bytes(token - 3 for token in ids) == half.tobytes()[::-1]


def test_a_context_of_131072_takes_a_step_and_says_a_token(tmp_path):
    run, scores, _ = ran("ar-copy-131072", tmp_path)
    assert run.steps == 1
    assert np.isfinite(scores["bits_per_token"])
    model = perceivers.load(tmp_path / "run" / "model")
    (ids,) = model.generate([np.arange(131_071).astype(np.uint8)], 1, LIKELIEST)
    assert len(ids) <= 1


def test_images_from_a_table_of_bytes(tmp_path):
    random = np.random.default_rng(0)
    # Grey gradients, so that what comes next is much like what came before.
    pixels = np.linspace(0, 200, 36).reshape(6, 6, 1) + random.integers(0, 40, (64, 1, 1, 1))
    images = np.broadcast_to(pixels, (64, 6, 6, 3)).astype(np.uint8)
    (tmp_path / "imagenet64").mkdir()
    for split, part in (("train", images[:48]), ("validation", images[48:])):
        table = pa.table({"tokens": pa.array([image.tobytes() for image in part], pa.binary())})
        pq.write_table(table, tmp_path / "imagenet64" / f"{split}.parquet")
    _, scores, _ = ran("ar-imagenet64", tmp_path)
    assert scores["bits_per_token"] < 7.5
    model = perceivers.load(tmp_path / "run" / "model")
    (ids,) = model.generate([images[0].tobytes()[:90]], 18, seed=0)
    assert len(ids) == 18, "an image has no end before its last byte"


def write_lines(folder: Path, column: str, rows: list[Any]) -> None:
    folder.mkdir()
    for split, part in (("train", rows[:-8]), ("validation", rows[-8:-4]), ("test", rows[-4:])):
        lines = [json.dumps({column: row}) for row in part]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def test_music_as_events(tmp_path):
    random = np.random.default_rng(0)
    # A scale that goes up from some note: note on, a shift of time, note off.
    rows = [
        [event for step in range(16) for event in (3 + start + step, 280, 131 + start + step)]
        for start in random.integers(30, 60, 40).tolist()
    ]
    write_lines(tmp_path / "maestro", "events", rows)
    _, scores, looks = ran("ar-music", tmp_path, "training.evaluate_every=50")
    assert looks[-1]["loss"] < looks[0]["loss"]
    assert scores["bits_per_token"] < 6
    answers = perceivers.predict(tmp_path / "run", tmp_path / "maestro" / "test.jsonl")
    assert {"next", "next_id", "next_probability"} <= answers[0].keys()


def test_text_as_bytes(tmp_path):
    words = ["one", "two", "three", "four", "five", "six"]
    random = np.random.default_rng(0)
    rows = [" ".join(random.choice(words, 18))[:90] for _ in range(60)]
    write_lines(tmp_path / "pg19", "text", rows)
    _, scores, looks = ran("ar-text", tmp_path, "training.evaluate_every=50")
    assert looks[-1]["loss"] < looks[0]["loss"]
    assert scores["bits_per_token"] < 4
    model = perceivers.load(tmp_path / "run" / "model")
    (ids,) = model.generate(["one two "], 5, seed=0)
    assert isinstance(model.written(ids), str)
