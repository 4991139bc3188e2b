"""A nested training state as two plain things: named tensors, and a JSON skeleton that refers to them. No pickle.

A tree is made of dict (keys str or int), list, tuple, str, int, float, bool, None and dense tensors of any dtype that
safetensors knows. It comes back with the same values and types: floats to the last bit, nan and inf included. Tensors
come back on the CPU; two places that held one tensor come back as two.

In the skeleton None, bool, str, int, finite floats and lists are themselves; the rest is an object with one key:
`{"tensor": name}`, `{"tuple": [...]}`, `{"dict": {...}}`, `{"pairs": [[key, value], ...]}` (a dict with int keys) and
`{"float": "nan" | "inf" | "-inf"}`.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_RESERVED = "__metadata__"  # safetensors keeps this name for itself


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """The JSON skeleton of `tree` and its tensors by name (their path in the tree, such as `model/latents`).

    Raises `TypeError` naming the path of anything that a tree cannot hold.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(tree, (), tensors), tensors


def unflatten(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `flatten` took apart. Raises `ValueError` or `KeyError` for a skeleton that no tree has."""
    if skeleton is None or type(skeleton) in (bool, str, int, float):
        return skeleton
    if type(skeleton) is list:
        return [unflatten(item, tensors) for item in skeleton]
    if type(skeleton) is not dict or len(skeleton) != 1:
        raise ValueError("an object of the skeleton must have exactly one key")
    ((kind, content),) = skeleton.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "tuple":
            return tuple(unflatten(item, tensors) for item in content)
        case "dict":
            return {key: unflatten(item, tensors) for key, item in content.items()}
        case "pairs":
            return {key: unflatten(item, tensors) for key, item in content}
        case "float":
            return float(content)
    raise ValueError(f"an object of the skeleton has the unknown key '{kind}'")


def _encode(value: Any, path: tuple[str | int, ...], tensors: dict[str, Tensor]) -> Any:
    # Exact types: a numpy float or an enum would come back as something else.
    if value is None or type(value) in (bool, str, int):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Tensor):
        name = _free_name(path, tensors)
        tensors[name] = _dense(value, name)
        return {"tensor": name}
    if type(value) is list:
        return [_encode(item, (*path, index), tensors) for index, item in enumerate(value)]
    if type(value) is tuple:
        return {"tuple": [_encode(item, (*path, index), tensors) for index, item in enumerate(value)]}
    if isinstance(value, dict):
        return _encode_dict(value, path, tensors)
    raise TypeError(f"a training state cannot hold a {type(value).__name__} (at '{_written(path)}')")


def _encode_dict(value: dict[Any, Any], path: tuple[str | int, ...], tensors: dict[str, Tensor]) -> Any:
    for key in value:
        if type(key) not in (str, int):
            raise TypeError(f"a key of a training state must be a str or an int, not {key!r} (at '{_written(path)}')")
    pairs = [(key, _encode(item, (*path, key), tensors)) for key, item in value.items()]
    if all(type(key) is str for key in value):
        return {"dict": dict(pairs)}
    return {"pairs": [list(pair) for pair in pairs]}


def _written(path: tuple[str | int, ...]) -> str:
    return "/".join(str(part) for part in path)


def _free_name(path: tuple[str | int, ...], tensors: Mapping[str, Tensor]) -> str:
    name = _written(path)
    while name in tensors or name == _RESERVED:  # {1: a, "1": b} and {"a/b": …} beside {"a": {"b": …}}
        name += "'"
    return name


def _dense(tensor: Tensor, name: str) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise TypeError(f"a training state holds dense tensors only (at '{name}')")
    return tensor.detach()
