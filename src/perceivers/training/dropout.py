"""Input dropout: in training whole inputs go missing, so that the model learns to do without each."""

from collections.abc import Mapping

import numpy as np
import torch

from perceivers.elements import Batch


def drop_inputs(batch: Batch, probabilities: Mapping[str, float], seed: tuple[int, int]) -> Batch:
    """Each named input of each sample is absent with its probability, drawn from `seed` = (run seed, step).

    A sample never loses everything: where all of its present inputs would go, one of them, drawn evenly, stays.
    """
    names = sorted(batch.inputs)
    if not any(probabilities.get(name, 0.0) for name in names):
        return batch
    draw = np.random.default_rng((*seed, 1))
    chance = np.array([probabilities.get(name, 0.0) for name in names])
    dropped = draw.random((batch.size, len(names))) < chance
    present = np.stack([batch.inputs[name].present.any(1).cpu().numpy() for name in names], axis=1)
    kept = present & ~dropped
    lost = present.any(1) & ~kept.any(1)
    # The one that stays: the present input with the largest of fresh even draws.
    chosen = np.where(present, draw.random(present.shape), -1.0).argmax(1)
    kept[lost, chosen[lost]] = True
    inputs = {
        name: batch.inputs[name] if kept[:, i].all() else batch.inputs[name].keep(torch.from_numpy(kept[:, i]))
        for i, name in enumerate(names)
    }
    return Batch(inputs, batch.size, batch.targets)
