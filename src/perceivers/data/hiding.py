"""Hiding what an output is to guess, in training and in scoring: of its input some elements, which are its target."""

from collections.abc import Mapping
from dataclasses import replace

from perceivers.data.reader import Row
from perceivers.inputs import InputSettings, Seed
from perceivers.outputs import OutputSettings

# Ends the seed of hiding, as mixing has its own end: numpy takes (7, 0) and (7, 0, 0) for one seed.
HIDE = 2


def hide(
    row: Row, inputs: Mapping[str, InputSettings], outputs: Mapping[str, OutputSettings], seed: Seed | None
) -> Row:
    """The row with some elements hidden for each output that hides any; what they were are its targets.

    seed: all that decides which; None, in scoring: the sample itself decides, so that it is always scored alike.
    """
    for name, kind in outputs.items():
        source = kind.of_input
        if not kind.hides or source is None:
            continue
        sample = row.inputs.get(source)
        if sample is None:
            row = replace(row, targets={**row.targets, name: kind.parse(None)})
            continue
        # No more of it than the model reads.
        count = inputs[source].elements()
        mask = None if sample.mask is None else sample.mask[:count]
        values, target = kind.hidden(sample.values[:count], mask, seed)
        shown = replace(sample, values=values, mask=mask)
        row = replace(row, inputs={**row.inputs, source: shown}, targets={**row.targets, name: target})
    return row
