"""Each fault of a table is one error that names file, row and column, says what was wanted, and what to do."""

import json
import re
import resource
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perceivers.data.files import read_splits, read_table, write_rows
from perceivers.errors import DataError, PerceiversError


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(path: Path, *parts: str) -> None:
    """Reading `path` fails with all `parts` in the message, which names the path."""
    with pytest.raises(DataError) as caught:
        read_table(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_missing_file_with_a_near_miss(tmp_path):
    written(tmp_path / "people.csv", "x\n1\n")
    refused(tmp_path / "poeple.csv", "there is no such file", "Did you mean 'people.csv'?")


def test_missing_folder(tmp_path):
    refused(tmp_path / "none" / "a.csv", f"The folder '{tmp_path / 'none'}' does not exist")


@pytest.mark.parametrize(("name", "hint"), [("a.cvs", "Did you mean '.csv'?"), ("a.xlsx", ""), ("a", "")])
def test_unknown_extension(tmp_path, name, hint):
    known = "Known: .csv, .jsonl, .ndjson, .parquet, .tsv."
    refused(written(tmp_path / name, "x\n1\n"), "unknown table extension", hint, known)
    with pytest.raises(DataError, match=re.escape(known)):
        write_rows([{"x": 1}], tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.csv", "x,y\n", "2 columns, but no rows"),
        ("a.tsv", "", "its first line must name the columns"),
        ("a.csv", "\n\n", "its first line must name the columns"),
        ("a.jsonl", "\n", "no rows"),
    ],
)
def test_empty(tmp_path, name, text, found):
    refused(written(tmp_path / name, text), "empty", found[1:])


def test_empty_parquet(tmp_path):
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "1 columns, but no rows")


def test_no_permission(tmp_path, monkeypatch):
    path = written(tmp_path / "a.csv", "x\n1\n")

    def refuse(self):  # tests may run as root, who may read everything
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    refused(path, "no permission to read it")


def test_other_reading_faults(tmp_path, monkeypatch):
    path = written(tmp_path / "a.jsonl", '{"x": 1}')

    def fail(self):
        raise OSError(5, "Input/output error", str(self))

    monkeypatch.setattr(Path, "read_bytes", fail)
    refused(path, "could not be read: Input/output error")


def test_pyarrow_missing(tmp_path, monkeypatch):
    path = written(tmp_path / "a.csv", "x\n1\n")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PerceiversError, match=r"pip install 'perceivers\[data\]'"):
        read_table(path)


class TestDelimited:
    def test_repeated_column_names(self, tmp_path):
        refused(written(tmp_path / "a.csv", "x,y,x\n1,2,3\n"), "more than once: 'x'", "first line must name")

    def test_malformed_line(self, tmp_path):
        text = 'a,b\n1,"two\nlines"\n\n3,4,5\n'
        refused(written(tmp_path / "a.csv", text), "row 2 (line 5)", "wanted 2 cells", "got 3", "quotation marks")

    def test_lines_above_the_header_are_counted(self, tmp_path):
        refused(written(tmp_path / "a.csv", "\n\na\n1\n2,3\n"), "row 2 (line 5)", "wanted 1 cells", "got 2")

    def test_short_line(self, tmp_path):
        refused(written(tmp_path / "a.tsv", "a\tb\n1\t2\n3\n"), "row 2 (line 3)", "wanted 2 cells", "got 1")

    def test_open_quotation_mark(self, tmp_path):
        text = 'a,b\n1,x\n2,"open\n3,y\n4,z\n'
        refused(written(tmp_path / "a.csv", text), "row 2 (after line 2)", "never closed")

    def test_not_utf8(self, tmp_path):
        data = b'name,town\nAda,"Lon\ndon"\nZo\xeb,K\xf6ln\n'
        refused(
            written(tmp_path / "a.csv", data),
            "row 2 (line 4), column 'name'",
            f"byte {data.index(0xEB)}",
            "0xeb",
            "UTF-8",
        )

    def test_not_utf8_in_a_later_column(self, tmp_path):
        refused(written(tmp_path / "a.csv", b"name,town\nJo,K\xf6ln\n"), "row 1 (line 2), column 'town'", "byte 14 ")

    def test_not_utf8_in_the_header(self, tmp_path):
        refused(written(tmp_path / "a.csv", b"name,\xf6\nJo,K\n"), "line 1: byte 5 ")

    def test_utf16(self, tmp_path):
        refused(written(tmp_path / "a.csv", "x,y\n1,2\n".encode("utf-16")), "UTF-16", "wanted UTF-8")

    def test_semicolons(self, tmp_path):
        refused(written(tmp_path / "a.csv", "a;b\n1;2\n"), "only one column, 'a;b'", "';'", "wanted ','")


