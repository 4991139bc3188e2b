"""From an image cell of a table (path, bytes, array) to an array, with its faults named. Readers are imported late."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.bounded import GB, read_bounded
from perceivers.errors import DataError, MissingFileError, missing_extra
from perceivers.npy import START, read_npy

# What is read. Formats that can run programs or hang the reader (EPS, FITS, …) are not on the list.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
MOST_PIXELS = 50_000_000
MOST_BYTES = 1 * GB  # of one file
_TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def read_image(value: Any, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, channels) as stored: uint8 for 8-bit files, float32 for others. Raises `DataError`.

    `value`: a path, the file's bytes, a mapping with `bytes` or `path` (as Hugging Face tables hold), or an array.
    size: height and width that the input takes, for the message about a file that is too large to be read.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (str, Path)):
        return _from_bytes(_file(Path(value)), channels, f"image file '{value}'", size)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(value), channels, f"an image of {len(value)} bytes", size)
    try:
        array = np.asarray(value)
    except ValueError:
        raise DataError("the image is not a rectangle of numbers.") from None
    return with_channels(array, channels, "the array")


def _file(path: Path) -> bytes:
    try:
        return read_bounded(path, MOST_BYTES, f"image file '{path}'")
    except FileNotFoundError:
        raise MissingFileError(f"image file '{path}' does not exist.") from None
    except OSError as error:
        raise DataError(f"image file '{path}' cannot be read: {error.strerror}.") from None


def _from_bytes(data: bytes, channels: int, what: str, size: tuple[int, int] | None) -> np.ndarray:
    if not data:
        raise DataError(f"{what} is empty.")
    if data.startswith(START):
        return with_channels(_npy(data, what, size), channels, what)
    if data.startswith(_TIFF_STARTS):
        return with_channels(_tiff(data, what, size), channels, what)
    return with_channels(_pillow(data, channels, what, size), channels, what)


def _npy(data: bytes, what: str, size: tuple[int, int] | None) -> np.ndarray:
    try:
        array = read_npy(io.BytesIO(data), len(data), what)
    except ValueError as error:
        raise DataError(f"{what} is truncated or damaged: {error}.") from None
    _check_pixels(math.prod(array.shape[:2]), f"{what} of shape {array.shape}", size)
    return array


def _tiff(data: bytes, what: str, size: tuple[int, int] | None) -> np.ndarray:
    try:
        import tifffile
    except ImportError:
        raise missing_extra("tifffile", "data", "reading TIFF images") from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            shape = file.series[0].shape
            _check_pixels(math.prod(shape), f"{what} of shape {shape}", size)
            array = file.asarray()
    except DataError:
        raise
    # A damaged file makes tifffile fail in any way that Python can: each means that these bytes are no TIFF.
    except Exception as error:
        raise DataError(f"{what} is a truncated, damaged or unknown TIFF: {error}.") from None
    # Bands first (13, H, W) is as common as bands last; the short axis is the bands.
    return np.moveaxis(array, 0, -1) if array.ndim == 3 and array.shape[0] < min(array.shape[1:]) else array


def _pillow(data: bytes, channels: int, what: str, size: tuple[int, int] | None) -> np.ndarray:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise missing_extra("pillow", "data", "reading images") from None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.width * image.height, f"{what} of {image.height}×{image.width}", size)
            image.load()
            try:
                upright = ImageOps.exif_transpose(image)
            # A damaged block makes Pillow fail in any way that Python can, as struct.error.
            except Exception as error:
                raise DataError(
                    f"{what} has a damaged EXIF block: {error}. Remove it, or save the image anew."
                ) from None
            return _pixels(upright, channels, what)
    except UnidentifiedImageError:
        raise DataError(
            f"{what} is not an image, or damaged at its start ({', '.join(FORMATS)} and .npy are read)."
        ) from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{what} has too many pixels: {error}") from None
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{what} is truncated or damaged: {error}.") from None


def _check_pixels(count: int, what: str, size: tuple[int, int] | None) -> None:
    if count <= MOST_PIXELS:
        return
    if size is None:
        raise DataError(f"{what} has {count:,} pixels; the most is {MOST_PIXELS:,}.")
    raise DataError(
        f"{what} has {count:,} pixels, but the input takes {size[0]}×{size[1]} ({math.prod(size):,}); an image "
        f"to be scaled or cut to that may have {MOST_PIXELS:,} at most. Make it smaller, or change size in the spec."
    )


def _pixels(image: Any, channels: int, what: str) -> np.ndarray:
    if image.mode in ("I;16", "I;16B", "I", "F"):
        return np.asarray(image, dtype=np.float32)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if channels == 3 and image.mode == "L":
        image = image.convert("RGB")
    if image.mode in ("RGBA", "LA") and channels in (1, 3):
        image = _without_alpha(image, what)
    if channels == 3 and image.mode == "L":
        image = image.convert("RGB")
    # A copy: Pillow lends a read-only view, and what reads the pixels next may be torch, which wants to write.
    return np.array(image)


def _without_alpha(image: Any, what: str) -> Any:
    lowest, _ = image.getchannel("A").getextrema()
    if lowest < 255:
        raise DataError(
            f"{what} is transparent in places ({image.mode}); dropping that would invent colours. "
            f"Set channels: {len(image.getbands())} on the input, or save the images without transparency."
        )
    return image.convert("RGB" if image.mode == "RGBA" else "L")


def with_channels(array: np.ndarray, channels: int, what: str) -> np.ndarray:
    """(H, W, channels) of `array`, which may be (H, W) for one channel; uint8 stays, all else becomes float32."""
    if array.dtype.kind not in "uifb":
        raise DataError(f"{what} holds {array.dtype}, not numbers.")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise DataError(f"{what} has shape {array.shape}; wanted (height, width, {channels}).")
    if array.shape[-1] != channels:
        raise DataError(
            f"{what} has {array.shape[-1]} channels, but the input takes {channels}. "
            f"Set channels: {array.shape[-1]} on the input, or convert the images."
        )
    if not array.size:
        raise DataError(f"{what} has shape {array.shape}: there are no pixels.")
    # What float32 cannot hold becomes infinite, and so masked or an error as `nan` says.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32))
