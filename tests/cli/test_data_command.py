import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from perceivers.cli import data
from perceivers.cli.data import app
from perceivers.errors import DataError


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def fails(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, DataError)
    return str(result.exception)


def test_the_list():
    printed = run("list")
    for words in ("digits", "1,295 / 143 / 359", "CC BY 4.0", "fashion-mnist", "MIT", "hapt", "forda"):
        assert words in printed
    lines = printed.splitlines()
    assert lines[lines.index("digits: handwritten digits, 8 × 8 pixels") + 2].endswith("; at hand")
    assert lines[[line.startswith("hapt: ") for line in lines].index(True) + 2].endswith("; not at hand")


def test_the_list_fits_in_80_columns():
    assert max(map(len, run("list").splitlines())) <= 80


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([None, "cat", "dog", None, "cat", ""], "str, 2 different, such as 'cat'; 3 empty"),
        (["cat"], "str, 1 different, such as 'cat'"),
        ([None, None], "nothing: every cell is empty"),
        ([None, [1, 2]], "list; 1 empty"),
        (np.array([1.0, np.nan, 3.0]), "float64, 1.0 to 3.0; 1 empty or NaN"),
        (np.array([np.nan]), "float64, no number"),
        (np.array([1, 2]), "int64, 1 to 2"),
    ],
)
def test_empty_cells_are_counted_apart(column, said):
    assert data._holds(column) == said


def test_the_list_as_json():
    listed = {data["name"]: data for data in json.loads(run("list", "--json"))}
    assert listed["hapt"]["sizes"] == {"train": 6292, "validation": 1123, "test": 2996}
    assert listed["hapt"]["inputs"]["gyroscope"]["channels"] == 3
    assert listed["forda"]["at_hand"] is False
    assert listed["digits"]["at_hand"] is True


def test_fetch_of_what_comes_with_a_library():
    assert run("fetch", "digits").splitlines()[0] == "digits: 1,295 train, 143 validation, 359 test"


def test_fetch_prints_file_and_checksum(monkeypatch, tmp_path):
    import numpy as np

    from perceivers.data.cache import sha256
    from perceivers.data.named import hapt

    monkeypatch.setattr(
        hapt,
        "_extract",
        lambda say: {
            "accelerometer": np.zeros((10_411, 1, 3), np.float32),
            "gyroscope": np.zeros((10_411, 1, 3), np.float32),
            "label": np.ones(10_411, np.int8),
            "user": np.repeat(np.array([1, 28, 2], np.int8), [6292, 1123, 2996]),
        },
    )
    printed = run("fetch", "hapt")
    file = tmp_path / "cache" / "hapt-1.npz"
    assert f"file: {file}\nsha256: {sha256(file.read_bytes())}\n" in printed


def test_show_of_a_named_data_set(tmp_path):
    printed = run("show", "digits", "--out", "pictures/grid.png", "--count", "8")
    for words in ("licence: CC BY 4.0", "citation: Alpaydin", "arrays (8, 8, 1) uint8", "picture: pictures/grid.png"):
        assert words in printed
    row = next(line for line in printed.splitlines() if line.startswith("│ 7 "))
    assert row.replace("│", " ").split() == ["7", "129", "14", "36"]
    assert (tmp_path / "pictures" / "grid.png").stat().st_size > 1000


def test_show_of_a_table_of_ones_own(tmp_path):
    (tmp_path / "people.csv").write_text("age,sex,answer\n30,[b]f,yes\n,m,no\n50,f,yes\n")
    printed = run("show", "people.csv", "--label", "answer")
    assert "30.0 to 50.0" in printed
    assert "str, 3 different, such as '[b]f'" in printed
    rows = [line.replace("│", " ").split() for line in printed.splitlines() if line.startswith("│")]
    assert ["yes", "2"] in rows
    assert ["all", "3"] in rows
    assert "picture" not in printed
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".png"] == [], "none was asked for"
    printed = run("show", "people.csv", "--label", "answer", "--out", "people.png")
    assert printed.endswith("picture: people.png\n")
    assert (tmp_path / "people.png").exists()


def test_show_of_many_classes(tmp_path):
    (tmp_path / "many.csv").write_text("x,label\n" + "".join(f"{i},c{i}\n" for i in range(60)))
    printed = run("show", "many.csv", "--count", "1")
    assert "60 classes" in printed
    assert "c17" not in printed.split("60 classes")[1]


def test_show_of_what_is_not_there():
    message = fails("show", "digit")
    assert message == (
        "'digit' is neither a file or folder nor a named data set. Did you mean 'digits'? "
        "Named data sets: digits, fashion-mnist, hapt, forda."
    )


def test_a_label_that_is_not_there(tmp_path):
    (tmp_path / "people.csv").write_text("age,answer\n30,yes\n")
    assert "no column 'anser'. Did you mean 'answer'" in fails("show", "people.csv", "--label", "anser")
    assert "no column 'anser'" in fails("show", "digits", "--label", "anser")


def test_fetch_of_an_unknown_name():
    assert fails("fetch", "ford").startswith("unknown data set 'ford'. Did you mean 'forda'?")


def test_nothing_heavy_is_imported_for_help():
    heavy = {"torch", "numpy", "matplotlib", "sklearn", "PIL", "pyarrow", "pydantic", "perceivers.data"}
    code = f"import sys, perceivers.cli.data; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
