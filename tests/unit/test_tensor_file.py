"""Files of tensors are read as safetensors reads them, aligned, and hashed on the way."""

import hashlib
import os
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file

from perceivers.errors import ModelError
from perceivers.models import tensor_file
from perceivers.models.tensor_file import DTYPES, Reading, read_header


@pytest.fixture
def path(tmp_path):
    drawn = torch.Generator().manual_seed(0)
    tensors = {code.lower(): (torch.randn(3, 7, generator=drawn) * 4).to(dtype) for code, dtype in DTYPES.items()}
    large = torch.randn(999, 301, generator=drawn)
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "large": large}
    save_file(tensors, tmp_path / "some.safetensors", metadata={"a": "b"})
    return tmp_path / "some.safetensors"


@pytest.mark.parametrize("way", ["many arrays a call", "few bytes a call", "one array a call"])
def test_the_same_tensors_as_safetensors_and_aligned(path, way, monkeypatch):
    if way == "one array a call":
        monkeypatch.delattr(os, "readv")
    elif way == "few bytes a call":
        whole = os.readv
        monkeypatch.setattr(os, "readv", lambda file, arrays: whole(file, [arrays[0][:100]]))
    reading = Reading(path, read_header(path), hashlib.sha256())
    tensors = reading.tensors()
    wanted = load_file(path)
    assert set(tensors) == set(wanted)
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor), name
        assert tensors[name].data_ptr() % 64 == 0
    assert reading.checksum() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_ends_early(path):
    header, data = read_header(path), path.read_bytes()
    path.write_bytes(data[:-4])
    with pytest.raises(ModelError, match=r"some\.safetensors' cannot be read"):
        Reading(path, header, hashlib.sha256())


def test_a_file_that_is_cut_while_it_is_read(path, monkeypatch):
    whole, data = os.readv, path.read_bytes()

    def cut(file, arrays):
        path.write_bytes(data[:-4])
        return whole(file, arrays)

    monkeypatch.setattr(os, "readv", cut)
    reading = Reading(path, read_header(path), hashlib.sha256())
    for ask in (reading.tensors, reading.checksum):
        with pytest.raises(ModelError, match=r"cannot be read: it ended early: something else writes to it\."):
            ask()


@pytest.mark.parametrize("start", [b"", b"abc", b"\xff" * 400, (2**56 - 1).to_bytes(8, "little")])
def test_a_file_that_changes_between_its_header_and_the_rest(path, start, monkeypatch):
    """Whatever it is then, it is one clear error."""
    header, whole = read_header(path), tensor_file.safe_open

    @contextmanager
    def checked(*args, **kwargs):
        with whole(*args, **kwargs) as file:
            yield file
        path.write_bytes(start)

    monkeypatch.setattr(tensor_file, "safe_open", checked)
    with pytest.raises(ModelError, match=r"cannot be read: it.* something else writes to it"):
        Reading(path, header, hashlib.sha256()).tensors()


def test_on_whatever_device_new_tensors_are(path):
    with torch.device("meta"):
        tensors = Reading(path, read_header(path), hashlib.sha256()).tensors()
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}


def test_a_dtype_that_torch_has_not(path, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(4, dtype=torch.uint16)}, other)
    with pytest.raises(ModelError, match="x has the dtype U16; wanted one of F64"):
        Reading(other, read_header(other), hashlib.sha256())
