"""Data sets that can be had by name. Each file describes one and reads it; the list below is all there is."""

from perceivers.data.named.base import NamedData as NamedData
from perceivers.data.named.digits import DIGITS
from perceivers.data.named.fashion_mnist import FASHION_MNIST
from perceivers.data.named.forda import FORDA
from perceivers.data.named.hapt import HAPT
from perceivers.errors import DataError, unknown

NAMED: dict[str, NamedData] = {data.name: data for data in (DIGITS, FASHION_MNIST, HAPT, FORDA)}


def data_sets() -> dict[str, NamedData]:
    """All data sets that can be had by name: name → what it is. Nothing is fetched."""
    return dict(NAMED)


def named(name: str) -> NamedData:
    """The data set called `name`. Raises `DataError` with the near miss and all names when there is none."""
    if name not in NAMED:
        raise unknown("data set", name, NAMED, DataError)
    return NAMED[name]
