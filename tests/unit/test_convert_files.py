"""Weights that are no pickles: safetensors, npz, transformers' folders, our own; what is wrong with them is said."""

import io
import json
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from perceivers.errors import DataError, ModelError, SpecError
from perceivers.models.build import build
from perceivers.models.convert import read_weights
from perceivers.models.weights import save

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "data"
W = torch.arange(6.0).reshape(2, 3)


def message(path: Path, error: type[Exception] = ModelError) -> str:
    with pytest.raises(error) as caught:
        read_weights(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


# Safetensors.


def test_safetensors(tmp_path):
    path = tmp_path / "some.safetensors"
    tensors = {"a.b.weight": W, "a.b.half": W.bfloat16(), "bn.running_mean": W[0].clone(), "n": torch.tensor(3)}
    save_file(tensors, path, metadata={"format": "pt"})
    stored = read_weights(path)
    assert (stored.format, stored.family, stored.extra) == ("safetensors", "unknown", {"format": "pt"})
    assert {name: (a.module, a.name, a.shape, a.dtype, a.trained) for name, a in stored.arrays.items()} == {
        "a.b.half": ("a.b", "half", (2, 3), "bfloat16", True),
        "a.b.weight": ("a.b", "weight", (2, 3), "float32", True),
        "bn.running_mean": ("bn", "running_mean", (3,), "float32", False),
        "n": ("", "n", (), "int64", True),
    }
    assert stored.parameters == 13
    for name, array in stored.arrays.items():
        np.testing.assert_array_equal(array.read(), tensors[name].float().numpy())


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"w": W}, path)
    whole = path.read_bytes()
    stored = read_weights(path)
    for length in (0, 5, 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated" in message(path)
    with pytest.raises(ModelError, match="'w' in it is no longer there as it was"):
        stored.arrays["w"].read()
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "truncated" in message(path)
    header = b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,24]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 24)
    assert "is no safetensors file, or is truncated or damaged" in message(path)


def test_a_dtype_that_is_not_read(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"w": W.to(torch.float8_e4m3fn)}, path)
    assert "'w' has the dtype F8_E4M3; wanted one of F64, F32" in message(path)


# PyTorch.


def test_a_state_dict(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    half = W.bfloat16()
    torch.save({"a.w": W, "a.tied": W, "a.half": half, "bn.running_var": W[0]}, path)
    stored = read_weights(path)
    assert stored.format == "PyTorch state dict"
    assert stored.parameters == 18
    np.testing.assert_array_equal(stored.arrays["a.tied"].read(), W.numpy())
    assert stored.arrays["a.half"].dtype == "bfloat16"
    np.testing.assert_array_equal(stored.arrays["a.half"].read(), half.float().numpy())


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"w": Hostile()}, "it names '__builtin__.print'"),
        ({"w": [W]}, "'w' in it is a list; wanted tensors by name"),
        ({"w": W.to_sparse()}, "it names 'torch._utils._rebuild_sparse_tensor'"),
        ({"w": torch.zeros(3, device="meta")}, "it names 'torch._utils._rebuild_meta_tensor_no_storage'"),
        ({3: W}, "'3' in it is a tensor; wanted tensors by name"),
        ([W], "it holds a list"),
        (torch.nn.Linear(3, 2), "it holds an object of 'torch.nn.modules.linear.Linear', not its numbers alone"),
        ({}, "it holds a dict or nothing"),
        ({"w": torch.zeros(1).expand(10**6, 10**6)}, "its arrays claim 4,000,000,000,000 bytes"),
        ({"w": W.to(torch.float8_e4m3fn)}, "its numbers are of the sort torch.storage.UntypedStorage"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_what_is_no_state_dict(tmp_path, capsys, content, said):
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path)
    assert said in message(path)
    assert "weights_only" not in message(path)  # how to switch protection off is no advice
    assert "executed" not in capsys.readouterr().out


