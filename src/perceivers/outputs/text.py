"""`text` as an output: every byte of a text input, guessed where it is masked [P2 §4.1, masked language modelling]."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from perceivers.byte_tokens import (
    MASK,
    SPECIAL_TOKENS,
    VOCABULARY,
    ids_of,
    to_bytes,
    tokenizer_ids,
    word_spans,
    written,
)
from perceivers.cells import class_name, is_missing
from perceivers.elements import Elements
from perceivers.errors import SpecError, missing_extra
from perceivers.nn.lifted import Lifted
from perceivers.nn.linear import Affine
from perceivers.nn.position import LearnedPosition
from perceivers.outputs.base import Context, LearnedQuery, Output, OutputSettings, Sizes
from perceivers.settings import Settings
from perceivers.tokens import Encoding

if TYPE_CHECKING:
    from torchmetrics import Metric

# The target of a byte that is not known.
UNKNOWN = -1
# Readings of a masked run that an answer holds.
_GUESSES = 5


class WordMask(Settings):
    """Words, runs of bytes without white space, of which every byte is hidden [P2 App. F]."""

    kind: Literal["words"] = "words"
    share: float = Field(default=0.15, gt=0, le=1)
    """Of the words of a text; one at least."""


class TextOutput(OutputSettings):
    """The bytes of the text input `input`: one learned query a byte, read by that input's own embedding."""

    apart: ClassVar[str] = (
        " Or set mask: {kind: words} on the output: words of the input are then hidden, and are to be guessed."
    )
    curves: ClassVar[tuple[str, ...]] = ("accuracy",)
    kind: Literal["text"] = "text"
    encoding: Encoding = "bytes"
    """As the input's."""
    vocabulary: int = Field(default=VOCABULARY, gt=SPECIAL_TOKENS)
    """As the input's."""
    input: str = "text"
    """The text input: its embedding, transposed, gives the logits, so the queries are as wide."""
    query: LearnedQuery = LearnedQuery()
    mask_queries: bool = True
    """Only bytes that are there are asked for; the others' queries read nothing [official MLM model]."""

    mask: WordMask | None = None
    """Masked language modelling: some of the input's own text is hidden in training and scoring, other words in each
    epoch, in scoring always the same; they are the target. None: the target is in a column."""

    @property
    def of_input(self) -> str | None:
        """The input, where some of it is hidden."""
        return self.input if self.mask is not None else None

    @property
    def hides(self) -> bool:
        """Whether words are hidden."""
        return self.mask is not None

    def table_columns(self, name: str) -> list[str]:
        """Its own name; none where the target is what is hidden of the input."""
        return [] if self.hides else [name]

    @property
    def asks_with(self) -> tuple[str, ...]:
        """The input."""
        return (self.input,)

    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> int:
        """As many as the embedding. Raises `SpecError` where the input is no text, or the query has another width."""
        embedding = _embedding(self.input, inputs)
        read, width = (inputs[self.input].encoding, embedding.num_embeddings), embedding.embedding_dim
        if read != (self.encoding, self.vocabulary):
            raise SpecError(
                f"text output: it guesses {self.encoding} of a vocabulary of {self.vocabulary}, but input "
                f"'{self.input}' reads {read[0]} of {read[1]}; give both the same encoding and vocabulary."
            )
        if self.query.channels not in (None, width):
            raise SpecError(
                f"text output: query.channels is {self.query.channels}, but input '{self.input}' embeds in {width}, "
                "and its embedding reads the answers; leave query.channels out, or change the input's channels."
            )
        return width

    def parse(self, value: Any) -> np.ndarray:
        """The ids of a text, or of a list of ids; none where it is not known."""
        if self.encoding == "ids":
            return np.zeros(0, np.int64) if is_missing(value) else tokenizer_ids(value, self.vocabulary)
        text = value if isinstance(value, (str, bytes, bytearray)) else class_name(value)
        return np.zeros(0, np.int64) if text is None else ids_of(to_bytes(text))

    def hidden(
        self, values: np.ndarray, mask: np.ndarray | None, seed: Sequence[int] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids (length, 1) with MASK for every byte of some words, and those bytes (length,), −1 elsewhere."""
        assert self.mask is not None, "only asked of a kind that hides"
        ids = values[:, 0] if mask is None else values[mask, 0]
        spans = word_spans(ids, self.encoding)
        shown, target = values.copy(), np.full(len(ids), UNKNOWN, np.int64)
        if not len(spans):
            return shown, target
        if seed is None:
            seed = (int(sha256(ids.astype("<i2").tobytes()).hexdigest(), 16),)
        random = np.random.default_rng(seed)
        count = max(round(self.mask.share * len(spans)), 1)
        for start, stop in spans[random.choice(len(spans), count, replace=False)]:
            target[start:stop] = ids[start:stop]
            shown[start:stop] = MASK
        return shown, target

    def fit(self, targets: Iterable[Any]) -> Self:
        """Nothing is learned from targets."""
        return self

    def completed(self, name: str) -> tuple[Self, str | None]:
        """Nothing is missing."""
        return self, None

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B, the longest) int64; −1 behind a text's end."""
        length = max((len(ids) for ids in targets), default=0)
        return torch.from_numpy(
            np.stack([np.pad(ids, (0, length - len(ids)), constant_values=UNKNOWN) for ids in targets])
        )

    def build(self, sizes: Sizes) -> "TextHead":
        """The module."""
        if sizes.read != sizes.query:
            raise SpecError(
                f"text output: the decoder's answers have {sizes.read} channels, but the embedding of input "
                f"'{self.input}' reads {sizes.query}; a model with a text output has no other outputs."
            )
        return TextHead(self, sizes)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """Bits a byte, the fewer the better."""
        return "bits_per_byte", "min"


class TextHead(Output):
    """Logits (B, L, 262) over the ids of every byte, or (B, L, vocabulary)."""

    def __init__(self, settings: TextOutput, sizes: Sizes) -> None:
        super().__init__()
        self.input = settings.input
        self.mask_queries = settings.mask_queries
        self.encoding: Encoding = settings.encoding
        self.length = int(sizes.inputs[self.input].length)  # pyright: ignore[reportArgumentType]
        self.query = LearnedPosition((self.length,), sizes.query, settings.query.init_std)
        self.bias = nn.Parameter(torch.zeros(settings.vocabulary))

    def queries(self, context: Context) -> Tensor | Lifted:
        """(B, L, E), where `mask_queries` with the mask of the text."""
        queries = self.query(grid=(self.length,)).expand(context.batch, -1, -1)
        mask = context.read[self.input].mask
        return Lifted(queries, None, mask) if self.mask_queries and mask is not None else queries

    def count(self, elements: Mapping[str, int]) -> int:
        """One a byte."""
        return self.length

    def flops(self, elements: Mapping[str, int]) -> int:
        """Those of the embedding, transposed."""
        return 2 * self.length * self.query.channels * len(self.bias)

    def reader(self, context: Context) -> Affine:
        """Answers over the embedding of the input, and a bias [official EmbeddingDecoder]."""
        return Affine(_embedding(self.input, context.inputs).weight, self.bias)

    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """Logits, which is what is read of the answers."""
        return answers

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats a byte, over the known bytes that the model reads: of a masked text the hidden."""
        wanted, known = self._known(target)
        logits = prediction[:, : wanted.shape[1]].float().transpose(1, 2)
        losses = F.cross_entropy(logits, wanted.clamp(min=0), reduction="none") * known
        counts = known.sum(-1)
        return losses.sum(-1) / counts.clamp(min=1), counts > 0

    def metrics(self) -> "dict[str, Metric]":
        """The share of bytes that the likeliest id gets right, and bits a byte."""
        try:
            from torchmetrics.aggregation import MeanMetric
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        return {"accuracy": MeanMetric(), "bits_per_byte": MeanMetric()}

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch; bytes that are not known, or not read, are left out."""
        wanted, known = self._known(target)
        if not bool(known.any()):
            return
        logits = prediction[:, : wanted.shape[1]].float()[known]
        metrics["accuracy"].update((logits.argmax(-1) == wanted[known]).float())
        metrics["bits_per_byte"].update(F.cross_entropy(logits, wanted[known], reduction="none") / np.log(2))

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: the text with its masked bytes filled in, name_masked: [what was filled in, …], name_guesses: […]}.

        The guesses are, of each run of masked bytes, [{"text", "probability"}, …], the likeliest first; where ids are
        read, `ids` stands for `text`.
        """
        rows = []
        best = prediction.argmax(-1).cpu().numpy()
        read = inputs.get(self.input)
        for row, guessed in enumerate(best):
            given = np.zeros(0, np.int64) if read is None else read.values[row, :, 0][read.present[row]].cpu().numpy()
            masked = given == MASK
            filled = np.where(masked, guessed[: len(given)], given)
            edges = np.flatnonzero(np.diff(np.concatenate([[False], masked, [False]])))
            runs = edges.reshape(-1, 2)
            guesses = [_readings(prediction[row, a:b], self.encoding) for a, b in runs]
            found = [written(filled[a:b], self.encoding) for a, b in runs]
            rows.append({name: written(filled, self.encoding), f"{name}_masked": found, f"{name}_guesses": guesses})
        return rows

    def _known(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The bytes that the model reads, and which are known. A text that the input cuts is cut here too."""
        wanted = target[:, : self.length]
        return wanted, wanted != UNKNOWN


