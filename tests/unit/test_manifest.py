"""How a model directory is checked and read: manifests of now and before, rights, files that go away meanwhile."""

import gc
import hashlib
import json
from pathlib import Path

import pytest
import torch
import xxhash

from perceivers.errors import ModelError
from perceivers.models import weights
from perceivers.models.build import build
from perceivers.models.weights import load

SPEC = {
    "inputs": {"row": {"kind": "number", "columns": ["a", "b"], "mean": [1, 2], "std": [3, 4], "channels": 6}},
    "latents": {"count": 5, "channels": 8},
    "encoder": {"layers": 1, "self_attend": {"heads": 2}},
    "outputs": {"age": {"kind": "number", "mean": [40], "std": [10]}},
}


@pytest.fixture
def model():
    return build(SPEC, seed=0)


@pytest.fixture
def folder(model, tmp_path) -> Path:
    return model.save(tmp_path / "model")


def refused(folder: Path, part: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert part in str(caught.value), str(caught.value)


def test_a_model_saved_with_sha256(model, folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"bytes": len(data), "xxh3_128": xxhash.xxh3_128(data).hexdigest()}
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert torch.equal(load(folder).state_dict()["encoder.latents"], model.state_dict()["encoder.latents"])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    refused(folder, "model.safetensors' is not the file that was saved: its size or checksum differs")


@pytest.mark.parametrize("collecting", [True, False])
def test_loading_leaves_the_garbage_collector_as_it_was(folder, collecting):
    try:
        (gc.enable if collecting else gc.disable)()
        load(folder)
        assert gc.isenabled() is collecting
        (folder / "spec.json").unlink()
        refused(folder, "spec.json is missing")
        assert gc.isenabled() is collecting
    finally:
        gc.enable()


def test_others_may_read_what_the_mask_of_the_user_lets_them(folder):
    assert {path.stat().st_mode for path in folder.iterdir()} == {(folder / "spec.json").stat().st_mode}


def test_a_file_that_goes_away_while_it_is_read(folder, monkeypatch):
    real = weights.as_spec

    def gone(*given):
        (folder / "model.safetensors").unlink()
        return real(*given)

    monkeypatch.setattr(weights, "as_spec", gone)
    refused(folder, "model.safetensors' cannot be read: No such file or directory")


def test_a_manifest_with_both_checksums(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    load(folder)
