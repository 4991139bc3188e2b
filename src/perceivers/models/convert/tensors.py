"""Files of named tensors: safetensors, and PyTorch's state dicts where they hold nothing else."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from perceivers.bounded import GB, check_bounded
from perceivers.errors import ModelError
from perceivers.models.convert.families import tensors_family
from perceivers.models.convert.pickled import Unread
from perceivers.models.convert.stored import Stored, StoredArray, check_claims, damaged, quoted, refused
from perceivers.models.convert.torch_zip import (
    STORAGES,
    OtherNumbers,
    TorchTensor,
    Unknown,
    key_text,
    plain,
    read_torch_zip,
)
from perceivers.models.tensor_file import DTYPES, METADATA, read_header

if TYPE_CHECKING:
    from torch import Tensor

# Neither is read before its arrays are asked for; no published Perceiver has 2 GB.
MOST_BYTES = 64 * GB
# The weights in a checkpoint, as Lightning and many others call them.
_STATE = "state_dict"
# What Lightning calls the settings that a model was made with.
SETTINGS = "hyper_parameters"
_DTYPES = {code: str(dtype).removeprefix("torch.") for code, dtype in DTYPES.items()}
# The last part of a name: what batch norms keep, torch's and ours.
_RUNNING = frozenset(
    (
        *("running_mean", "running_var", "num_batches_tracked"),
        *("mean_hidden", "mean_average", "variance_hidden", "variance_average", "count"),
    )
)


def safetensors_weights(path: Path) -> Stored:
    """The tensors of the safetensors file at `path`; its metadata is the `extra`. Raises `ModelError`."""
    check_bounded(path, MOST_BYTES, f"'{path}'")
    header = read_header(path)
    try:
        # Checks that the header fits the file: places, sizes, nothing overlapping.
        with safe_open(path, framework="np") as stored:
            metadata = stored.metadata() or {}
    except SafetensorError as error:
        raise damaged(path, "it is no safetensors file, or is truncated or damaged", error) from None
    arrays = {}
    for name, entry in header.items():
        if name == METADATA:
            continue
        if entry["dtype"] not in _DTYPES:
            raise refused(path, f"{quoted(name)} has the dtype {entry['dtype']}; wanted one of {', '.join(_DTYPES)}.")
        read = partial(_read_safetensor, path, name)
        arrays[name] = _described(name, tuple(entry["shape"]), _DTYPES[entry["dtype"]], read)
    return Stored(path, "safetensors", tensors_family(arrays), arrays, metadata)


def torch_weights(path: Path) -> Stored:
    """The tensors of the state dict that torch saved at `path`, or of the `state_dict` in a checkpoint there.

    What stands beside them in a checkpoint, such as settings, is the `extra` as plain data. Raises `ModelError`.
    """
    archive = read_torch_zip(path)
    tree, rest = archive.tree, {}
    if isinstance(tree, dict) and isinstance(tree.get(_STATE), dict):
        tree, rest = tree[_STATE], {key_text(name): part for name, part in tree.items() if name != _STATE}
    if isinstance(tree, (Unread, Unknown)):
        what = f"it holds an object of '{tree.name:.80}', not its numbers alone"
        raise refused(path, f"{what}; wanted what torch.save(model.state_dict(), FILE) writes. Nothing was executed.")
    if not isinstance(tree, dict) or not tree:
        raise refused(path, f"it holds a {type(tree).__name__} or nothing; wanted a mapping of names to tensors.")
    arrays, claims = {}, {}
    for name, tensor in tree.items():
        if not isinstance(name, str) or not isinstance(tensor, TorchTensor):
            raise _no_tensor(path, key_text(name), tensor)
        claims[name] = tensor.nbytes
        arrays[name] = _described(name, tensor.shape, tensor.dtype, partial(archive.array, tensor))
    # Tied weights stand there under two names.
    check_claims(path, claims, 2 * path.stat().st_size)
    kind = "checkpoint of PyTorch" if rest else "PyTorch state dict"
    return Stored(path, kind, tensors_family(arrays), arrays, _beside(rest))


def _beside(rest: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, numbers and texts beside a checkpoint's weights, and the names of all else, which is left out."""
    found: dict[str, Any] = {}
    for name, value in rest.items():
        if name == SETTINGS or value is None or isinstance(value, (bool, int, float, str)):
            found[name] = plain(value)
    left_out = sorted(rest.keys() - found.keys())
    return {**found, "left out": left_out} if left_out else found


def _no_tensor(path: Path, name: str, value: Any) -> ModelError:
    if isinstance(value, (Unread, Unknown)):
        what = f"it names '{value.name:.80}'; wanted a state dict of tensors and nothing else"
        return refused(path, f"{what}. Nothing in it was executed.")
    if isinstance(value, OtherNumbers):
        return refused(path, f"its numbers are of the sort {value.sort:.80}; known are {', '.join(STORAGES)}.")
    kind = "tensor" if isinstance(value, TorchTensor) else type(value).__name__
    return refused(path, f"{quoted(name)} in it is a {kind}; wanted tensors by name.")


def _described(name: str, shape: tuple[int, ...], dtype: str, read: Callable[[], np.ndarray]) -> StoredArray:
    module, _, last = name.rpartition(".")
    return StoredArray(module, last, shape, dtype, last not in _RUNNING, read)


def _read_safetensor(path: Path, name: str) -> np.ndarray:
    try:
        with safe_open(path, framework="pt") as stored:
            return _to_numpy(stored.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise damaged(path, f"{quoted(name)} in it is no longer there as it was", error) from None


def _to_numpy(tensor: "Tensor") -> np.ndarray:
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)
