"""Read the columns of data frames that an old pandas pickled, without pandas and without running what it asks for.

Today's pandas cannot read these pickles, and a pickle can call anything. Here it can name only the twelve things that
such a file needs: those of pandas become empty stand-ins that keep the state they are given, and those of NumPy and
Python make arrays, dtypes, slices and bytes, nothing else. Every other name is refused.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from perceivers.errors import DataError


class _StandIn:
    """An object of pandas: keeps its state as it came."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _reconstructor(kind: type, base: type, state: Any) -> _StandIn:
    if kind is not _StandIn or base is not object or state is not None:
        raise pickle.UnpicklingError("an object that is not made the plain way")
    return _StandIn()


def _new_index(kind: type, state: dict[str, Any]) -> _StandIn:
    index = _StandIn()
    index.state = state
    return index


def _encode(text: str, encoding: str) -> bytes:
    """How Python 2 style pickles write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes written as '{encoding}'")
    return text.encode("latin1")


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """The empty array that the pickle fills next."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("an array that is not made the plain way")
    return np.ndarray(shape, code.decode("ascii"))


def _dtype(code: str, align: int, copy: int) -> np.dtype:
    return np.dtype(code, align=bool(align), copy=bool(copy))


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("pandas.core.frame", "DataFrame"): _StandIn,
    ("pandas.core.internals.managers", "BlockManager"): _StandIn,
    ("pandas.core.indexes.base", "_new_Index"): _new_index,
    ("pandas.core.indexes.base", "Index"): _StandIn,
    ("pandas.core.indexes.range", "RangeIndex"): _StandIn,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "object"): object,
    ("__builtin__", "slice"): slice,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for '{module}.{name}', which is not allowed")
        return _ALLOWED[module, name]


def read_frames(content: bytes, what: str) -> dict[int, list[dict[str, np.ndarray]]]:
    """The frames in the pickle `content`, `{key: [frame, …]}`, each as its columns by name.

    Raises `DataError` that calls the file `what` when it asks for a name that is not allowed or is built differently.
    """
    try:
        groups = _Unpickler(io.BytesIO(content)).load()
        return {int(key): [_columns(frame) for frame in frames] for key, frames in groups.items()}
    # A pickle made by someone else can fail in any of these ways; none of them has run anything.
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise DataError(
            f"{what} is not a pickle of data frames as expected: {error or type(error).__name__}."
        ) from error


def _columns(frame: _StandIn) -> dict[str, np.ndarray]:
    """Column name → values (n,). A frame keeps its columns in blocks, (columns, n) each, one for each dtype."""
    _, blocks, block_names, _ = frame.state["_data"].state
    columns = {}
    for block, names in zip(blocks, block_names, strict=True):
        columns |= {str(name): row for name, row in zip(names.state["data"], block, strict=True)}
    return columns
