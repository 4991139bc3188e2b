import csv
import json

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import perceivers
from perceivers.data.guess import guess_column
from perceivers.data.table import Table
from perceivers.errors import DataError
from perceivers.training.draft import TargetNeededError, draft_recipe
from perceivers.training.recipe import as_recipe, read_recipe

# What is drafted for a small table is trained on its few rows.
pytestmark = pytest.mark.filterwarnings("ignore:the validation split has")

CLASSES = ["cat", "dog"]


def write_csv(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_image(path, height, width, channels=3, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if channels == 1 else (height, width, channels)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return path.name


def drafted(path, target=None):
    return as_recipe(yaml.safe_load(draft_recipe(path, target, path.parent / "recipe.yaml")))


def trains(tmp_path, table, target=None):
    """Draft, then train two steps by the draft: the model lies where it should."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(draft_recipe(table, target, recipe))
    changes = ["training.epochs=null", "training.steps=2", "training.evaluate_every=null"]
    result = perceivers.train(recipe, out=tmp_path / "run", overrides=changes, quiet=True)
    assert (result.model / "spec.json").is_file()
    return read_recipe(recipe), result


@pytest.fixture
def pets(tmp_path):
    """Two columns of images of various sizes, three of numbers, one of classes, and some that tell nothing."""
    random, count = np.random.default_rng(0), 20
    for side in ("front", "back"):
        for i in range(count):
            write_image(tmp_path / "photos" / f"{side}{i}.png", 20 + i, 30 - i // 2, value=100 * (i % 2))
    return write_csv(
        tmp_path / "pets.csv",
        {
            "pet_id": [f"P{i}" for i in range(count)],
            "front view": [f"photos/front{i}.png" for i in range(count)],
            "back view": [f"photos/back{i}.png" for i in range(count)],
            "age": random.normal(5, 2, count).round(2),
            "weight": random.normal(10, 3, count).round(2),
            "height": random.normal(40, 9, count).round(1),
            "colour": [["red", "blue"][i // 2 % 2] for i in range(count)],
            "country": ["Chile"] * count,
            "label": [CLASSES[i % 2] for i in range(count)],
        },
    )


# A decoded picture is read-only memory, which torch remarks on once a process when it resizes one.
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_two_image_columns_and_three_numbers(tmp_path, pets):
    recipe, result = trains(tmp_path, pets)
    inputs = recipe.model.inputs
    assert {name: kind.kind for name, kind in inputs.items()} == {
        "front_view": "image",
        "back_view": "image",
        "numbers": "number",
        "categories": "category",
    }
    assert inputs["front_view"].resize == "crop"
    assert inputs["numbers"].columns == ("age", "weight", "height")
    assert inputs["categories"].columns == ("colour",)
    assert dict(recipe.data.columns) == {"front_view": "front view", "back_view": "back view"}
    assert recipe.data.splits.stratify == "label"
    assert set(recipe.training.input_dropout) == set(inputs)
    text = (tmp_path / "recipe.yaml").read_text()
    assert "#   pet_id: another identifier in every row" in text
    assert "#   country: the same in every row ('Chile')" in text
    answers = perceivers.predict(result.run, pets)
    assert {row["label"] for row in answers} <= set(CLASSES)
    assert not any("error" in row for row in answers)


def test_a_class_folder(tmp_path):
    for label in CLASSES:
        for i in range(8):
            write_image(tmp_path / "animals" / label / f"{i}.png", 8, 8, 1, 10 * i)
    recipe, _ = trains(tmp_path, tmp_path / "animals")
    image = recipe.model.inputs["image"]
    assert (image.size, image.channels, image.resize, image.lift.kind) == ((8, 8), 1, "none", "pixels")
    assert dict(recipe.data.columns) == {"image": "file"}
    assert recipe.model.outputs["label"].kind == "category"


def test_text(tmp_path):
    reviews = [f"the film number {i} was {['dull', 'bright'][i % 2]}" for i in range(20)]
    labels = [["bad", "good"][i % 2] for i in range(20)]
    recipe, _ = trains(tmp_path, write_csv(tmp_path / "reviews.csv", {"review": reviews, "class": labels}))
    assert recipe.model.inputs["review"].length == 32
    assert recipe.model.inputs["review"].overflow == "truncate"
    assert recipe.model.outputs["class"].kind == "category"


def test_numeric_regression(tmp_path):
    random = np.random.default_rng(0)
    columns = {"rooms": random.normal(size=30), "price": random.normal(size=30), "area": random.normal(size=30)}
    recipe, _ = trains(tmp_path, write_csv(tmp_path / "houses.csv", columns), "price")
    assert recipe.model.outputs["price"].kind == "number"
    assert recipe.model.inputs["numbers"].columns == ("rooms", "area")
    assert recipe.data.splits.stratify is None
    assert not recipe.training.input_dropout


def test_series(tmp_path):
    rows = [{"wave": [float(j) for j in range(10 + i)], "y": i % 2} for i in range(12)]
    recipe, _ = trains(tmp_path, write_jsonl(tmp_path / "waves.jsonl", rows))
    wave = recipe.model.inputs["wave"]
    assert (wave.channels, wave.rate, wave.seconds) == (1, 1.0, 21.0)
    assert "put the real one in Hz" in draft_recipe(tmp_path / "waves.jsonl").replace("\n    #  ", "")


# -- inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "size", "resize", "lift"),
    [
        ([(20, 20)] * 12, (20, 20), "none", "pixels"),
        ([(28, 28)] * 12, (28, 28), "none", "patches"),
        ([(32, 32)] * 12, (32, 32), "none", "patches"),
        ([(29, 31)] * 12, (29, 31), "none", "conv"),
        ([(40, 64)] * 12, (40, 64), "none", "conv"),
        ([(300, 200)] * 12, (64, 40), "crop", "conv"),
        ([(30, 33), (29, 31), (40, 38)] * 4, (24, 24), "crop", "patches"),
        ([(100, 400), (120, 500), (90, 390)] * 4, (16, 64), "crop", "patches"),
        ([(3, 5), (4, 5), (3, 6)] * 4, (3, 5), "crop", "pixels"),
    ],
)
def test_image_sizes(tmp_path, sizes, size, resize, lift):
    names = [write_image(tmp_path / f"{i}.png", *shape) for i, shape in enumerate(sizes)]
    recipe = drafted(write_csv(tmp_path / "t.csv", {"photo": names, "label": CLASSES * 6}))
    photo = recipe.model.inputs["photo"]
    assert (photo.size, photo.resize, photo.lift.kind) == (size, resize, lift)
    assert photo.elements() <= 400


def test_long_series_get_a_stem(tmp_path):
    rows = [{"wave": [0.0] * 2000, "label": CLASSES[i % 2]} for i in range(12)]
    wave = drafted(write_jsonl(tmp_path / "t.jsonl", rows)).model.inputs["wave"]
    assert (wave.lift.kind, wave.elements()) == ("conv", 250)


def test_long_text_is_cut(tmp_path):
    columns = {"story": [f"{i} " + "a" * 3000 for i in range(12)], "label": CLASSES * 6}
    story = drafted(write_csv(tmp_path / "t.csv", columns)).model.inputs["story"]
    assert (story.length, story.overflow) == (1024, "truncate")


# -- target and splits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label", "Target", "CLASS", "y"])
def test_the_target_by_its_name(tmp_path, name):
    columns = {"x": np.linspace(0, 1, 12), name: CLASSES * 6}
    assert list(drafted(write_csv(tmp_path / "t.csv", columns)).model.outputs) == [name]


def test_no_target(tmp_path):
    path = write_csv(tmp_path / "my table.csv", {"x": range(12), "the end": CLASSES * 6})
    with pytest.raises(TargetNeededError) as raised:
        draft_recipe(path, out="other.yaml")
    assert raised.value.columns == ("x", "the end")
    assert "Columns: x, the end." in str(raised.value)
    assert f"perceivers init '{path}' --target 'the end' --out other.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(40) % 2, "category"),
        (np.arange(40) % 12, "category"),
        (np.arange(100) % 21, "number"),
        (np.arange(40) / 3, "number"),
        (np.arange(12), "number"),
        (["a", "b"] * 20, "category"),
        ([0.5, 1.5] * 20, "category"),
    ],
)
def test_the_kind_of_the_target(tmp_path, values, kind):
    columns = {"x": np.linspace(0, 1, len(values)), "y": values}
    assert drafted(write_csv(tmp_path / "t.csv", columns)).model.outputs["y"].kind == kind


@pytest.mark.parametrize(
    ("columns", "target", "words"),
    [
        ({"x": np.linspace(0, 1, 12), "y": [1] * 12}, "y", "column 'y': the target holds only '1'"),
        ({"x": np.linspace(0, 1, 12), "y": [f"n{i}" for i in range(12)]}, "y", "12 different classes in 12 rows"),
        ({"x": np.linspace(0, 1, 12), "y": CLASSES * 6}, "why", "there is no column 'why'"),
        ({"x": [1] * 12, "y": CLASSES * 6}, "y", r"nothing is left to learn 'y' from \(x: the same in every row"),
        ({"x": np.linspace(0, 1, 4), "y": CLASSES * 2}, "y", "4 rows are too few"),
    ],
)
def test_tables_that_cannot_be_learned_from(tmp_path, columns, target, words):
    with pytest.raises(DataError, match=words):
        draft_recipe(write_csv(tmp_path / "t.csv", columns), target)


def test_a_target_of_lists(tmp_path):
    rows = [{"x": i % 3, "y": [1, i]} for i in range(12)]
    with pytest.raises(DataError, match="column 'y': its cells are lists or files"):
        draft_recipe(write_jsonl(tmp_path / "t.jsonl", rows))


def test_no_such_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"nor a named data set\. Did you mean 'digits'"):
        draft_recipe("digit")
    with pytest.raises(DataError, match="there is no such file"):
        draft_recipe("missing.csv")


def test_a_split_column(tmp_path):
    split = ["training"] * 8 + ["dev"] * 2 + ["test"] * 2
    columns = {"x": np.linspace(0, 1, 12), "Split": split, "y": CLASSES * 6}
    recipe, _ = trains(tmp_path, write_csv(tmp_path / "t.csv", columns))
    splits = recipe.data.splits
    assert (splits.column, splits.train, splits.validation, splits.test) == ("Split", "training", "dev", "test")
    assert recipe.evaluation.split == "test"
    assert list(recipe.model.inputs) == ["numbers"]


def test_without_a_test_split_validation_is_scored(tmp_path):
    columns = {"x": np.linspace(0, 1, 12), "set": ["train", "train", "valid"] * 4, "y": CLASSES * 6}
    assert drafted(write_csv(tmp_path / "t.csv", columns)).evaluation.split == "validation"


def test_a_named_data_set_brings_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path / "cache"))
    recipe = as_recipe(yaml.safe_load(draft_recipe("hapt")))
    assert set(recipe.model.inputs) == {"accelerometer", "gyroscope"}
    assert recipe.model.inputs["gyroscope"].rate == 50
    assert recipe.data.splits is None
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match=r"not 'labels'\. Did you mean 'label'"):
        draft_recipe("hapt", "labels")


# -- the recipe as a whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "fewest", "most"), [(40, 1900, 2100), (3000, 2700, 3300), (20_000, 4500, 5500)])
def test_length_of_training(tmp_path, rows, fewest, most):
    recipe = drafted(write_csv(tmp_path / "t.csv", {"x": np.linspace(0, 1, rows), "y": CLASSES * (rows // 2)}))
    train = round(rows * (1 - recipe.data.splits.validation - recipe.data.splits.test))
    assert fewest <= recipe.training.total_steps(train) <= most
    assert recipe.training.total_steps(train) / (recipe.training.evaluate_every or -(-train // 64)) <= 60


def test_more_rows_get_a_larger_model(tmp_path):
    few, many = (
        drafted(write_csv(tmp_path / "t.csv", {"x": np.linspace(0, 1, rows), "y": CLASSES * (rows // 2)})).model.latents
        for rows in (100, 8_000)
    )
    assert (few.count, few.channels) == (32, 64)
    assert many.count * many.channels > few.count * few.channels


def test_paths_are_relative_to_the_recipe(tmp_path):
    path = write_csv(tmp_path / "t.csv", {"x": np.linspace(0, 1, 12), "y": CLASSES * 6})
    data = yaml.safe_load(draft_recipe(path, out=tmp_path / "recipes" / "deep" / "r.yaml"))
    assert data["data"]["source"] == "../../t.csv"


def test_the_commands_stand_in_the_header(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "my t.csv", {"x": np.linspace(0, 1, 12), "y": CLASSES * 6})
    lines = draft_recipe("my t.csv", out="sub/r.yaml").splitlines()
    for command in (
        "perceivers train sub/r.yaml",
        "perceivers evaluate runs/r",
        "perceivers predict runs/r 'my t.csv' --out answers.csv",
        "perceivers plan sub/r.yaml",
    ):
        assert any(line.endswith(command) for line in lines)


@pytest.mark.parametrize(
    "name",
    [n for n in dir(nn.ModuleDict) if not n.startswith("_")] + ["training", "1st", "null", "²", "\x85", "a\u2028b"],
)
def test_column_names_that_cannot_be_input_names(tmp_path, name):
    path = write_csv(tmp_path / "t.csv", {name: [f"word {i}" for i in range(12)], "y": CLASSES * 6})
    recipe = drafted(path)
    (given,) = recipe.model.inputs
    assert given.isidentifier()
    assert recipe.data.columns.get(given, given) == name


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(lambda s: s.lower() != "y")


@given(columns=st.lists(names, min_size=1, max_size=6, unique=True), data=st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_column_names_give_a_recipe_that_reads_them(tmp_path, columns, data):
    cells = {
        "text": lambda i: f"{i}: a text\u2028 of its own",
        "number": lambda i: i / 7,
        "category": lambda i: f"kind {i % 2}",
        "series": lambda i: [i, 2, 3],
    }
    kinds = {name: data.draw(st.sampled_from(sorted(cells))) for name in columns}
    rows = [{**{name: cells[kind](i) for name, kind in kinds.items()}, "y": CLASSES[i % 2]} for i in range(12)]
    table = Table({name: [row[name] for row in rows] for name in columns}, "table")
    left_out = {name for name in columns if guess_column(table, name).kind == "skip"}
    assume(left_out != set(columns))
    recipe = drafted(write_jsonl(tmp_path / "t.jsonl", rows), "y")
    mapping, read = recipe.data.columns, {}
    for name, kind in recipe.model.inputs.items():
        for column in [mapping[name]] if name in mapping else kind.table_columns(name):
            read[column] = kind.kind
    assert read == {name: kind for name, kind in kinds.items() if name not in left_out}


def test_a_column_whose_name_looks_like_a_number_stays_a_name(tmp_path):
    rows = [f"{i / 7},{i % 5},{'xy'[i % 2]}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["1e3,no,label", *rows]) + "\n")
    text = draft_recipe(tmp_path / "t.csv", out=tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_text(text)
    columns = [c for kind in read_recipe(tmp_path / "recipe.yaml").model.inputs.values() for c in kind.columns]
    assert sorted(columns) == ["1e3", "no"]
