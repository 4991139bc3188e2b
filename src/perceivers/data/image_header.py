"""Size and channels of an image file, by its header alone where that is enough."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perceivers.bounded import read_bounded
from perceivers.errors import DataError, missing_extra
from perceivers.inputs.decode import FORMATS, MOST_BYTES

_TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "I": 1, "F": 1, "I;16": 1, "I;16B": 1}  # of Pillow's modes; others have 3 colours
_ORIENTATION, _LYING = 274, (5, 6, 7, 8)  # the EXIF tag, and its values that exchange height and width


def image_header(value: Any) -> tuple[int, int, int]:
    """Height, width and channels as `perceivers.inputs.decode.read_image` would give them.

    `value`: a path, the file's bytes, or a mapping with `bytes` or `path`. An alpha channel counts only where something
    is transparent. Raises `DataError` when it is no image.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    try:
        is_path = isinstance(value, str | Path)
        data = read_bounded(Path(value), MOST_BYTES, f"'{value}'") if is_path else bytes(value)
    except OSError as error:
        raise DataError(f"'{value}' cannot be read: {error.strerror}") from None
    return _tiff(data) if data.startswith(_TIFF_STARTS) else _pillow(data)


def _tiff(data: bytes) -> tuple[int, int, int]:
    try:
        import tifffile
    except ImportError:
        raise missing_extra("tifffile", "data", "reading TIFF images") from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            shape = file.series[0].shape
    except (tifffile.TiffFileError, ValueError, OSError, IndexError, KeyError) as error:
        raise DataError(f"it is a truncated or damaged TIFF: {error}") from None
    if len(shape) == 2:
        return shape[0], shape[1], 1
    if len(shape) != 3:
        raise DataError(f"it is a TIFF of shape {shape}; wanted height, width and channels")
    # The short axis is the bands, as in read_image.
    return (shape[1], shape[2], shape[0]) if shape[0] < min(shape[1:]) else (shape[0], shape[1], shape[2])


def _pillow(data: bytes) -> tuple[int, int, int]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise missing_extra("pillow", "data", "reading images") from None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            try:
                orientation = image.getexif().get(_ORIENTATION)
            # A damaged block makes Pillow fail in any way that Python can, as struct.error.
            except Exception as error:
                raise DataError(f"it has a damaged EXIF block: {error}") from None
            if orientation in _LYING:
                width, height = height, width
            return height, width, _channels(image)
    except UnidentifiedImageError:
        raise DataError("it is not an image") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"it has too many pixels: {error}") from None
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"it is truncated or damaged: {error}") from None


def _channels(image: Any) -> int:
    colours = _CHANNELS.get(image.mode, 3)
    has_alpha = image.mode in ("LA", "RGBA") or (image.mode == "P" and "transparency" in image.info)
    if not has_alpha:
        return colours
    alpha = image.convert("RGBA" if image.mode == "P" else image.mode).getchannel("A")
    return colours + (alpha.getextrema()[0] < 255)
