"""Training checkpoints that are whole or absent, whose damage is found, and of which the last good one is never lost.

A checkpoint is a folder `checkpoint-<step, nine digits>` that holds

- `tensors.safetensors`: every tensor of the state,
- `state.json`: the rest of it and where the tensors belong (see `state_tree`),
- `manifest.json`, written last: format version, step, size and SHA-256 of both files, and a digest of itself.

Nothing in it is executable. The checksums find damage, not malice: somebody who can write files can write checksums.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from perceivers import atomic
from perceivers.errors import ModelError, TrainingError
from perceivers.training import state_tree

FORMAT, VERSION = "perceivers-checkpoint", 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
MAX_HEADER, MAX_STATE, MAX_MANIFEST = 16 * 2**20, 256 * 2**20, 2**16  # bytes

_NAME = re.compile(r"^checkpoint-(\d{9,})$")
_CHUNK = 2**20  # bytes hashed at once
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_checkpoint(folder: Path, step: int, state: dict[Any, Any], keep: int = 2) -> Path:
    """Write `state` as the checkpoint of `step` in `folder`, verify it by reading it back, then remove older ones.

    The `keep` newest stay, this one included. Those of a later step belong to a run that was left behind by resuming
    from an earlier one, and go too. Returns the checkpoint's folder. Raises `TrainingError`
    naming the path and the bytes needed when it cannot be written; all earlier checkpoints are then as they were.
    """
    assert keep >= 1, "at least the checkpoint just written is kept"
    assert step >= 0, "a step counts from 0"
    skeleton, tensors = state_tree.flatten(state)
    header, order = _header(tensors)
    document = json.dumps(skeleton, allow_nan=False, separators=(",", ":")).encode()
    assert len(document) <= MAX_STATE, "a state this large belongs into tensors"
    path = folder / f"checkpoint-{step:09d}"
    needed = len(header) + sum(_size(tensor) for tensor in order) + len(document) + MAX_MANIFEST
    with _writing(path, needed):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"only {free:,} bytes are free")
        with atomic.replace_folder(path) as temporary:
            files = {
                TENSORS: _write(temporary / TENSORS, _tensor_bytes(header, order)),
                STATE: _write(temporary / STATE, [document]),
            }
            _write(temporary / MANIFEST, [_manifest(step, files)])
            verify_checkpoint(temporary)
    _remove_old(folder, step, keep)
    return path


def read_checkpoint(path: Path) -> dict[Any, Any]:
    """The state that `write_checkpoint` wrote to the folder `path`, tensors on the CPU.

    Sizes and checksums are verified first. Raises `ModelError` naming the file and what differs.
    """
    verify_checkpoint(path)
    with _reading(path):
        try:
            # `pread`, not a memory map: the tensors must not change or vanish with the file.
            tensors = load_file(path / TENSORS, backend="pread")
            return state_tree.unflatten(json.loads((path / STATE).read_bytes()), tensors)
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(path, f"its state cannot be understood ({error})") from error


def latest_checkpoint(folder: Path, report: Callable[[str], None]) -> tuple[Path, dict[Any, Any]] | None:
    """The newest checkpoint in `folder` that verifies, with its state; None when there is no checkpoint at all.

    Each newer one that does not verify is named to `report`, with the reason. When there are checkpoints and none
    verifies it raises `ModelError`: a run never silently starts again from nothing.
    """
    failures = []
    with _reading(folder):
        found = _checkpoints(folder)
    for _, path in found:
        try:
            state = read_checkpoint(path)
        except ModelError as error:
            report(f"{error} Looking for the one before it.")
            failures.append(str(error))
        else:
            return path, state
    if failures:
        listing = "\n".join(f"  {failure}" for failure in failures)
        raise ModelError(
            f"{folder}: none of its {len(failures)} checkpoints can be used:\n{listing}\n"
            f"Put a good copy back, or start again in another folder."
        )
    return None


def verify_checkpoint(path: Path) -> None:
    """Check manifest, sizes, the tensor file's header and SHA-256 of the checkpoint at `path`; `ModelError` if not."""
    with _reading(path):
        manifest = _read_manifest(path)
        for name, stated in manifest["files"].items():
            if not (path / name).is_file():
                raise _damaged(path, f"the file '{name}' is missing")
            size = (path / name).stat().st_size
            if size != stated["bytes"]:
                raise _damaged(path, f"'{name}' has {size:,} bytes where its manifest says {stated['bytes']:,}")
        _check_header(path, manifest["files"][TENSORS]["bytes"])
        if manifest["files"][STATE]["bytes"] > MAX_STATE:
            raise _damaged(path, f"'{STATE}' is larger than {MAX_STATE:,} bytes")
        for name, stated in manifest["files"].items():
            with open(path / name, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != stated["sha256"]:
                raise _damaged(path, f"'{name}' has SHA-256 {digest} where its manifest says {stated['sha256']}")


def _header(tensors: dict[str, Tensor]) -> tuple[bytes, list[Tensor]]:
    """The safetensors header and the tensors in file order: widest dtype first, so that each one is aligned."""
    entries: dict[str, Any] = {}
    order, offset = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"a checkpoint cannot hold a tensor of {tensor.dtype} ('{name}')")
        end = offset + _size(tensor)
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        order.append(tensor)
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    assert len(text) <= MAX_HEADER, "too many tensors for one file"
    return struct.pack("<Q", len(text)) + text, order


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensor_bytes(header: bytes, order: list[Tensor]) -> Iterator[bytes | memoryview]:
    yield header
    for tensor in order:
        if tensor.numel():
            yield tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write(path: Path, parts: Iterator[bytes | memoryview] | list[bytes]) -> dict[str, Any]:
    """Write `parts` to a new file and onto the disk; return what the manifest says of it."""
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as stream:
        for part in parts:
            for start in range(0, len(part), _CHUNK):
                chunk = part[start : start + _CHUNK]
                digest.update(chunk)
                stream.write(chunk)
            size += len(part)
        stream.flush()
        os.fsync(stream.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _manifest(step: int, files: dict[str, Any]) -> bytes:
    body = {"format": FORMAT, "version": VERSION, "step": step, "files": files}
    return json.dumps({**body, "sha256": _digest(body)}, indent=1).encode()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """The verified manifest of the checkpoint at `path`."""
    file = path / MANIFEST
    if not file.is_file():
        raise _damaged(path, f"the file '{MANIFEST}' is missing" if path.is_dir() else "there is no such folder")
    if file.stat().st_size > MAX_MANIFEST:
        raise _damaged(path, f"'{MANIFEST}' is larger than {MAX_MANIFEST:,} bytes")
    content = file.read_bytes()
    try:
        manifest = json.loads(content)
        if manifest["format"] != FORMAT:
            raise _damaged(path, f"'{MANIFEST}' is of the format {manifest['format']!r}, not '{FORMAT}'")
        if manifest["version"] != VERSION:
            raise _damaged(path, f"it has format version {manifest['version']!r}; this program reads version {VERSION}")
        # Byte for byte what this program writes, so that not even a changed blank passes.
        if content != _manifest(manifest["step"], manifest["files"]) or set(manifest["files"]) != {TENSORS, STATE}:
            raise _damaged(path, f"'{MANIFEST}' does not match its own checksum")
    except ModelError:
        raise
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, f"'{MANIFEST}' cannot be understood ({type(error).__name__}: {error})") from error
    return manifest