class TestJsonLines:
    @pytest.mark.parametrize(
        ("line", "part"),
        [
            ('{"x": 1', "not one JSON object"),
            ("[1]", "got a list"),
            ('{"x": 1, "x": 2}', "'x' occurs more than once"),
            ("[" * 20_000, "nested too deep"),
        ],
    )
    def test_bad_line(self, tmp_path, line, part):
        refused(written(tmp_path / "a.jsonl", f'{{"x": 1}}\n\n{line}\n'), "row 2 (line 3)", part)

    def test_not_utf8(self, tmp_path):
        refused(written(tmp_path / "a.jsonl", b'{"x": 1}\n{"x": "\xff"}\n'), "row 2 (line 2)", "byte 16 ", "0xff")


class TestArrow:
    def test_truncated_parquet(self, tmp_path):
        pq.write_table(pa.table({"x": list(range(1000))}), tmp_path / "whole.parquet")
        data = (tmp_path / "whole.parquet").read_bytes()
        for size in (0, 3, len(data) // 2, len(data) - 1):
            refused(
                written(tmp_path / "cut.parquet", data[:size]), "not a whole Parquet file", "Copy or write it again"
            )

    def test_damaged_parquet(self, tmp_path):
        pq.write_table(pa.table({"x": [f"{i}" * 9 for i in range(1000)]}), tmp_path / "a.parquet")
        data = bytearray((tmp_path / "a.parquet").read_bytes())
        data[4:40] = b"\xff" * 36
        refused(written(tmp_path / "a.parquet", bytes(data)), "not a whole Parquet file")

    def test_repeated_column_names(self, tmp_path):
        pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "a.parquet")
        refused(tmp_path / "a.parquet", "more than once: 'x'")


def save(folder: Path, **state: object) -> Path:
    folder.mkdir(parents=True)
    table = pa.table({"label": [0, 5]})
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}], **state}))
    return folder


