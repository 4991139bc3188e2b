"""Handwritten digits, 8 × 8 grey: the data set that comes with scikit-learn and needs no fetching."""

import numpy as np

from perceivers.data.cache import Say
from perceivers.data.named.base import NamedData, hold_out
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table
from perceivers.errors import missing_extra

CLASSES = tuple("0123456789")


def _read(say: Say) -> dict[str, Table]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("scikit-learn", "data", "the data set 'digits'") from error
    counts, targets = load_digits(return_X_y=True)
    labels = [CLASSES[i] for i in targets]
    whole = Table({"image": grey(np.reshape(counts, (-1, 8, 8))), "label": labels}, "digits")
    rest, test = hold_out(labels, 0.2, seed=0)
    train, validation = hold_out([labels[i] for i in rest], 0.1, seed=0)
    return {TRAIN: whole.take(rest[train]), VALIDATION: whole.take(rest[validation]), TEST: whole.take(test)}


def grey(counts: np.ndarray) -> np.ndarray:
    """Counts of ink 0…16 (n, 8, 8) as uint8 grey values (n, 8, 8, 1): 255/16 of the count, halves rounded up."""
    return ((counts.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[..., np.newaxis]


DIGITS = NamedData(
    name="digits",
    title="handwritten digits, 8 × 8 pixels",
    licence="CC BY 4.0",
    licence_note="as the UCI Machine Learning Repository lists the original; scikit-learn itself is BSD-3-Clause",
    source="scikit-learn (`sklearn.datasets.load_digits`)",
    citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998",
    modality="image: (8, 8, 1) uint8, grey; the counts 0…16 of the original scaled to 0…255",
    splits="ours: 20 % of each class held out for test, then 10 % of the rest for validation, seed 0",
    sizes={TRAIN: 1_295, VALIDATION: 143, TEST: 359},
    classes=CLASSES,
    inputs={"image": {"kind": "image", "size": [8, 8], "channels": 1}},
    outputs={"label": {"kind": "category"}},
    kept_as="",
    read=_read,
)
