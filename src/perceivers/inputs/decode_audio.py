"""From a cell of a table (path, bytes, array) to sound between −1 and 1, with its faults named."""

import io
import struct
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from perceivers.cells import number
from perceivers.errors import DataError, missing_extra
from perceivers.inputs.decode_track import Span, is_container, read_track
from perceivers.inputs.opened import array_in, as_array, is_file, opened

LOUDEST = 8.0
"""Larger numbers are no sound between −1 and 1, however loud, but integers that were made floats."""
_PCM = 1  # the format tag of plain samples, which the standard library reads
_FORMATS = "WAV, FLAC, OGG, MP3, AIFF, .npy and the sound of MP4, MOV, MKV, WebM and AVI are read"


@dataclass(frozen=True)
class Sound:
    """values: (T, channels) float32, of the span that was asked for. rate: samples a second, None where unknown."""

    values: np.ndarray
    rate: float | None


def read_sound(value: Any, span: Span) -> Sound:
    """A sound whose samples `span` chooses. Raises `DataError`.

    `value`: a path, a file's bytes, an array (T,) or (T, channels), or a mapping with `bytes` or `path`, or with
    `values` or `array` and perhaps `rate` or `sampling_rate` (as Hugging Face tables hold).
    """
    rate: float | None = None
    if isinstance(value, Mapping):
        value, rate = _of_mapping(value)
    if is_file(value):
        with opened(value, "sound") as (file, what):
            return _from_file(file, what, span, rate)
    return _from_array(as_array(value, "the array"), "the array", span, rate)


def sound_header(value: Any) -> tuple[int, int, int]:
    """Samples, rate in Hz and channels of a file, as `read_sound` would give them. Raises `DataError`.

    `value`: a path, a file's bytes, or a mapping with `bytes` or `path`; no .npy, which has no rate.
    """
    found: list[tuple[int, float | None]] = []

    def nothing(count: int, rate: float | None, what: str) -> tuple[int, int]:
        found.append((count, rate))
        return 0, 0

    channels = read_sound(value, nothing).values.shape[1]
    (count, rate), *_ = found
    if rate is None:
        raise DataError("it says nothing of its rate")
    return count, round(rate), channels


def _of_mapping(value: Mapping[Any, Any]) -> tuple[Any, float | None]:
    rate = next((value[key] for key in ("rate", "sampling_rate") if value.get(key) is not None), None)
    found = next((value[key] for key in ("values", "array", "bytes", "path") if value.get(key) is not None), None)
    if found is None:
        raise DataError(
            f"a sound given as a mapping needs 'values', 'bytes' or 'path'; got {', '.join(map(str, value)) or 'none'}."
        )
    return found, None if rate is None else number(rate)


def _from_file(file: BinaryIO, what: str, span: Span, rate: float | None) -> Sound:
    array = array_in(file, what)
    if array is not None:
        return _from_array(array, what, span, rate)
    start = file.read(64)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # Not every reader minds; a byte that fills up an odd number may be left out.
    if start.startswith(b"RIFF") and len(start) > 8 and struct.unpack_from("<I", start, 4)[0] + 8 > size + 1:
        raise DataError(f"{what} is a truncated WAV: its header tells of more bytes than its {size:,}.")
    if _is_plain_wave(start):
        return _plain_wave(file, what, span)
    return Sound(*read_track(file, what, span)) if is_container(start) else _by_soundfile(file, what, span)


def _is_plain_wave(start: bytes) -> bool:
    place = start.find(b"fmt ", 12)
    if not start.startswith(b"RIFF") or start[8:12] != b"WAVE" or not 0 < place <= len(start) - 10:
        return False
    return struct.unpack_from("<H", start, place + 8)[0] == _PCM


def _plain_wave(file: BinaryIO, what: str, span: Span) -> Sound:
    try:
        with wave.open(file, "rb") as stored:
            channels, width, rate = stored.getnchannels(), stored.getsampwidth(), stored.getframerate()
            if width > 4:
                raise DataError(f"{what} has samples of {8 * width} bits; at most 32 are read.")
            first, last = span(stored.getnframes(), rate, what)
            stored.setpos(first)
            data = stored.readframes(last - first)
    except DataError:
        raise
    # A damaged header makes the reader fail in ways that it does not document.
    except (wave.Error, EOFError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        raise DataError(f"{what} is a truncated or damaged WAV: {str(error) or type(error).__name__}.") from None
    wanted = (last - first) * channels * width
    if len(data) != wanted:
        raise DataError(f"{what} is a truncated WAV: its header tells of more samples than follow.")
    return Sound(_samples(data, width).reshape(-1, channels), rate)


def _samples(data: bytes, width: int) -> np.ndarray:
    """Little-endian whole numbers of `width` bytes as float32 between −1 and 1; a single byte has no sign."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    # In the upper bytes of 32 bits, so that all widths have the same full scale.
    wide = np.zeros((len(data) // width, 4), np.uint8)
    wide[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return wide.view("<i4")[:, 0].astype(np.float32) / 2**31


def _by_soundfile(file: BinaryIO, what: str, span: Span) -> Sound:
    try:
        import soundfile
    except ImportError:
        raise missing_extra("soundfile", "audio", "reading sound that is no plain WAV") from None
    try:
        with soundfile.SoundFile(file) as stored:
            first, last = span(stored.frames, stored.samplerate, what)
            stored.seek(first)
            values = stored.read(last - first, dtype="float32", always_2d=True)
            rate = stored.samplerate
    except DataError:
        raise
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise DataError(f"{what} is no sound, or truncated or damaged ({_FORMATS}): {error}.") from None
    if len(values) < last - first:
        raise DataError(
            f"{what} is truncated or damaged: {last - first:,} samples were wanted, {len(values):,} follow."
        )
    return Sound(values, rate)


def _from_array(array: np.ndarray, what: str, span: Span, rate: float | None) -> Sound:
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise DataError(f"{what} has shape {array.shape}; wanted (samples,) or (samples, channels).")
    first, last = span(len(array), rate, what)
    return Sound(_as_float(array[first:last], what), rate)


def _as_float(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype in (np.int16, np.int32):
        return array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
    if array.dtype.kind != "f" and array.size:
        raise DataError(
            f"{what} holds {array.dtype}; wanted numbers between -1 and 1, or int16, int32 or uint8, whose full scale "
            "is known."
        )
    # What float32 cannot hold becomes infinite, and so masked or an error as `nan` says.
    with np.errstate(over="ignore"):
        values = np.array(array, dtype=np.float32)
    finite = values[np.isfinite(values)]
    if finite.size and (loudest := float(np.abs(finite).max())) > LOUDEST:
        raise DataError(
            f"{what} holds numbers up to {loudest:.6g}; wanted numbers between -1 and 1. Divide whole numbers by their "
            "full scale (32768 for 16 bits), or give them as int16."
        )
    return values
