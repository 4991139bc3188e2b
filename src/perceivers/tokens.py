"""Token ids as Perceiver AR has them, the same for inputs and outputs: 0 padding, 1 end, 2 start, data from 3 on
[perceiver-ar dataset.py]."""

import json
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from perceivers.errors import DataError

PAD, EOS, SOS = 0, 1, 2
RESERVED = 3
BYTE_VOCABULARY = 256 + RESERVED

Encoding = Literal["bytes", "ids"]


def token_ids(value: Any, encoding: Encoding, vocabulary: int) -> np.ndarray:
    """The ids (T,) int64 of a raw value, without start and end. Raises `DataError`.

    bytes: a str, bytes, or an array of uint8 (an image is read row by row, channels innermost); id = byte + 3.
    ids: whole numbers from 3 to below `vocabulary`: a list, an array, or text such as `[5, 17]` or `5 17`.
    """
    if encoding == "bytes":
        return _bytes(value)
    return whole_ids(value, RESERVED, vocabulary, f"{PAD} is padding, {EOS} the end, {SOS} the start")


def written(ids: Iterable[int], encoding: Encoding) -> Any:
    """Ids as the value they were read from: a str (bytes that are no UTF-8 become �), or a list; reserved ones fall
    away."""
    data = [int(token) for token in ids if token >= RESERVED]
    if encoding == "ids":
        return data
    return bytes(token - RESERVED for token in data if token < BYTE_VOCABULARY).decode("utf-8", "replace")


def _bytes(value: Any) -> np.ndarray:
    if isinstance(value, str):
        try:
            value = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"the text cannot be UTF-8: character {error.start} is half of a pair.") from None
    if isinstance(value, (bytes, bytearray)):
        data = np.frombuffer(bytes(value), np.uint8)
    elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
        data = value.reshape(-1)
    else:
        raise DataError(
            f"got a {type(value).__name__}, not bytes; give a str, bytes or an array of uint8, or set encoding: ids "
            "for numbers of tokens."
        )
    return data.astype(np.int64) + RESERVED


def whole_ids(value: Any, reserved: int, vocabulary: int, special: str) -> np.ndarray:
    """The ids (T,) int64, from `reserved` to below `vocabulary`, of a list, an array, or text such as `[5, 17]`.

    special: what those below are, for the error. Raises `DataError`.
    """
    if isinstance(value, str):
        value = _parsed(value)
    try:
        array = np.asarray(value)
    except ValueError:
        # Lists of several lengths.
        array = np.empty((1, 1), np.int64)
    # Whole numbers beyond 64 bits are objects.
    huge = array.dtype == object and all(isinstance(n, int) for n in array.reshape(-1).tolist())
    if array.dtype.kind not in "iu" and not huge and array.size:
        raise DataError(
            f"got a {type(value).__name__} that holds no whole numbers; give a list of token ids, such as [17, 311]."
        )
    if array.ndim > 1:
        raise DataError("got lists in a list; give one list of token ids, such as [17, 311].")
    ids = array.reshape(-1)
    wrong = ((ids < reserved) | (ids >= vocabulary)).astype(bool)
    if wrong.any():
        place = int(wrong.argmax())
        raise DataError(
            f"token {place + 1} is {ids[place]}, but ids of data go from {reserved} to {vocabulary - 1} ({special})."
        )
    return ids.astype(np.int64)


def _parsed(text: str) -> Any:
    """`[5, 17]`, `5, 17` or `5 17`."""
    try:
        return json.loads(
            "[" + ",".join(text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()) + "]"
        )
    except ValueError:
        raise DataError(f"{text[:60]!r} is no list of token ids; write them as [17, 311] or 17 311.") from None
