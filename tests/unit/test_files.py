import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.data.files import has_splits, read_splits, read_table, write_rows
from perceivers.errors import DataError


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def save_dataset(folder: Path, table: pa.Table, features: dict, shards: int = 1) -> Path:
    """The layout that `datasets.Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    size = -(-len(table) // shards)
    for i, name in enumerate(names):
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table.slice(i * size, size))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


class TestDelimited:
    def test_numbers_text_and_missing_cells(self, tmp_path):
        text = 'n,x,word,full\n1,0.5,a,"x, ""y""\nz"\n2,,NA,b\n3,1e-3, ,\n'
        table = read_table(written(tmp_path / "people.csv", text))
        assert table.name == "people.csv"
        assert table.base == tmp_path
        assert table.rows.tolist() == [1, 2, 3]
        assert table.columns["n"].dtype == np.int64
        assert table.columns["n"].tolist() == [1, 2, 3]
        np.testing.assert_array_equal(table.columns["x"], [0.5, np.nan, 1e-3])
        assert table.columns["word"] == ["a", "NA", None]  # NA may be Namibia
        assert table.columns["full"] == ['x, "y"\nz', "b", None]

    def test_whole_numbers_with_a_missing_one_are_floats(self, tmp_path):
        column = read_table(written(tmp_path / "a.csv", "n,m\n1,1\nNA,2\n3,n/a\n")).columns
        np.testing.assert_array_equal(column["n"], [1.0, np.nan, 3.0])
        np.testing.assert_array_equal(column["m"], [1.0, 2.0, np.nan])

    @pytest.mark.parametrize(
        "cell", ["007", "0x1F", "12345678901234567890", "-01", "1_000", "1,5", "2020-01-01", "true"]
    )
    def test_text_that_a_number_would_damage_stays_text(self, tmp_path, cell):
        column = read_table(written(tmp_path / "a.tsv", f"id\tx\n1\t1\n{cell}\t2\n")).columns["id"]
        assert column == ["1", cell]

    def test_long_identifiers_with_a_missing_one_stay_exact(self, tmp_path):
        column = read_table(written(tmp_path / "a.csv", "id,x\n9007199254740993,1\n,2\n")).columns["id"]
        assert column == [9007199254740993, None]

    @pytest.mark.parametrize("cell", ["0.5", "-0", "0", "1e5", ".5", "5.", "inf", "-inf", "+1.5", " 7 "])
    def test_numbers(self, tmp_path, cell):
        column = read_table(written(tmp_path / "a.csv", f"x,y\n{cell},1\n")).columns["x"]
        assert column[0] == float(cell)

    def test_nothing_but_missing_cells(self, tmp_path):
        assert read_table(written(tmp_path / "a.csv", "x,y\n,1\n,2\n")).columns["x"] == [None, None]

    def test_byte_order_mark_and_windows_line_ends(self, tmp_path):
        table = read_table(written(tmp_path / "a.csv", b"\xef\xbb\xbfx,y\r\n1,a\r\n"))
        assert list(table.columns) == ["x", "y"]
        assert table.columns["y"] == ["a"]

    def test_a_row_longer_than_arrows_default_block(self, tmp_path):
        long = "x" * 3_000_000
        assert read_table(written(tmp_path / "a.csv", f"x,y\n{long},1\n")).columns["x"] == [long]

    def test_lines_within_cells_across_arrows_blocks(self, tmp_path, monkeypatch):
        monkeypatch.setattr("perceivers.data.delimited._LONGEST_ROW", 1000)
        cells = [f"line {i}\n" * (i % 7) + "end" for i in range(500)]
        write_rows([{"text": cell} for cell in cells], tmp_path / "a.csv")
        assert read_table(tmp_path / "a.csv").columns["text"] == cells

    def test_extension_in_capitals(self, tmp_path):
        assert len(read_table(written(tmp_path / "A.CSV", "x\n1\n"))) == 1

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=5))
    def test_any_text_comes_back(self, tmp_path_factory, texts):
        path = tmp_path_factory.mktemp("t") / "t.csv"
        cells = [f"a{text}".replace("\r", "") for text in texts]  # "a": never a number, never blank
        write_rows(({"text": cell, "n": i} for i, cell in enumerate(cells)), path)
        assert read_table(path).columns["text"] == cells


class TestJsonLines:
    def test_columns(self, tmp_path):
        lines = ['{"n": 1, "x": 1, "s": [[1, 2], [3, 4]]}', "", '{"n": 2, "x": 2.5, "word": "é", "flag": true}']
        table = read_table(written(tmp_path / "a.jsonl", "\n".join(lines)))
        assert list(table.columns) == ["n", "x", "s", "word", "flag"]
        assert table.columns["n"].dtype == np.int64
        assert table.columns["x"].dtype == np.float64
        assert table.columns["s"] == [[[1, 2], [3, 4]], None]
        assert table.columns["word"] == [None, "é"]
        assert table.columns["flag"] == [None, True]

    def test_missing_numbers_are_nan(self, tmp_path):
        table = read_table(written(tmp_path / "a.ndjson", '{"x": null, "y": 1}\n{"x": 3}\n'))
        np.testing.assert_array_equal(table.columns["x"], [np.nan, 3.0])

    def test_numbers_beyond_64_bits_stay_exact(self, tmp_path):
        table = read_table(written(tmp_path / "a.jsonl", f'{{"x": {2**64}}}\n{{"x": 1}}\n'))
        assert table.columns["x"] == [2**64, 1]


class TestParquet:
    def test_columns(self, tmp_path):
        source = pa.table(
            {
                "n": pa.array([1, 2, 3], pa.int32()),
                "holes": pa.array([1, None, 3], pa.int16()),
                "x": pa.array([1.5, None, 3.0], pa.float32()),
                "word": pa.array(["a", None, "c"]).dictionary_encode(),
                "when": pa.array([0, 1, None], pa.date32()),
                "wave": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32())),
                "fixed": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
                "image": pa.array([{"bytes": b"x", "path": None}, None, {"bytes": b"y", "path": "p"}]),
                "flag": pa.array([True, None, False]),
                "large": pa.array([2**64 - 1, 1, 2], pa.uint64()),
                "price": pa.array([1, 2, 3]).cast(pa.decimal128(30, 2)),
            }
        )
        pq.write_table(source, tmp_path / "a.parquet")
        columns = read_table(tmp_path / "a.parquet").columns
        assert columns["n"].dtype == np.int64
        np.testing.assert_array_equal(columns["holes"], [1.0, np.nan, 3.0])
        np.testing.assert_array_equal(columns["x"], [1.5, np.nan, 3.0])
        assert columns["word"] == ["a", None, "c"]
        assert columns["when"] == ["1970-01-01", "1970-01-02", None]
        assert columns["wave"][1] is None
        assert columns["wave"][2].dtype == np.float32
        assert columns["wave"][2].tolist() == [3.0, 4.0]
        assert columns["wave"][2].flags.writeable
        assert columns["fixed"][1].tolist() == [3, 4]
        assert columns["image"] == [{"bytes": b"x", "path": None}, None, {"bytes": b"y", "path": "p"}]
        assert columns["flag"] == [True, None, False]
        assert columns["large"] == [2**64 - 1, 1, 2]
        assert columns["price"].tolist() == [1.0, 2.0, 3.0]

    def test_tensor_cells_keep_their_shape(self, tmp_path):
        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.float32).reshape(2, 3, 2))
        pq.write_table(pa.table({"t": tensors}), tmp_path / "a.parquet")
        cells = read_table(tmp_path / "a.parquet").columns["t"]
        np.testing.assert_array_equal(cells[1], np.arange(6, 12).reshape(3, 2))


class TestClassFolder:
    def test_files_and_labels(self, tmp_path):
        for name in ("dog/b.PNG", "cat/2.jpg", "cat/1.jpeg", "cat/.hidden", "cat/Thumbs.db", ".git/x", "README.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        table = read_table(tmp_path)
        assert table.columns == {"file": ["cat/1.jpeg", "cat/2.jpg", "dog/b.PNG"], "label": ["cat", "cat", "dog"]}
        assert table.base == tmp_path

    def test_arrays(self, tmp_path):
        for name in ("dog/b.npy", "cat/1.npy", "cat/2.npz"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        assert read_table(tmp_path).columns == {
            "file": ["cat/1.npy", "cat/2.npz", "dog/b.npy"],
            "label": ["cat", "cat", "dog"],
        }
        (tmp_path / "loose.npy").write_bytes(b"")
        with pytest.raises(DataError, match=r"1 files stand beside the class folders \(loose.npy\)"):
            read_table(tmp_path)

    def test_an_array_beside_images_is_not_one_of_them(self, tmp_path):
        for name in ("dog/b.png", "cat/1.png", "mean.npy"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        assert len(read_table(tmp_path)) == 2


FEATURES = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}, "image": {"_type": "Image"}}


def labelled_images() -> pa.Table:
    return pa.table(
        {
            "image": pa.array([{"bytes": b"1", "path": None}, {"bytes": None, "path": "x.png"}, None]),
            "label": pa.array([1, 0, -1]),
            "x": pa.array([1.0, 2.0, 3.0], pa.float32()),
        }
    )


class TestSavedDataset:
    @pytest.mark.parametrize("shards", [1, 2])
    def test_one_table(self, tmp_path, shards):
        table = read_table(save_dataset(tmp_path / "set", labelled_images(), FEATURES, shards))
        assert table.columns["label"] == ["dog", "cat", None]
        assert table.columns["image"][0] == {"bytes": b"1", "path": None}
        assert table.columns["x"].tolist() == [1.0, 2.0, 3.0]
        assert table.base == tmp_path / "set"

    def test_own_splits(self, tmp_path):
        for split in ("train", "valid", "extra"):
            save_dataset(tmp_path / "set" / split, labelled_images(), FEATURES)
        (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "valid", "extra"]}')
        assert has_splits(tmp_path / "set")
        assert not has_splits(tmp_path / "set" / "train")
        splits = read_splits(tmp_path / "set")
        assert list(splits) == ["train", "validation", "extra"]
        assert splits["validation"].name == "set/valid"
        assert len(read_table(tmp_path / "set" / "train")) == 3


class TestWriteRows:
    rows = (
        {"id": np.int64(1), "answer": "cat", "p": {"cat": np.float32(0.5), "dog": 0.5}, "file": Path("a/b.png")},
        {"id": 2, "answer": None, "vector": np.array([1.0, np.nan]), "error": "row 2: naïve"},
    )

    def test_json_lines(self, tmp_path):
        write_rows(self.rows, tmp_path / "out.jsonl")
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert lines == [
            {"id": 1, "answer": "cat", "p": {"cat": 0.5, "dog": 0.5}, "file": "a/b.png"},
            {"id": 2, "answer": None, "vector": [1.0, None], "error": "row 2: naïve"},
        ]

    def test_csv(self, tmp_path):
        write_rows([*self.rows, {"id": math.nan}], tmp_path / "out.csv")
        lines = (tmp_path / "out.csv").read_text().splitlines()
        assert lines[0] == "id,answer,p,file,vector,error"
        assert lines[1] == '1,cat,"{""cat"": 0.5, ""dog"": 0.5}",a/b.png,,'
        assert lines[2] == '2,,,,"[1.0, null]",row 2: naïve'
        assert lines[3] == ",,,,,"

    def test_tsv_reads_back(self, tmp_path):
        write_rows([{"a": "x\ty", "b": True}, {"a": "z", "b": False}], tmp_path / "out.tsv")
        assert read_table(tmp_path / "out.tsv").columns == {"a": ["x\ty", "z"], "b": ["true", "false"]}

    def test_parquet(self, tmp_path):
        write_rows(self.rows, tmp_path / "out.parquet")
        columns = read_table(tmp_path / "out.parquet").columns
        assert list(columns) == ["id", "answer", "p", "file", "vector", "error"]
        assert columns["p"] == [{"cat": 0.5, "dog": 0.5}, None]
        np.testing.assert_array_equal(columns["vector"][1], [1.0, np.nan])

    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
    def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(self, tmp_path, suffix, monkeypatch):
        path = tmp_path / f"out.{suffix}"
        write_rows([{"x": 1}], path)
        before = path.read_bytes()

        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=rf"out\.{suffix}: nothing was written: No space.*before is unchanged"):
            write_rows([{"x": 2}], path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [path.name]

    def test_an_error_in_the_rows_themselves_leaves_nothing(self, tmp_path):
        def rows():
            yield {"x": 1}
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_rows(rows(), tmp_path / "out.csv")
        assert os.listdir(tmp_path) == []

    def test_no_rows(self, tmp_path):
        write_rows([], tmp_path / "out.jsonl")
        assert (tmp_path / "out.jsonl").read_bytes() == b""


class TestBlankLines:
    @pytest.mark.parametrize(
        ("text", "cells"),
        [
            ("x\na\n\nb\n", ["a", None, "b"]),
            ("x\na\n\nb", ["a", None, "b"]),
            ("\ufeff\nx\r\n\r\na\r\n", [None, "a"]),
            ("x\na\n\n", ["a", None]),
            ('x\n"a\n\nb"\n\nc\n', ["a\n\nb", None, "c"]),
            ("x\n1\n\n3\n", [1, np.nan, 3]),
        ],
    )
    def test_below_one_column_each_is_a_row(self, tmp_path, text, cells):
        """Or predictions would stand beside the wrong rows of the file."""
        table = read_table(written(tmp_path / "a.csv", text))
        np.testing.assert_equal(list(table.column("x")), cells)

    def test_below_several_they_are_none(self, tmp_path):
        table = read_table(written(tmp_path / "a.csv", "x,y\n\na,b\n\nc,d\n\n"))
        assert dict(table.columns) == {"x": ["a", "c"], "y": ["b", "d"]}

    def test_what_is_written_is_read(self, tmp_path):
        write_rows([{"x": None}, {"x": "a"}, {"x": None}], tmp_path / "a.csv")
        assert read_table(tmp_path / "a.csv").column("x") == [None, "a", None]

    def test_faults_count_them(self, tmp_path):
        path = written(tmp_path / "a.csv", "x\n\nb\nc,d\n")
        with pytest.raises(DataError, match=r"row 3 \(line 4\): wanted 1 cells, one per column, got 2"):
            read_table(path)
