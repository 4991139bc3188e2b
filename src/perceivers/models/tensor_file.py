"""safetensors files read straight into tensors of our own, aligned as torch's are."""

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perceivers.errors import ModelError, near_miss

# safetensors accepts headers of 100 MB, which take minutes to read; the largest model here needs far less than this.
MOST_HEADER_BYTES = 16 * 2**20
METADATA = "__metadata__"
# What is read by one call: so many arrays, which systems limit to 1,024, or so many bytes, hashed while more are read.
_MOST_ARRAYS = 512
_PART_BYTES = 8 * 2**20
# Of one array, where systems limit what a call may ask for to 2 GiB.
_MOST_BYTES = 2**30
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_header(path: Path) -> Mapping[str, Any]:
    """The header of the safetensors file at `path`, whose entries are still to be trusted. Raises `ModelError`."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > MOST_HEADER_BYTES or length + 8 > size:
            raise ModelError(f"'{path}' is not a safetensors file, or is truncated.")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            raise ModelError(f"'{path}' has a damaged safetensors header.") from None
    if not isinstance(header, Mapping):
        raise ModelError(f"'{path}' has a damaged safetensors header.")
    return header


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that those may read whom the user's mask lets read a new file.

    safetensors itself lets nobody else. Raises `OSError` and, of a full disk too, `SafetensorError`.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=dict(metadata))
    path.chmod(mode)


class Reading:
    """A safetensors file that one thread reads into tensors and another gives to `digest`, while the caller goes on.

    safetensors' own readers leave tensors at places that are not aligned, where kernels that mind give other last bits;
    to copy them from there takes longer than to read them. Building what the tensors are for may take as long as
    reading them. unread: the tensors, which are there at once and hold what the file does once `tensors` or `checksum`
    has returned. digest: an object like `hashlib`'s. Raises `ModelError` for a header that does not fit the file, and
    for dtypes that torch has not.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], digest: Any) -> None:
        self._path, self._digest = path, digest
        try:
            # Checks that the header fits the file: places, sizes, nothing overlapping, nothing between.
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise self._unreadable(error) from None
        entries = [(name, entry) for name, entry in header.items() if name != METADATA]
        entries.sort(key=lambda named: named[1]["data_offsets"])
        memory = [_memory(name, entry, path) for name, entry in entries]
        kinds = [(name, DTYPES[entry["dtype"]], entry["shape"]) for name, entry in entries]
        self.unread = {n: m.view(dtype).view(shape) for (n, dtype, shape), m in zip(kinds, memory, strict=True)}
        arrays = [memoryview(m.numpy()) for m in memory]  # pyright: ignore[reportArgumentType]
        reader = ThreadPoolExecutor(1)
        self._read = reader.submit(self._read_all, arrays)
        reader.shutdown(wait=False)

    def tensors(self) -> dict[str, Tensor]:
        """All of them, once they are read; nothing may write to them before `checksum`. Raises `ModelError`."""
        self._done()
        return self.unread

    def checksum(self) -> str:
        """The digest of the whole file, in hexadecimal digits. Raises `ModelError`."""
        return self._done().result()

    def _done(self) -> "Future[str]":
        try:
            return self._read.result()
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> ModelError:
        return ModelError(f"'{self._path}' cannot be read: {error}.")

    def _read_all(self, arrays: Sequence[memoryview]) -> "Future[str]":
        """Fill `arrays`, one behind the other; what is read is hashed while the next is."""
        digest, hashing = self._digest, ThreadPoolExecutor(1)
        try:
            with self._path.open("rb", buffering=0) as stream:
                start = bytearray(8)
                _fill(stream, [memoryview(start)])
                length = struct.unpack("<Q", start)[0]
                if length > MOST_HEADER_BYTES:
                    raise OSError("its header changed: something else writes to it")
                header = bytearray(length)
                _fill(stream, [memoryview(header)])
                digest.update(start + header)
                for part in _parts(arrays):
                    _fill(stream, part)
                    hashing.submit(_hash, digest, part)
            return hashing.submit(digest.hexdigest)
        finally:
            hashing.shutdown(wait=False)


def _memory(name: str, entry: Mapping[str, Any], path: Path) -> Tensor:
    """Bytes for that tensor."""
    if entry["dtype"] not in DTYPES:
        near = near_miss(entry["dtype"], DTYPES)
        raise ModelError(f"'{path}': {name} has the dtype {entry['dtype']}; wanted one of {', '.join(DTYPES)}.{near}")
    begin, end = entry["data_offsets"]
    return torch.empty(end - begin, dtype=torch.uint8, device="cpu")


def _parts(arrays: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """The bytes of all arrays, some at a time."""
    part: list[memoryview] = []
    pieces = (array[i : i + _MOST_BYTES] for array in arrays for i in range(0, len(array), _MOST_BYTES))
    for piece in pieces:
        part.append(piece)
        if len(part) == _MOST_ARRAYS or sum(map(len, part)) >= _PART_BYTES:
            yield part
            part = []
    if part:
        yield part


def _fill(stream: FileIO, arrays: Sequence[memoryview]) -> None:
    """Read all of them. Raises `OSError` where the stream ends before."""
    rest = list(arrays)
    while rest:
        count = _read_into(stream, rest)
        if not count:
            raise OSError("it ended early: something else writes to it")
        while rest and count >= len(rest[0]):
            count -= len(rest.pop(0))
        if count:
            rest[0] = rest[0][count:]


def _read_into(stream: FileIO, arrays: Sequence[memoryview]) -> int:
    """Read into these what comes at once; the number of bytes.

    One call for many: after each this thread waits, up to 5 ms, until another that runs Python lets it go on.
    """
    if hasattr(os, "readv"):
        return os.readv(stream.fileno(), arrays)
    return stream.readinto(arrays[0]) or 0  # Windows


def _hash(digest: Any, arrays: Iterable[memoryview]) -> None:
    for array in arrays:
        digest.update(array)
