"""What a file of weights holds: arrays by name, and what is known beside them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.errors import ModelError

# Of an axis: what numpy can hold, whatever the other axes are.
MOST_ON_AN_AXIS = 2**62
# Of a name out of a file, in a message.
_MOST_SHOWN = 80


@dataclass(frozen=True)
class StoredArray:
    """One array. Its full name in a file is `module` and `name`, joined by a slash (haiku) or a dot (torch).

    dtype: numpy's name of it, or "bfloat16". trained: it is a parameter; running means, inputs and answers are not.
    read: gives the array, which may be read-only; bfloat16 comes as float32. Raises `ModelError` when the file has
    changed or is damaged there.
    """

    module: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    trained: bool
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Stored:
    """The arrays in a file or folder by full name. `format` and `family` are words for people.

    family: what the names of the arrays tell, and "unknown" when they tell nothing. extra: plain data that stands
    beside the arrays, such as a config.
    """

    path: Path
    format: str
    family: str
    arrays: Mapping[str, StoredArray]
    extra: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """Numbers in all trained arrays."""
        return sum(array.size for array in self.arrays.values() if array.trained)

    @property
    def modules(self) -> dict[str, dict[str, StoredArray]]:
        """The arrays by module, then by full name."""
        found: dict[str, dict[str, StoredArray]] = {}
        for name, array in self.arrays.items():
            found.setdefault(array.module, {})[name] = array
        return found


def printable(text: str) -> str:
    """`text` without characters that a terminal obeys instead of showing them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str) -> str:
    """`text` out of a file as a message may hold it: short and printable."""
    return printable(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…")


def quoted(text: str) -> str:
    """`shortened`, in quotes."""
    return f"'{shortened(text)}'"


def refused(path: Path, why: str) -> ModelError:
    """The error for a file whose content cannot be read: `'FILE' …: why`."""
    return ModelError(f"'{path}' cannot be read: {why}")


def damaged(path: Path, what: str, error: Exception) -> ModelError:
    """The error for what is not as its format wants it; `error` is the reading library's."""
    return refused(path, f"{what} ({shortened(str(error))}). Copy the file again.")


def check_claims(path: Path, claims: Mapping[str, int], most: int) -> None:
    """Raises `ModelError` when arrays, by name and bytes, claim more than `most` bytes together.

    Arrays may share what is stored, so a small file can claim more than any memory holds.
    """
    total = sum(claims.values())
    if total > most:
        largest = max(claims, key=claims.__getitem__)
        raise refused(
            path,
            f"its arrays claim {total:,} bytes, and a file of its size may claim {most:,}; the largest is "
            f"{quoted(largest)}. It is damaged, or made to fill the memory.",
        )
