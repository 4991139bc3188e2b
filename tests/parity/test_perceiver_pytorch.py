"""perceiver-pytorch's models, imported from files of theirs, give the same outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import perceivers
from perceivers.models.convert import import_weights

theirs = pytest.importorskip("perceiver_pytorch", reason="perceiver-pytorch is not installed: extra `bench`")
pytestmark = pytest.mark.parity

# Sums of some hundred float32 products in another order.
FP32 = {"rtol": 1e-5, "atol": 1e-5}
HALF = 127.5
PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 6, 7, 3), np.uint8))
INPUT = {"kind": "image", "size": [6, 7], "mean": [HALF] * 3, "std": [HALF] * 3}
HEADS = {"cross": {"heads": 2}, "self_attend": {"heads": 4}}
SIZES = {"num_latents": 5, "latent_dim": 16, "cross_heads": 2, "latent_heads": 4, "cross_dim_head": 6}


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """With every parameter drawn, norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else parameter + 0.2 * noise)
    return model.eval()


def saved(model: torch.nn.Module, folder: Path, ending: str) -> Path:
    path = folder / f"weights{ending}"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if ending == ".ckpt" else model.state_dict(), path)
    return path


def imported(path: Path, spec: dict):
    return perceivers.load(import_weights(path, path.parent / "model", spec=spec))


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_perceiver(tmp_path, depth, tied, ending):
    peer = drawn(
        theirs.Perceiver(
            num_freq_bands=4,
            max_freq=10.0,
            depth=depth,
            weight_tie_layers=tied,
            self_per_cross_attn=2,
            num_classes=7,
            latent_dim_head=3,
            **SIZES,
        )
    )
    position = {"kind": "fourier", "bands": 4, "resolution": [10.0, 10.0]}
    model = imported(
        saved(peer, tmp_path, ending), {"inputs": {"image": {**INPUT, "position": position}}, "encoder": HEADS}
    )
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in peer.parameters())
    assert len(model.perceiver.blocks) == (1 if depth == 1 else 2 if tied else depth)
    with torch.no_grad():
        wanted = peer((PICTURES.float() - HALF) / HALF)
        found = model([{"image": picture.numpy()} for picture in PICTURES])["label"]
    torch.testing.assert_close(found, wanted, **FP32)


def test_a_perceiver_whose_data_bring_their_positions(tmp_path):
    settings = {"num_freq_bands": 4, "max_freq": 10.0, "depth": 2, "fourier_encode_data": False, "num_classes": 3}
    peer = drawn(theirs.Perceiver(input_channels=3, **settings, **SIZES))
    image = {**INPUT, "position": {"kind": "none"}}
    model = imported(saved(peer, tmp_path, ".pt"), {"inputs": {"image": image}, "encoder": HEADS})
    with torch.no_grad():
        wanted = peer((PICTURES.float() - HALF) / HALF)
        found = model([{"image": picture.numpy()} for picture in PICTURES])["label"]
    torch.testing.assert_close(found, wanted, **FP32)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("feed_forward", [False, True])
def test_perceiver_io(tmp_path, feed_forward, tied):
    peer = drawn(
        theirs.PerceiverIO(
            depth=3,
            dim=3 + 2 * 9,
            queries_dim=1 + 2 * 3,
            logits_dim=2,
            decoder_ff=feed_forward,
            weight_tie_layers=tied,
            latent_dim_head=3,
            **SIZES,
        )
    )
    spec = {
        "inputs": {"image": {**INPUT, "position": {"kind": "fourier", "bands": 4}}},
        "encoder": HEADS,
        "decoder": {"heads": 2},
        "outputs": {"wave": {"kind": "grid", "size": [8], "channels": 2, "query": {"kind": "fourier", "bands": 3}}},
    }
    model = imported(saved(peer, tmp_path, ".pt"), spec)
    with torch.no_grad():
        batch = model.collate([{"image": picture.numpy()} for picture in PICTURES])
        data = model.inputs["image"](batch.inputs["image"]).joined()
        queries = model.outputs["wave"].position.tables((8,), data).joined()
        torch.testing.assert_close(model(batch)["wave"], peer(data, queries=queries), **FP32)