def test_a_damaged_state_dict(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": W}, path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "it is no zip of torch.save, or is truncated or damaged" in message(path)


def test_the_form_before_1_6_is_told_from_damage(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": W}, path, _use_new_zipfile_serialization=False)
    assert "the form that torch.save wrote before PyTorch 1.6" in message(path)
    torch.save(torch.load(path, weights_only=True), path)  # as the error says
    assert read_weights(path).parameters == 6


def test_a_checkpoint(tmp_path, capsys):
    path = tmp_path / "some.ckpt"
    kept = {"width": 3, "shape": (1, 2), "what": Hostile(), "dtype": torch.float32}
    torch.save({"state_dict": {"a.w": W.T}, "hyper_parameters": kept, "epoch": 2, "loops": [Hostile()]}, path)
    stored = read_weights(path)
    assert (stored.format, stored.parameters) == ("checkpoint of PyTorch", 6)
    np.testing.assert_array_equal(stored.arrays["a.w"].read(), W.T.numpy())
    told = {"width": 3, "shape": [1, 2], "what": "a __builtin__.print", "dtype": "torch.float32"}
    assert stored.extra == {"hyper_parameters": told, "epoch": 2, "left out": ["loops"]}
    assert "executed" not in capsys.readouterr().out


def test_settings_that_would_fill_the_memory_are_left_out(tmp_path):
    path = tmp_path / "some.ckpt"
    nested: list = []
    for _ in range(40):
        nested = [nested, nested]
    torch.save({"state_dict": {"w": W}, "hyper_parameters": nested}, path)
    assert read_weights(path).extra == {"hyper_parameters": None}


@given(st.integers(0, 10**6), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_changed_bytes_of_a_state_dict_are_an_error_or_change_a_value(tmp_path_factory, place, byte):
    path = tmp_path_factory.mktemp("zip") / "some.pt"
    torch.save({"a.w": W, "a.half": W.bfloat16()[0]}, path)
    whole = bytearray(path.read_bytes())
    whole[place % len(whole)] = byte
    path.write_bytes(whole)
    try:
        for array in read_weights(path).arrays.values():
            array.read().sum()
    except ModelError as error:
        assert str(error).isprintable()  # noqa: PT017


# Golden vectors.


def test_golden_vectors():
    stored = read_weights(GOLDEN / "dm_image_conv.npz")
    assert (stored.format, stored.parameters) == ("npz", 52_608)
    assert stored.family == "image classification of Perceiver IO, convolution stem"
    assert stored.extra["config"]["encoder"]["num_blocks"] == 3
    assert not stored.arrays["output/logits"].trained
    logits = np.load(GOLDEN / "dm_image_conv.npz")["output/logits"]
    np.testing.assert_array_equal(stored.arrays["output/logits"].read(), logits)


def written(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray, shape: tuple | None = None) -> bytes:
    """`array` as npy, with `shape` in its header."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    )
    return stream.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy(np.zeros(2), (10**6, 10**6)), "claims 8,000,000,000,000 bytes and has 16"),
        (npy(np.zeros(2), (-1, -2)), "claims 16 bytes and has 16"),
        (npy(np.zeros(0), (0, 10**30)), "claims 0 bytes and has 0"),
        (npy(np.zeros(2), (1,)), "claims 8 bytes and has 16"),
        (npy(np.array(["a", "b"])), "is text of 8 bytes; wanted one short text"),
        (npy(np.zeros(2, "M8[s]")), "holds objects"),
        (npy(np.empty(2, object)), "holds objects"),
        (b"\x93NUMPY\x02\0", "has a damaged header"),
        (b"text", "has a damaged header"),
    ],
    ids=range(9),
)
def test_arrays_of_npz_that_are_not_what_they_say(tmp_path, content, said):
    assert said in message(written(tmp_path / "some.npz", w=content))


def test_an_archive_that_unpacks_to_more_than_it_may(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr("w.npy", npy(np.zeros(2)))
        archive.filelist[0].file_size = 2 * 10**9  # what the directory at its end will say
    assert "its arrays claim 2,000,000,000 bytes" in message(tmp_path / "some.npz")


def test_text_beside_the_arrays(tmp_path):
    config = np.array(json.dumps({"n": 3}))
    path = written(tmp_path / "some.npz", config=npy(config), note=npy(np.array("no JSON")), x=npy(np.zeros(2)))
    stored = read_weights(path)
    assert stored.extra == {"config": {"n": 3}, "note": "no JSON"}
    assert (stored.family, stored.parameters) == ("unknown", 0)


def test_damaged_npz(tmp_path):
    path = written(tmp_path / "some.npz", w=npy(np.arange(1000.0)))
    whole = path.read_bytes()
    stored = read_weights(path)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "it is no npz, or is truncated or damaged" in message(path)
    # The end of the array: its header can still be unpacked.
    path.write_bytes(whole[:900] + bytes([whole[900] ^ 255]) + whole[901:])
    with pytest.raises(ModelError, match="'w' in it is damaged"):
        stored.arrays["w"].read()
    # The place of the directory, in the last record: before the beginning of the file.
    path.write_bytes(whole[:-6] + struct.pack("<I", len(whole) + 99) + whole[-2:])
    assert "it is no npz, or is truncated or damaged" in message(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "text")
    assert "'readme.txt' in it is no array" in message(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("w.npy", npy(np.zeros(2)))
    assert "compressed in a way that npz files are not" in message(path)


# Folders.


def test_a_folder_of_transformers():
    stored = read_weights(GOLDEN / "hf_masked_lm")
    assert stored.format == "transformers, safetensors"
    assert stored.family == "language model of Perceiver IO"
    assert stored.parameters == sum(t.numel() for t in load_file(GOLDEN / "hf_masked_lm/model.safetensors").values())
    assert stored.extra["config"]["architectures"] == ["PerceiverForMaskedLM"]


def test_an_old_folder_of_transformers(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save(load_file(GOLDEN / "hf_masked_lm/model.safetensors"), tmp_path / "pytorch_model.bin")
    stored, new = read_weights(tmp_path), read_weights(GOLDEN / "hf_masked_lm")
    assert stored.format == "transformers, PyTorch state dict"
    assert (stored.family, stored.parameters) == (new.family, new.parameters)
    assert {n: a.shape for n, a in stored.arrays.items()} == {n: a.shape for n, a in new.arrays.items()}


def test_folders_that_hold_something_else(tmp_path):
    assert "holds no weights that are read. Wanted config.json with model.safetensors" in message(tmp_path)
    assert "It holds: nothing." in message(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "it is of the model type 'bert'; wanted 'perceiver'" in message(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "it holds a list; wanted a mapping of settings to values" in message(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in message(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "perceiver"}')
    assert "has a config.json, but neither model.safetensors nor pytorch_model.bin" in message(tmp_path)


def test_a_model_directory(tmp_path):
    number = {"kind": "number", "columns": ["age"], "mean": [40], "std": [20]}
    spec = {"inputs": {"facts": number}, "outputs": {"ill": {"kind": "category", "classes": ["no", "yes"]}}}
    model = build({**spec, "latents": {"count": 4, "channels": 32}})
    save(model, tmp_path / "run" / "model")
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        stored = read_weights(folder)
        assert stored.path == tmp_path / "run" / "model"
        assert stored.format == "model directory"
        assert stored.family == "Perceiver that reads facts (number) and answers ill (category)"
        assert stored.parameters == sum(p.numel() for p in model.parameters())
        assert stored.extra["spec"]["inputs"]["facts"]["columns"] == ["age"]
    (tmp_path / "run/model/spec.json").write_text('{"inputs": {}}')
    with pytest.raises(SpecError, match=r"spec\.json has 2 faults"):
        read_weights(tmp_path / "run")


def test_running_means_of_our_own_are_no_parameters(tmp_path):
    photo = {
        "kind": "image",
        "size": [16, 16],
        "mean": [0] * 3,
        "std": [1] * 3,
        "lift": {"kind": "conv", "channels": 8},
    }
    output = {"ill": {"kind": "category", "classes": ["no", "yes"]}}
    model = build({"inputs": {"photo": photo}, "outputs": output, "latents": {"count": 4, "channels": 32}})
    assert any(True for _ in model.buffers())
    save(model, tmp_path / "model")
    assert read_weights(tmp_path / "model").parameters == sum(p.numel() for p in model.parameters())


# Which format it is.


def test_names_that_are_not_there(tmp_path):
    shutil.copy(GOLDEN / "language_like_flatmapping.pickle", tmp_path / "language.pickle")
    assert "Did you mean 'language.pickle'?" in message(tmp_path / "langage.pickle")
    assert "there is no file or folder" in message(tmp_path / "no" / "file.npz")
    assert "there is no file or folder" in message(tmp_path / "a\0b.npz")


def test_endings_that_are_not_known(tmp_path):
    (tmp_path / "weights.pickel").write_bytes(b"")
    assert "wanted one of .pickle, .pystate" in message(tmp_path / "weights.pickel")
    assert "Did you mean '.pickle'?" in message(tmp_path / "weights.pickel")


@pytest.mark.parametrize("ending", [".pickle", ".npz", ".safetensors", ".bin"])
def test_a_device_is_no_file(tmp_path, ending):
    path = tmp_path / f"endless{ending}"
    path.symlink_to("/dev/zero")
    assert "is a device or pipe; wanted a file" in message(path, DataError)
