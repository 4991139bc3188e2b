"""Files that are read while they are answered: from a table or by name, in order, each fault a row's."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr

from perceivers import Predictor, Source, build, predict
from perceivers.cli.main import main
from perceivers.data import sources
from perceivers.data.table import Table
from perceivers.errors import DataError

SPEC = {
    "inputs": {
        "scene": {"kind": "image", "size": [30, 20], "channels": 2, "mean": [0, 0], "std": [1, 1]},
        "facts": {"kind": "number", "columns": ["a"], "channels": 8, "mean": [0], "std": [1]},
    },
    "latents": {"count": 4, "channels": 16},
    "encoder": {"layers": 1, "self_attend": {"heads": 2}},
    "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
}
SERIES = {"kind": "series", "channels": 2, "rate": 10, "seconds": 9, "mean": [0, 0], "std": [1, 1]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build(SPEC, seed=0).save(tmp_path / "model")
    return tmp_path


def a_scene(seed):
    return np.random.default_rng(seed).normal(size=(30, 20, 2)).astype(np.float32)


def probabilities(rows):
    return [row["label_probabilities"]["x"] for row in rows]


def test_rows_of_a_table_in_their_order(folder, monkeypatch):
    monkeypatch.setattr(sources, "LARGE", 1)
    scenes = [a_scene(seed) for seed in range(4)]
    np.save("zero.npy", scenes[0])
    zarr.create_array("one.zarr", data=scenes[1], chunks=(7, 20, 2))
    tifffile.imwrite("two.tif", scenes[2], photometric="minisblack", planarconfig="contig")
    holes = scenes[3].copy()
    holes[2, 3, 0] = np.nan
    np.save("three.npy", holes)
    np.save("wrong.npy", a_scene(9)[:29])
    np.save("lost.npy", np.full((30, 20, 2), np.nan, np.float32))
    (folder / "cut.npy").write_bytes((folder / "zero.npy").read_bytes()[:1000])
    cells = ["zero.npy", "one.zarr", "two.tif", "three.npy", "wrong.npy", "cut.npy", "gone.npy", "lost.npy"]
    (folder / "t.csv").write_text("scene,a\n" + "".join(f"{c},{'' if c == 'lost.npy' else 3}\n" for c in cells))
    predictor = Predictor("model")
    rows = predict(predictor, "t.csv")
    wanted = predictor.answers([{"scene": s, "facts": [3]} for s in [*scenes[:3], holes]])
    np.testing.assert_allclose(probabilities(rows[:4]), probabilities(wanted), rtol=1e-5)
    assert predictor.missing.masked["scene"] == 1 + 600 + 1, "streamed, lost and given whole"
    errors = [row["error"] for row in rows[4:]]
    assert "row 5, column 'scene'" in errors[0] or "row 5" in errors[0]
    assert "takes (30, 20, 2)" in errors[0]
    assert "no .npy file of numbers" in errors[1]
    assert "row 6" in errors[1]
    assert "gone.npy" in errors[2]
    assert "nothing to answer from" in errors[3]
    with pytest.raises(DataError, match=r"takes \(30, 20, 2\)"):
        predict(predictor, "t.csv", strict=True)


def test_large_files_that_could_be_parsed_are_read_in_runs(folder, monkeypatch):
    tifffile.imwrite("two.tif", a_scene(2), photometric="minisblack", planarconfig="contig")
    (folder / "t.csv").write_text("scene,a\ntwo.tif,3\n")
    whole = predict("model", "t.csv")
    monkeypatch.setattr(sources, "LARGE", 1)
    seen = []
    streamed = predict("model", "t.csv", advance=lambda *progress: seen.append(progress))
    np.testing.assert_allclose(probabilities(streamed), probabilities(whole), rtol=1e-5)
    assert ("reading scene", 30, 30) in seen


def test_files_by_name_on_the_command_line(folder, capsys):
    for n in range(2):
        np.save(f"{n}.npy", a_scene(n))
    with pytest.raises(SystemExit) as done:
        main(["predict", "model", "0.npy", "1.npy", "--quiet"])
    assert done.value.code == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == ["0.npy", "1.npy"]
    wanted = Predictor("model").answers([{"scene": a_scene(n)} for n in range(2)])
    np.testing.assert_allclose(probabilities(rows), probabilities(wanted), rtol=1e-5)


@pytest.mark.parametrize("large", [1, sources.LARGE])
def test_a_file_of_another_size_is_named_with_both_sizes(folder, capsys, monkeypatch, large):
    monkeypatch.setattr(sources, "LARGE", large)
    np.save("wrong.npy", a_scene(9)[:29])
    with pytest.raises(SystemExit):
        main(["predict", "model", "wrong.npy", "--quiet"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert error.startswith("wrong.npy: ")
    assert "29" in error
    assert "the input takes" in error
    assert "row 1" not in error


def test_samples_may_hold_sources_and_files(folder):
    np.save("big.npy", a_scene(0))
    values = a_scene(1)
    predictor = Predictor("model")
    wanted = predictor.answers([{"scene": a_scene(n), "facts": [3]} for n in range(2)])
    rows = predict(
        predictor,
        [
            {"scene": "big.npy", "facts": [3]},
            {"scene": Source.of(values), "facts": [3]},
            {"scene": Source.of(values[:29], name="cut"), "facts": [3]},
            {"facts": Source.of(np.zeros((2, 1)), name="facts")},
            {"scene": Source.of(np.full((30, 20, 2), np.nan), rows=(0, 10), name="lost")},
            {"scene": "big.npy", "facts": [3]},
        ],
    )
    np.testing.assert_allclose(probabilities([*rows[:2], rows[5]]), probabilities([*wanted, wanted[0]]), rtol=1e-5)
    assert rows[2]["error"].startswith("sample 3, cut has the shape (29, 20, 2)")
    assert rows[3]["error"].startswith("sample 4, facts: an input of kind number reads no source")
    assert rows[4]["error"].startswith("sample 5, lost: every input is absent or masked whole")
    assert predictor({"scene": Path("big.npy"), "facts": [3]}) == {k: v for k, v in rows[0].items() if k != "row"}


def test_columns_of_parquet_as_a_series(folder):
    build({**SPEC, "inputs": {"wave": SERIES}}, seed=0).save(folder / "series")
    values = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    pq.write_table(pa.table({"x": values[:, 0], "y": values[:, 1]}), "wave.parquet", row_group_size=13)
    (folder / "t.csv").write_text("wave\nwave.parquet\n")
    wanted = Predictor("series").answers([{"wave": values}])
    for given in ("t.csv", [{"wave": "wave.parquet"}]):
        np.testing.assert_allclose(probabilities(predict("series", given)), probabilities(wanted), rtol=1e-5)
    with pytest.raises(DataError, match="no column of any input"):
        predict("series", "wave.parquet")  # an argument is a table


def test_a_file_that_is_damaged_further_on_is_the_error_of_its_row(folder):
    for n in range(3):
        zarr.create_array(f"{n}.zarr", data=a_scene(n), chunks=(7, 20, 2))
    (folder / "1.zarr" / "c" / "2" / "0" / "0").write_bytes(b"nonsense")
    (folder / "t.csv").write_text("scene,a\n0.zarr,3\n1.zarr,3\n2.zarr,3\n")
    rows = predict("model", "t.csv")
    assert ["error" in row for row in rows] == [False, True, False]
    assert rows[1]["error"].startswith("t.csv, row 2, '")
    assert "1.zarr', rows 0 to 30 cannot be read" in rows[1]["error"]
    with pytest.raises(DataError, match=r"t\.csv, row 2, '.*1\.zarr', rows 0 to 30 cannot be read"):
        predict("model", "t.csv", strict=True)


def test_a_name_that_no_file_can_have_is_the_error_of_its_row(folder):
    name = "a" * 5000 + ".npy"
    (folder / "t.csv").write_text(f"scene,a\n{name},3\n")
    for given, place in (("t.csv", "t.csv, row 1"), ([{"scene": name}], "sample 1")):
        (row,) = predict("model", given)
        assert row["error"].startswith(place)


@pytest.mark.parametrize("strict", [False, True])
def test_progress_is_told_to_none_after_its_table(folder, strict):
    zarr.create_array("0.zarr", data=a_scene(0), chunks=(7, 20, 2))
    np.save("cut.npy", a_scene(0)[:9])
    seen, predictor = [], Predictor("model")
    table = Table({"scene": ["0.zarr", "cut.npy"]}, "t", folder)
    if strict:
        with pytest.raises(DataError, match="row 2"):
            predictor.table(table, strict=True, advance=lambda *step: seen.append(step), quiet=True)
    else:
        predictor.table(table, advance=lambda *step: seen.append(step), quiet=True)
    assert ("reading scene", 30, 30) in seen
    seen.clear()
    predictor.record({"scene": "0.zarr"}, "line 1")
    assert seen == []


def test_small_arrays_are_parsed_whole_so_any_lift_reads_them(folder):
    """A convolution stem cannot read a source; training, evaluation and predictions read the same files."""
    spec = {**SPEC, "inputs": {"scene": {**SPEC["inputs"]["scene"], "lift": {"kind": "conv", "channels": 8}}}}
    predictor = Predictor(build(spec, seed=0))
    np.save("scene.npy", a_scene(0))
    (folder / "cut.npy").write_bytes((folder / "scene.npy").read_bytes()[:1000])
    np.save("words.npy", np.array([["a"]]))
    found = predictor.answers(
        [{"scene": "scene.npy"}, {"scene": a_scene(0)}, {"scene": "cut.npy"}, {"scene": "words.npy"}]
    )
    assert found[0] == found[1]
    assert "image file 'cut.npy' is truncated or damaged: its header tells of shape" in found[2]["error"]
    assert "image file 'words.npy' holds <U1; wanted numbers" in found[3]["error"]
