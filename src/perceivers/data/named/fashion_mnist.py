"""Fashion-MNIST: 70,000 grey pictures of clothes, 28 × 28, from a Debian package."""

import numpy as np

from perceivers.data.cache import Say, cached_arrays
from perceivers.data.fetch import Content, Package, fetch
from perceivers.data.named.base import NamedData
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table

# In the order of the label numbers 0…9 (Xiao et al. 2017, Table 2).
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_FOLDER = "usr/share/datasets/fashion-mnist"
_FILES = {  # name in the cache: (file, what it holds when unpacked)
    "train_image": (
        f"{_FOLDER}/train-images-idx3-ubyte.gz",
        Content("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47_040_016),
    ),
    "train_label": (
        f"{_FOLDER}/train-labels-idx1-ubyte.gz",
        Content("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008),
    ),
    "test_image": (
        f"{_FOLDER}/t10k-images-idx3-ubyte.gz",
        Content("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016),
    ),
    "test_label": (
        f"{_FOLDER}/t10k-labels-idx1-ubyte.gz",
        Content("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008),
    ),
}
PACKAGE = Package(
    index="Debian",
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    megabytes=31,
    pattern="dataset-fashion-mnist_*.deb",
    contents=dict(_FILES.values()),
)
_KEPT_AS = "fashion-mnist-1"
_TRAINING = 55_000  # of the 60,000 training pictures; the others are for validation


def _read(say: Say) -> dict[str, Table]:
    arrays = cached_arrays(_KEPT_AS, lambda: _extract(say), say)
    train_image, train_label = arrays["train_image"], arrays["train_label"]
    return {
        TRAIN: _table(train_image, train_label, 0, _TRAINING),
        VALIDATION: _table(train_image, train_label, _TRAINING, len(train_label)),
        TEST: _table(arrays["test_image"], arrays["test_label"], 0, len(arrays["test_label"])),
    }


def _extract(say: Say) -> dict[str, np.ndarray]:
    files = fetch(PACKAGE, say)
    return {name: idx_array(files[path]) for name, (path, _) in _FILES.items()}


def idx_array(content: bytes) -> np.ndarray:
    """The uint8 array in an IDX file: two zero bytes, type 8, number of axes, a big-endian length per axis, the values.

    Three axes are pictures and get a fourth one, of length 1, for the channel.
    """
    zero, kind, axes = int.from_bytes(content[:2]), content[2], content[3]
    assert (zero, kind) == (0, 8), "the checksum let another file pass"
    shape = tuple(np.frombuffer(content, ">u4", axes, offset=4).tolist())
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    return values[..., np.newaxis] if axes == 3 else values


def _table(image: np.ndarray, label: np.ndarray, start: int, stop: int) -> Table:
    """Rows `start` to `stop` without a copy of the pictures."""
    labels = [CLASSES[i] for i in label[start:stop].tolist()]
    rows = np.arange(start + 1, stop + 1)
    return Table({"image": image[start:stop], "label": labels}, "fashion-mnist", rows=rows)


FASHION_MNIST = NamedData(
    name="fashion-mnist",
    title="pictures of clothes, 28 × 28 pixels",
    licence="MIT",
    licence_note="stated in the package (Copyright 2017 Zalando SE)",
    source=str(PACKAGE),
    citation="Xiao, Rasul and Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
    "Algorithms, arXiv:1708.07747, 2017",
    modality="image: (28, 28, 1) uint8, grey",
    splits="official test split of 10,000; validation is the last 5,000 of the official 60,000 for training",
    sizes={TRAIN: 55_000, VALIDATION: 5_000, TEST: 10_000},
    classes=CLASSES,
    inputs={"image": {"kind": "image", "size": [28, 28], "channels": 1}},
    outputs={"label": {"kind": "category"}},
    kept_as=_KEPT_AS,
    read=_read,
)
