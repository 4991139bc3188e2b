"""Files as sources: they are read run by run, so they may be larger than memory. Readers are imported late."""

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.bounded import GB
from perceivers.errors import DataError, PerceiversError, missing_extra, unknown
from perceivers.inputs import InputSettings
from perceivers.npy import check_npy
from perceivers.sources import Source

Window = tuple[tuple[int, int], tuple[int, int]]

# Rows of a Parquet file that are read at once.
PARQUET_ROWS = 2**16
# Values of a sample, in bytes of float32, from which a file that could be parsed whole is read run by run instead: no
# more than those of the largest image that is read whole.
LARGE = 200 * 10**6


def open_source(
    path: str | Path, *, axes: int | None = None, window: Window | None = None, columns: Sequence[str] | None = None
) -> Source:
    """A `Source` over a file: `.npy`, `.tif`/`.tiff` (also GeoTIFF), `.parquet`, or a Zarr array's folder `.zarr`.

    axes: of the grid, 2 for a picture and 1 for a series; an array without a channel axis gets one. By default the last
    axis is channels. window: ((top, bottom), (left, right)) of a picture, ends exclusive. columns: of a Parquet file,
    the channels in this order; by default all. A compressed TIFF is unpacked once, to a temporary file on disk. Raises
    `DataError` for a file that cannot be read, naming it; where it is damaged further on, a pass does, naming the rows.
    """
    path = Path(path)
    reader = SOURCES.get(path.suffix.lower())
    if reader is None:
        raise unknown("ending of a source", path.suffix, SOURCES, DataError)
    if not path.exists():
        raise DataError(f"'{path}' does not exist.")
    if columns is not None and reader is not _parquet:
        raise DataError(f"'{path}': columns are of Parquet files; this one has none to choose from.")
    name = f"'{path}'"
    try:
        array = _parquet(path, columns) if reader is _parquet else reader(path)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}.") from None
    except PerceiversError:
        raise
    # A damaged file makes its reader fail in any way that Python can.
    except Exception as error:
        raise DataError(f"{name} is damaged, or no {path.suffix} file of a known sort: {_said(error)}.") from error
    if np.dtype(array.dtype).kind not in "fiub":
        raise DataError(f"{name} holds {array.dtype}, not numbers.")
    array = _guarded(array, name)
    if axes is not None and len(array.shape) == axes:
        array = _with_channel(array)
    if window is not None:
        array = _window(array, window, name)
    return Source.of(array, name=name)


def source_for(kind: InputSettings, cell: Any) -> Source | None:
    """The file that a cell names as a source for an input of that kind; None where it is to be parsed whole."""
    axes, grid = kind.source_axes(), kind.raw_grid()
    if axes is None or grid is None or not isinstance(cell, (str, Path)):
        return None
    path = Path(cell)
    suffix = path.suffix.lower()
    try:
        if suffix not in SOURCES or not path.exists():
            return None
    except OSError:
        return None  # a name that no file can have: `parse` says what is wrong with it
    large = 4 * kind.raw_numbers(kind.elements()) >= LARGE
    return open_source(path, axes=axes) if large or suffix not in kind.whole_files else None


class _Sliced:
    """Something with a shape that is sliced by rows through `cut`."""

    def __init__(self, array: Any, shape: tuple[int, ...], cut: Callable[[slice], np.ndarray]) -> None:
        self.shape = shape
        self.dtype = array.dtype
        self._cut = cut

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._cut(rows)


def _guarded(array: Any, name: str) -> _Sliced:
    """`array`, whose faults name the file and the rows: a file may open well and be damaged further on."""

    def cut(rows: slice) -> np.ndarray:
        try:
            return np.asarray(array[rows])
        # A run is small, so memory too is lacking only for sizes that damage made up.
        except Exception as error:
            raise DataError(
                f"{name}, rows {rows.start} to {rows.stop} cannot be read: {_said(error)}. The file is damaged, or was "
                "changed since it was opened; write it anew."
            ) from error

    return _Sliced(array, tuple(array.shape), cut)


