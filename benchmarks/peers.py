"""The same model in other libraries: transformers with the same weights, perceiver-pytorch with the same sizes."""

import copy
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import perceivers
from perceivers.elements import Batch, Elements
from perceivers.models.convert import export_transformers
from perceivers.models.model import Model
from perceivers.models.presets import preset
from perceivers.nn.position import FourierPosition

IO = "perceiver-io-imagenet-fourier"
ONCE = "perceiver-imagenet-fourier-1x"
SIZE = 224


def need(module: str, package: str) -> Any:
    """The imported module, or exit 2 with the package that has it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"{module} is not installed; it is compared with here. Run: pip install '{package}'", file=sys.stderr)
        raise SystemExit(2) from None


def ours(name: str, blocks: int | None = None, device: str = "cpu") -> Model:
    """The preset with random weights.

    `blocks`: fewer latent blocks, and cross-attends where they are interleaved, than the published ones.
    """
    spec = copy.deepcopy(dict(preset(name).spec))
    encoder = dict(spec["encoder"])
    encoder["blocks"] = blocks or encoder["blocks"]
    if encoder.get("interleaved"):
        encoder["cross_attends"] = encoder["blocks"]
    return drawn({**spec, "encoder": encoder}, device)


def drawn(spec: Mapping[str, Any], device: str = "cpu") -> Model:
    """A model with random weights: norms, biases and heads that start at zero too, so that a mix-up shows."""
    model = perceivers.build(spec, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.to(device)


def twin(model: Model) -> nn.Module:
    """transformers' model with the same weights on the same device, as the library exports them: without dropout."""
    transformers = need("transformers", "transformers>=5")
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it computes otherwise: the benchmarks check that it does not
        config = export_transformers(model, Path(folder) / "theirs")
        name = transformers.PerceiverConfig.from_pretrained(config).architectures[0]
        return getattr(transformers, name).from_pretrained(config).to(model.device)


def perceiver_pytorch(cross_attends: int, blocks: int) -> nn.Module:
    """perceiver-pytorch's `Perceiver`: the 2021 ImageNet model as near as its arguments come, other weights.

    Its own: an MLP of width 4 with a gate, where the paper has width 1; no biases on queries, keys and values; the
    first layer's weights are its own, the others share.
    """
    return need("perceiver_pytorch", "perceiver-pytorch>=0.8").Perceiver(
        num_freq_bands=64,
        max_freq=SIZE,
        depth=cross_attends,
        input_channels=3,
        num_latents=512,
        latent_dim=1024,
        cross_dim_head=261,
        latent_dim_head=128,
        weight_tie_layers=True,
        self_per_cross_attn=6 * blocks // cross_attends,
    )


class PerceiverPytorchOnce(nn.Module):
    """The same with one cross-attend, by its `PerceiverIO`: its `Perceiver` would need weights of its own a layer.

    All self-attends share one set of weights, where the paper's share six. The caller joins the positions.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.position = FourierPosition((SIZE, SIZE), 64)
        self.model = need("perceiver_pytorch", "perceiver-pytorch>=0.8").PerceiverIO(
            depth=6 * blocks,
            dim=261,
            queries_dim=1024,
            logits_dim=1000,
            num_latents=512,
            latent_dim=1024,
            cross_dim_head=261,
            latent_dim_head=128,
            weight_tie_layers=True,
        )
        self.query = nn.Parameter(torch.randn(1, 1024))

    def forward(self, x: Tensor) -> Tensor:
        """(1, H, W, 3) → (1, 1, 1000)."""
        position = self.position(grid=x.shape[1:3], like=x)
        return self.model(torch.cat([x.flatten(1, 2), position[None]], dim=-1), queries=self.query)


def image(size: int = SIZE, device: str = "cpu") -> tuple[Batch, Tensor]:
    """One image twice: bytes as our models read them, and standardised (1, 3, size, size)."""
    pixels = torch.randint(0, 256, (1, size * size, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    settings = preset(IO).spec["inputs"]["image"]
    standard = (pixels.float() - torch.tensor(settings["mean"])) / torch.tensor(settings["std"])
    batch = Batch({"image": Elements(pixels, grid=(size, size))}, 1)
    return batch.to(torch.device(device)), standard.mT.unflatten(2, (size, size)).contiguous().to(device)


def transformers_encoder(latents: int, channels: int, elements: Tensor) -> Callable[[], object]:
    """transformers' encoder of one cross-attend and one self-attend over an array of elements; other weights."""
    transformers = need("transformers", "transformers>=5")
    config = transformers.PerceiverConfig(
        num_latents=latents,
        d_latents=64,
        d_model=channels,
        num_blocks=1,
        num_self_attends_per_block=1,
        num_self_attention_heads=4,
        num_cross_attention_heads=1,
        qk_channels=None,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.PerceiverModel(config).eval()
    return lambda: model(inputs=elements)


def perceiver_pytorch_encoder(latents: int, channels: int, elements: Tensor) -> Callable[[], object]:
    """perceiver-pytorch's `PerceiverIO` of one cross-attend and one self-attend; other weights."""
    model = need("perceiver_pytorch", "perceiver-pytorch>=0.8").PerceiverIO(
        depth=1,
        dim=channels,
        queries_dim=64,
        num_latents=latents,
        latent_dim=64,
        cross_dim_head=channels,
        latent_heads=4,
        latent_dim_head=16,
    )
    return lambda: model(elements)
