"""transformers' Perceivers of small sizes, with weights drawn anew: biases, norms and running means too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

# `make test` collects these files too, on machines without what only `make test-all` installs.
transformers = pytest.importorskip("transformers", reason="transformers is not installed: `make test-all` installs it")

SMALL: dict[str, Any] = {
    "num_latents": 8,
    "d_latents": 32,
    "num_blocks": 2,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 1,
    "num_labels": 7,
}
TEXT: dict[str, Any] = {
    **SMALL,
    "d_model": 24,
    "max_position_embeddings": 32,
    "num_cross_attention_heads": 4,
    "qk_channels": 16,
    "v_channels": 32,
}
VIDEO: dict[str, Any] = {
    **SMALL,
    "image_size": 2,
    "num_frames": 4,
    "audio_samples_per_frame": 32,
    "samples_per_patch": 8,
    "output_shape": [1, 4, 8, 8],
    "output_num_channels": 24,
    "_label_trainable_num_channels": 64,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "PerceiverForImageClassificationFourier": SMALL,
    "PerceiverForImageClassificationLearned": {**SMALL, "image_size": 8},
    "PerceiverForImageClassificationConvProcessing": SMALL,
    "PerceiverForSequenceClassification": TEXT,
    "PerceiverForMaskedLM": TEXT,
    "PerceiverForOpticalFlow": {**SMALL, "train_size": [8, 12]},
    "PerceiverForMultimodalAutoencoding": VIDEO,
}


def their_model(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A model of their class `name` in evaluation mode."""
    model = empty_model(name, "cpu", **changes)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=draw)
                around_one = key.endswith("running_var") or (tensor.ndim == 1 and key.endswith("weight"))
                tensor.copy_(1 + 0.1 * noise.clamp(-3, 3) if around_one else noise * spread(tensor))
            else:
                tensor.fill_(5)
    return model.eval()


def spread(tensor: torch.Tensor) -> float:
    """So that every layer hands on numbers of size 1."""
    return 0.1 if tensor.ndim == 1 else tensor.shape[-1] ** -0.5


def empty_model(name: str, device: str, **changes: Any) -> nn.Module:
    """A model of their class `name`, as it is made."""
    with torch.device(device):
        return getattr(transformers, name)(transformers.PerceiverConfig(**{**CONFIGS[name], **changes}))


def saved(model: nn.Module, folder: Path) -> Path:
    """`folder`, with the model as they save it."""
    model.save_pretrained(folder)
    return folder
