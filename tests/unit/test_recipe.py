import math
import re
from pathlib import Path
from typing import Any

import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers import build, plan
from perceivers.errors import SpecError
from perceivers.models.presets import preset
from perceivers.models.spec import CrossDecoder
from perceivers.plain_yaml import read_yaml, yaml_text
from perceivers.training.recipe import Recipe, as_recipe, read_recipe, recipe_text, with_overrides

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def message(call, *arguments: Any) -> str:
    with pytest.raises(SpecError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture
def path(tmp_path) -> Path:
    return toys.write_recipe(tmp_path / "toy.yaml")


def there_and_back(recipe: Recipe, folder: Path) -> Recipe:
    path = folder / "written.yaml"
    path.write_text(recipe_text(recipe), encoding="utf-8")
    return read_recipe(path)


class TestOverrides:
    def test_each_is_typed(self, path):
        recipe = read_recipe(
            path,
            [
                "training.lr=3e-4",
                "training.steps=1e2",
                "training.clip=null",
                "model.latents.count=128",
                "model.inputs.photo.size=[8, 6]",
                "training.betas=[0.8, 0.95]",
                "training.schedule={kind: steps, at: [0.5], factor: 1e-1}",
                "evaluation.split=validation",
                "data.bad_rows=skip",
            ],
        )
        assert recipe.training.lr == 3e-4
        assert recipe.training.steps == 100
        assert recipe.training.clip is None
        assert recipe.model.latents.count == 128
        assert recipe.model.inputs["photo"].size == (8, 6)
        assert recipe.training.betas == (0.8, 0.95)
        assert recipe.training.schedule.factor == 0.1
        assert recipe.evaluation.split == "validation"
        assert recipe.data.bad_rows == "skip"

    def test_the_last_one_wins_and_the_file_is_not_changed(self, path):
        before = path.read_bytes()
        assert read_recipe(path, ["training.seed=1", "training.seed=2"]).training.seed == 2
        assert path.read_bytes() == before

    def test_plain_data_is_not_changed(self):
        data = toys.recipe()
        changed = with_overrides(data, ["training.lr=1", "model.latents.count=9"])
        assert changed["training"]["lr"] == 1
        assert data == toys.recipe()

    def test_a_part_that_the_recipe_leaves_out(self, path):
        assert read_recipe(path, ["evaluation.batch_size=7"]).evaluation.batch_size == 7

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("training.lrr=1", "training.lrr: unknown key. Did you mean 'lr'?"),
            ("trainin.lr=1", "trainin: unknown key. Did you mean 'training'?"),
            ("model.latents.cuont=4", "model.latents.cuont: unknown key. Did you mean 'count'?"),
            ("training.lr=fast", "training.lr: input should be a valid number"),
            ("training.seed=4294967296", "training.seed: input should be less than 4294967296"),
            ("training.lr=-1", "training.lr: input should be greater than 0 (got -1)"),
            ("training.lr=1e999", "training.lr: input should be a finite number"),
            ("training.steps=1.5", "training.steps: input should be a valid integer"),
            ("training.lr.x=3", "training.lr: input should be a valid number"),
            (
                "training.optimiser=adam",
                "training.optimiser: 'adam' is not one of 'adamw' or 'lamb'. Did you mean 'adamw'?",
            ),
            ("model.inputs.photo.kind=imgae", "model.inputs.photo: unknown kind 'imgae'. Did you mean 'image'?"),
            ("evaluation.split=tset", "evaluation.split: 'tset' is not one of"),
        ],
    )
    def test_what_cannot_be(self, path, override, said):
        found = message(read_recipe, path, [override])
        assert said in found
        assert found.startswith(str(path))

    @pytest.mark.parametrize("override", ["training.lr", "=3", ""])
    def test_what_is_no_override(self, path, override):
        assert message(read_recipe, path, [override]) == (
            f"'{override}' is not an override; write key=value, such as training.lr=3e-4."
        )

    def test_a_value_that_is_not_yaml(self, path):
        assert message(read_recipe, path, ["training.lr=["]).startswith(
            "the override 'training.lr=[': not valid YAML: line 1"
        )


