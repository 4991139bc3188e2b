"""Files of named tensors: safetensors, and PyTorch's state dicts where they hold nothing else."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from perceivers.bounded import GB, check_bounded
from perceivers.models.convert.families import transformers_family
from perceivers.models.convert.stored import Stored, StoredArray, check_claims, damaged, quoted, refused
from perceivers.models.tensor_file import DTYPES, METADATA, read_header

if TYPE_CHECKING:
    from torch import Tensor

# Neither is read before its arrays are asked for; no published Perceiver has 2 GB.
MOST_BYTES = 64 * GB
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
    return Stored(path, "safetensors", transformers_family(arrays), arrays, metadata)


def torch_weights(path: Path) -> Stored:
    """The tensors of the state dict that torch saved at `path`, read with `weights_only`. Raises `ModelError`."""
    check_bounded(path, MOST_BYTES, f"'{path}'")
    tensors = _load(path)
    arrays = {}
    claims = {}
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES.values():
            raise refused(path, f"{quoted(name)} has the dtype {dtype}; wanted one of {', '.join(_DTYPES.values())}.")
        claims[name] = tensor.numel() * tensor.element_size()
        arrays[name] = _described(name, tuple(tensor.shape), dtype, partial(_to_numpy, tensor))
    # Tied weights stand there under two names.
    check_claims(path, claims, 2 * path.stat().st_size)
    return Stored(path, "PyTorch state dict", transformers_family(arrays), arrays, {})


def _load(path: Path) -> "Mapping[str, Tensor]":
    import torch

    try:
        # Mapped into memory: nothing is read before it is asked for.
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # torch's own advice is to read the file without protection, so its words are not passed on.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it names '{found[1]}'" if found else "it is no zip of torch.save, or is truncated or damaged"
        raise refused(
            path, f"{what}; wanted a state dict of tensors and nothing else. Nothing in it was executed."
        ) from None
    if not isinstance(loaded, Mapping) or not loaded:
        raise refused(path, f"it holds a {type(loaded).__name__} or nothing; wanted a mapping of names to tensors.")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise refused(path, f"{quoted(str(name))} in it is a {type(tensor).__name__}; wanted a plain tensor.")
    return loaded


def _is_plain(tensor: Any) -> bool:
    """Whether it is a tensor with numbers in memory, one for each of its places."""
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.is_nested or tensor.device.type != "cpu":
        return False
    return tensor.layout == torch.strided


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
