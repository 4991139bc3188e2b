"""One way in for every format: the ending of the name says which it is."""

from collections.abc import Callable
from pathlib import Path

from perceivers.errors import ModelError, near_miss
from perceivers.models.convert.folders import folder_weights
from perceivers.models.convert.haiku import haiku_weights
from perceivers.models.convert.npz import npz_weights
from perceivers.models.convert.stored import Stored, quoted
from perceivers.models.convert.tensors import safetensors_weights, torch_weights

READERS: dict[str, Callable[[Path], Stored]] = {
    ".pickle": haiku_weights,
    ".pystate": haiku_weights,
    ".pkl": haiku_weights,
    ".dill": haiku_weights,
    ".npz": npz_weights,
    ".safetensors": safetensors_weights,
    ".bin": torch_weights,
    ".pt": torch_weights,
    ".pth": torch_weights,
    ".ckpt": torch_weights,
}


def read_weights(path: str | Path) -> Stored:
    """The arrays in a file or folder of weights, of any format that is known. Nothing in it is executed.

    Pickles are read whole; of the other formats an array is read when it is asked for. Raises `ModelError` that says
    what is wrong with the file, and `DataError` when it is no plain file or far too large.
    """
    path = Path(path)
    if path.is_dir():
        return folder_weights(path)
    if not path.exists():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ModelError(f"there is no file or folder {quoted(str(path))}.{near_miss(path.name, beside)}")
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise ModelError(
            f"'{path}' has an ending that no format of weights has; wanted one of {', '.join(READERS)}, or a folder."
            f"{near_miss(path.suffix.lower(), READERS)}"
        )
    return read(path)