class TestSavedDataset:
    def test_missing_data_file(self, tmp_path):
        folder = save(tmp_path / "set")
        (folder / "data.arrow").unlink()
        refused(folder, "'data.arrow'", "missing", "Copy the folder again")

    def test_truncated_data_file(self, tmp_path):
        folder = save(tmp_path / "set")
        data = (folder / "data.arrow").read_bytes()
        (folder / "data.arrow").write_bytes(data[: len(data) // 2])
        refused(folder, "data.arrow", "not a whole Arrow stream")

    def test_path_out_of_the_folder(self, tmp_path):
        refused(save(tmp_path / "set", _data_files=[{"filename": "../../secret"}]), "not the name of a file in this")

    def test_old_row_order(self, tmp_path):
        refused(save(tmp_path / "set", _indices_data_files=[{"filename": "i.arrow"}]), "separate row order")

    def test_no_data_files(self, tmp_path):
        refused(save(tmp_path / "set", _data_files=[]), "names no data files")

    def test_class_number_without_a_name(self, tmp_path):
        folder = save(tmp_path / "set")
        features = {"label": {"_type": "ClassLabel", "names": ["cat"]}}
        (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
        refused(folder, "column 'label', row 2: class number 5", "only 1 class names")

    def test_state_is_not_json(self, tmp_path):
        folder = save(tmp_path / "set")
        (folder / "state.json").write_text("{")
        refused(folder, "state.json: this is not JSON")

    def test_own_splits_are_not_one_table(self, tmp_path):
        save(tmp_path / "set" / "test")
        written(tmp_path / "set" / "dataset_dict.json", '{"splits": ["test"]}')
        refused(tmp_path / "set", "splits of its own (test)")
        with pytest.raises(DataError, match=r"there is no split 'train'.*Splits: test"):
            read_splits(tmp_path / "set")

    def test_split_names_out_of_the_folder(self, tmp_path):
        written(tmp_path / "set" / "dataset_dict.json", '{"splits": ["../train"]}')
        with pytest.raises(DataError, match="wanted a list of split names"):
            read_splits(tmp_path / "set")

    def test_no_splits(self, tmp_path):
        with pytest.raises(DataError, match=r"there is no dataset_dict\.json"):
            read_splits(tmp_path)


class TestClassFolder:
    def test_neither_kind(self, tmp_path):
        written(tmp_path / "notes.txt", "")
        refused(tmp_path, "one sub-folder per class", "0 sub-folders and 1 files (notes.txt)")

    def test_a_folder_of_pictures(self, tmp_path):
        for name in ("1.png", "2.png", "3.jpg"):
            written(tmp_path / name, "")
        refused(tmp_path, f"give them as files: {tmp_path / '*.jpg'} {tmp_path / '*.png'}")

    def test_a_table_beside_folders(self, tmp_path):
        written(tmp_path / "images" / "1.png", "")
        written(tmp_path / "labels.csv", "file,label\n")
        refused(tmp_path, f"Did you mean the table '{tmp_path / 'labels.csv'}'?")

    def test_other_files(self, tmp_path):
        written(tmp_path / "cat" / "1.png", "")
        for name in "abcd":
            written(tmp_path / "dog" / f"{name}.txt", "")
        refused(
            tmp_path,
            "4 of 5 files",
            "neither images, sounds, videos, points nor arrays (dog/a.txt, dog/b.txt, dog/c.txt and 1 more)",
            ".png",
        )

    def test_empty_class(self, tmp_path):
        written(tmp_path / "cat" / "1.png", "")
        (tmp_path / "dog").mkdir()
        refused(tmp_path, "1 of 2 class folders have no files (dog)")

    def test_split_folders(self, tmp_path):
        written(tmp_path / "train" / "cat" / "1.png", "")
        refused(tmp_path, "'train' has sub-folders (cat)", f"name it as the table: {tmp_path / 'train'}")

    def test_images_beside_classes(self, tmp_path):
        written(tmp_path / "cat" / "1.png", "")
        written(tmp_path / "stray.jpg", "")
        refused(tmp_path, "1 files stand beside the class folders (stray.jpg)")


class TestWriteRows:
    def test_value_that_cannot_be_written(self, tmp_path):
        with pytest.raises(DataError, match="row 2, column 'x': a bytes cannot be written"):
            write_rows([{"x": 1}, {"x": b"1"}], tmp_path / "a.jsonl")

    def test_mixed_types_in_parquet(self, tmp_path):
        with pytest.raises(DataError, match=r"a\.parquet, column 'x': Parquet wants one type.*write \.jsonl"):
            write_rows([{"x": 1}, {"x": "one"}], tmp_path / "a.parquet")

    def test_text_that_is_not_unicode(self, tmp_path):
        with pytest.raises(DataError, match="not valid Unicode"):
            write_rows([{"x": "\udcff"}], tmp_path / "a.csv")
        assert not list(tmp_path.iterdir())

    def test_target_is_a_folder(self, tmp_path):
        (tmp_path / "a.csv").mkdir()
        with pytest.raises(DataError, match=r"a\.csv: nothing was written"):
            write_rows([{"x": 1}], tmp_path / "a.csv")

    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
    def test_a_disk_that_takes_no_more(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        write_rows([{"x": "old"}], path)
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(DataError, match="nothing was written: File too large"):
                write_rows([{"x": f"{i}" * 40} for i in range(20_000)], path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
