"""safetensors files read straight into tensors of our own, aligned as torch's are."""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from perceivers.errors import ModelError, near_miss

# safetensors accepts headers of 100 MB, which take minutes to read; the largest model here needs far less than this.
MOST_HEADER_BYTES = 16 * 2**20
METADATA = "__metadata__"
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


def read_tensors(path: Path, header: Mapping[str, Any]) -> tuple[dict[str, Tensor], Callable[[], str]]:
    """The tensors of the safetensors file at `path`, whose header is `header`; and a call that gives its SHA-256.

    safetensors' own readers leave them at places that are not aligned, where kernels that mind give other last bits;
    to copy them from there takes longer than to read them. Hashing takes as long as reading: a thread hashes what is
    read while the next is, and the call waits for it. Nothing may write to the tensors before. Raises `ModelError`.
    """
    digest, hashing = hashlib.sha256(), ThreadPoolExecutor(1)
    try:
        # Checks that the header fits the file: places, sizes, nothing overlapping, nothing between.
        with safe_open(path, framework="np"):
            pass
        with path.open("rb", buffering=0) as stream:
            length = stream.read(8)
            digest.update(length + stream.read(struct.unpack("<Q", length)[0]))
            entries = [(name, entry) for name, entry in header.items() if name != METADATA]
            tensors = {}
            for name, entry in sorted(entries, key=lambda named: named[1]["data_offsets"]):
                tensors[name], data = _read(stream, name, entry, path)
                hashing.submit(digest.update, data)
        return tensors, hashing.submit(digest.hexdigest).result
    except (SafetensorError, OSError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}.") from None
    finally:
        hashing.shutdown(wait=False)


def _read(stream: BinaryIO, name: str, entry: Mapping[str, Any], path: Path) -> tuple[Tensor, memoryview]:
    """The tensor that comes next in `stream`, and its bytes."""
    if entry["dtype"] not in DTYPES:
        near = near_miss(entry["dtype"], DTYPES)
        raise ModelError(f"'{path}': {name} has the dtype {entry['dtype']}; wanted one of {', '.join(DTYPES)}.{near}")
    begin, end = entry["data_offsets"]
    read = torch.empty(end - begin, dtype=torch.uint8)
    data = memoryview(read.numpy())  # pyright: ignore[reportArgumentType]
    filled = 0
    while filled < len(data):
        count = stream.readinto(data[filled:])  # pyright: ignore[reportAttributeAccessIssue]
        if not count:
            raise ModelError(f"'{path}' ended within {name}: something else writes to it.")
        filled += count
    return read.view(DTYPES[entry["dtype"]]).view(entry["shape"]), data
