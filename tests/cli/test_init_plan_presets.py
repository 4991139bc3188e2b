import json
import subprocess
import sys

import pytest
import typer
import yaml
from typer.testing import CliRunner

from perceivers.cli import init, plan, presets
from perceivers.errors import PerceiversError
from perceivers.models.presets import PRESETS
from perceivers.models.spec import as_spec
from perceivers.training.recipe import as_recipe, read_recipe

app = typer.Typer()
app.command()(init.init)
app.command()(plan.plan)
app.command()(presets.presets)

RECIPE = """
model:
  inputs: {words: {kind: text, length: 20}}
  latents: {count: 8, channels: 16}
  encoder: {layers: 2}
  outputs: {label: {kind: category}}
data: {source: words.csv}
training: {batch_size: 32, ema: 0.9}
"""


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{'red' if i % 2 else 'blue'} {i},{i * i},{i % 2}\n" for i in range(20))
    (tmp_path / "words.csv").write_text(f"words,size,kind\n{rows}")
    (tmp_path / "words.yaml").write_text(RECIPE)


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def fails(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, PerceiversError)
    return str(result.exception)


# -- init ------------------------------------------------------------------------------------------------------------


def test_init_writes_a_recipe(tmp_path):
    printed = run("init", "words.csv", "--target", "kind")
    assert "perceivers train recipe.yaml" in printed
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert recipe.data.source == "words.csv"
    assert set(recipe.model.inputs) == {"words", "numbers"}


def test_init_makes_folders(tmp_path):
    run("init", "words.csv", "--target", "kind", "--out", "new/words.yaml")
    assert read_recipe(tmp_path / "new" / "words.yaml").data.source == "../words.csv"


def test_init_prints_a_recipe(tmp_path):
    printed = run("init", "words.csv", "--target", "kind", "--out", "-")
    assert as_recipe(yaml.safe_load(printed)).data.source == "words.csv"
    assert not (tmp_path / "-").exists()
    assert not (tmp_path / "recipe.yaml").exists()


def test_init_looks_at_table_and_target_first():
    """What is wrong with the question comes before what is in the way of its answer."""
    arguments = ("--out", "words.yaml")
    assert "there is no column 'knd'" in fails("init", "words.csv", "--target", "knd", *arguments)
    assert "word.csv: there is no such file" in fails("init", "word.csv", "--target", "kind", *arguments)


def test_init_never_overwrites(tmp_path):
    assert "'words.yaml' exists and is left as it is" in fails(
        "init", "words.csv", "--target", "kind", "--out", "words.yaml"
    )
    assert (tmp_path / "words.yaml").read_text() == RECIPE


def test_init_without_a_target_and_without_a_terminal(tmp_path):
    assert "perceivers init words.csv --target kind" in fails("init", "words.csv")
    assert not (tmp_path / "recipe.yaml").exists()


def test_init_asks_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(init, "_has_terminal", lambda: True)
    result = CliRunner().invoke(app, ["init", "words.csv"], input="size\n", catch_exceptions=False)
    assert "Columns of words.csv: words, size, kind" in result.stderr
    assert "Which one is to be learned" in result.stderr
    assert read_recipe(tmp_path / "recipe.yaml").model.outputs["size"].kind == "number"


def test_init_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "'file/recipe.yaml' could not be written" in fails(
        "init", "words.csv", "--target", "kind", "--out", "file/recipe.yaml"
    )


# -- plan ------------------------------------------------------------------------------------------------------------


def test_plan_of_a_recipe():
    printed = run("plan", "words.yaml")
    for words in (
        "input words",
        "self-attends",
        "elements: words 20",
        "cross-attend 1",
        "words: plain ",
        "memory, batch 32",
        "averaged weights",
    ):
        assert words in printed
    assert "note: output 'label': the classes are learned from data: assumed 2." in printed


def test_plan_fits_a_pipe():
    tables = [line for line in run("plan", "perceiver-imagenet-fourier-1x").splitlines() if "│" in line]
    assert len(tables) > 5
    assert all(len(line) <= 80 and "…" not in line for line in tables)


def test_plan_of_a_preset_as_json():
    made = json.loads(run("plan", "perceiver-io-imagenet-fourier", "--json"))
    assert made["parameters"] == 48_440_627
    assert made["flops"] == pytest.approx(407e9, rel=0.01)
    assert (made["batch"], made["elements"], made["latents"]) == (1, {"image": 50176}, [512, 1024])
    assert made["memory"]["training"] > made["memory"]["inference"] > 4 * made["parameters"]
    assert sum(part["parameters"] for part in made["parts"]) == made["parameters"]


