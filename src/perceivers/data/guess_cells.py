"""Guesses about columns of images, sounds, videos, points and series, which need a look into files, bytes or lists."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perceivers.data.image_header import image_header
from perceivers.errors import DataError
from perceivers.inputs.decode_audio import sound_header
from perceivers.inputs.decode_points import read_points
from perceivers.inputs.decode_video import video_header
from perceivers.npy import read_npy

SAMPLE = 50  # cells whose files are opened
POINT_NUMBERS = range(3, 7)  # a point has a place in space, and perhaps a colour or a normal
MOST_CHANNELS = 16  # a 2-D list or array with at most so many columns is a series of channels, with more an image


@dataclass(frozen=True)
class Guess:
    """What a column holds. `kind`: an input kind, or `skip`; `why`: for people; `facts`: what the kind's settings need.

    image: size (h, w), channels, one_size. video: the same with size (frames, h, w). audio: samples of the longest,
    rate, channels, one_rate, one_channels. series: channels, seconds, rate (None: irregular, with the usual number of
    points; else with whether it is guessed). points: count of the largest, numbers a point. text: length.
    """

    kind: str
    why: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def spread(cells: Sequence[Any], count: int = SAMPLE) -> list[Any]:
    """Up to `count` cells, evenly spread."""
    return [cells[i] for i in np.linspace(0, len(cells) - 1, min(count, len(cells))).round().astype(int)]


def image_guess(cells: Sequence[Any], base: Path | None) -> Guess:
    """Paths, bytes or mappings as images: the headers of up to `SAMPLE` are read."""
    headers, opened, failed = _headers(cells, base, image_header)
    return _image_of(headers, opened, failed) if headers else _none_opened("images", failed)


def video_guess(cells: Sequence[Any], base: Path | None) -> Guess:
    """Paths of video files: up to `SAMPLE` are opened."""
    headers, opened, failed = _headers(cells, base, video_header)
    if not headers:
        return _none_opened("videos", failed)
    return _video_of([(*header, 3) for header in headers], opened, failed)


def sound_guess(cells: Sequence[Any], base: Path | None) -> Guess:
    """Paths of sound files: the headers of up to `SAMPLE` are read."""
    headers, opened, failed = _headers(cells, base, sound_header)
    if not headers:
        return _none_opened("sounds", failed)
    counts, rates, channels = zip(*headers, strict=True)
    rate, wanted = (max(sorted(set(values)), key=values.count) for values in (rates, channels))
    seconds = sorted(count / r for count, r in zip(counts, rates, strict=True))
    lengths = f"{seconds[0]:.3g}" if seconds[0] == seconds[-1] else f"{seconds[0]:.3g} to {seconds[-1]:.3g}"
    why = f"{opened}: {lengths} s at {rate:,} Hz, {_channels(wanted)}{failed}"
    same = {"one_rate": len(set(rates)) == 1, "one_channels": len(set(channels)) == 1}
    facts = {"samples": max(round(seconds[-1] * rate), 1), "rate": rate, "channels": wanted, **same}
    return Guess("audio", why, facts)


def points_guess(cells: Sequence[Any], base: Path | None) -> Guess:
    """Paths of files of points: up to `SAMPLE` are read."""
    shapes, opened, failed = _headers(cells, base, lambda cell: read_points(cell).shape)
    if not shapes:
        return _none_opened("points", failed)
    counts, numbers = (sorted(values) for values in zip(*shapes, strict=True))
    extent = " to ".join(dict.fromkeys(f"{count:,}" for count in (counts[0], counts[-1])))
    width = max(sorted(set(numbers)), key=numbers.count)
    why = f"{opened}: clouds of {extent} points, {width} numbers each{failed}"
    return Guess("points", why, {"count": max(counts[-1], 1), "numbers": width})


def _headers(
    cells: Sequence[Any], base: Path | None, read: Callable[[Any], tuple[int, ...]]
) -> tuple[list[Any], str, str]:
    """What `read` finds in some cells, how many were opened, in words, and what was wrong with the others."""
    headers, faults = [], []
    for cell in spread(cells):
        try:
            headers.append(read(_resolved(cell, base)))
        except DataError as error:
            faults.append(f"{cell}: {error}" if isinstance(cell, str) else str(error))
    opened = f"opened {len(headers)} of {len(cells):,}"
    if not headers:
        return headers, opened, f"none of {len(faults)} could be opened (first: {faults[0]})"
    return headers, opened, f"; {len(faults)} more could not be opened (first: {faults[0]})" if faults else ""


def _none_opened(what: str, failed: str) -> Guess:
    return Guess("skip", f"looks like {what}, but {failed}")


def array_guess(cells: Sequence[Any], base: Path | None) -> Guess:
    """Arrays, lists, JSON lists, paths of .npy and .csv files, or mappings with `values`, as series or images."""
    are_files = isinstance(cells[0], str) and not cells[0].lstrip().startswith("[")
    looked = spread(cells) if are_files else cells
    times, rate = _clock(looked)
    arrays = [array for cell in looked if (array := _array(cell, base)) is not None]
    if len(arrays) * 5 < len(looked) * 4:
        return Guess("skip", f"{len(looked) - len(arrays):,} of {len(looked):,} cells are no rectangle of numbers")
    opened = f"opened {len(arrays)} of {len(cells):,}" if are_files else f"{len(arrays):,} arrays"
    first = arrays[0]
    if first.ndim == 4:
        return _video_of([a.shape for a in arrays if a.ndim == 4], opened, "")
    if first.ndim == 3 or (first.ndim == 2 and (first.dtype == np.uint8 or first.shape[1] > MOST_CHANNELS)):
        if isinstance(cells[0], str) and not are_files:
            return Guess("skip", f"{opened}: shape {first.shape}, too many axes for a series; save images as files")
        return _image_of([(*a.shape[:2], a.shape[2] if a.ndim == 3 else 1) for a in arrays], opened, "")
    channels = {array.shape[1] if array.ndim == 2 else 1 for array in arrays}
    if len(channels) > 1 or first.ndim not in (1, 2):
        return Guess("skip", f"{opened}: neither series of one channel count nor images")
    lengths = sorted(len(array) for array in arrays)
    steps = f"{lengths[0]:,}" if lengths[0] == lengths[-1] else f"{lengths[0]:,} to {lengths[-1]:,}"
    why = f"{opened}: {steps} time steps, {_channels(min(channels))}"
    # Only files are clouds where nothing says otherwise: lists in a table, as those of sensors, mostly have a clock.
    if are_files and cells[0].lower().endswith(".npy") and first.ndim == 2 and first.dtype.kind == "f":
        width = first.shape[1]
        if width in POINT_NUMBERS and lengths[0] < lengths[-1]:
            why = f"{opened}: clouds of {steps} points, {width} numbers each"
            why += "; if their rows are steps in time, write kind: series"
            return Guess("points", why, {"count": lengths[-1], "numbers": width})
        if width in POINT_NUMBERS:
            why += "; if their rows are points in space, write kind: points"
    seconds = times if times is not None else max(lengths[-1], 1) / (rate or 1.0)
    known: dict[str, Any] = {"rate": rate or 1.0, "guessed_rate": rate is None}
    if times is not None:
        known = {"rate": None, "points": lengths[len(lengths) // 2]}
    return Guess("series", why, {"channels": min(channels), "seconds": seconds, **known})


def looks_like_array(cell: str, base: Path | None) -> bool:
    """Whether text is a JSON list of numbers, or the path of a .npy file or of a .csv or .txt file that is there."""
    if cell.lstrip().startswith("["):
        return _array(cell, base) is not None
    ending = cell.lower()
    return ending.endswith(".npy") or (ending.endswith((".csv", ".txt")) and Path(_resolved(cell, base)).is_file())


def _image_of(shapes: Sequence[tuple[int, int, int]], opened: str, failed: str) -> Guess:
    """One image input for images of these heights, widths and channels."""
    heights, widths, channels = (sorted(values) for values in zip(*shapes, strict=True))
    one_size = len({shape[:2] for shape in shapes}) == 1
    counts = set(channels)
    # Grey images become colour ones by themselves; nothing else is converted.
    wanted = 3 if counts == {1, 3} else max(sorted(counts), key=channels.count)
    size = (heights[len(heights) // 2], widths[len(widths) // 2])
    extent = f"{heights[0]}×{widths[0]}" + ("" if one_size else f" to {heights[-1]}×{widths[-1]}")
    mixed = "" if counts <= {1, 3} or len(counts) == 1 else f"; others have {sorted(counts - {wanted})}: repair them"
    why = f"{opened}: {extent} pixels, {_channels(wanted)}{mixed}{failed}"
    return Guess("image", why, {"size": size, "channels": wanted, "one_size": one_size})


def _video_of(shapes: Sequence[tuple[int, ...]], opened: str, failed: str) -> Guess:
    """One video input for videos of these frames, heights, widths and channels."""
    frames, heights, widths, channels = (sorted(values) for values in zip(*shapes, strict=True))
    size = tuple(sides[len(sides) // 2] for sides in (frames, heights, widths))
    extent = " to ".join(dict.fromkeys(f"{heights[end]}×{widths[end]}" for end in (0, -1)))
    lengths = " to ".join(dict.fromkeys(f"{frames[end]:,}" for end in (0, -1)))
    wanted = max(sorted(set(channels)), key=channels.count)
    why = f"{opened}: {lengths} frames of {extent} pixels, {_channels(wanted)}{failed}"
    return Guess("video", why, {"size": size, "channels": wanted, "one_size": len(set(shapes)) == 1})


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count > 1)}"


def _clock(cells: Sequence[Any]) -> tuple[float | None, float | None]:
    """The latest time in mappings that have `times`, and the rate in mappings that have one."""
    mappings = [cell for cell in cells if isinstance(cell, Mapping)]
    times = [np.max(cell["times"]) for cell in mappings if cell.get("times") is not None and len(cell["times"])]
    rates = [float(cell["rate"]) for cell in mappings if cell.get("rate")]
    return (float(max(times)) if times else None), (rates[0] if rates else None)


def _array(cell: Any, base: Path | None) -> np.ndarray | None:
    """The numbers in a cell, or None when it holds none."""
    try:
        if isinstance(cell, Mapping):
            cell = cell.get("values")
        if isinstance(cell, str):
            cell = json.loads(cell) if cell.lstrip().startswith("[") else _load(Path(_resolved(cell, base)))
        array = cell if isinstance(cell, np.ndarray) else np.asarray(cell, dtype=np.float64)
    except (TypeError, ValueError, OSError, EOFError):
        return None
    return array if array.dtype.kind in "uif" and array.ndim in (1, 2, 3, 4) and array.size else None


def _load(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return read_npy(file, path.stat().st_size, f"'{path}'")
    return np.genfromtxt(path, delimiter=",", dtype=np.float64)


def _resolved(cell: Any, base: Path | None) -> Any:
    """Paths in cells are relative to the table."""
    if isinstance(cell, str) and base is not None:
        return str(base / cell)
    if isinstance(cell, Mapping) and isinstance(cell.get("path"), str) and base is not None:
        return {**cell, "path": str(base / cell["path"])}
    return cell