class TestFile:
    def test_numbers_as_people_write_them(self, path):
        text = path.read_text().replace("lr: 0.01", "lr: 1e-3").replace("steps: 12", "steps: 2E+3")
        path.write_text(text)
        recipe = read_recipe(path)
        assert recipe.training.lr == 1e-3
        assert recipe.training.steps == 2000

    def test_words_that_older_yaml_reads_as_something_else(self, path):
        """yes, no, 08, 1:30 and dates are class names here, not booleans, octal or minutes."""
        classes = ["yes", "no", "off", "007", "08", "1:30", "2024-01-02", "1_000", "0x1f"]
        written = ", ".join(classes)
        path.write_text(
            path.read_text().replace("label:\n      kind: category", f"label: {{kind: category, classes: [{written}]}}")
        )
        assert read_recipe(path).model.outputs["label"].classes == tuple(classes)

    def test_missing_with_a_near_miss(self, path):
        assert message(read_recipe, path.with_name("tyo.yaml")) == (
            f"there is no recipe '{path.with_name('tyo.yaml')}'. Did you mean 'toy.yaml'?"
        )
        assert message(read_recipe, path.parent / "none" / "toy.yaml").startswith("there is no recipe")
        assert message(read_recipe, path.parent).endswith(f"perceivers train RECIPE --out {path.parent} --resume")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("model: {}\n\nmodel: {}\n", "line 3: the key 'model' stands twice"),
            ("data: {source: a, splits: {kind: files},\n source: b}", "line 2: the key 'source' stands twice"),
            ("model:\n\tinputs: {}\n", "line 2: found character '\\t' that cannot start any token"),
            ("model: {}\ndata: [\n", "line 3: expected the node content"),
            (
                "training: {schedule: {kind:constant}}",
                "line 1: 'kind:constant' has no blank behind its colon; write 'kind: constant'",
            ),
            ("model: &m {}\ndata: *m\n", "line 2: the alias *m is not read; write the value out"),
            ("a: &a [*a]", "line 1: the alias *a is not read"),
            ("model: !!python/object/apply:os.system [ls]", "line 1: tags (!name) are not read"),
            ("training: {seed: !!int x}", "line 1: tags (!name) are not read"),
            ("? [a, b]\n: c\n", "line 1: a key must be a plain text"),
            ("a: 1\n---\nb: 2\n", "but found another document"),
            ("[" * 3000, "nested too deep"),
            ("a: \x00", "special characters are not allowed"),
            (f"seed: {'9' * 5000}", "Exceeds the limit"),
        ],
    )
    def test_not_yaml(self, path, text, said):
        path.write_text(text)
        found = message(read_recipe, path)
        assert found.startswith(f"{path}: not valid YAML: ")
        assert said in found

    @pytest.mark.parametrize("text", ["", "# nothing\n", "- model\n", "model\n"])
    def test_not_a_mapping(self, path, text):
        path.write_text(text)
        assert message(read_recipe, path) == (
            f"{path}: a recipe is a mapping with the keys model, data, training and evaluation."
        )

    def test_not_utf8(self, path):
        path.write_bytes(b"model: {}\n# caf\xe9\n")
        assert message(read_recipe, path) == f"{path}: not UTF-8 (byte 15 is 0xe9); save it as UTF-8."

    def test_every_fault_is_listed(self, path):
        path.write_text("modle: {}\ntraining: {epochs: 0, step: 3}\n")
        found = message(read_recipe, path)
        assert "has 5 faults" in found
        for part in (
            "model: is missing.",
            "data: is missing.",
            "modle: unknown key. Did you mean 'model'?",
            "training.epochs: input should be greater than 0 (got 0)",
            "training.step: unknown key. Did you mean 'steps'?",
        ):
            assert part in found