def test_plan_with_changes_and_a_batch():
    small = json.loads(run("plan", "words.yaml", "--json"))
    large = json.loads(run("plan", "words.yaml", "model.latents.count=16", "--batch", "64", "--json"))
    assert (small["latents"], large["latents"]) == ([8, 16], [16, 16])
    assert (small["batch"], large["batch"]) == (32, 64)
    assert large["memory"]["training_activations"] > 2 * small["memory"]["training_activations"]
    preset = json.loads(run("plan", "perceiver-io-imagenet-conv", "latents.count=256", "--json"))
    assert preset["latents"] == [256, 1024]


def test_plan_knows_the_classes_of_named_data(tmp_path):
    (tmp_path / "digits.yaml").write_text(
        "model:\n  inputs: {image: {kind: image, size: [8, 8], channels: 1}}\n"
        "  outputs: {label: {kind: category}}\ndata: {source: digits}\n"
    )
    made = json.loads(run("plan", "digits.yaml", "--json"))
    head = next(part for part in made["parts"] if part["name"] == "output label")
    assert head["parameters"] == 128 + 10 * 129
    assert made["assumed"] == []


def test_plan_of_something_unknown():
    assert "Did you mean 'perceiver-io-imagenet-conv'" in fails("plan", "perceiver-io-imagenet-cnv")
    assert "there is no recipe 'word.yaml'. Did you mean 'words.yaml'" in fails("plan", "word.yaml")
    assert "unknown key" in fails("plan", "words.yaml", "model.latent.count=3")


# -- presets ---------------------------------------------------------------------------------------------------------


def test_the_list_of_presets():
    printed = run("presets")
    for preset in PRESETS.values():
        assert preset.name in printed
        assert f"{preset.parameters:,}" in printed


def test_the_list_of_presets_as_json():
    listed = {preset["name"]: preset for preset in json.loads(run("presets", "--json"))}
    assert set(listed) == set(PRESETS)
    assert listed["perceiver-imagenet-fourier"]["parameters"] == 44_912_254
    assert "2103.03206" in listed["perceiver-imagenet-fourier"]["paper"]
    assert listed["perceiver-imagenet-fourier"]["gflops"] == 707.2
    assert listed["perceiver-imagenet-fourier"]["gflops_counted"] == 706.3
    assert listed["perceiver-ar-copy-32"]["gflops"] is None


@pytest.mark.parametrize("name", PRESETS)
def test_the_spec_of_a_preset_is_one(name):
    printed = run("presets", name)
    assert f"table: {PRESETS[name].table}" in printed
    papers = PRESETS[name].gflops
    assert (f"; the paper prints {papers:,}\n" if papers else "; the paper prints none\n") in printed
    assert len(printed.splitlines()) < 200, "long lists are told of, not printed"
    if "label" in PRESETS[name].spec["outputs"]:
        classes = PRESETS[name].spec["outputs"]["label"]["classes"]
        assert f"outputs.label.classes: {len(classes):,} entries, class_000 … {classes[-1]}" in printed
    spec = as_spec(yaml.safe_load(printed.partition("\n\n")[2])["model"])
    whole = PRESETS[name].build_spec()
    assert _unlearned(spec) == _unlearned(whole)
    assert as_spec(json.loads(run("presets", name, "--json"))["spec"]) == whole


def _unlearned(spec):
    """Without what a recipe learns from its data."""

    def bare(kind):
        fields = {n: field for n, field in type(kind).model_fields.items() if n in ("mean", "std", "classes")}
        return kind.with_changes(**{n: f.default for n, f in fields.items() if not isinstance(getattr(kind, n), float)})

    parts = {"inputs": spec.inputs, "outputs": spec.outputs}
    return spec.with_changes(**{part: {n: bare(kind) for n, kind in kinds.items()} for part, kinds in parts.items()})


def test_an_unknown_preset():
    assert "Did you mean 'perceiver-io-imagenet-conv'" in fails("presets", "perceiver-io-imagenet-cnv")


def test_the_commands_are_light_to_import():
    heavy = "{'torch', 'numpy', 'pydantic', 'yaml'}"
    program = f"import sys; from perceivers.cli import init, plan, presets; sys.exit(str({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stderr.strip() == "set()"


# -- options that are taken for overrides ---------------------------------------------------------------------------


def test_options_of_plan_that_are_written_as_overrides():
    said = fails("plan", "perceiver-io-language", "memory_budget=2")
    assert said == "'memory_budget=2' is no setting of the model; write --memory-budget 2."
    assert "write --memory-budget 2." in fails("plan", "perceiver-io-language", "training.memory_budget=2")
    assert "write --batch 8." in fails("plan", "perceiver-io-language", "batch=8")
    said = fails("plan", "words.yaml", "memory_budget=2")
    assert "write --memory-budget 2, or training.memory_budget=2." in said
    assert "write --batch 8, or training.batch_size=8." in fails("plan", "words.yaml", "batch=8")
    assert run("plan", "words.yaml", "training.memory_budget=2")
