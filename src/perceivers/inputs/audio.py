"""`audio`: sound, as raw samples in patches [P1, P2 §4.3] or as a log-mel spectrum [P1 §4.2]."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from perceivers.elements import Elements
from perceivers.errors import DataError, missing_extra
from perceivers.inputs.base import Input, Sample, collate_grid, filled_up
from perceivers.inputs.channels import ChannelInput
from perceivers.inputs.decode_audio import Sound, read_sound
from perceivers.inputs.grid import GridInput
from perceivers.inputs.held_grid import HeldGrid
from perceivers.inputs.lift import AudioLift, Lift, LogMel, Patches
from perceivers.inputs.position import Fourier, Position

# What `init` writes: seconds at most, and elements of a spectrum, about.
_MOST_SECONDS, _MOST_ELEMENTS, _BINS = 10, 1024, 32


class AudioInput(ChannelInput):
    """Sound: samples × channels, between −1 and 1; whole numbers become that by their full scale.

    A shorter sound is masked at its end.
    """

    units: ClassVar[str] = "the sound's own units (full scale is −1 to 1)"
    reads_files: ClassVar[bool] = True
    statistics_from: ClassVar[int | None] = 2000
    kind: Literal["audio"] = "audio"
    samples: PositiveInt
    """How many samples the model sees of each channel."""
    rate: PositiveInt
    """Samples a second (Hz)."""
    channels: PositiveInt = 1
    overflow: Literal["error", "truncate", "middle"] = "error"
    """A longer sound: an error, only its beginning, or only its middle."""
    resample: bool = False
    """A sound of another rate is resampled; else it is an error."""
    mix: bool = False
    """All channels of a sound are averaged into one; else another number than `channels` is an error."""
    lift: AudioLift = Patches(size=(16,))
    position: Position = Field(default_factory=lambda: Fourier(bands=16))

    @model_validator(mode="after")
    def _one_channel_is_mixed(self) -> Self:
        if self.mix and self.channels != 1:
            raise ValueError(f"mix averages all channels into one, but channels is {self.channels}; make it 1")
        return self

    @classmethod
    def drafted(cls, why: str, facts: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
        """A log-mel spectrum of as many samples as the longest has.

        facts: samples of the longest, rate, channels, and whether others have another rate or number of channels
        (`one_rate`, `one_channels`).
        """
        rate = facts["rate"]
        samples = min(facts["samples"], _MOST_SECONDS * rate)
        settings: dict[str, Any] = {"kind": "audio", "samples": samples, "rate": rate, "channels": facts["channels"]}
        if samples < facts["samples"]:
            settings["overflow"] = "truncate"
            why += f"; only the first {_MOST_SECONDS} seconds are read (more is slower)"
        if not facts["one_rate"]:
            settings["resample"] = True
            # Rounding may leave a resampled sound a sample longer than the longest.
            settings["overflow"] = "truncate"
            why += f"; other rates are resampled to {rate} Hz"
        if not facts["one_channels"]:
            settings |= {"channels": 1, "mix": True}
            why += "; channels are averaged into one, since not all have as many"
        return why, cls.sized(settings)

    @classmethod
    def sized(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A spectrum of a sound that is long enough for one, else patches; Fourier positions."""
        samples = settings["samples"]
        hop = max(2 ** math.ceil(math.log2(max(samples * _BINS / _MOST_ELEMENTS, 1))), 256)
        # The lowest of so many bins are 60 Hz wide: a window holds two periods of that.
        window = max(2 * hop, 2 ** math.ceil(math.log2(settings["rate"] / 30)))
        if samples >= 4 * window:
            lift: dict[str, Any] = {"kind": "log_mel", "bins": _BINS, "window": window, "hop": hop}
            cells = max(-(-samples // hop), _BINS)
        else:
            patch = next(size for size in (16, 8, 4, 2, 1) if samples % size == 0)
            lift, cells = {"kind": "patches", "size": [patch]}, samples // patch
        return {**settings, "lift": lift, "position": {"kind": "fourier", "bands": min(max(cells // 2, 2), 16)}}

    def parse(self, value: Any) -> Sample:
        """A path, bytes, array (T,) or (T, C), or a mapping of such and a rate, as a Sample of (samples, channels)."""
        values = self._values(self._at_rate(read_sound(value, self._span)))[: self.samples]
        least = self.lift.size[0] if isinstance(self.lift, Patches) else 1
        if len(values) < min(least, self.samples):
            raise DataError(
                f"the sound has {len(values)} samples, but a patch needs {least} of them, so nothing of it could be "
                "read; leave its cell empty, or make the patches smaller."
            )
        return filled_up(values, self.checked(values, "the sound"), self.samples)

    def parse_some(self, value: Any) -> Sample:
        """Some samples, an array (T,) or (T, C)."""
        values = self._values(read_sound(value, lambda count, rate, what: (0, count)).values)
        return Sample(values, mask=self.checked(values, "the sound"))

    def held(self, module: GridInput, block: int) -> HeldGrid:
        """The sound as a grid of samples that change."""
        return HeldGrid(module, (self.samples,), self.channels, block)

    def _span(self, count: int, rate: float | None, what: str) -> tuple[int, int]:
        """Which samples are read of a sound that has `count`. Raises `DataError` when it is too long or otherwise."""
        rate = self.rate if rate is None else rate
        if rate != self.rate and not (self.resample and 0 < rate < math.inf):
            raise DataError(
                f"{what} is at {rate:g} Hz, but the input takes {self.rate} Hz. Resample it, set resample: true on the "
                "input, or change its rate."
            )
        if not count:
            raise DataError(f"{what} has no samples; leave its cell empty where there is no sound.")
        wanted = math.ceil(self.samples * rate / self.rate)
        if count <= wanted:
            return 0, count
        if self.overflow == "error":
            raise DataError(
                f"{what} has {count:,} samples, but the input takes {wanted:,} ({wanted / rate:.4g} s at {rate:g} Hz). "
                "Set overflow: truncate or overflow: middle on the input, cut it, or raise samples."
            )
        start = (count - wanted) // 2 if self.overflow == "middle" else 0
        return start, start + wanted

    def _at_rate(self, sound: Sound) -> np.ndarray:
        if sound.rate is None or sound.rate == self.rate:
            return sound.values
        try:
            import soxr
        except ImportError:
            raise missing_extra("soxr", "audio", "resampling sound") from None
        return soxr.resample(sound.values, sound.rate, self.rate)

    def _values(self, values: np.ndarray) -> np.ndarray:
        """With the input's channels. Raises `DataError`."""
        given = values.shape[1]
        if self.mix:
            return values.mean(axis=1, keepdims=True)
        if given != self.channels:
            turned = " Transpose it: samples come first." if len(values) == self.channels else ""
            raise DataError(
                f"the sound has {given} channels, but the input takes {self.channels}.{turned} Set channels: {given} "
                "on the input, or mix: true to average them into one."
            )
        return values

    def _lift(self) -> Lift:
        if isinstance(self.lift, LogMel):
            return self.lift.build(self.rate, self.channels)
        return self.lift.build(1, self.channels)

    def elements(self) -> int:
        """M after the lift."""
        return math.prod(self._lift().cells((self.samples,)))

    def raw_grid(self) -> tuple[int, ...]:
        """(samples,)."""
        return (self.samples,)

    def of_size(self, size: tuple[int, ...]) -> Self:
        """With so many samples."""
        return self.with_changes(samples=size[0])

    def raw_numbers(self, elements: int) -> int:
        """Every channel of every sample."""
        return self.samples * self.channels

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, T, C) on the grid (T,)."""
        return collate_grid(samples, (self.samples,), self.channels)

    def build(self) -> Input:
        """The module."""
        return self.on_grid(self._lift(), self.position, (self.samples,))
