"""The sound of a video file, by PyAV, which is imported late."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from perceivers.errors import DataError
from perceivers.inputs.decode_video import opened_container
from perceivers.inputs.opened import opened

# From the samples that a sound has, its rate (None: it says none) and what heads messages: first and last to be read.
Span = Callable[[int, float | None, str], tuple[int, int]]


def is_container(start: bytes) -> bool:
    """Whether a file begins as MP4 and MOV, as MKV and WebM, or as AVI does."""
    return start[4:8] == b"ftyp" or start.startswith(b"\x1aE\xdf\xa3") or start[8:12] == b"AVI "


def has_track(value: Any) -> bool:
    """Whether a file, by its path or bytes, is a video file with sound in it. Raises `DataError` for damage."""
    with opened(value, "video") as (file, what):
        if not is_container(file.read(12)):
            return False
        with opened_container(file, what, "video") as container:
            return bool(container.streams.audio)


def read_track(file: BinaryIO, what: str, span: Span) -> tuple[np.ndarray, float]:
    """Samples (T, channels) float32 between −1 and 1 of the first sound in a file, as `span` chooses, and their rate.

    Raises `DataError`.
    """
    rate, channels, count = _header(file, what)
    first, last = span(count, rate, what)
    found, place = [np.zeros((0, channels), np.float32)], 0
    # All are decoded, as those before `first` may be needed for it; only those that are wanted are kept.
    for samples in _decoded(file, what) if last > first else ():
        found.append(samples[max(first - place, 0) : max(last - place, 0)])
        place += len(samples)
        if place >= last:
            break
    values = np.concatenate(found)
    if len(values) < last - first:
        raise DataError(
            f"{what} is truncated or damaged: {last - first:,} samples were wanted, {len(values):,} follow."
        )
    return values, rate


def _header(file: BinaryIO, what: str) -> tuple[float, int, int]:
    """Rate, channels and samples, which are counted, since a file need not tell."""
    with opened_container(file, what, "audio") as container:
        stream = container.streams.audio[0]
        rate, channels = float(stream.rate), int(stream.channels)
        return rate, channels, sum(frame.samples for frame in container.decode(stream))


def _decoded(file: BinaryIO, what: str) -> Iterator[np.ndarray]:
    with opened_container(file, what, "audio") as container:
        from av import AudioResampler

        # Of sample formats alone: planes of float32.
        change: Any = AudioResampler(format="fltp")
        for frame in container.decode(container.streams.audio[0]):
            for made in change.resample(frame):
                yield made.to_ndarray().T
        for made in change.resample(None):
            yield made.to_ndarray().T
