"""Everything that the command line does is one call in Python."""

import json
from pathlib import Path

import pytest

import perceivers
from perceivers.cli.main import app
from perceivers.errors import DataError, SpecError
from perceivers.models.presets import PRESETS
from perceivers.training.recipe import read_recipe

DIGITS = Path(__file__).resolve().parents[2] / "recipes" / "digits.yaml"
# What each command calls.
CALLS = {
    "init": ["init", "draft_recipe"],
    "train": ["train"],
    "evaluate": ["evaluate"],
    "predict": ["predict", "Predictor"],
    "fill": ["Predictor"],
    "flow": ["optical_flow", "flow_picture"],
    "autoencode": ["autoencode", "write_clips"],
    "generate": ["load"],  # and the model's own `generate`
    "plan": ["plan"],
    "presets": ["presets"],
    "data": ["data_sets", "tables", "picture_grid"],
    "weights": ["read_weights", "resized"],
}


def test_every_command_is_there():
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    assert names == set(CALLS)
    assert {call for calls in CALLS.values() for call in calls} <= set(perceivers.__all__)


@pytest.mark.parametrize("name", [name for name in perceivers.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_described(name):
    assert getattr(perceivers, name).__doc__


def test_no_module_takes_a_public_names_place():
    """Importing a module sets it on its package, where it would hide a function of its name."""
    folder = Path(perceivers.__file__).parent
    assert not {path.stem for path in folder.iterdir()} & set(perceivers.__all__)


class TestPlan:
    def test_a_recipe_knows_the_classes_of_its_data(self):
        """520 parameters of the head are those of eight more digits than the two that a spec alone assumes."""
        recipe = read_recipe(DIGITS)
        whole = perceivers.plan(DIGITS)
        assert whole.assumed == ()
        assert whole.parameters - perceivers.plan(recipe.model).parameters == 8 * (64 + 1)
        assert whole.batch == recipe.training.batch_size
        assert perceivers.plan(recipe.model).batch == 1

    @pytest.mark.parametrize("form", ["path", "text", "recipe", "data"])
    def test_every_form_of_a_recipe(self, form):
        recipe = read_recipe(DIGITS)
        given = {"path": DIGITS, "text": str(DIGITS), "recipe": recipe, "data": recipe.model_dump(mode="json")}[form]
        assert perceivers.plan(given) == perceivers.plan(DIGITS)
        changed = perceivers.plan(given, ["model.latents.count=3", "training.ema=0.9"], batch=7)
        assert (changed.latents[0], changed.batch) == (3, 7)
        assert changed.memory.averages == changed.memory.gradients

    def test_every_form_of_a_spec(self):
        preset = PRESETS["perceiver-io-imagenet-conv"]
        plans = [perceivers.plan(form) for form in (preset.name, preset.spec, preset.build_spec())]
        assert plans[0] == plans[1] == plans[2]
        assert plans[0].parameters == preset.parameters
        assert perceivers.plan(preset.spec, ["latents.count=5"]).latents[0] == 5

    def test_what_is_no_model(self):
        with pytest.raises(SpecError, match="neither a recipe file nor a preset"):
            perceivers.plan("perceiver-io")


def test_presets_and_data_sets_are_listed_by_name():
    assert perceivers.presets() == PRESETS
    perceivers.presets().clear()
    assert PRESETS
    assert perceivers.data_sets()["digits"].sizes["train"] == 1295


class TestTables:
    def test_by_split_or_whole(self, tmp_path):
        (tmp_path / "own.csv").write_text("x\n1\n2\n")
        assert {split: len(table) for split, table in perceivers.tables(tmp_path / "own.csv").items()} == {"all": 2}
        assert len(perceivers.tables("digits")["test"]) == 359

    def test_neither(self):
        with pytest.raises(DataError, match=r"neither a file or folder nor a named data set\. Did you mean 'digits'"):
            perceivers.tables("digts")


class TestLines:
    def test_one_answer_a_line(self, trained):
        predictor = perceivers.Predictor(trained / "run")
        lines = [b'{"facts": {"age": 30, "height": 170}}\n', b"\n", b"[1]\n", json.dumps({"age": 30}).encode()]
        answers = list(predictor.lines(lines))
        assert [answer["row"] for answer in answers] == [1, 3, 4]
        assert answers[1]["error"] == "standard input, line 3: a line must be a JSON object: column → cell."
        assert "label" in answers[0]
        assert "label" in answers[2]

    def test_as_soon_as_the_line_is_there(self, trained):
        def lines():
            yield b'{"age": 30}'
            raise AssertionError("the first answer did not wait for this")

        assert "label" in next(perceivers.Predictor(trained / "run").lines(lines()))

    def test_strict(self, trained):
        with pytest.raises(DataError, match="pipe, line 1: this is not JSON"):
            list(perceivers.Predictor(trained / "run").lines([b"{"], strict=True, name="pipe"))