def _check_header(path: Path, size: int) -> None:
    """Refuse a header that would be costly or impossible to read, before anything reads it."""
    with open(path / TENSORS, "rb") as stream:
        start = stream.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise _damaged(
            path, f"'{TENSORS}' states a header of {length:,} bytes; at most {min(MAX_HEADER, size - 8):,} are possible"
        )


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints in `folder`, the newest first; half-written ones have other names."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.match(path.name))]
    return sorted(found, reverse=True)


def _remove_old(folder: Path, step: int, keep: int) -> None:
    every = _checkpoints(folder)
    old = [path for other, path in every if other > step]
    old += [path for other, path in every if other <= step][keep:]
    for path in old:
        try:
            atomic.remove_folder(path)
        except OSError as error:
            raise TrainingError(
                f"the checkpoint of step {step} is written, but the old one {path} cannot be removed: "
                f"{error.strerror}. Remove it by hand, or make its folder writable."
            ) from error


@contextmanager
def _writing(path: Path, needed: int) -> Iterator[None]:
    """Errors on the way say what could not be written, why, how large it is, and what there still is."""
    earlier = _checkpoints(path.parent)
    kept = f"The one before it, {earlier[0][1]}, is untouched." if earlier else "There is no earlier one."
    try:
        yield
    except (OSError, ModelError) as error:
        damage = f"reading it back found damage: {error}"
        reason = damage if isinstance(error, ModelError) else error.strerror or str(error)
        raise TrainingError(
            f"cannot write the checkpoint {path}: {reason}. It needs {needed:,} bytes there. {kept} "
            f"Free some space, make the folder writable or choose another one, then resume."
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error})") from error


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"the checkpoint {path} cannot be used: {what}.")