class TestRules:
    def test_steps_and_epochs_exclude_each_other(self):
        assert "training: give epochs or steps, not both; set the other to null (training.epochs=null)" in message(
            as_recipe, toys.recipe(training__epochs=3)
        )

    @pytest.mark.parametrize("part", ["input_dropout", "augment"])
    def test_names_must_be_inputs(self, part):
        value = 0.1 if part == "input_dropout" else {"kind": "image"}
        found = message(as_recipe, toys.recipe(**{f"training__{part}": {"phto": value}}))
        assert f"training.{part} names 'phto', which is no input. Did you mean 'photo'?" in found

    def test_dropping_the_only_input_would_do_nothing(self):
        data = toys.recipe(model__inputs__facts=None, training__input_dropout={"photo": 0.5})
        assert "training.input_dropout does nothing with one input" in message(as_recipe, data)
        assert as_recipe(toys.recipe(model__inputs__facts=None, training__input_dropout={"photo": 0}))

    def test_a_source_beside_split_files_would_be_ignored(self):
        data = toys.recipe(data__splits={"kind": "files", "train": "a.csv"})
        assert "data: splits of kind files name the tables themselves; leave source out" in message(as_recipe, data)

    def test_total_steps(self):
        def steps(rows: int, **training: Any) -> int:
            return as_recipe(toys.recipe(training={"batch_size": 8, **training})).training.total_steps(rows)

        assert steps(24) == 30, "10 epochs by default"
        assert steps(25) == 40, "the last batch of an epoch may be smaller"
        assert steps(24, epochs=2) == 6
        assert steps(24, epochs=0.5) == 2
        assert steps(24, epochs=0.01) == 1
        assert steps(24, steps=7) == 7


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_the_recipes_of_the_house_come_back_exactly(path, tmp_path):
    recipe = read_recipe(path)
    assert there_and_back(recipe, tmp_path) == recipe


# What class names, columns and paths may be in people's tables.
names = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["yes", "no", "null", "~", "1e-3", "007", "0x1f", "1:30", "2024-01-01", "<<", "=", "*a", "!b", "- c", "#"]
    ),
    st.integers().map(str),
    st.floats(allow_nan=True).map(repr),
)
positive = st.floats(min_value=1e-300, max_value=1e300)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    schedule = draw(
        st.sampled_from(
            [
                {"kind": "constant"},
                {"kind": "cosine"},
                {"kind": "cosine", "warmup_steps": 0.05},
                {"kind": "flat_cosine", "flat": 0.25},
                {"kind": "steps", "at": [0.5, 0.75]},
            ]
        )
    )
    training = {
        "lr": draw(positive),
        "clip": draw(st.none() | positive),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "schedule": schedule,
        "input_dropout": draw(st.dictionaries(st.sampled_from(["photo", "facts"]), st.floats(0, 0.99))),
        "augment": draw(st.just({}) | st.just({"photo": {"kind": "image", "crop": {"kind": "pad", "padding": 1}}})),
        draw(st.sampled_from(["steps", "epochs"])): draw(st.integers(1, 10**9)),
        "betas": (0.9, draw(st.floats(0, 0.999))),
    }
    classes = draw(st.none() | st.lists(names, min_size=2, max_size=5, unique=True))
    data = toys.recipe(
        training=training,
        model__outputs__label__classes=classes,
        model__inputs__facts__columns=draw(st.lists(names, min_size=1, max_size=3, unique=True)),
        model__inputs__facts__mean=draw(st.none() | st.lists(st.floats(-1e9, 1e9), max_size=3)),
        model__inputs__photo__position={"kind": draw(st.sampled_from(["none", "fourier"]))},
        model__decoder=draw(
            st.sampled_from([{"kind": "average"}, {"kind": "cross_attend"}, {"kind": "cross_attend", "heads": 2}])
        ),
        data__source=draw(names),
        data__columns={"photo": draw(names), "label": draw(names)},
    )
    if data["model"]["inputs"]["photo"]["position"]["kind"] == "fourier":
        data["model"]["inputs"]["photo"]["position"]["bands"] = 3
    return as_recipe(data)


@given(recipe=recipes())
@settings(max_examples=60)
def test_any_recipe_comes_back_exactly(recipe, tmp_path_factory):
    again = there_and_back(recipe, tmp_path_factory.getbasetemp())
    assert again == recipe
    assert again.model_dump_json() == recipe.model_dump_json()


def test_what_is_at_its_default_is_left_out():
    text = recipe_text(as_recipe(toys.recipe(training={"lr": 1e-3})))
    assert "lr:" not in text
    assert "evaluation:" not in text
    assert "kind: fourier" in text, "a kind is never left out: it chooses the class on reading"


def test_numbers_keep_every_bit(tmp_path):
    recipe = as_recipe(toys.recipe(training__lr=math.pi * 1e-5, training__weight_decay=5e-324))
    again = there_and_back(recipe, tmp_path)
    assert again.training.lr.hex() == recipe.training.lr.hex()
    assert again.training.weight_decay == 5e-324


