"""Comma- and tab-separated tables: read by Arrow, with any fault found again and named by row, line and column."""

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from perceivers.bounded import GB, read_bounded
from perceivers.data.arrow import Column, check_names, need_pyarrow, numbers
from perceivers.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# Cells that mean "missing" in a column whose other cells are all numbers. In a column of text only an empty cell is
# missing, because "NA" may be Namibia.
MISSING_NUMBERS = ("", "NA", "N/A", "#N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "None", "<NA>")

MOST_BYTES = 16 * GB  # of one table of text: it is held whole while it is read
_LONGEST_ROW = 1 << 26  # bytes of one row; Arrow refuses a row that is longer than the blocks it reads


def read_csv(path: Path) -> dict[str, Column]:
    """The columns of a comma-separated file in UTF-8 whose first line names them; see `_column` for their types.

    Blank lines are no rows, but below a single column each is: a missing cell. Otherwise rows would not be those of the
    file, and answers would stand beside the wrong ones.
    """
    return _read(path, ",")


def read_tsv(path: Path) -> dict[str, Column]:
    """As `read_csv`, with tabs between the cells."""
    return _read(path, "\t")


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: BinaryIO, place: str) -> None:
    """Writes rows of plain values as UTF-8 CSV: nested cells as JSON text, absent cells and None empty."""
    _write(rows, columns, file, ",")


def write_tsv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: BinaryIO, place: str) -> None:
    """As `write_csv`, with tabs between the cells."""
    _write(rows, columns, file, "\t")


def _write(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: BinaryIO, delimiter: str) -> None:
    writer = csv.writer(codecs.getwriter("utf-8")(file), delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_text(row.get(name)) for name in columns])


def _text(value: Any) -> Any:
    nested = isinstance(value, dict | list | bool)
    return json.dumps(value, ensure_ascii=False) if nested else value


def _read(path: Path, delimiter: str) -> dict[str, Column]:
    need_pyarrow("Reading CSV and TSV")
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    data = read_bounded(path, MOST_BYTES, str(path))
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data, error.start, delimiter) from error
    header = next((cells for _, _, cells in _records(data, delimiter)), None)
    if header is None:
        raise DataError(f"{path}: the file is empty. Its first line must name the columns.")
    _check_header(path, header, delimiter)
    arrows = data
    if len(header) == 1:  # there Arrow shall keep blank lines, but those above the header are no name
        arrows = data.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    if data.count(b'"') % 2:  # Arrow would silently take all that follows an open quotation mark for one cell
        _check_records(path, data, delimiter)
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(arrows),
            read_options=arrow_csv.ReadOptions(block_size=min(len(data) + 1, _LONGEST_ROW)),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=len(header) > 1
            ),
            convert_options=arrow_csv.ConvertOptions(column_types={name: pa.string() for name in header}),
        )
    except pa.ArrowInvalid as error:
        _check_records(path, data, delimiter)
        raise DataError(f"{path}: {error}") from error
    return {name: _column(table.column(name)) for name in table.column_names}


def _column(text: "pa.ChunkedArray") -> Column:
    """Text cells as int64 or float64 when all of them are numbers, else as a list of str (empty: None).

    Text that a number would damage stays text: leading zeros ("007"), hexadecimals, whole numbers of more than 15
    digits beside missing or broken ones.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    functions = cast(Any, pc)  # these functions are made at import, which type checkers cannot see
    trimmed = functions.utf8_trim_whitespace(text)
    present = functions.if_else(functions.is_in(trimmed, pa.array(MISSING_NUMBERS)), None, trimmed)
    for kind, damaged in ((pa.int64(), r"^[+-]?0[0-9xX]"), (pa.float64(), r"^[+-]?(0[0-9xX]|[0-9]{16,}$)")):
        try:
            parsed = present.cast(kind)
        except pa.ArrowInvalid:
            continue
        if (
            parsed.null_count < len(parsed)
            and not functions.any(functions.match_substring_regex(present, damaged)).as_py()
        ):
            return numbers(parsed)
        break
    return functions.if_else(functions.equal(trimmed, ""), None, text).to_pylist()


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    check_names(header, f"{path} (its first line must name the columns)")
    other = next((mark for mark in (";", "\t", ",") if mark != delimiter and mark in header[0]), None)
    if len(header) == 1 and other:
        raise DataError(
            f"{path}: only one column, {header[0]!r}, whose cells look separated by {other!r}; wanted {delimiter!r} "
            f"in a {path.suffix} file. Save it with {delimiter!r} between the cells."
        )


def _check_records(path: Path, data: bytes, delimiter: str) -> None:
    """Raises `DataError` for the first row with too many or too few cells, or with broken quotation marks."""
    wanted, row, line = 0, 0, 0
    try:
        for row, line, cells in _records(data, delimiter, strict=True):
            wanted = wanted or len(cells)
            if len(cells) != wanted:
                raise DataError(
                    f"{path}, row {row} (line {line}): wanted {wanted} cells, one per column, got {len(cells)}. "
                    'A cell that holds the separator must stand in quotation marks: "a, b".'
                )
    except csv.Error as error:
        raise DataError(
            f"{path}, row {row + 1} (after line {line}): {error}. A quotation mark is opened and never closed, or "
            'closed early; inside a quoted cell write it twice: "say ""hi""".'
        ) from error


def _not_utf8(path: Path, data: bytes, offset: int, delimiter: str) -> DataError:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return DataError(f"{path}: this is UTF-16 text; wanted UTF-8. Save it again as UTF-8 (in Excel: 'CSV UTF-8').")
    # The text before the bad byte and one stand-in character: the last cell then is the one with the bad byte.
    records = list(_records(data[:offset] + b"?", delimiter))
    header, (row, line, cells) = records[0][2], records[-1]
    named = row > 0 and len(cells) <= len(header)
    place = f"row {row} (line {line}), column '{header[len(cells) - 1]}'" if named else f"line {line}"
    return DataError(
        f"{path}, {place}: byte {offset} of the file (0x{data[offset]:02x}) is not UTF-8. "
        "Save the file again as UTF-8; it may be Windows-1252 or Latin-1 now."
    )


def _records(data: bytes, delimiter: str, strict: bool = False) -> Iterator[tuple[int, int, list[str]]]:
    """Row number (the header is 0), line number and cells of each record; below one column blank lines are records."""
    file = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    # The module's limit of 128 KB a cell is for the whole process, so it is put back.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(file, delimiter=delimiter, strict=strict)
        row, line, columns = 0, 1, 0
        for cells in reader:
            columns = columns or len(cells)
            if cells or columns == 1:
                yield row, line, cells or [""]
                row += 1
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)
