"""What is read without a fault and is probably not meant: names next to inputs', values out of range, tiny splits."""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np

from perceivers.cells import is_missing
from perceivers.data.reader import Row
from perceivers.data.table import Table
from perceivers.errors import near_miss
from perceivers.inputs import InputSettings

# Standard deviations of the training data beyond which a mean is told of: other units, most likely.
FAR = 20.0
# Rows of a validation split below which one row more or less that is right decides which model is kept.
FEW = 10


def meant(given: Iterable[str], wanted: Iterable[str]) -> str:
    """`" Did you mean 'left' by 'lefft'?"` for each name given that is close to one that is wanted."""
    names = list(wanted)
    found = ((name, near_miss(name, [other for other in names if other != name])) for name in given)
    return "".join(f"{near[:-1]} by '{name}'?" for name, near in found if near)


def misspelt(table: Table, wanted: Iterable[str]) -> list[str]:
    """Columns next to one of `wanted` that is empty, or not there at all, in every row where they are filled."""
    read = list(wanted)
    found = []
    for column in table.columns:
        near = [name for name in read if column not in read and near_miss(column, [name])]
        filled = [i for i, cell in enumerate(table.columns[column]) if not is_missing(cell)] if near else []
        if filled and any(all(_empty(table, name, i) for i in filled) for name in near):
            found.append(column)
    return found


def _empty(table: Table, column: str, index: int) -> bool:
    return column not in table.columns or is_missing(table.columns[column][index])


def warn_of_few(rows: int) -> None:
    """Warn where a validation split of so many rows chooses the best model."""
    if rows < FEW:
        warnings.warn(
            f"the validation split has {rows} row{'s' if rows > 1 else ''}, which choose{'s' if rows == 1 else ''} the "
            f"best model, so chance does. Give it {FEW} or more, better hundreds, by data.splits; or none, and the "
            "last model is kept.",
            UserWarning,
            stacklevel=2,
        )


class Range:
    """Warns once an input when the mean of a value lies further than `FAR` deviations from that of training."""

    def __init__(self, inputs: Mapping[str, InputSettings]) -> None:
        self.waiting = {name: (kind, scale) for name, kind in inputs.items() if (scale := kind.scale()) is not None}

    def check(self, row: Row) -> None:
        """Look at the inputs of one row that are parsed; what is read as a `Source` is not seen."""
        for name, (kind, scale) in list(self.waiting.items()):
            sample = row.inputs.get(name)
            numbers = np.zeros((0, 1)) if sample is None else kind.numbers(sample)
            if not len(numbers):
                continue
            mean, std = (np.array(part, np.float64) for part in scale[1:])
            far = np.abs(numbers.mean(axis=0, dtype=np.float64) - mean) > FAR * std
            if far.any():
                del self.waiting[name]
                at = int(np.argmax(far))
                low, high = numbers[:, at].min(), numbers[:, at].max()
                warnings.warn(
                    f"input '{name}': {scale.names[at]} is {f'{low:.6g} to ' if low < high else ''}{high:.6g}, but the "
                    f"model was trained on a mean of {mean[at]:.6g} with a standard deviation of {std[at]:.6g}. Are "
                    "these other units? Its answer is not to be trusted. Further rows are not told of.",
                    UserWarning,
                    stacklevel=2,
                )
