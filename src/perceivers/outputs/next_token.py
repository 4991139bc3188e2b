"""`next_token`: the token behind every latent's, for `encoder.kind: autoregressive` [P3; perceiver-ar losses.py]."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from perceivers.cells import is_missing
from perceivers.elements import Elements
from perceivers.errors import missing_extra
from perceivers.nn.autoregressive import NextToken
from perceivers.nn.token_loss import labels_at, token_losses
from perceivers.nn.tokens import latent_places, lengths
from perceivers.outputs.base import Context, Output, OutputSettings, Sizes
from perceivers.tokens import BYTE_VOCABULARY, EOS, PAD, RESERVED, Encoding, token_ids, written

if TYPE_CHECKING:
    from torchmetrics import Metric

# A place whose next token is not known: no padding, so that it counts in the sequence's length, and no token.
UNKNOWN = -1


class NextTokenOutput(OutputSettings):
    """The token that comes next, at each of the last N tokens: cross-entropy, summed over them."""

    continues: ClassVar[bool] = True
    kind: Literal["next_token"] = "next_token"
    encoding: Encoding = "bytes"
    """As the input's."""
    vocabulary: int = Field(default=BYTE_VOCABULARY, gt=RESERVED)
    """As the input's."""
    end: bool = True
    """The end of a sequence is predicted too, as EOS. False for what always has one length, such as images."""
    z_loss: float = Field(default=0.0, ge=0)
    """In training, this times log² of the softmax's normaliser is added; officially 1e-4."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """s, in training: the target is 1 − s for the true token and s/(K − 1) for each other."""

    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> int:
        """It asks nothing: the latents themselves are read."""
        return latent_channels

    def parse(self, value: Any) -> np.ndarray:
        """The ids that are to be predicted: the data, and EOS. Empty: unknown."""
        if is_missing(value):
            return np.zeros(0, np.int64)
        data = token_ids(value, self.encoding, self.vocabulary)
        return np.concatenate([data, [EOS]]) if self.end else data

    def following(self, target: np.ndarray, length: int) -> np.ndarray:
        """As many ids as the model reads tokens: cut where those are, filled up where they go on."""
        if not len(target):
            return target
        rest = np.full(max(length - len(target), 0), UNKNOWN, np.int64)
        return np.concatenate([target[:length], rest])

    def fit(self, targets: Iterable[Any]) -> Self:
        """Nothing to learn."""
        return self

    def completed(self, name: str) -> tuple[Self, str | None]:
        """Itself."""
        return self, None

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B, T) int64, padded by 0."""
        longest = max([1, *(len(target) for target in targets)])
        found = np.full((len(targets), longest), PAD, np.int64)
        for row, target in enumerate(targets):
            found[row, : len(target)] = target
        return torch.from_numpy(found)

    def build(self, sizes: Sizes) -> "NextTokenHead":
        """The module, for latents of `sizes.read` channels."""
        return NextTokenHead(self, sizes.read)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """Bits per token, the fewer the better."""
        return "bits_per_token", "min"


class NextTokenHead(Output):
    """Logits (B, n, K) behind each latent's token."""

    def __init__(self, settings: NextTokenOutput, channels: int) -> None:
        super().__init__()
        self.next = NextToken(channels, settings.vocabulary)
        self.settings = settings

    def queries(self, context: Context) -> Tensor:
        """(B, 0, D): it asks none."""
        return context.like[:, :0]

    def count(self, elements: Mapping[str, int]) -> int:
        """None."""
        return 0

    def flops(self, elements: Mapping[str, int]) -> int:
        """Those of the linear, for one token."""
        return 2 * self.next.linear.in_features * self.next.linear.out_features

    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """Latents (B, N, D) → logits (B, n, K)."""
        return self.next(answers)

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over the latents of a sample, in nats; a sample with no token to predict has no target."""
        labels, valid = _labels(prediction, target)
        smoothing, z_loss = (self.settings.label_smoothing, self.settings.z_loss) if self.training else (0.0, 0.0)
        losses, _ = token_losses(prediction, labels, smoothing, z_loss)
        return torch.where(valid, losses, losses.new_zeros(())).sum(-1), valid.any(-1)

    def metrics(self) -> "dict[str, Metric]":
        """Bits per token, and the share of tokens that were thought the likeliest."""
        try:
            from torchmetrics import MeanMetric
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        return {"bits_per_token": MeanMetric(), "accuracy": MeanMetric()}

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add the tokens of a batch, each for itself."""
        labels, valid = _labels(prediction, target)
        if not bool(valid.any()):
            return
        losses, _ = token_losses(prediction, labels)
        metrics["bits_per_token"].update(losses[valid] / math.log(2))
        metrics["accuracy"].update((prediction.argmax(-1) == labels)[valid].float())

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: the likeliest next token, name_id: its number, name_probability: p}; EOS is null."""
        probabilities = prediction[:, -1].float().softmax(-1)
        best = probabilities.max(-1)
        rows = []
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            value = written([token], self.settings.encoding) if token >= RESERVED else None
            one = value[0] if isinstance(value, list) else value
            rows.append({name: one, f"{name}_id": token, f"{name}_probability": probability})
        return rows


def _labels(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What each latent is to predict, and whether that is known."""
    return labels_at(target, latent_places(lengths(target != PAD), prediction.shape[1]))
