"""Arrow memory as columns: Parquet files, and data sets that the library `datasets` saved to disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from perceivers.errors import DataError, missing_extra

if TYPE_CHECKING:
    import pyarrow as pa

Column = Sequence[Any] | np.ndarray

# What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` leave in a folder.
DATASET_MARK, DATASET_DICT_MARK = "state.json", "dataset_dict.json"


def need_pyarrow(purpose: str) -> None:
    """Raises `PerceiversError` with the line that installs pyarrow when it is missing."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise missing_extra("pyarrow", "data", purpose) from error


def read_parquet(path: Path) -> dict[str, Column]:
    """The columns of a Parquet file. Raises `DataError` when it is cut short or is not Parquet."""
    need_pyarrow("Reading Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        try:
            table = pq.ParquetFile(file).read()
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path}: this is not a whole Parquet file ({_first_line(error)}). Was it cut short while it was "
                "copied? Copy or write it again."
            ) from error
    return columns_of(table, str(path))


def write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: BinaryIO, place: str) -> None:
    """Writes rows of plain values as Parquet; absent cells are null. Raises `DataError` for a column of mixed types."""
    need_pyarrow("Writing Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name in columns:
        try:
            arrays[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"{place}, column '{name}': Parquet wants one type of value in a column ({_first_line(error)}). "
                "Give all rows the same type, or write .jsonl."
            ) from error
    # Written in memory first: a full disk then fails in our own write and leaves no half-open Parquet writer behind.
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.table(arrays), sink)
    except pa.ArrowException as error:
        raise DataError(f"{place}: Parquet cannot hold these cells ({_first_line(error)}). Write .jsonl.") from error
    file.write(sink.getvalue())


def read_dataset(folder: Path) -> dict[str, Column]:
    """The columns of one `datasets.Dataset` saved by `save_to_disk`; the library itself is not needed.

    Class labels come back as their names (−1, which means "no label" there, as None); images and sounds as
    `{"bytes": …, "path": …}` cells.
    """
    need_pyarrow("Reading a saved data set")
    import pyarrow as pa

    state = _read_json(folder / DATASET_MARK)
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder}: this data set was saved with a separate row order, as `datasets` did before 2.0. "
            "Load it and save it again with a newer `datasets`."
        )
    parts = [_read_arrow_file(folder, str(part.get("filename"))) for part in state.get("_data_files") or []]
    if not parts:
        raise DataError(f"{folder}: {DATASET_MARK} names no data files.")
    try:
        table = pa.concat_tables(parts)
    except pa.ArrowException as error:
        raise DataError(f"{folder}: its data files have different columns ({_first_line(error)}).") from error
    columns = columns_of(table, str(folder))
    info = folder / "dataset_info.json"
    features = (_read_json(info).get("features") if info.exists() else None) or {}
    for name, feature in features.items():
        if name in columns and isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            columns[name] = _class_names(columns[name], feature.get("names") or [], f"{folder}, column '{name}'")
    return columns


def dataset_splits(folder: Path) -> list[str]:
    """The names of the splits of a saved `datasets.DatasetDict`; each is a sub-folder of that name."""
    splits = _read_json(folder / DATASET_DICT_MARK).get("splits")
    if not isinstance(splits, list) or not splits or not all(isinstance(s, str) and _is_plain(s) for s in splits):
        raise DataError(f"{folder / DATASET_DICT_MARK}: wanted a list of split names under 'splits', got {splits!r}.")
    return splits


def columns_of(table: "pa.Table", place: str) -> dict[str, Column]:
    """Every column of an Arrow table as numpy numbers (missing: NaN) or a list of Python cells (missing: None).

    Whole numbers become int64, other numbers float64; a list of numbers in a cell becomes a numpy array of its own
    type; dates and times become ISO text; structs become dicts. Raises `DataError` for columns of the same name.
    """
    check_names(table.column_names, place)
    return {name: _column(table.column(name)) for name in table.column_names}


def check_names(names: Sequence[str], place: str) -> None:
    """Raises `DataError` naming the columns that occur more than once."""
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        listing = ", ".join(f"'{name}'" for name in repeated[:3])
        raise DataError(
            f"{place}: column names must differ, but these occur more than once: {listing}"
            f"{f' and {len(repeated) - 3} more' if len(repeated) > 3 else ''}. Rename them in the file."
        )


def _column(data: "pa.ChunkedArray") -> Column:
    import pyarrow as pa

    kind, types = data.type, pa.types
    if isinstance(kind, pa.FixedShapeTensorType):
        return [cell for chunk in data.chunks for cell in np.array(chunk.to_numpy_ndarray())]
    if isinstance(kind, pa.BaseExtensionType):
        return _column(pa.chunked_array([chunk.storage for chunk in data.chunks], type=kind.storage_type))
    if types.is_dictionary(kind):
        return _column(data.cast(kind.value_type))
    if types.is_temporal(kind) and not types.is_duration(kind):
        return data.cast(pa.string()).to_pylist()
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return numbers(data)
    if _is_list(kind) and (types.is_integer(kind.value_type) or types.is_floating(kind.value_type)):
        # Copied, because Arrow's own memory is read-only and torch warns about that.
        return [np.array(cell.values.to_numpy(zero_copy_only=False)) if cell.is_valid else None for cell in data]
    return data.to_pylist()


def numbers(data: "pa.ChunkedArray") -> Column:
    """An Arrow column of numbers as int64 (whole, none missing) or float64 (missing: NaN).

    Numbers that neither type holds exactly, such as 20-digit identifiers, stay a list of Python numbers.
    """
    import pyarrow as pa

    whole = pa.types.is_integer(data.type)
    try:
        exact = data.cast(pa.int64() if whole and data.null_count == 0 else pa.float64(), safe=whole)
    except pa.ArrowInvalid:
        return data.to_pylist()
    return np.array(exact.to_numpy())


def _is_list(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _read_arrow_file(folder: Path, name: str) -> "pa.Table":
    import pyarrow as pa

    if not _is_plain(name):
        raise DataError(f"{folder / DATASET_MARK}: '{name}' is not the name of a file in this folder.")
    path = folder / name
    if not path.is_file():
        raise DataError(
            f"{folder}: the data file '{name}' that {DATASET_MARK} names is missing. Copy the folder again."
        )
    with path.open("rb") as file:
        try:
            return pa.ipc.open_stream(file).read_all()
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path}: this is not a whole Arrow stream ({_first_line(error)}). Copy the folder again."
            ) from error


def _class_names(column: Column, names: Sequence[str], place: str) -> list[str | None]:
    return [_class_name(number, names, f"{place}, row {row}") for row, number in enumerate(column, start=1)]


def _class_name(number: Any, names: Sequence[str], place: str) -> str | None:
    if number is None or number == -1 or number != number:  # a missing number is NaN, which differs from itself
        return None
    if not 0 <= number < len(names):
        raise DataError(f"{place}: class number {number}, but there are only {len(names)} class names.")
    return names[int(number)]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: this is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: wanted a JSON object, got {type(content).__name__}.")
    return content


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not any(mark in name for mark in "/\\\0")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
