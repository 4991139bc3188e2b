"""Pickles as jax, haiku and optax write them, and as a stranger might, made without any of these packages."""

import sys
import types
from typing import Any

import numpy as np

MAKE_ARRAY = np.ones(1).__reduce__()[0]


def foreign(monkeypatch, module: str, name: str) -> type:
    """A class that pickles as `module.name`, for as long as the test runs."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        path = ".".join(parts[:count])
        monkeypatch.setitem(sys.modules, path, sys.modules.get(path) or types.ModuleType(path))
    made = type(name, (), {"__module__": module})
    monkeypatch.setattr(sys.modules[module], name, made, raising=False)
    return made


class Reduced:
    """Pickles as a call of `make` with `arguments`, then `state`, if there is one."""

    def __init__(self, make: Any, arguments: tuple, *state: Any) -> None:
        self.reduced = (make, arguments, *state)

    def __reduce__(self):
        return self.reduced


def claiming(shape: tuple, data: Any = b"", dtype: Any = "float32") -> Reduced:
    """An array whose state says what the arguments say."""
    return Reduced(MAKE_ARRAY, (np.ndarray, (0,), b"b"), (1, shape, np.dtype(dtype), False, data))


def jax_array(make: Any, array: np.ndarray) -> Reduced:
    """`array` as jax pickles one: a call with the parts of numpy's own."""
    function, arguments, state = array.__reduce__()
    return Reduced(make, (function, arguments, state, {"weak_type": False, "named_shape": {}}))
