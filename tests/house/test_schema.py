"""The committed JSON Schema is the one that the code makes, and every recipe keeps to it and to the code.

Run this file to write the schema anew: .venv/bin/python tests/house/test_schema.py
"""

import json
from pathlib import Path

import jsonschema
import pytest

from perceivers.errors import SpecError
from perceivers.plain_yaml import read_yaml, yaml_text
from perceivers.training.recipe import read_recipe, recipe_schema

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "recipes" / "recipe.schema.json"
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def text() -> str:
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def validator() -> jsonschema.protocols.Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_committed_schema_is_the_codes():
    assert SCHEMA.read_text(encoding="utf-8") == text(), "settings have changed; write the schema anew: see this file"


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_keep_to_the_schema_and_to_the_code(path):
    validator().validate(read_yaml(path.read_text(encoding="utf-8"), path.name))
    assert read_recipe(path).model.inputs


@pytest.mark.parametrize(
    ("key", "value"),
    [("model", {}), ("trainning", {"steps": 3}), ("training", {"lr": -1}), ("training", {"optimiser": "sgd"})],
)
def test_schema_and_code_refuse_the_same(tmp_path, key, value):
    data = read_yaml((ROOT / "recipes" / "digits.yaml").read_text(encoding="utf-8"), "digits.yaml")
    data[key] = value
    assert not validator().is_valid(data)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml_text(data))
    with pytest.raises(SpecError):
        read_recipe(path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("inputs.photo.std", [0], "model.inputs.photo.std.0: input should be greater than 0"),
        ("inputs.wave.std", [-1], "model.inputs.wave.std.0: input should be greater than 0"),
        ("inputs.facts.std", [1, 0], "model.inputs.facts.std.1: input should be greater than 0"),
        ("outputs.size.std", [0], "model.outputs.size.std.0: input should be greater than 0"),
        ("outputs.size.columns", [], "model.outputs.size.columns: tuple should have at least 1 item"),
        ("outputs.size.columns", ["a", "a"], "model.outputs.size.columns: 'a' stands there more than once"),
        ("outputs.label.classes", [], "model.outputs.label.classes: tuple should have at least 2 items"),
        ("outputs.label.classes", ["a"], "model.outputs.label.classes: tuple should have at least 2 items"),
        ("outputs.label.classes", ["a", "b", "a"], "model.outputs.label.classes: 'a' stands there more than once"),
        ("inputs.facts.columns", ["a", "a"], "model.inputs.facts.columns: 'a' stands there more than once"),
        ("inputs.tags.columns", ["a", "a"], "model.inputs.tags.columns: 'a' stands there more than once"),
        ("inputs.tags.classes", {"c": ["x", "x"]}, "model.inputs.tags.classes.c: 'x' stands there more than once"),
        ("inputs.tags.classes", {"c": []}, "model.inputs.tags.classes.c: tuple should have at least 1 item"),
        ("inputs.photo.position.resolution", [0, 3], "photo.position.resolution.0: input should be greater than 0"),
    ],
)
def test_numbers_and_names_that_cannot_be(tmp_path, place, value, said):
    """No deviation of 0, no column or class twice, nothing to tell apart of one class: schema and code agree."""
    model = {
        "inputs": {
            "photo": {"kind": "image", "size": [4, 4], "channels": 1, "position": {"kind": "fourier"}},
            "wave": {"kind": "series", "rate": 1, "seconds": 4},
            "facts": {"kind": "number", "columns": ["a", "b"]},
            "tags": {"kind": "category", "columns": ["c"]},
        },
        "outputs": {"label": {"kind": "category"}, "size": {"kind": "number"}},
    }
    data = {"model": model, "data": {"source": "digits"}}
    assert validator().is_valid(data)
    *path, last = place.split(".")
    inner: dict = model
    for part in path:
        inner = inner[part]
    inner[last] = value
    assert not validator().is_valid(data)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml_text(data))
    with pytest.raises(SpecError) as caught:
        read_recipe(path)
    assert said in str(caught.value)


if __name__ == "__main__":
    SCHEMA.write_text(text(), encoding="utf-8")
