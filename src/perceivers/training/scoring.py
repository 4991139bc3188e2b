"""Scores of a model on a split: the same code in training, evaluation and comparisons with inputs removed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perceivers.data.loader import evaluation_batches
from perceivers.data.prepare import Split
from perceivers.models.model import Model
from perceivers.outputs import Output, masked_mean


@dataclass(frozen=True)
class Scores:
    """`values`: output → metric → number. `confusion`: output of classes → counts, rows true and columns predicted.
    `classes`: output of classes that exclude none → class → scores."""

    loss: float
    values: Mapping[str, Mapping[str, float]]
    confusion: Mapping[str, list[list[int]]] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)


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
    """Scores over the whole split, with the inputs in `without` absent. The model is left in its mode.

    The loss is the weighted sum of the outputs' means over all samples with a target, whatever the batch size. A score
    that the split cannot tell, such as R² of one sample, is NaN.
    """
    training = model.training
    model.eval()
    try:
        return _score(model, split, batch_size, without, advance)
    finally:
        model.train(training)


def _score(
    model: Model, split: Split, batch_size: int, without: Sequence[str], advance: Callable[[int, int], None]
) -> Scores:
    names = list(split.reader.outputs)
    metrics = {n: {k: m.to(model.device) for k, m in output_of(model, n).metrics().items()} for n in names}
    sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for done, batch in enumerate(evaluation_batches(split, batch_size)):
        advance(min(done * batch_size, len(split)), len(split))
        batch = batch.to(model.device).without(*without)
        predictions = model(batch)
        for name in names:
            output, prediction, target = output_of(model, name), predictions[name], batch.targets[name]
            losses, known = output.loss(prediction, target)
            sums[name] += float(losses[known].double().sum())
            counts[name] += int(known.sum())
            output.measure(metrics[name], prediction, target)
    advance(len(split), len(split))
    values, confusion, classes = {}, {}, {}
    for name, group in metrics.items():
        output = output_of(model, name)
        used = {key: metric for key, metric in group.items() if metric.update_called}
        values[name] = output.scores(used)
        counted = output.confusion(used)
        if counted is not None:
            confusion[name] = counted
        of_each = output.per_class(used)
        if of_each is not None:
            classes[name] = of_each
    means = [model.spec.outputs[name].weight * sums[name] / counts[name] for name in names if counts[name]]
    return Scores(sum(means) if means else math.nan, values, confusion, classes)


def output_of(model: Model, name: str) -> Output:
    """The output module called `name`."""
    output = model.outputs[name]
    assert isinstance(output, Output), "outputs are Outputs"
    return output
