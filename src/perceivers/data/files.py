"""People's tables on disk: read one whatever its format, write one whole or not at all."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np

from perceivers.atomic import replace_file
from perceivers.data.arrow import (
    DATASET_DICT_MARK,
    DATASET_MARK,
    Column,
    dataset_splits,
    read_dataset,
    read_parquet,
    write_parquet,
)
from perceivers.data.delimited import read_csv, read_tsv, write_csv, write_tsv
from perceivers.data.jsonlines import names_of, read_json_lines, write_json_lines
from perceivers.data.table import TRAIN, VALIDATION, Table
from perceivers.errors import DataError, near_miss, unknown

READERS: dict[str, Callable[[Path], dict[str, Column]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
}

Writer = Callable[[Sequence[Mapping[str, Any]], Sequence[str], BinaryIO, str], None]
WRITERS: dict[str, Writer] = {
    ".csv": write_csv,
    ".tsv": write_tsv,
    ".jsonl": write_json_lines,
    ".ndjson": write_json_lines,
    ".parquet": write_parquet,
}

# What may stand in a class folder: images by the endings of `perceivers.inputs.decode.FORMATS`, sounds, videos, points,
# and arrays, which may be any of these.
# Whether such a file really is one is found when it is decoded.
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
SOUND_SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm")
POINT_SUFFIXES = (".npz", ".ply", ".pts", ".xyz")
ARRAY_SUFFIXES = (".npy", ".npz")
MEDIA_SUFFIXES = (*IMAGE_SUFFIXES, *SOUND_SUFFIXES, *VIDEO_SUFFIXES, *POINT_SUFFIXES, ".npy")

# Files and folders that operating systems leave everywhere, as good as hidden.
_LITTER = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})

_OWN_NAMES = {"valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION}


def read_table(path: Path) -> Table:
    """One table from a file or a folder.

    - `.csv`, `.tsv`: UTF-8, the first line names the columns;
    - `.jsonl`, `.ndjson`: one JSON object a line, nested lists allowed;
    - `.parquet`;
    - a folder with one sub-folder of images, sounds, videos, clouds of points or arrays per class: columns
      `file` (relative to the folder) and `label` (the sub-folder's name), both in sorted order;
    - a folder that `datasets.Dataset.save_to_disk` made; the library is not needed.

    Columns of numbers are numpy int64 or float64 (missing: NaN), all others lists (missing: None). Rows are numbered
    from 1, the header not counted. Paths in cells are relative to `Table.base`: the folder of the file, or the folder
    itself. Raises `DataError` naming file, row and column.
    """
    path = Path(path)
    with _reading(path):
        if path.is_dir():
            columns, base = _read_folder(path), path
        else:
            columns, base = _read_file(path), path.parent
    table = Table(columns, path.name, base)
    if len(table) == 0:
        found = f"it names {len(columns)} columns, but no rows follow" if columns else "it holds no rows"
        raise DataError(f"{path}: the table is empty: {found}. Give it at least one row.")
    return table


def has_splits(path: Path) -> bool:
    """Whether `path` is a folder that `datasets.DatasetDict.save_to_disk` made, so that it brings its own splits."""
    return (Path(path) / DATASET_DICT_MARK).is_file()


def read_splits(path: Path) -> dict[str, Table]:
    """The tables of a folder that `datasets.DatasetDict.save_to_disk` made, by split.

    Its splits `valid`, `val` and `dev` are called `validation` here; others keep their names. Raises `DataError`
    when there is no `train`, or as `read_table`.
    """
    path = Path(path)
    with _reading(path):
        if not has_splits(path):
            raise DataError(f"{path}: no splits of its own here: there is no {DATASET_DICT_MARK}.")
        names = dataset_splits(path)
    tables = {}
    for name in names:
        ours = _OWN_NAMES.get(name, name)
        table = read_table(path / name)
        tables[name if ours in names else ours] = Table(table.columns, f"{path.name}/{name}", table.base, table.rows)
    if TRAIN not in tables:
        raise DataError(f"{path}: there is no split '{TRAIN}'.{near_miss(TRAIN, tables)} Splits: {', '.join(tables)}.")
    return tables


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path, *, last: str = "") -> None:
    """Writes rows to a `.jsonl`, `.ndjson`, `.csv`, `.tsv` or `.parquet` file: whole, or not at all.

    Numpy values and paths become plain ones. CSV and Parquet have all columns of all rows in first-seen order, but for
    `last`, which is behind them; in CSV, lists and dicts are JSON text. NaN and infinity are kept in Parquet only: they
    become null in JSON, which has neither, and empty in CSV. When anything fails, the old file is as it was and there
    is no other. Raises `DataError` naming the path and the reason.
    """
    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise DataError(f"{path}: {unknown('table extension', path.suffix, WRITERS, DataError)}")
    finite = writer is not write_parquet
    plain = [
        {str(name): _plain(value, finite, f"{path}, row {number}, column '{name}'") for name, value in row.items()}
        for number, row in enumerate(rows, start=1)
    ]
    try:
        columns = sorted(names_of(plain), key=lambda name: name == last)
        replace_file(path, lambda file: writer(plain, columns, file, str(path)))
    except OSError as error:
        kept = f" The '{path.name}' of before is unchanged." if path.is_file() else ""
        raise DataError(f"{path}: nothing was written: {error.strerror or error}.{kept}") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: nothing was written: some text is not valid Unicode ({error}).") from error


def _read_file(path: Path) -> dict[str, Column]:
    if not path.exists():
        raise DataError(f"{path}: there is no such file.{_nearest(path)}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: {unknown('table extension', path.suffix, READERS, DataError)}")
    if not path.is_file():
        raise DataError(f"{path}: this is a device or pipe; wanted a file.")
    return reader(path)


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder '{path.parent}' does not exist."
    return near_miss(path.name, (entry.name for entry in path.parent.iterdir()))


def _read_folder(folder: Path) -> dict[str, Column]:
    if has_splits(folder):
        names = ", ".join(dataset_splits(folder))
        raise DataError(f"{folder}: this data set has splits of its own ({names}). Name one of them: {folder}/<split>.")
    if (folder / DATASET_MARK).is_file():
        return read_dataset(folder)
    return _read_class_folder(folder)


def _read_class_folder(folder: Path) -> dict[str, Column]:
    classes, loose = _entries(folder)
    tables = [name for name in loose if PurePath(name).suffix.lower() in READERS]
    if not classes or tables:
        meant = f" Did you mean the table '{folder / tables[0]}'?" if tables else ""
        endings = {PurePath(name).suffix for name in loose if PurePath(name).suffix.lower() in MEDIA_SUFFIXES}
        if endings and not meant:
            meant = " To predict on its contents, give them as files: " + " ".join(
                str(folder / f"*{ending}") for ending in sorted(endings)
            )
        raise DataError(
            f"{folder}: a folder is a table when it has one sub-folder per class, or when `datasets` saved it; this "
            f"one has {len(classes)} sub-folders and {len(loose)} files{_first(loose)}.{meant}"
        )
    files: list[str] = []
    labels: list[str] = []
    for label in classes:
        nested, names = _entries(folder / label)
        if nested:
            raise DataError(
                f"{folder}: the class folder '{label}' has sub-folders{_first(nested)}; wanted files only. If "
                f"'{label}' is a split, name it as the table: {folder / label}."
            )
        files += [f"{label}/{name}" for name in names]
        labels += [label] * len(names)
    _check_strays(folder, loose, files)
    _check_class_files(folder, classes, files, labels)
    return {"file": files, "label": labels}


def _check_strays(folder: Path, loose: list[str], files: list[str]) -> None:
    # An array beside what is no array may be anything, as their mean.
    arrays = any(name.lower().endswith(ARRAY_SUFFIXES) for name in files)
    endings = MEDIA_SUFFIXES if arrays else set(MEDIA_SUFFIXES).difference(ARRAY_SUFFIXES)
    strays = [name for name in loose if PurePath(name).suffix.lower() in endings]
    if strays:
        raise DataError(
            f"{folder}: {len(strays)} files stand beside the class folders{_first(strays)}. Move each into the "
            "sub-folder of its class."
        )


def _check_class_files(folder: Path, classes: list[str], files: list[str], labels: list[str]) -> None:
    others = [name for name in files if PurePath(name).suffix.lower() not in MEDIA_SUFFIXES]
    if others:
        known = ", ".join(MEDIA_SUFFIXES)
        raise DataError(
            f"{folder}: {len(others)} of {len(files)} files in the class folders are neither images, sounds, "
            f"videos, points nor arrays{_first(others)}. Move them elsewhere. Known endings: {known}."
        )
    filled = set(labels)
    empty = [label for label in classes if label not in filled]
    if empty:
        raise DataError(
            f"{folder}: {len(empty)} of {len(classes)} class folders have no files{_first(empty)}. Remove or fill them."
        )


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the sub-folders and of the files, each sorted; hidden ones and litter are left out."""
    with os.scandir(folder) as found:
        visible = [entry for entry in found if not entry.name.startswith(".") and entry.name not in _LITTER]
    folders = sorted(entry.name for entry in visible if entry.is_dir())
    return folders, sorted(entry.name for entry in visible if not entry.is_dir())


def _first(names: Sequence[str]) -> str:
    """`" (a.txt, b.txt, c.txt and 4 more)"`, or an empty string for no names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" ({', '.join(names[:3])}{more})" if names else ""


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"{error.filename or path}: you have no permission to read it. Change its permissions."
        ) from error
    except OSError as error:
        raise DataError(f"{error.filename or path}: it could not be read: {error.strerror or error}.") from error


def _plain(value: Any, finite: bool, place: str) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if np.isfinite(value) or not finite else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, finite, place) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, finite, place) for inner in value]
    raise DataError(f"{place}: a {type(value).__name__} cannot be written; wanted text, numbers, lists or dicts.")
