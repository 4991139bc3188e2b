"""What `init` minds besides the kinds of the columns: clocks of irregular series, groups, dates, early stopping."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import perceivers
from perceivers.data.guess import guess_column, guess_group
from perceivers.data.table import Table
from perceivers.inputs import KINDS
from perceivers.training.draft import draft_recipe
from perceivers.training.recipe import as_recipe

CLASSES = ["cat", "dog"]


def write_csv(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def flat(text):
    """The comments without their line breaks."""
    return " ".join(line.strip().lstrip("#").strip() for line in text.splitlines())


# -- irregular series ------------------------------------------------------------------------------------------------


def irregular(path, last=3599.29, points=(5, 9, 7)):
    rows = []
    for i in range(12):
        times = np.linspace(0, last, points[i % len(points)]).tolist()
        rows.append({"pulse": {"values": times, "times": times}, "age": 20.5 + i, "label": CLASSES[i % 2]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("last", "seconds"), [(3599.29, 3600), (3600.0, 3600), (3601.0, 3700), (0.01201, 0.013), (9.99, 10), (0.0, 1)]
)
def test_seconds_are_rounded_up_to_two_digits(tmp_path, last, seconds):
    text = draft_recipe(irregular(tmp_path / "t.jsonl", last))
    assert yaml.safe_load(text)["model"]["inputs"]["pulse"]["seconds"] == seconds
    assert f"the latest seen is {last:.10g}, so seconds is rounded up" in flat(text)


def test_positions_are_as_fine_as_the_usual_number_of_points(tmp_path):
    recipe = as_recipe(yaml.safe_load(draft_recipe(irregular(tmp_path / "t.jsonl"))))
    position = recipe.model.inputs["pulse"].position
    assert (position.bands, position.resolution) == (3, (7.0,))
    many = as_recipe(yaml.safe_load(draft_recipe(irregular(tmp_path / "many.jsonl", points=(900,)))))
    position = many.model.inputs["pulse"].position
    assert (position.bands, position.resolution) == (16, (900.0,))


def test_the_points_count_as_elements(tmp_path):
    """Seven points and one number."""
    assert "read about 8 elements a sample" in flat(draft_recipe(irregular(tmp_path / "t.jsonl")))


@pytest.mark.filterwarnings("ignore:the validation split has")  # a small table
def test_an_irregular_draft_trains(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(draft_recipe(irregular(tmp_path / "t.jsonl"), out=recipe))
    changes = ["training.epochs=null", "training.steps=2", "training.evaluate_every=null"]
    assert perceivers.train(recipe, out=tmp_path / "run", overrides=changes, quiet=True).steps == 2


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("patient", [f"P{i % 12}" for i in range(60)], True),
        ("subjectId", np.arange(60) % 12, True),
        ("session", np.arange(60) // 2, True),
        ("patient", [f"P{i % 4}" for i in range(60)], False),
        ("patient", [f"P{i}" for i in range(60)], False),
        ("colour", [f"P{i % 12}" for i in range(60)], False),
        ("user", [[i % 12] for i in range(60)], False),
        ("patient", [None] * 60, False),
    ],
)
def test_columns_that_say_whose_a_row_is(name, values, found):
    group = guess_group(Table({"x": np.arange(60) / 7, name: values}, "t"), "label")
    assert (group is not None) == found
    if group is not None:
        assert group[0] == name
        assert group[1].endswith("values in 60 rows")


def test_the_target_is_no_group():
    assert guess_group(Table({"patient": np.arange(60) % 12}, "t"), "patient") is None


def test_a_group_is_named_in_a_comment_that_can_be_used(tmp_path):
    columns = {
        "x": np.linspace(0, 1, 60),
        "patient": [f"P{i % 12}" for i in range(60)],
        "label": [CLASSES[i % 2] for i in range(60)],
    }
    text = draft_recipe(write_csv(tmp_path / "t.csv", columns))
    assert "Rows of one 'patient' (12 values in 60 rows) may be alike" in flat(text)
    assert as_recipe(yaml.safe_load(text)).data.splits.group is None
    line = next(line for line in text.splitlines() if line.startswith("  # splits: "))
    data = {**yaml.safe_load(text), "data": {"source": "t.csv", **yaml.safe_load(line.strip(" #"))}}
    assert as_recipe(data).data.splits.group == "patient"
    assert as_recipe(data).data.splits.stratify == "label"


# -- dates, early stopping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "2024-05-{:02d}",
        "2024-05-{:02d} 12:30:00.000000000",
        "2024-05-{:02d}T12:30",
        "2024-05-{:02d} 12:30:00+02:00",
        "12:{:02d}:01",
    ],
)
def test_dates_and_times_are_left_out(cell):
    guess = guess_column(Table({"when": [cell.format(i % 28 + 1) for i in range(28)]}, "t"), "when")
    assert guess.kind == "skip"
    assert "dates or times" in guess.why


def test_other_text_and_repeated_dates_are_not():
    assert guess_column(Table({"note": [f"2024-05-{i + 10}: fine" for i in range(20)]}, "t"), "note").kind == "text"
    assert guess_column(Table({"day": ["2024-05-01", "2024-05-02"] * 20}, "t"), "day").kind == "category"


def test_a_timestamp_of_a_parquet_file_is_left_out(tmp_path):
    when = pa.array(np.arange(20).astype("datetime64[s]"))
    table = pa.table({"when": when, "x": np.linspace(0, 1, 20), "label": CLASSES * 10})
    pq.write_table(table, tmp_path / "t.parquet")
    text = draft_recipe(tmp_path / "t.parquet")
    assert "when: dates or times" in flat(text)
    assert list(yaml.safe_load(text)["model"]["inputs"]) == ["numbers"]


@pytest.mark.parametrize(("words", "patience"), [(["train", "train", "valid"], 8), (["train", "train", "test"], None)])
def test_patience_where_there_is_something_to_look_at(tmp_path, words, patience):
    columns = {"x": np.linspace(0, 1, 12), "split": words * 4, "y": CLASSES * 6}
    recipe = as_recipe(yaml.safe_load(draft_recipe(write_csv(tmp_path / "t.csv", columns))))
    assert recipe.training.patience == patience


# -- kinds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.augmentation is not None])
def test_the_changes_that_are_proposed_are_valid(name):
    kind = KINDS[name]
    assert kind.augmentation(**kind.augmentation_idea).kind == name


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.reads_columns and kind.drafted_name])
def test_kinds_of_several_columns_are_drafted_once(name):
    reason, settings = KINDS[name].drafted("why", {"columns": ["a", "b"]}, 100)
    assert reason == "why"
    assert settings == {"kind": name, "columns": ["a", "b"]}
    assert KINDS[name].drafted_name.isidentifier()
