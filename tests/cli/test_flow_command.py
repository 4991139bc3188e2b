"""`perceivers flow`: what it writes, and what it never writes over."""

import numpy as np
import pytest
from PIL import Image

import perceivers

SPEC = {
    "inputs": {"pair": {"kind": "image_pair", "size": [24, 28], "position": {"kind": "fourier", "bands": 2}}},
    "latents": {"count": 4, "channels": 16},
    "encoder": {"layers": 1, "self_attend": {"heads": 2}},
    "outputs": {"flow": {"kind": "flow"}},
}


@pytest.fixture
def images(tmp_path):
    perceivers.build(SPEC, seed=0).save(tmp_path / "model")
    for name, seed in (("a", 0), ("b", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def test_files_are_written_once_and_replaced_when_asked(images, call):
    command = ("flow", "model", "a.png", "b.png", "--out", "f.npy", "--picture", "f.png", "--quiet")
    assert call(*command).code == 0
    assert np.load(images / "f.npy").shape == (30, 32, 2)
    before = (images / "f.npy").read_bytes()
    again = call(*command)
    assert again.code != 0
    assert "'f.npy' exists, and would be replaced" in again.err
    assert (images / "f.npy").read_bytes() == before
    assert call(*command, "--overwrite").code == 0


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_an_image_that_is_read_is_never_lost(images, call, overwrite):
    before = (images / "a.png").read_bytes()
    done = call("flow", "model", "a.png", "b.png", "--out", "f.npy", "--picture", "a.png", *overwrite)
    assert done.code != 0
    assert "'a.png' is one of the files to be read, and would be lost" in done.err
    assert (images / "a.png").read_bytes() == before
    assert not (images / "f.npy").exists()
