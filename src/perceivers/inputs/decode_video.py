"""From a video cell of a table (path, bytes, array) to frames, with its faults named. PyAV is imported late."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import numpy as np

from perceivers.errors import DataError, missing_extra
from perceivers.inputs.decode import MOST_PIXELS
from perceivers.inputs.opened import array_in, as_array, is_file, opened

# Containers that are read, by FFmpeg's names. Play lists, which name other files or addresses, are not on the list.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif"

Overflow = Literal["error", "truncate", "middle", "spread"]
_NOUNS = {"video": "video", "audio": "sound"}
_CODED = {"video": "frames are", "audio": "sound is"}
# What makes frames (…, H, W, C) those of the input.
Ready = Callable[[np.ndarray], np.ndarray]


def read_video(
    value: Any, channels: int, most: int, overflow: Overflow, ready: Ready, rate: float | None = None
) -> np.ndarray:
    """(T, H, W, channels) of at most `most` frames: uint8 for files and such arrays, float32 for others.

    `value`: a path, a file's bytes, an array, or a mapping with `bytes` or `path` (as Hugging Face tables hold). Only
    the frames that `overflow` chooses are kept, each made `ready` at once. rate: frames a second of what a file shows,
    from its beginning; None: its frames as they come. Arrays are taken as they come. Raises `DataError`.
    """
    value = _of_mapping(value)
    if is_file(value):
        with opened(value, "video") as (file, what):
            return _from_file(file, what, channels, most, overflow, ready, rate)
    return _from_array(as_array(value, "the array"), "the array", channels, most, overflow, ready)


def video_header(value: Any) -> tuple[int, int, int]:
    """Frames, as far as the file tells, height and width of a video file. Raises `DataError`.

    `value`: a path, a file's bytes, or a mapping with `bytes` or `path`; no .npy.
    """
    with opened(_of_mapping(value), "video") as (file, what), opened_container(file, what, "video") as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream), None)
        if frame is None:
            raise _empty(what)
        count = stream.frames
        if not count and stream.duration and stream.time_base and stream.average_rate:
            count = round(stream.duration * stream.time_base * stream.average_rate)
        height, width, _ = _upright(frame, 1).shape
        return max(count, 1), height, width


def read_clip(value: Any, channels: int, count: int, rate: float, start: float) -> np.ndarray:
    """The frames (T, H, W, channels) uint8 that a file shows at start, start + 1/rate, … seconds, `count` at most.

    `value`: a path, a file's bytes, or a mapping with `bytes` or `path`. A frame is shown until the next begins; behind
    the end of the last one there are none. Raises `DataError`.
    """
    with opened(_of_mapping(value), "video") as (file, what):
        found = list(_shown(file, what, count, rate, start, lambda frame: _upright(frame, channels)))
    return np.stack(found) if found else np.zeros((0, 0, 0, channels), np.uint8)


def frame_rate(value: Any) -> float | None:
    """Frames a second of a video file, in the mean; None where it does not tell. Raises `DataError`."""
    with opened(_of_mapping(value), "video") as (file, what), opened_container(file, what, "video") as container:
        average = container.streams.video[0].average_rate
    return float(average) if average else None


def with_frames(array: np.ndarray, channels: int, what: str) -> np.ndarray:
    """(T, H, W, channels) of `array`, which may be (T, H, W) for one channel; uint8 stays, all else becomes float32."""
    if array.dtype.kind not in "uifb":
        raise DataError(f"{what} holds {array.dtype}, not numbers.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4:
        raise DataError(f"{what} has shape {array.shape}; wanted (frames, height, width, {channels}).")
    if array.shape[-1] != channels:
        raise DataError(
            f"{what} of shape {array.shape} has {array.shape[-1]} channels, but the input takes {channels}. "
            f"Set channels: {array.shape[-1]} on the input, or convert the videos to (frames, height, width, channels)."
        )
    if not array.size:
        raise DataError(f"{what} has shape {array.shape}: there are no pixels.")
    # What float32 cannot hold becomes infinite, and so masked or an error as `nan` says.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32))


def _of_mapping(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return next((value[key] for key in ("bytes", "path") if value.get(key) is not None), None)


def _shown(
    file: BinaryIO, what: str, count: int, rate: float, start: float, ready: Callable[[Any], np.ndarray]
) -> Iterator[np.ndarray]:
    """What is shown at start, start + 1/rate, … seconds, `count` at most, made `ready` once for each frame."""
    with opened_container(file, what, "video") as container:
        stream = container.streams.video[0]
        if start > 0:
            # To the frame before that can be decoded by itself.
            container.seek(round(start / stream.time_base) + (stream.start_time or 0), stream=stream)
        given = 0
        shown: Any = None
        for begin, frame in _timed(container, what, rate):
            made = None
            while shown is not None and given < count and start + given / rate < begin:
                made = ready(shown) if made is None else made
                given += 1
                yield made
            shown = frame
            if given == count:
                break


def _from_file(
    file: BinaryIO, what: str, channels: int, most: int, overflow: Overflow, ready: Ready, rate: float | None
) -> np.ndarray:
    array = array_in(file, what)
    if array is not None:
        return _from_array(array, what, channels, most, overflow, ready)
    if channels not in (1, 3):
        raise DataError(f"{what} gives grey or RGB frames, 1 or 3 channels, but the input takes {channels}.")
    if rate is not None:
        # One more tells whether there are too many.
        shown = list(_shown(file, what, most + 1, rate, 0.0, lambda frame: ready(_upright(frame, channels))))
        if len(shown) > most and overflow == "error":
            raise _too_many(f"more than {most}", most, what, "truncate")
        if not shown:
            raise _empty(what)
        return np.stack(shown[:most])
    # Which frames are in the middle is known when all have been counted; they are not kept for that.
    count = sum(1 for _ in _decoded(file, what)) if overflow in ("middle", "spread") else None
    wanted = range(most) if count is None else _chosen(count, most, overflow, what)
    frames: list[np.ndarray] = []
    for place, frame in enumerate(_decoded(file, what)):
        if len(frames) == len(wanted):
            if overflow == "error":
                raise _too_many(f"more than {most}", most, what)
            break
        if wanted[len(frames)] == place:
            frames.append(ready(_upright(frame, channels)))
    if not frames:
        raise _empty(what)
    return np.stack(frames)


def _from_array(array: np.ndarray, what: str, channels: int, most: int, overflow: Overflow, ready: Ready) -> np.ndarray:
    frames = with_frames(array, channels, what)
    return ready(frames[_chosen(len(frames), most, overflow, what)])


def _chosen(count: int, most: int, overflow: Overflow, what: str) -> Sequence[int]:
    """Which of `count` frames are read: `most` at most, in order, each once."""
    if count <= most:
        return range(count)
    if overflow == "error":
        raise _too_many(f"{count:,}", most, what)
    if overflow == "spread":
        return np.linspace(0, count - 1, most).round().astype(int).tolist()
    start = (count - most) // 2 if overflow == "middle" else 0
    return range(start, start + most)


def _too_many(count: str, most: int, what: str, cures: str = "truncate, middle or spread") -> DataError:
    return DataError(
        f"{what} has {count} frames, but the input takes {most}. Set overflow: {cures} on the "
        "input, cut it, or raise the first number of size."
    )


@contextmanager
def opened_container(file: BinaryIO, what: str, wanted: Literal["video", "audio"]) -> Iterator[Any]:
    """A file that holds what is `wanted`, opened by PyAV. Whatever goes wrong with it is a `DataError`."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise missing_extra("av", "video", "reading video files") from None
    file.seek(0)
    try:
        with av.open(file, options={"format_whitelist": FORMATS}) as container:
            streams = container.streams.video if wanted == "video" else container.streams.audio
            if not streams:
                raise DataError(f"{what} holds no {_NOUNS[wanted]}.")
            codec: Any = streams[0].codec_context
            if codec is None:
                raise DataError(f"{what} is truncated or damaged: it does not say how its {_CODED[wanted]} coded.")
            if wanted == "video" and (pixels := codec.width * codec.height) > MOST_PIXELS:
                raise DataError(f"{what} has frames of {pixels:,} pixels; the most is {MOST_PIXELS:,}.")
            yield container
    except DataError:
        raise
    # Its errors are of every class that Python has for such.
    except (FFmpegError, ValueError, RuntimeError, MemoryError, OSError) as error:
        raise DataError(f"{what} is no video, or truncated or damaged: {' '.join(str(error).split())}.") from None


