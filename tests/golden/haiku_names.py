"""Vectors recorded from the official code, and how its (haiku) parameter names map to ours.

Support for the golden tests only. A vector file holds `params/<module path>/<name>`, `state/…`, `input/…`, `output/…`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"

# The vectors are float32 from another framework, whose sums run in another order.
OTHER_FRAMEWORK = {"rtol": 1e-4, "atol": 1e-4}

ATTENTION = {"query": "linear", "key": "linear_1", "value": "linear_2", "output": "linear_3"}
MLP = {"hidden": "linear", "output": "linear_1"}
CROSS_NORMS = {"query_norm": "layer_norm", "element_norm": "layer_norm_1", "mlp_norm": "layer_norm_2"}
SELF_NORMS = {"norm": "layer_norm", "mlp_norm": "layer_norm_1"}


@dataclass(frozen=True)
class Golden:
    """One vector file: tensors by their path without the leading folder."""

    config: Mapping[str, Any]
    params: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    state_after_train: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def load_golden(name: str) -> Golden:
    """The vectors of `data/<name>.npz`."""
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as stored:
        parts: dict[str, dict[str, Tensor]] = {}
        for path in stored.files:
            if path != "config":
                folder, _, rest = path.partition("/")
                parts.setdefault(folder, {})[rest] = torch.from_numpy(stored[path])
        config = json.loads(str(stored["config"]))
    empty: dict[str, Tensor] = {}
    return Golden(
        config,
        parts.get("params", empty),
        parts.get("state", empty),
        parts.get("state_after_train", empty),
        parts.get("input", empty),
        parts["output"],
    )


def agree(ours: Tensor, official: Tensor) -> None:
    """Fails unless the two are the same numbers, shape and dtype included."""
    torch.testing.assert_close(ours, official, **OTHER_FRAMEWORK)


class Names:
    """Builds one of our state dicts from official parameters, and knows which ones were taken."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self.params = params
        self.taken: set[str] = set()
        self.ours: dict[str, Tensor] = {}

    def array(self, ours: str, official: str, order: Sequence[int] | None = None) -> None:
        """A tensor, its axes in another `order` if one is given."""
        array = self.params[official]
        self.ours[ours] = array if order is None else array.permute(*order)
        self.taken.add(official)

    def linear(self, ours: str, official: str) -> None:
        """haiku keeps a linear's weight as [in, out]."""
        self.array(f"{ours}.weight", f"{official}/w", (1, 0))
        self.array(f"{ours}.bias", f"{official}/b")

    def norm(self, ours: str, official: str) -> None:
        """Layer norm."""
        self.array(f"{ours}.weight", f"{official}/scale")
        self.array(f"{ours}.bias", f"{official}/offset")

    def linears(self, ours: str, official: str, names: Mapping[str, str]) -> None:
        """Several linears of one module."""
        for mine, theirs in names.items():
            self.linear(f"{ours}{mine}", f"{official}/{theirs}")

    def attend(self, ours: str, official: str, norms: Mapping[str, str]) -> None:
        """A cross-attend or self-attend, by its norms. `ours` ends in a dot or is empty."""
        for mine, theirs in norms.items():
            self.norm(f"{ours}{mine}", f"{official}/{theirs}")
        self.linears(f"{ours}attention.", f"{official}/attention", ATTENTION)
        self.linears(f"{ours}mlp.", f"{official}/mlp", MLP)

    def encoder(self, ours: str, official: str = "perceiver_encoder/~") -> None:
        """Latents, the one cross-attend and the shared self-attends."""
        self.array(f"{ours}latents", f"{official}/trainable_position_encoding/pos_embs")
        self.attend(f"{ours}cross_attends.0.", f"{official}/cross_attention", CROSS_NORMS)
        layer, theirs = 0, f"{official}/self_attention"
        while f"{theirs}/layer_norm/scale" in self.params:
            self.attend(f"{ours}blocks.0.{layer}.", theirs, SELF_NORMS)
            layer += 1
            theirs = f"{official}/self_attention_{layer}"

    def classification_decoder(self) -> None:
        """Learned query, cross-attend and output linear of an output called `label`."""
        official = "classification_decoder/~/basic_decoder"
        self.array("outputs.label.query.table", f"{official}/~/trainable_position_encoding/pos_embs")
        self.attend("decoder.cross_attend.", f"{official}/cross_attention", CROSS_NORMS)
        self.linear("outputs.label.head", f"{official}/output")

    def conv_stem(self, ours: str, official: str, state: Mapping[str, Tensor]) -> None:
        """The convolution (haiku [kh, kw, in, out]), its batch norm and the running averages."""
        self.array(f"{ours}convolutions.0.weight", f"{official}/conv/w", (3, 2, 0, 1))
        for name in ("scale", "offset"):
            self.array(f"{ours}norms.0.{name}", f"{official}/batchnorm/{name}")
            self.ours[f"{ours}norms.0.{name}"] = self.ours[f"{ours}norms.0.{name}"].flatten()
        self.ours |= {f"{ours}norms.0.{name}": value for name, value in batch_norm_state(official, state).items()}

    def into(self, module: nn.Module, others: frozenset[str] = frozenset()) -> None:
        """Load the module. All official parameters but `others` must have been taken, and all of ours set."""
        assert set(self.params) - self.taken == others, "a parameter of the official model has no place in ours"
        module.load_state_dict(self.ours)


def batch_norm_state(official: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our batch norm's buffers from haiku's two moving averages."""
    average = f"{official}/batchnorm/~"
    return {
        "mean_hidden": state[f"{average}/mean_ema/hidden"].flatten(),
        "mean_average": state[f"{average}/mean_ema/average"].flatten(),
        "variance_hidden": state[f"{average}/var_ema/hidden"].flatten(),
        "variance_average": state[f"{average}/var_ema/average"].flatten(),
        "count": state[f"{average}/mean_ema/counter"].long(),
    }
