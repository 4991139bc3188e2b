"""Optical flow as data sets store it: .flo of Middlebury and Sintel, 16-bit PNG of KITTI, and .npy."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.bounded import GB, read_bounded
from perceivers.errors import DataError, MissingFileError, missing_extra
from perceivers.npy import START, read_npy

MOST_BYTES = 1 * GB  # of one file
MOST_PIXELS = 50_000_000
_FLO = b"PIEH"  # 202021.25 as a float, which the format begins with
_PNG = b"\x89PNG\r\n\x1a\n"
# Larger numbers of a .flo mean that the flow is not known there [Middlebury's code].
_UNKNOWN = 1e9


def read_flow(value: str | Path | bytes) -> np.ndarray:
    """(H, W, 2) float32 in pixels to the right and down, NaN where it is not known. Raises `DataError`.

    `value`: the path of a file, or its bytes; what it is, it says itself. A .npy file may hold any array.
    """
    if isinstance(value, (str, Path)):
        what = f"flow file '{value}'"
        try:
            data = read_bounded(Path(value), MOST_BYTES, what)
        except FileNotFoundError:
            raise MissingFileError(f"{what} does not exist.") from None
        except OSError as error:
            raise DataError(f"{what} cannot be read: {error.strerror or error}.") from None
    else:
        data, what = value, f"a flow of {len(value)} bytes"
    if data.startswith(_FLO):
        return _flo(data, what)
    if data.startswith(_PNG):
        return _kitti(data, what)
    if data.startswith(START):
        try:
            return read_npy(io.BytesIO(data), len(data), what)
        except ValueError as error:
            raise DataError(f"{what} cannot be read as .npy: {error}.") from None
    raise DataError(f"{what} is no flow: wanted .flo (Middlebury, Sintel), a 16-bit .png (KITTI) or .npy.")


def _flo(data: bytes, what: str) -> np.ndarray:
    if len(data) < 12:
        raise DataError(f"{what} is truncated: it ends inside its header.")
    width, height = struct.unpack_from("<ii", data, 4)
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise DataError(f"{what} is truncated or damaged: {width}×{height} pixels do not make {len(data):,} bytes.")
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    known = (np.abs(flow) <= _UNKNOWN).all(-1, keepdims=True)
    return np.where(known, flow, np.float32(np.nan))


def _kitti(data: bytes, what: str) -> np.ndarray:
    """Red and green are 64·flow + 2¹⁵; blue is 0 where nothing is known [KITTI's development kit]."""
    wrong = f"{what} is no flow: KITTI's are PNG of three 16-bit channels"
    if len(data) < 26:
        raise DataError(f"{what} is truncated: it ends inside its header.")
    width, height, bits, colours = struct.unpack_from(">IIBB", data, 16)
    if (bits, colours) != (16, 2):
        raise DataError(f"{wrong}; this one has {bits} bits a channel and colour type {colours}.")
    if width * height > MOST_PIXELS:
        raise DataError(f"{what} has {width * height:,} pixels; the most is {MOST_PIXELS:,}.")
    try:
        # Pillow reads such files as 8-bit, and torchvision's reader is going away.
        import av
        from av.error import FFmpegError
    except ImportError:
        raise missing_extra("av", "video", "reading 16-bit PNG") from None
    try:
        with av.open(io.BytesIO(data), format="png_pipe") as file:
            frames: Any = file
            stored = next(frames.decode(video=0)).to_ndarray(format="rgb48le")
    except (FFmpegError, StopIteration) as error:
        raise DataError(f"{what} is truncated or damaged: {error or 'it holds no image'}.") from None
    flow = (stored[..., :2].astype(np.float32) - 2**15) / 64
    return np.where(stored[..., 2:] > 0, flow, np.float32(np.nan))
