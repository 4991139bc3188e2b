"""Text as UTF-8 bytes: no tokenizer to train [P2 §4.1; official bytes_tokenizer.py].

id = byte + 6. PAD, BOS, EOS, MASK, CLS and SEP come first; 262 ids in all. A tokenizer's ids stand
behind the same six.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from perceivers.errors import DataError
from perceivers.tokens import Encoding, whole_ids

PAD, BOS, EOS, MASK, CLS, SEP = range(6)
SPECIAL_TOKENS = 6
VOCABULARY = 256 + SPECIAL_TOKENS
NEWLINE = SPECIAL_TOKENS + ord("\n")
# What stands between words: ASCII's white space.
_SPACE = np.array([SPECIAL_TOKENS + byte for byte in b" \t\n\r\v\f"])


def to_bytes(text: "str | bytes | bytearray") -> bytes:
    """`text` in UTF-8. Raises `DataError` for bytes that are not, and for text that cannot be."""
    if isinstance(text, str):
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"the text cannot be UTF-8: character {error.start} is half of a pair.") from None
    data = bytes(text)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the text is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; save it as UTF-8."
        ) from None
    return data


def ids_of(data: bytes) -> np.ndarray:
    """The ids (length,) int64 of bytes."""
    return np.frombuffer(data, np.uint8).astype(np.int64) + SPECIAL_TOKENS


def tokenizer_ids(value: Any, vocabulary: int) -> np.ndarray:
    """The ids (length,) int64 of a list of a tokenizer's, from 6 to below `vocabulary`. Raises `DataError`."""
    return whole_ids(value, SPECIAL_TOKENS, vocabulary, "those below are PAD, BOS, EOS, MASK, CLS and SEP")


def written(ids: Iterable[int], encoding: Encoding) -> Any:
    """Ids as what they come from: a text, or a list without the special ones."""
    return text_of(ids) if encoding == "bytes" else [int(i) for i in ids if i >= SPECIAL_TOKENS]


def word_spans(ids: np.ndarray, encoding: Encoding = "bytes") -> np.ndarray:
    """Start and stop (words, 2) of the words among ids (length,): runs without white space and special tokens.

    Of a tokenizer's ids every one is a word.
    """
    if encoding == "ids":
        places = np.flatnonzero(ids >= SPECIAL_TOKENS)
        return np.stack([places, places + 1], axis=-1)
    inside = (ids >= SPECIAL_TOKENS) & ~np.isin(ids, _SPACE)
    return np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]))).reshape(-1, 2)


def text_of(ids: Iterable[int]) -> str:
    """Ids as text: special tokens have none, and bytes that are no UTF-8 become �."""
    return bytes(i - SPECIAL_TOKENS for i in ids if i >= SPECIAL_TOKENS).decode("utf-8", "replace")
