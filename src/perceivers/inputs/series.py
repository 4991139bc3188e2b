"""`series`: channels × time, regular at a rate in Hz or irregular with times in seconds."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from perceivers.bounded import GB, check_bounded
from perceivers.cells import number
from perceivers.elements import Elements
from perceivers.errors import DataError, MissingFileError
from perceivers.inputs.augment_series import SeriesAugmentation, augment_series_sample
from perceivers.inputs.base import Input, Sample, Seed, collate_grid, collate_set, filled_up
from perceivers.inputs.channels import ChannelInput
from perceivers.inputs.grid import GridInput
from perceivers.inputs.held_grid import HeldGrid
from perceivers.inputs.held_set import HeldSet
from perceivers.inputs.lift import Conv, Samples, SeriesLift, plain_patch
from perceivers.inputs.position import Fourier, Learned, NoPosition, Position
from perceivers.npy import read_npy
from perceivers.settings import Settings
from perceivers.sources import Source

MOST_BYTES = 1 * GB
"""Of one series file."""
# Time steps that are elements themselves in what `init` writes; a stem before longer series leaves at most so many.
_MOST_STEPS = 256


class SeriesInput(ChannelInput):
    """A multichannel time series, values in the sensor's own units.

    Regular: `rate` in Hz; round(rate × seconds) time steps; a shorter series is masked at its end. Irregular:
    `rate: null`; each value comes with its time in seconds from 0 to `seconds`.
    """

    units: ClassVar[str] = "the sensor's own units"
    reads_files: ClassVar[bool] = True
    whole_files: ClassVar[tuple[str, ...]] = (".npy",)
    augmentation: ClassVar[type[Settings] | None] = SeriesAugmentation
    augmentation_idea: ClassVar[Mapping[str, Any]] = {"kind": "series", "jitter": 0.05, "scaling": 0.1}
    kind: Literal["series"] = "series"
    channels: PositiveInt = 1
    rate: PositiveFloat | None = None
    """Samples a second; None: irregular."""
    seconds: PositiveFloat
    """Duration that the model sees."""
    lift: SeriesLift = Samples()
    position: Position = Field(default_factory=lambda: Fourier(bands=16))

    @model_validator(mode="after")
    def _irregular_is_a_set(self) -> Self:
        if self.rate is None and not isinstance(self.lift, Samples):
            raise ValueError(
                "an irregular series (no rate) has no grid to patch or convolve; use lift: {kind: samples}"
            )
        if self.rate is None and isinstance(self.position, Learned):
            raise ValueError("an irregular series (no rate) has no grid for learned positions; use fourier")
        return self

    @classmethod
    def drafted(cls, why: str, facts: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
        """Regular, or irregular with positions as fine as its points.

        facts: channels, seconds, rate; irregular: the usual number of `points`; regular: `guessed_rate`.
        """
        settings = {"kind": "series", **{name: facts[name] for name in ("channels", "rate", "seconds")}}
        if facts["rate"] is not None:
            if facts["guessed_rate"]:
                why += "; the rate is not known, so a time step counts as a second: put the real one in Hz"
            return why, cls.sized(settings)
        settings["seconds"] = _rounded_up(facts["seconds"])
        points = max(facts["points"], 4)
        settings["position"] = {"kind": "fourier", "bands": min(points // 2, 16), "resolution": [points]}
        why += (
            f"; times in seconds come with the values: the latest seen is {facts['seconds']:.10g}, so seconds is "
            f"rounded up from it; positions are as fine as {points} points, the usual number"
        )
        return why, settings

    @classmethod
    def sized(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A convolution stem before a long regular series; Fourier positions."""
        if settings["rate"] is None:
            return dict(settings)
        steps, changed = max(round(settings["rate"] * settings["seconds"]), 1), dict(settings)
        if steps > _MOST_STEPS:
            layers = math.ceil(math.log(steps / _MOST_STEPS, 2))
            changed["lift"] = {"kind": "conv", "channels": 64, "layers": layers, "pool": False}
            steps = -(-steps // 2**layers)
        return {**changed, "position": {"kind": "fourier", "bands": min(max(steps // 2, 2), 16)}}

    @property
    def steps(self) -> int:
        """Time steps on the grid of a regular series."""
        assert self.rate is not None, "only a regular series has steps"
        return max(round(self.rate * self.seconds), 1)

    def parse(self, value: Any) -> Sample:
        """An array (T, C) or (T,), a .npy or .csv path, {"values": …, "times": … | "rate": …}, or JSON text of such."""
        if isinstance(value, str) and _is_inline(value):
            value = _from_json(value)
        fields = value if isinstance(value, Mapping) else {"values": value}
        if "values" not in fields:
            raise DataError(f"a series given as a mapping needs 'values'; got {', '.join(map(str, fields))}.")
        values = self._array(_read(fields["values"], "the series is"))
        if self.rate is None:
            return self._irregular(values, fields.get("times"))
        given = fields.get("rate")
        if given is not None and not abs(number(given) - self.rate) <= 1e-6 * self.rate:
            raise DataError(f"the series is at {given} Hz, but the input takes {self.rate} Hz; resample it first.")
        return self._regular(values)

    def parse_some(self, value: Any) -> Sample:
        """Some time steps of a regular series, an array (T, C); or events: what `parse` takes, or values alone."""
        if self.rate is None and isinstance(value, Mapping):
            return self.parse(value)
        values = self._array(_read(value, "the values are"))
        return Sample(values, mask=self.checked(values, "the series"))

    def held(self, module: GridInput, block: int) -> HeldGrid | HeldSet:
        """Regular: a grid of time steps that change. Irregular: a set of events."""
        if self.rate is None:
            return HeldSet(module, self.channels, 1, block)
        return HeldGrid(module, (self.steps,), self.channels, block)

    def source_axes(self) -> int | None:
        """Time alone, of a regular series whose steps or patches are read each for itself."""
        return 1 if self.rate is not None and not isinstance(self.lift, Conv) else None

    def source_grid(self, source: Source) -> tuple[int, ...]:
        """(time steps,) of the input; a source may end before. Irregular: as many elements as the source has."""
        if source.shape[1:] != (self.channels,):
            raise DataError(
                f"{source.name} has the shape {source.shape}, but the input takes (time steps, {self.channels})."
            )
        if self.rate is None:
            return source.grid
        if source.shape[0] > self.steps:
            raise DataError(
                f"{source.name} has {source.shape[0]} time steps, but the input takes {self.steps} "
                f"({self.seconds} s at {self.rate} Hz); cut it, or raise seconds."
            )
        return (self.steps,)

    def resolved(self, cell: Any, base: Path) -> Any:
        """`cell` with the paths in it, also those of `values` and `times`, relative to `base`; JSON text is read."""
        if isinstance(cell, str) and _is_inline(cell):
            cell = _from_json(cell)
        if isinstance(cell, Mapping):
            return {key: self._path(part, base) if key in ("values", "times") else part for key, part in cell.items()}
        return self._path(cell, base)

    def _path(self, cell: Any, base: Path) -> Any:
        return cell if isinstance(cell, str) and _is_inline(cell) else super().resolved(cell, base)

    def _array(self, values: np.ndarray) -> np.ndarray:
        if values.ndim == 1 and self.channels == 1:
            values = values[:, None]
        if values.ndim != 2 or values.shape[1] != self.channels:
            raise DataError(f"the series has shape {values.shape}; wanted (time, {self.channels}).")
        # What float32 cannot hold becomes infinite, and so masked or an error as `nan` says.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, dtype=np.float32)

    def _regular(self, values: np.ndarray) -> Sample:
        if len(values) > self.steps:
            raise DataError(
                f"the series has {len(values)} time steps, but the input takes {self.steps} "
                f"({self.seconds} s at {self.rate} Hz); cut it, or raise seconds."
            )
        return filled_up(values, self.checked(values, "the series"), self.steps)

    def _irregular(self, values: np.ndarray, times: Any) -> Sample:
        if times is None:
            raise DataError("an irregular series (no rate) needs its times in seconds: {'values': …, 'times': …}.")
        seconds = _read(times, "the times are").astype(np.float64).reshape(-1)
        if len(seconds) != len(values):
            raise DataError(f"the series has {len(values)} values but {len(seconds)} times.")
        if lost := int((~np.isfinite(seconds)).sum()):
            raise DataError(
                f"{lost} of the {len(seconds)} times {'is' if lost == 1 else 'are'} NaN, infinite or empty; "
                "every value needs its time."
            )
        if len(seconds) and not (seconds.min() >= 0 and seconds.max() <= self.seconds):
            raise DataError(
                f"times must lie between 0 and {self.seconds} s; got {seconds.min()} to {seconds.max()}. "
                "Count them from a later start, or raise the input's seconds and train anew."
            )
        return Sample(values, coords=seconds[:, None].astype(np.float32), mask=self.checked(values, "the series"))

    def augmenter(self, setting: SeriesAugmentation) -> Callable[[Sample, Seed], Sample]:
        """Jitter and scaling."""
        return partial(augment_series_sample, settings=setting)

    def elements(self) -> int:
        """M after the lift of a regular series; 0 for an irregular one, which has no fixed count."""
        return 0 if self.rate is None else self.lift.build(1, self.channels).cells([self.steps])[0]

    def raw_grid(self) -> tuple[int, ...] | None:
        """(time steps,); None for an irregular series."""
        return None if self.rate is None else (self.steps,)

    def of_size(self, size: tuple[int, ...]) -> Self:
        """With so many time steps."""
        assert self.rate is not None, "only a regular series has a grid"
        return self.with_changes(seconds=size[0] / self.rate)

    def plain_patch(self) -> tuple[int, ...] | None:
        """Of time steps, and of patches without a linear behind them, of a regular series."""
        return None if self.rate is None else plain_patch(self.lift, 1)

    def raw_numbers(self, elements: int) -> int:
        """Every channel of every time step; an irregular series has an element for each."""
        return (elements if self.rate is None else self.steps) * self.channels

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """Regular: (B, T, C) on the grid (T,). Irregular: padded to the longest, coords in seconds, masked."""
        if self.rate is not None:
            return collate_grid(samples, (self.steps,), self.channels)
        longest = max((len(s.values) for s in samples if s is not None), default=0)
        return collate_set(samples, longest, self.channels, 1)

    def build(self) -> Input:
        """The module."""
        mean, std = self.statistics()
        lift = self.lift.build(1, self.channels)
        span = [self.seconds] if self.rate is None else None
        # An irregular series is resolved as finely as a thousand steps would be, unless the recipe says otherwise.
        cells = (1000,) if self.rate is None else lift.cells([self.steps])
        if isinstance(self.position, NoPosition):
            return GridInput(mean, std, lift, None, add=False, span=span)
        add = self.position.join == "add"
        return GridInput(mean, std, lift, self.position.build(cells), add, span)


def _rounded_up(seconds: float) -> float:
    """To two digits, never down: 3599.29 → 3600. A series whose times are all 0 lasts a second."""
    if not seconds > 0:
        return 1.0
    exact = Decimal(repr(float(seconds)))
    return float(exact.quantize(Decimal((0, (1,), exact.adjusted() - 1)), ROUND_CEILING))


def _is_inline(cell: str, starts: tuple[str, ...] = ("[", "{")) -> bool:
    """Whether a cell of text is JSON, not the path of a file."""
    return cell.lstrip().startswith(starts)


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError("the series is JSON nested too deep; wanted a list of numbers or of lists.") from None
    except ValueError as error:
        raise DataError(f"the series is not valid JSON: {error}.") from None


def _read(value: Any, what: str) -> np.ndarray:
    """Numbers, as an array, from an array, a list, JSON text or a .npy / .csv file."""
    if isinstance(value, str) and _is_inline(value, ("[",)):
        value = _from_json(value)
    if isinstance(value, (str, Path)):
        value = _read_file(Path(value))
    try:
        array = np.asarray(value, dtype=None if isinstance(value, np.ndarray) else np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{what} not a rectangle of numbers (use null for a missing one).") from None
    if array.dtype.kind not in "uifb":
        raise DataError(f"{what} of type {array.dtype}; wanted numbers.")
    return array


def _read_file(path: Path) -> np.ndarray:
    what = f"series file '{path}'"
    try:
        check_bounded(path, MOST_BYTES, what)
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return read_npy(file, path.stat().st_size, what)
        if path.suffix in (".csv", ".txt"):
            return _read_csv(path)
    except DataError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"{what} does not exist.") from None
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{what} is truncated or damaged: {error}.") from None
    raise DataError(f"{what} is neither .npy, .csv nor .txt.")


def _read_csv(path: Path) -> np.ndarray:
    """(T, C): one time step a line, numbers between commas, empty ones NaN. No header: it would be a lost time step."""
    rows: list[list[float]] = []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            rows.append([number(cell) for cell in text.split(",")])
        except DataError as error:
            raise DataError(f"series file '{path}', line {line}: {error} It takes numbers only, no header.") from None
        if len(rows[-1]) != len(rows[0]):
            raise DataError(
                f"series file '{path}', line {line}: {len(rows[-1])} numbers, but {len(rows[0])} in the first line."
            )
    return np.array(rows, dtype=np.float64)