def _said(error: Exception) -> str:
    """What an error of a reader says, on one line; its kind where it says nothing."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _with_channel(array: Any) -> _Sliced:
    return _Sliced(array, (*array.shape, 1), lambda rows: np.asarray(array[rows])[..., None])


def _window(array: Any, window: Window, name: str) -> _Sliced:
    (top, bottom), (left, right) = window
    if len(array.shape) != 3 or not (0 <= top < bottom <= array.shape[0] and 0 <= left < right <= array.shape[1]):
        raise DataError(f"{name}: the window {window} is not within its shape {tuple(array.shape)}.")
    shape = (bottom - top, right - left, array.shape[2])
    return _Sliced(array, shape, lambda rows: np.asarray(array[top + rows.start : top + rows.stop, left:right]))


def _npy(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            check_npy(file, path.stat().st_size, f"'{path}'")
    except DataError:
        raise
    except (ValueError, EOFError) as error:
        raise DataError(f"'{path}' is no .npy file of numbers, or is cut off: {error}.") from None
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _tiff(path: Path) -> Any:
    try:
        import tifffile
    except ImportError:
        raise missing_extra("tifffile", "data", "reading TIFF images") from None
    try:
        try:
            array = tifffile.memmap(path, mode="r")
        except ValueError:
            # Compressed or in tiles: unpacked to a temporary file, which goes with the array.
            _check_room(path, tifffile)
            array = tifffile.imread(path, out="memmap")
    except PerceiversError:
        raise
    # A damaged file makes tifffile fail in any way that Python can: each means that these bytes are no TIFF, but for a
    # disk that is full.
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise DataError(f"'{path}' is a truncated, damaged or unknown TIFF: {error}.") from None
    # Bands first (13, H, W) is as common as bands last; the short axis is the bands.
    return np.moveaxis(array, 0, -1) if array.ndim == 3 and array.shape[0] < min(array.shape[1:]) else array


def _check_room(path: Path, tifffile: Any) -> None:
    """Raise `DataError` where the disk cannot hold it unpacked: writing to a map of a full disk ends the process."""
    with tifffile.TiffFile(path) as file:
        wanted = int(file.series[0].nbytes)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise DataError(
            f"'{path}' is compressed or in tiles, and unpacked takes {wanted / GB:.3g} GB, but '{folder}' has "
            f"{free / GB:.3g} GB free. Make room, or set TMPDIR to a folder with more."
        )


def _zarr(path: Path) -> Any:
    try:
        import zarr
    except ImportError:
        raise missing_extra("zarr", "data", "reading Zarr arrays") from None
    found = zarr.open(path, mode="r")
    if not isinstance(found, zarr.Array):
        names = ", ".join(sorted(found.array_keys()))
        raise DataError(f"'{path}' is a Zarr group, not an array; give one of its arrays: {names}.")
    return found


def _parquet(path: Path, columns: Sequence[str] | None = None) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "data", "reading Parquet files") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"'{path}' is no Parquet file: {error}.") from None
    names = list(columns) if columns is not None else file.schema_arrow.names
    for name in names:
        if name not in file.schema_arrow.names:
            raise unknown("column", name, file.schema_arrow.names, DataError)
        kind = file.schema_arrow.field(name).type
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
            raise DataError(f"'{path}', column '{name}' holds {kind}, not numbers; choose columns of numbers.")
    return _Columns(file, names)


class _Columns:
    """Columns of a Parquet file as (rows, channels).

    Slices that follow each other are one pass, in which every row group is decoded once; any other slice begins at the
    row group that it lies in, and stops where it ends.
    """

    dtype = np.dtype(np.float64)

    def __init__(self, file: Any, names: list[str]) -> None:
        self.file = file
        self.names = names
        self.shape = (file.metadata.num_rows, len(names))
        self.starts = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
        # The row at which the last slice ended, with what was decoded beyond it and the batches to come.
        self._next: dict[int, tuple[np.ndarray, Iterator[np.ndarray]]] = {}

    def __getitem__(self, rows: slice) -> np.ndarray:
        wanted = max(rows.stop - rows.start, 0)
        part, batches = self._next.pop(rows.start, None) or self._begun(rows.start)
        parts, count = [part], len(part)
        while count < wanted and (part := next(batches, None)) is not None:
            parts.append(part)
            count += len(part)
        found = np.concatenate(parts)
        self._next = {rows.stop: (found[wanted:].copy(), batches)} if rows.stop < self.shape[0] else {}
        return found[:wanted]

    def _begun(self, start: int) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        first = max(int(np.searchsorted(self.starts, start, side="right")) - 1, 0)
        groups = range(first, self.file.num_row_groups)
        # They know the file and not these columns: a pass that is broken off must not keep the two alive.
        return np.zeros((0, self.shape[1])), _decoded(self.file, self.names, groups, start - int(self.starts[first]))


def _decoded(file: Any, names: list[str], groups: range, skip: int) -> Iterator[np.ndarray]:
    """The rows of those row groups in batches, but for the first `skip`."""
    for batch in file.iter_batches(PARQUET_ROWS, row_groups=list(groups), columns=names) if groups else ():
        if skip < batch.num_rows:
            # An empty cell is NaN, and so masked or an error as `nan` says.
            cells = [column.slice(skip).to_numpy(zero_copy_only=False) for column in batch.columns]
            yield np.stack([np.asarray(c, dtype=np.float64) for c in cells], axis=-1)
        skip = max(skip - batch.num_rows, 0)


SOURCES: dict[str, Callable[[Path], Any]] = {
    ".npy": _npy,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".zarr": _zarr,
    ".parquet": _parquet,
}