def _decoded(file: BinaryIO, what: str) -> Iterator[Any]:
    """The frames of the first video in a file, in order of time. Raises `DataError`."""
    with opened_container(file, what, "video") as container:
        yield from _frames(container, what)


def _frames(container: Any, what: str) -> Iterator[Any]:
    for packet in container.demux(container.streams.video[0]):
        # FFmpeg itself would go on where the file ends inside a frame.
        if packet.is_corrupt:
            raise DataError(f"{what} is truncated or damaged, inside a frame.")
        yield from packet.decode()


def _timed(container: Any, what: str, rate: float) -> Iterator[tuple[float, Any]]:
    """Each frame after the second at which it begins, and None after the end; `rate` where the file does not tell."""
    stream = container.streams.video[0]
    origin, step = float((stream.start_time or 0) * stream.time_base), 1 / float(stream.average_rate or rate)
    begin = 0.0
    for place, frame in enumerate(_frames(container, what)):
        # Times in a file are rounded, so that a frame may begin a little behind its time.
        begin = (place * step if frame.time is None else frame.time - origin) - step / 10
        yield begin, frame
    yield begin + step, None


def _empty(what: str) -> DataError:
    return DataError(f"{what} holds no frame that can be decoded: it is truncated or damaged.")


def _upright(frame: Any, channels: int) -> np.ndarray:
    """(H, W, channels) uint8, turned as the camera was held."""
    pixels = frame.to_ndarray(format="rgb24" if channels == 3 else "gray")
    turned = np.rot90(pixels, round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(turned.reshape(*turned.shape[:2], channels))
