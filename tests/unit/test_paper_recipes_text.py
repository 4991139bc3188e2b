"""The papers' recipes of language: what they say, what they build, and their small forms on data made here."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import perceivers
from perceivers.models.build import build
from perceivers.models.presets import preset
from perceivers.models.spec import Spec
from perceivers.training.recipe import Recipe, read_recipe

PAPER = Path(__file__).resolve().parents[2] / "recipes" / "paper"
LANGUAGE = preset("perceiver-io-language")
E = 768
# A query, an MLP as wide, and a linear, for a task of so many classes.
TASK = E + E * (E + 1)


def small(name: str) -> list[str]:
    """The overrides of the recipe's header."""
    text = (PAPER / name).read_text(encoding="utf-8")
    found = re.search(r"^# small:((?:.*\n)(?:#            .*\n)*)", text, re.MULTILINE)
    assert found is not None, "the header has a small form"
    return shlex.split(found[1].replace("#", ""))


def parameters(recipe: Recipe) -> int:
    """Of the recipe's model, built without memory; two classes where they are learned."""
    outputs = {name: kind.completed(name)[0] for name, kind in recipe.model.outputs.items()}
    model = build(Spec(**{**dict(recipe.model), "outputs": outputs}), device="meta")
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_language_model_is_the_preset_and_trains_as_the_paper_says():
    recipe = read_recipe(PAPER / "mlm.yaml")
    assert parameters(recipe) == LANGUAGE.parameters == 201_108_230
    text = recipe.model.outputs["text"]
    assert text.mask.share == 0.15
    training = recipe.training
    assert (training.optimiser, training.lr, training.weight_decay) == ("lamb", 1.25e-3, 0.01)
    assert (training.steps, training.batch_size) == (500_000, 2048)
    assert (training.schedule.kind, training.schedule.warmup_steps, training.schedule.final) == ("cosine", 1000, 0)
    assert training.augment["text"].documents == 10
    assert training.augment["text"].crop


@pytest.mark.parametrize(("name", "tasks"), [("glue.yaml", 1), ("glue-multitask.yaml", 8)])
def test_tasks_keep_all_of_the_language_model_but_its_queries(name, tasks):
    recipe = read_recipe(PAPER / name)
    # The language model without 2,048 queries and the bias of 262 logits.
    trunk = LANGUAGE.parameters - 2048 * E - 262
    numbers = sum(1 if kind.kind == "number" else 2 for kind in recipe.model.outputs.values())
    assert len(recipe.model.outputs) == tasks
    assert parameters(recipe) == trunk + tasks * TASK + numbers * (E + 1)
    training = recipe.training
    assert (training.optimiser, training.lr, training.weight_decay) == ("lamb", 2e-5, 0.01)
    assert (training.epochs, training.batch_size, training.schedule.warmup_steps) == (10, 32, 200)
    assert training.start_from == "mlm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the recipes with texts beside them, and a run of the small language model in `mlm`."""
    folder = tmp_path_factory.mktemp("paper")
    for name in ("mlm.yaml", "glue.yaml", "glue-multitask.yaml"):
        shutil.copy(PAPER / name, folder / name)
    random = np.random.default_rng(0)
    lines = [json.dumps({"text": sentence(random)}) + "\n" for _ in range(1200)]
    (folder / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    tables(folder, random)
    perceivers.train(folder / "mlm.yaml", overrides=small("mlm.yaml"), out=folder / "mlm", quiet=True)
    return folder


def sentence(random):
    """Words that follow from each other, so that one that is hidden can be told."""
    animal = random.choice(["cat", "dog", "cow"])
    said = {"cat": "meows", "dog": "barks", "cow": "moos"}[animal]
    return f"the {animal} {said} and the {animal} {said}"


def tables(folder, random):
    """Pairs of sentences in the layout that the recipes name: whether both are of one animal."""
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "glue" / "rte").mkdir(parents=True)
    tasks = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
    for split, count in (("train", 48), ("validation", 32)):
        pairs = [(sentence(random), sentence(random)) for _ in range(count)]
        labels = [int(a.split()[1] == b.split()[1]) for a, b in pairs]
        columns = {"sentence1": [a for a, _ in pairs], "sentence2": [b for _, b in pairs]}
        parquet.write_table(pa.table({**columns, "label": labels}), folder / "glue" / "rte" / f"{split}.parquet")
        own = {t: [n if i % 8 == k else None for i, n in enumerate(labels)] for k, t in enumerate(tasks)}
        # Both classes of each task, whatever was drawn.
        for k, task in enumerate(tasks):
            own[task][k], own[task][k + 8] = 0, 1
        columns["sentence2"] = [None if i % 8 in (0, 6) else b for i, b in enumerate(columns["sentence2"])]
        parquet.write_table(pa.table({**columns, **own}), folder / f"glue-{split}.parquet")


def test_the_small_language_model_learns_and_fills_in(folder):
    scores = perceivers.evaluate(folder / "mlm", quiet=True)["scores"]["text"]
    # A guess out of nothing costs 8 bits a byte; the frequencies of letters alone, 4.
    assert scores["bits_per_byte"] < 2
    answer = perceivers.Predictor(folder / "mlm")({"text": {"text": "the cat meows and the cat", "mask": " meows"}})
    assert len(answer["text_guesses"][0]) == 5


def test_a_small_task_begins_with_it(folder, tmp_path):
    run = perceivers.train(folder / "glue.yaml", overrides=small("glue.yaml"), out=tmp_path / "run", quiet=True)
    told = perceivers.load(run.model).trained.begun_with
    assert told[0].endswith("numbers are its: inputs.text, encoder, decoder")
    assert told[1:] == ("  new here: outputs.label", "  left there: outputs.text")
    result = perceivers.evaluate(run.run, quiet=True)
    assert (result["split"], result["samples"]) == ("validation", 32)
    pair = {"sentence1": "the cat meows", "sentence2": "the dog barks"}
    assert perceivers.Predictor(run.model)({"text": pair})["label"] in ("0", "1")


def test_eight_small_tasks_begin_with_it(folder, tmp_path):
    name = "glue-multitask.yaml"
    run = perceivers.train(folder / name, overrides=small(name), out=tmp_path / "run", quiet=True)
    told = perceivers.load(run.model).trained.begun_with
    assert told[0].endswith("numbers are its: inputs.text, encoder, decoder")
    scores = perceivers.evaluate(run.run, quiet=True)["scores"]
    assert set(scores) == {"cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"}
    answer = perceivers.Predictor(run.model)({"text": {"sentence1": "the cat meows"}})
    assert answer["cola"] in ("0", "1")
    assert isinstance(answer["stsb"], float)
