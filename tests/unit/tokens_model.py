"""A small autoregressive model of bytes, and its spec, for the tests."""

from typing import Any

import torch

from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.build import build


def spec(latents: int = 4, **changes: Any) -> dict[str, Any]:
    """`encoder`, `tokens` and `output` are added to what is there; other changes replace it."""
    tokens = {"kind": "tokens", "length": 24, "channels": 16, **changes.pop("tokens", {})}
    encoder = {"kind": "autoregressive", "layers": 2, "self_attend": {"heads": 2}, **changes.pop("encoder", {})}
    output = {"kind": "next_token", **changes.pop("output", {})}
    return {
        "inputs": {"text": tokens},
        "latents": {"count": latents, "channels": 16},
        "encoder": encoder,
        "outputs": {"next": output},
        **changes,
    }


def model(latents: int = 4, **changes: Any) -> AutoregressiveModel:
    """In evaluation mode, with a head that says something: it starts at zero."""
    made = build(spec(latents, **changes), seed=0).eval()
    assert isinstance(made, AutoregressiveModel)
    with torch.no_grad():
        torch.nn.init.normal_(made.core.head.linear.weight, generator=torch.Generator().manual_seed(1))
    return made
