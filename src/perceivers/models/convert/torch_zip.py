"""Zips of `torch.save` (since PyTorch 1.6), read without torch's own reader and without executing anything.

archive/data.pkl   a pickle, in which a tensor is a call of `_rebuild_tensor_v2` over a storage with a persistent id
archive/data/KEY   the numbers of one storage, as they lie in memory

The pickle goes through the machine of `pickle_reader`: what it names becomes a stand-in. A tensor is made of its
storage only when shape, strides and bytes agree, and only when it is asked for.
"""

import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perceivers.bounded import GB, check_bounded
from perceivers.errors import ModelError
from perceivers.models.convert.pickle_reader import Dialect, read_stream
from perceivers.models.convert.pickled import PERMITTED, Unread
from perceivers.models.convert.stored import MOST_ON_AN_AXIS, damaged, refused

# No published Perceiver has 2 GB; a checkpoint of training holds two moments more.
MOST_BYTES = 64 * GB
# Of the pickle alone, in which no numbers are.
MOST_PICKLE_BYTES = 64 * 10**6
MOST_AXES = 16
_WRONG = "it is no zip of torch.save, or is truncated or damaged"
# What torch.save wrote before 1.6 begins with its magic number, pickled.
_BEFORE_ZIPS = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
# Of a zip's local header: two lengths at byte 26, of what stands between its 30 bytes and the content.
_HEADER, _LENGTHS = 30, 26

# Of mappings: what is hashed as it stands.
_KEYS = (str, int, float, bool, type(None))
# Longer ones than Python likes to write are none of a model's settings.
_MOST_BITS = 1024

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


@dataclass(frozen=True, slots=True)
class Sort:
    """A class of storages; it is named and never called."""

    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """What stands in for something that no list names; called, it keeps what it is given."""

    name: str

    def __call__(self, arguments: tuple[Any, ...]) -> Unread:
        """An object of that name, with nothing but what it was given."""
        return Unread(self.name, arguments or None)


@dataclass(eq=False, frozen=True, slots=True)
class Storage:
    """Numbers in an entry of the zip."""

    dtype: str
    key: str
    count: int


@dataclass(eq=False, frozen=True, slots=True)
class OtherNumbers:
    """What stands in for a storage of a sort of numbers that no list names, and for a tensor that is a view of it."""

    sort: str


@dataclass(eq=False, frozen=True, slots=True)
class TorchTensor:
    """A tensor as it was saved: a view of a storage, in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """numpy's name of it, or bfloat16."""
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        """Of the whole tensor, however often its storage stands in it."""
        return math.prod(self.shape) * itemsize(self.dtype)


class TorchZip(NamedTuple):
    """What a zip holds: the tree of the pickle, and where its storages lie."""

    path: Path
    tree: Any
    places: Mapping[str, int]

    def array(self, tensor: TorchTensor) -> np.ndarray:
        """The numbers of a tensor, read-only; bfloat16 as float32. Raises `ModelError` where the file has changed."""
        storage = tensor.storage
        kind = np.dtype("uint16" if storage.dtype == "bfloat16" else storage.dtype)
        if not math.prod(tensor.shape):
            return np.zeros(tensor.shape, "float32" if storage.dtype == "bfloat16" else kind)
        try:
            whole = np.memmap(self.path, kind, "r", self.places[storage.key], (storage.count,))
        except (OSError, ValueError) as error:
            raise damaged(self.path, "a tensor in it is no longer there as it was", error) from None
        strides = [step * kind.itemsize for step in tensor.stride]
        view = np.lib.stride_tricks.as_strided(whole[tensor.offset :], tensor.shape, strides, writeable=False)
        if storage.dtype == "bfloat16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view


