"""Pickles of haiku: DeepMind's Perceiver IO (`.pickle`, `.pystate`) and training checkpoints of Perceiver AR (`.dill`).

{module: {name: array}}                                    parameters alone
{"params": the same, "state": the same}                    with running means
{"params": …, "state": …, "global_step": …, "opt_state": …}  of training; the optimiser's state is left out
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.models.convert.families import haiku_family
from perceivers.models.convert.pickle_reader import read_pickle
from perceivers.models.convert.pickled import PickledArray, to_array
from perceivers.models.convert.stored import Stored, StoredArray, check_claims, quoted, refused

PARAMETERS, STATE = "params", "state"
# A file may name one mapping under many modules, so few bytes can make many arrays.
MOST_ARRAYS = 20_000
MOST_NAME = 1_000


def haiku_weights(path: Path) -> Stored:
    """The arrays of the pickle at `path`, as `params/<module>/<name>` and `state/<module>/<name>`.

    Raises `ModelError` for what is no two-level mapping of arrays, and all that `read_pickle` raises.
    """
    tree = read_pickle(path)
    if not isinstance(tree, dict):
        kind = "an array" if isinstance(tree, PickledArray) else f"a {type(tree).__name__}"
        raise refused(path, f"it holds {kind}; wanted a mapping of modules to their arrays.")
    whole = isinstance(tree.get(PARAMETERS), dict) and any(isinstance(v, dict) for v in tree[PARAMETERS].values())
    sections = {name: tree[name] for name in (PARAMETERS, STATE) if name in tree} if whole else {PARAMETERS: tree}
    arrays: dict[str, StoredArray] = {}
    claims: dict[str, int] = {}
    for section, modules in sections.items():
        for module, name, pickled in _leaves(path, section, modules):
            full = f"{section}/{module}/{name}"
            if full in arrays or len(arrays) == MOST_ARRAYS:
                more = "is there more than once" if full in arrays else f"is one of more than {MOST_ARRAYS:,} arrays"
                raise refused(path, f"{quoted(full)} {more}.")
            array = _array(path, full, pickled)
            claims[full] = array.nbytes
            trained = section == PARAMETERS
            read = partial(_same, array)
            arrays[full] = StoredArray(f"{section}/{module}", name, array.shape, array.dtype.name, trained, read)
    if not arrays:
        raise refused(path, "there is no array in it.")
    check_claims(path, claims, 2 * path.stat().st_size)
    rest = {name: value for name, value in tree.items() if name not in sections} if whole else {}
    family = haiku_family(full.partition("/")[2] for full in arrays if full.startswith(f"{PARAMETERS}/"))
    kind = "haiku pickle, a checkpoint of training" if rest else "haiku pickle"
    return Stored(path, kind, family, arrays, _extra(path, rest))


def _leaves(path: Path, section: str, modules: Any) -> Iterator[tuple[str, str, PickledArray]]:
    if not isinstance(modules, Mapping):
        raise refused(path, f"'{section}' is a {type(modules).__name__}; wanted a mapping of modules to their arrays.")
    for module, arrays in modules.items():
        if not isinstance(arrays, Mapping):
            kind = "an array" if isinstance(arrays, PickledArray) else f"a {type(arrays).__name__}"
            raise refused(path, f"module {quoted(module)} is {kind}; wanted a mapping of names to arrays.")
        for name, value in arrays.items():
            if not isinstance(value, PickledArray):
                where = f"{quoted(name)} in module {quoted(module)}"
                raise refused(path, f"{where} is a {type(value).__name__}; wanted an array.")
            if len(module) + len(name) > MOST_NAME:
                raise refused(path, f"the name {quoted(module)} has {len(module):,} characters.")
            yield module, name, value


def _array(path: Path, name: str, pickled: PickledArray) -> np.ndarray:
    try:
        return to_array(pickled)
    except ValueError as error:
        raise refused(path, f"{quoted(name)} is {error}.") from None


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _extra(path: Path, rest: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and texts that stand beside the weights, and the names of all else, which is left out."""
    plain: dict[str, Any] = {}
    left_out = []
    for name, value in rest.items():
        if isinstance(value, PickledArray) and (array := _array(path, name, value)).size == 1:
            value = array.reshape(()).item()
        # A longer number is no step, and Python refuses to print one of thousands of digits.
        short = not isinstance(value, int) or value.bit_length() <= 64
        if short and (value is None or isinstance(value, (bool, int, float, str))):
            plain[name] = value
        else:
            left_out.append(name)
    return {**plain, "left out": left_out} if left_out else plain
