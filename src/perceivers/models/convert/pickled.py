"""What a pickle of weights may be made of: arrays of numpy and jax, mappings of haiku, states of optax.

Nothing here is numpy's or jax's own: a pickle's calls make stand-ins that keep what they were given, and only
when shape, dtype and number of bytes agree does one become an array. So no library reads the state that a
stranger has written.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from perceivers.models.convert.stored import MOST_ON_AN_AXIS, quoted

MOST_AXES = 8
_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


@dataclass(eq=False, slots=True)
class PickledType:
    """A numpy dtype as it was pickled; `state` has its byte order."""

    code: Any
    state: Any = None


@dataclass(eq=False, slots=True)
class PickledArray:
    """An array as it was pickled; `state` is (version, shape, dtype, whether Fortran's order, bytes)."""

    state: Any = None


class Inert:
    """Something that is read over: a state of an optimiser."""


@dataclass(eq=False, slots=True)
class Unread:
    """What stands in for something of a name that is not known; `state` is what it would have kept."""

    name: str
    state: Any = None


def to_array(pickled: PickledArray) -> np.ndarray:
    """The array, over the bytes of the pickle. Raises `ValueError` that says what does not agree."""
    state = pickled.state
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("an array without shape, dtype and bytes")
    _, shape, pickled_type, fortran, data = state
    dtype = _to_dtype(pickled_type)
    if not isinstance(shape, tuple) or len(shape) > MOST_AXES or not all(map(_is_size, shape)):
        raise ValueError(f"an array whose shape is not at most {MOST_AXES} sizes")
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError("an array without its bytes")
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        raise ValueError(f"an array that claims {wanted:,} bytes and has {len(data):,}")
    return np.ndarray(shape, dtype, buffer=data, order="F" if fortran else "C")


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n <= MOST_ON_AN_AXIS


def _to_dtype(pickled: Any) -> np.dtype:
    if not isinstance(pickled, PickledType) or pickled.code not in _CODES:
        given = pickled.code if isinstance(pickled, PickledType) else None
        said = f"the dtype {quoted(given)}" if isinstance(given, str) else "no dtype"
        raise ValueError(f"an array of {said}; wanted one of {', '.join(_CODES)}")
    order, state = "=", pickled.state
    if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
        order = state[1]
    return np.dtype(pickled.code).newbyteorder(order)


def _mapping(arguments: tuple[Any, ...]) -> dict[str, Any]:
    # Not a copy: a pickle may name one mapping as often as it likes.
    if not arguments:
        return {}
    if len(arguments) == 1 and isinstance(arguments[0], dict):
        return arguments[0]
    raise ValueError("a mapping that is made of something else than a mapping")


def _new_array(arguments: tuple[Any, ...]) -> PickledArray:
    # The arguments are a class, (0,) and b'b': the real shape comes with the state.
    return PickledArray()


def _new_type(arguments: tuple[Any, ...]) -> PickledType:
    return PickledType(arguments[0])


def _number(arguments: tuple[Any, ...]) -> PickledArray:
    pickled_type, data = arguments
    return PickledArray((1, (), pickled_type, False, data))


def _from_buffer(arguments: tuple[Any, ...]) -> PickledArray:
    data, pickled_type, shape, order = arguments
    return PickledArray((1, shape, pickled_type, order == "F", data))


def _from_jax(arguments: tuple[Any, ...]) -> PickledArray:
    make, _, state, _ = arguments
    if make is not _new_array:
        raise ValueError("a jax array that is not made of a numpy array")
    return PickledArray(state)


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    # How protocols 0 to 2 hold bytes.
    text, encoding = arguments
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes that are not written as latin1")
    return text.encode("latin1")


def _no_bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise ValueError("bytes that are made of something")
    return b""


def _only_named(arguments: tuple[Any, ...]) -> Any:
    raise ValueError("a call of numpy.ndarray, which may only be named")


def _inert(arguments: tuple[Any, ...]) -> Inert:
    return Inert()


Maker = Callable[[tuple[Any, ...]], Any]

# Everything that a pickle of weights may name, by module and name, and what stands in for it.
PERMITTED: dict[tuple[str, str], Maker] = {
    # haiku 0.0.1 to now; the first is what the others are pickled as.
    ("haiku._src.data_structures", "FlatMapping"): _mapping,
    ("haiku._src.data_structures", "FlatMap"): _mapping,
    ("haiku._src.data_structures", "frozendict"): _mapping,
    ("collections", "OrderedDict"): _mapping,
    # numpy before and since 2.0.
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _only_named,
    ("numpy", "dtype"): _new_type,
    # jax before and since 0.4.
    ("jax._src.device_array", "reconstruct_device_array"): _from_jax,
    ("jax._src.array", "_reconstruct_array"): _from_jax,
    ("_codecs", "encode"): _encoded,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    # The optimiser of Perceiver AR's training: adam with a schedule and clipping.
    ("optax._src.base", "EmptyState"): _inert,
    ("optax._src.transform", "ScaleByAdamState"): _inert,
    ("optax._src.transform", "ScaleByScheduleState"): _inert,
}
