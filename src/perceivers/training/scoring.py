"""Scores of a model on a split: the same code in training, evaluation and comparisons with inputs removed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perceivers.data.loader import evaluation_batches
from perceivers.data.prepare import Split
from perceivers.elements import Batch
from perceivers.models.model import Model
from perceivers.outputs import Output, masked_mean


@dataclass(frozen=True)
class Scores:
    """`values`: output → metric → number. `confusion`: category output → counts, rows true and columns predicted."""

    loss: float
    values: Mapping[str, Mapping[str, float]]
    confusion: Mapping[str, list[list[int]]] = field(default_factory=dict)


def total_loss(model: Model, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum of the outputs' masked mean losses, in float32."""
    parts = []
    for name, prediction in predictions.items():
        if name in targets:
            losses, known = output_of(model, name).loss(prediction, targets[name])
            parts.append(model.spec.outputs[name].weight * masked_mean(losses, known))
    return torch.stack(parts).sum()


@torch.no_grad()
def score(
    model: Model,
    split: Split,
    batch_size: int,
    without: Sequence[str] = (),
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Scores over the whole split, with the inputs in `without` absent. The model is left in its mode."""
    training = model.training
    model.eval()
    metrics = {name: output_of(model, name).metrics() for name in split.reader.outputs}
    sums, weights = 0.0, 0
    for done, batch in enumerate(evaluation_batches(split, batch_size)):
        advance(min(done * batch_size, len(split)), len(split))
        batch = batch.to(model.device).without(*without)
        predictions = model(batch)
        sums += float(total_loss(model, predictions, batch.targets)) * batch.size
        weights += batch.size
        _measure(model, metrics, predictions, batch)
    advance(len(split), len(split))
    model.train(training)
    values, confusion = {}, {}
    for name, group in metrics.items():
        used = {key: metric for key, metric in group.items() if metric.update_called}
        values[name] = {key: float(metric.compute()) for key, metric in used.items() if key != "confusion"}
        if "confusion" in used:
            confusion[name] = used["confusion"].compute().tolist()
    return Scores(sums / weights if weights else math.nan, values, confusion)


def output_of(model: Model, name: str) -> Output:
    """The output module called `name`."""
    output = model.outputs[name]
    assert isinstance(output, Output), "outputs are Outputs"
    return output


def _measure(model: Model, metrics: Mapping[str, Mapping], predictions: Mapping[str, Tensor], batch: Batch) -> None:
    for name, group in metrics.items():
        output_of(model, name).measure(group, predictions[name], batch.targets[name])
