"""Seeded changes of training texts: several documents as one, and a crop of what is longer than the model reads
[P2 App. F]."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from perceivers.inputs.base import Sample, Seed
from perceivers.settings import Settings


class TextAugmentation(Settings):
    """What is done to a training text; the default is nothing."""

    kind: Literal["text"] = "text"
    documents: PositiveInt = 1
    """Texts read as one: the sample's own, and others drawn from the training split, a line break between them (SEP
    where ids are read)."""
    crop: bool = False
    """Of what is longer than the input's length, a part from a random place; False: its beginning."""


def augment_text_sample(
    sample: Sample, seed: Seed, others: Sequence[Sample] = (), *, settings: TextAugmentation, length: int, between: int
) -> Sample:
    """`sample` with `others` behind it, and of that at most `length` bytes; filled up with masked zeros to `length`.

    between: the id that stands between them.
    """
    ids = np.concatenate([_ids(sample), *(part for other in others for part in ([between], _ids(other)))])
    start = 0
    if settings.crop and len(ids) > length:
        start = int(np.random.default_rng(seed).integers(len(ids) - length + 1))
    return text_sample(ids[start : start + length], length)


def text_sample(ids: np.ndarray, length: int) -> Sample:
    """Ids as a sample, filled up with masked zeros to `length`. Longer ones are whole: collating cuts them.

    Two bytes an id where that will do: training keeps them in memory.
    """
    kind = np.int16 if ids.max(initial=0) <= np.iinfo(np.int16).max else np.int32
    values = np.zeros((max(len(ids), length), 1), kind)
    values[: len(ids), 0] = ids
    return Sample(values, mask=np.arange(len(values)) < len(ids), padding=len(values) - len(ids))


def _ids(sample: Sample) -> np.ndarray:
    assert sample.mask is not None, "of padding"
    return sample.values[sample.mask, 0]