def itemsize(dtype: str) -> int:
    """Bytes of a number."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def read_torch_zip(path: Path) -> TorchZip:
    """The zip at `path`. Of its pickle, what no list names is `Unread`. Raises `ModelError`; nothing is executed."""
    check_bounded(path, MOST_BYTES, f"'{path}'")
    try:
        with path.open("rb") as file:
            if file.read(len(_BEFORE_ZIPS)) == _BEFORE_ZIPS:
                raise refused(
                    path,
                    "it has the form that torch.save wrote before PyTorch 1.6. Where you trust it, save it again: "
                    "torch.save(torch.load(FILE, weights_only=True), FILE).",
                )
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise refused(path, f"{_WRONG}: it has {len(pickles)} pickles.")
            top = pickles[0].partition("/")[0]
            storages = {n.removeprefix(f"{top}/data/"): e for n, e in entries.items() if n.startswith(f"{top}/data/")}
            _check(path, archive, entries[pickles[0]], entries.get(f"{top}/byteorder"))
            with archive.open(entries[pickles[0]]) as stream:
                tree = read_stream(path, stream, entries[pickles[0]].file_size, _dialect(path, storages))
        with path.open("rb") as file:
            return TorchZip(path, tree, {key: _place(path, file, entry) for key, entry in storages.items()})
    except ModelError:
        raise
    # Damage makes zipfile fail in any way that Python can.
    except Exception as error:
        raise damaged(path, _WRONG, error) from None


def _check(path: Path, archive: zipfile.ZipFile, pickle: zipfile.ZipInfo, order: zipfile.ZipInfo | None) -> None:
    if pickle.compress_type != zipfile.ZIP_STORED:
        raise refused(path, "its pickle is compressed, which torch.save never does; save it again with torch.")
    if pickle.file_size > MOST_PICKLE_BYTES:
        raise refused(path, f"its pickle has {pickle.file_size:,} bytes; at most {MOST_PICKLE_BYTES:,} are read.")
    if order is not None and order.file_size < 16 and archive.read(order) == b"big":
        raise refused(path, "its numbers are big-endian; save it again on a usual machine.")


def _place(path: Path, file: Any, entry: zipfile.ZipInfo) -> int:
    """The byte of the file at which the entry's content begins."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise refused(path, "its numbers are compressed, which torch.save never does; save it again with torch.")
    file.seek(entry.header_offset + _LENGTHS)
    start = entry.header_offset + _HEADER + sum(struct.unpack("<HH", file.read(4)))
    if start + entry.file_size > path.stat().st_size:
        raise refused(path, f"{_WRONG}.")
    return start


def _dialect(path: Path, storages: Mapping[str, zipfile.ZipInfo]) -> Dialect:
    """Plain values and tensors; everything else is a stand-in that keeps what it was given."""

    def storage(identity: Any) -> Storage | OtherNumbers:
        match identity:
            case ("storage", Sort(name=name), str(key), str(), int(count)) if _is_size(count):
                kind = STORAGES[name]
            case ("storage", Unknown(name=name), *_):
                return OtherNumbers(name)
            case _:
                raise ValueError("a persistent id that is no storage")
        held = storages.get(key)
        if held is None or held.file_size != count * itemsize(kind):
            raise ValueError("a storage that is not there, or is of another size")
        return Storage(kind, key, count)

    return Dialect(_PERMITTED, lambda module, name: Unknown(f"{module}.{name}"), storage, _KEYS, True)


def _tensor(arguments: tuple[Any, ...]) -> TorchTensor | OtherNumbers:
    match arguments:
        case (OtherNumbers() as numbers, *_):
            return numbers
        case (Storage() as storage, int(offset), tuple(shape), tuple(stride), *_):
            pass
        case _:
            raise ValueError("a tensor that is no view of a storage")
    sizes = [offset, *shape, *stride]
    if len(shape) != len(stride) or len(shape) > MOST_AXES or not all(map(_is_size, sizes)):
        raise ValueError(f"a tensor whose shape and strides are not at most {MOST_AXES} sizes")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.count:
        raise ValueError("a tensor that goes beyond its storage")
    return TorchTensor(storage, offset, shape, stride)


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n <= MOST_ON_AN_AXIS


def _parameter(arguments: tuple[Any, ...]) -> TorchTensor | OtherNumbers | Unread:
    # Of no other tensor is a parameter made; one of a class of its own is unread.
    if not arguments or not isinstance(arguments[0], (TorchTensor, OtherNumbers, Unread)):
        raise ValueError("a parameter that is made of no tensor")
    return arguments[0]


_PERMITTED: dict[tuple[str, str], Any] = {
    **PERMITTED,
    **{("torch", name): Sort(name) for name in STORAGES},
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    # Of a storage without a type, as those of 8-bit floats.
    ("torch._utils", "_rebuild_tensor_v3"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def key_text(key: Any) -> str:
    """A key of a mapping in a pickle, as text."""
    if isinstance(key, Unread):
        return f"a {key.name}"
    return str(plain(key))


def plain(value: Any, most: int = 10_000) -> Any:
    """`value` of a pickle as plain data: of an `Unread` its state, and of what is no plain value its name.

    None where that would be more than `most` values, or 20 deep: a small pickle can name one of them very often.
    """
    left = [most]

    def walk(part: Any, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > 20:
            raise OverflowError
        if isinstance(part, Mapping):
            return {key_text(key): walk(inner, depth + 1) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [walk(inner, depth + 1) for inner in part]
        if isinstance(part, Unread):
            return walk(part.state, depth + 1) if isinstance(part.state, Mapping) else f"a {part.name}"
        if isinstance(part, Unknown):
            return part.name
        if isinstance(part, int) and part.bit_length() > _MOST_BITS:
            return "a long int"
        if part is None or isinstance(part, (bool, int, float, str)):
            return part
        return f"a {type(part).__name__}"

    try:
        return walk(value, 0)
    except OverflowError:
        return None