@pytest.mark.parametrize("text", ["\x85", "a\x85b", "\u2028", "a \u2029 b", "\x85 no", "ä\x85: #"])
@pytest.mark.parametrize("flow", [False, None, True])
def test_line_breaks_of_other_scripts_come_back(text, flow):
    assert read_yaml(yaml_text({"columns": [text], text: 1}, flow=flow), "here") == {"columns": [text], text: 1}


def test_one_override_needs_no_list():
    assert with_overrides({"a": {"b": 1}}, "a.b=3") == {"a": {"b": 3}}


def of_preset(model, **rest):
    return as_recipe({"model": model, "data": {"source": "digits"}, **rest})


def test_a_model_may_be_a_preset_with_changes():
    model = {
        "preset": "perceiver-imagenet-fourier",
        "latents": {"count": 8},
        "inputs": {"image": {"size": [16, 16], "lift": {"kind": "conv1x1", "channels": 5}}},
        "outputs": {"label": None, "kind_of": {"kind": "category"}},
    }
    spec, published = of_preset(model).model, preset("perceiver-imagenet-fourier").build_spec()
    assert (spec.latents.count, spec.latents.channels) == (8, 1024)
    assert spec.inputs["image"].size == (16, 16)
    assert spec.inputs["image"].position == published.inputs["image"].position
    assert list(spec.outputs) == ["kind_of"]
    assert spec.encoder == published.encoder


def test_another_kind_takes_the_place_of_the_presets():
    model = {"preset": "perceiver-imagenet-fourier", "decoder": {"kind": "cross_attend"}}
    assert of_preset(model).model.decoder == CrossDecoder()


@pytest.mark.parametrize(
    ("name", "changes", "look"),
    [
        ("perceiver-io-language", {"encoder": {"kind": "perceiver", "dropout": 0.1}}, lambda s: s.encoder.layers == 26),
        (
            "perceiver-io-multimodal",
            {"outputs": {"label": {"query": {"kind": "learned", "init_std": 0.1}}}},
            lambda s: s.outputs["label"].query.channels == 1024,
        ),
    ],
)
def test_a_kind_that_the_preset_leaves_to_its_default_is_that_kind(name, changes, look):
    assert look(of_preset({"preset": name, **changes}).model)


def test_a_preset_is_planned_and_built_by_name_and_with_changes():
    name, smaller = "perceiver-io-language", {"preset": "perceiver-io-language", "encoder": {"layers": 2}}
    assert plan(name).parameters == plan({"preset": name}).parameters == preset(name).parameters
    assert plan(smaller).parameters < plan(name).parameters
    assert build(name, "meta").spec == of_preset(name).model == preset(name).build_spec()
    assert build(smaller, "meta").spec == of_preset(smaller).model
    with pytest.raises(SpecError, match=r"unknown key 'preste'\. Did you mean 'preset'"):
        build({"preste": name})


def test_the_recipe_of_a_run_writes_the_preset_out(tmp_path):
    recipe = of_preset({"preset": "perceiver-io-imagenet-conv"})
    assert there_and_back(recipe, tmp_path) == recipe
    assert "preset:" not in recipe_text(recipe)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"preset": "perceiver-io-imagenet-con"}, "Did you mean 'perceiver-io-imagenet-conv'"),
        ({"preset": 3}, "model.preset is 3; it names a preset"),
        ("perceiver-io-imagenet-con", "Did you mean 'perceiver-io-imagenet-conv'"),
        ({"preste": "perceiver-io-imagenet-conv"}, "model: unknown key 'preste'. Did you mean 'preset'?"),
        (
            {"preset": "perceiver-io-imagenet-conv", "outputs": {"lable": None}},
            "unknown output to take away from perceiver-io-imagenet-conv: 'lable'. Did you mean 'label'?",
        ),
        ({"preset": "perceiver-io-imagenet-conv", "latent": {}}, "model.latent: unknown key"),
        ({"preset": "perceiver-io-imagenet-conv", "inputs": 3}, "model.inputs"),
    ],
)
def test_a_preset_that_is_wrong_is_said(model, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        of_preset(model)