def _readings(logits: Tensor, encoding: Encoding) -> list[dict[str, Any]]:
    """The likeliest readings of a run of bytes (length, 262), as if each byte were drawn by itself.

    That is what the model says of them: it guesses all masked bytes at once, none in the light of another.
    """
    best, ids = logits.float().log_softmax(-1).topk(_GUESSES)
    # Each with its last byte and what stands before that, or a long run would be copied at each of its bytes.
    kept: list[tuple[float, Any]] = [(0.0, None)]
    for chances, tokens in zip(best.tolist(), ids.tolist(), strict=True):
        longer = [(total + p, (run, i)) for total, run in kept for p, i in zip(chances, tokens, strict=True)]
        kept = sorted(longer, key=lambda item: -item[0])[:_GUESSES]
    key = "text" if encoding == "bytes" else "ids"
    return [
        {key: written(reversed([*_backwards(run)]), encoding), "probability": math.exp(total)} for total, run in kept
    ]


def _backwards(run: Any) -> Iterator[int]:
    while run is not None:
        run, token = run
        yield token


def _embedding(name: str, inputs: Mapping[str, nn.Module]) -> nn.Embedding:
    embedding = getattr(inputs[name], "embedding", None)
    if not isinstance(embedding, nn.Embedding) or not hasattr(inputs[name], "encoding"):
        raise SpecError(f"text output: input '{name}' is no text, so it has no embedding; name an input of kind text.")
    return embedding
