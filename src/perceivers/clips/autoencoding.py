"""Clips encoded once and given back query by query [P2 §4.3; official video autoencoding notebook]."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perceivers.elements import Batch
from perceivers.errors import DataError, ModelError
from perceivers.inputs.base import Sample
from perceivers.inputs.decode_audio import Sound, read_sound
from perceivers.inputs.decode_track import has_track
from perceivers.inputs.decode_video import frame_rate, read_clip, with_frames
from perceivers.inputs.opened import as_array, is_file
from perceivers.models.model import Model
from perceivers.models.weights import load
from perceivers.npy import load_npy

Advance = Callable[[str, int, int], None]
# Frames a second of an array without sound.
_USUAL = 25.0


@dataclass(frozen=True)
class Autoencoded:
    """What a model was shown and what it gave back, one clip behind the other.

    given, again: output → (frames, H, W, channels) or (samples, channels) in the input's own units. psnr: output → dB,
    where its `peak` is known and something differs. guesses: output of classes → of each clip, class → probability,
    the likeliest first. rates: output → frames or samples a second. numbers: of the latents, and of the values that
    they were read from.
    """

    given: Mapping[str, np.ndarray]
    again: Mapping[str, np.ndarray]
    psnr: Mapping[str, float]
    guesses: Mapping[str, list[dict[str, float]]]
    rates: Mapping[str, float]
    numbers: tuple[int, int]


def autoencode(
    model: "str | Path | Model",
    video: Any,
    sound: Any = None,
    *,
    start: float = 0.0,
    clips: int = 1,
    chunk: int = 16_384,
    device: str = "cpu",
    advance: Advance | None = None,
) -> Autoencoded:
    """A video, its sound and guesses at its classes as the model gives them back: encoded once, asked `chunk` by chunk.

    model: one with a `video` input, perhaps an `audio` input, and a `grid` output that names each, or its directory.
    video: a file or array (T, H, W, C). sound: a file or array (T,) or (T, C); None: that of the video file; where it
    has none the model does without, which is told by a warning. start: second of both at which the first of `clips`
    begins; of those that follow, only whole ones are read, and a warning tells where there are fewer. Frames of a file
    are taken at the input's `rate`, without one as many a second as last as long as the sound; where there is no sound,
    and of an array, as they come. Frames of another
    size and sounds of another rate are made those of the input. What a model never reads in use, as a label, need not
    be given. device: where a directory is loaded; a model stays where it is. Raises `DataError` and `ModelError`.
    """
    if not (isinstance(clips, Integral) and clips >= 1 and _is_second(start)):
        raise DataError(f"got start {start!r} and {clips!r} clips; wanted a second from 0 on and at least one clip.")
    model = model if isinstance(model, Model) else load(model, device)
    parts, modes = _Parts.of(model, video), {module: module.training for module in model.modules()}
    model.eval()
    try:
        return _joined(parts, _each(parts, video, sound, float(start), int(clips), chunk, advance))
    finally:
        for module, training in modes.items():
            module.training = training


def _is_second(start: Any) -> bool:
    return isinstance(start, Real) and math.isfinite(float(start)) and float(start) >= 0


def _each(
    parts: "_Parts", video: Any, sound: Any, start: float, clips: int, chunk: int, advance: Advance | None
) -> list[dict[str, Any]]:
    """What `_one` finds of each clip."""
    found, shown = [], set()
    for place in range(clips):
        samples = parts.samples(video, sound, start + place * parts.seconds)
        if not place:
            shown = set(samples)
            for text in parts.remarks(samples):
                _warn(text)
        # One that lacks what the first has is not whole either: pictures and sound would run apart.
        if not samples or (place and (any(s.padding for s in samples.values()) or set(samples) != shown)):
            break
        head = f"clip {place + 1}, " if clips > 1 else ""
        found.append(_one(parts, samples, chunk, partial(_tell, advance, head)))
    if not found:
        raise DataError(f"the video shows nothing at {start:g} s: it is shorter.")
    if len(found) < clips:
        _warn(f"from {start:g} s on there is room for {len(found)} of {clips} whole clips, so there are no more.")
    return found


def _warn(text: str) -> None:
    # At the call of the user's: behind `_each`, `autoencode` and what called this.
    warnings.warn(text, UserWarning, stacklevel=4)


def _tell(advance: Advance | None, head: str, name: str, done: int, total: int) -> None:
    if advance is not None:
        advance(f"{head}{name}", done, total)


@dataclass(frozen=True)
class _Parts:
    """What of a model takes a clip. back: the grid output of each of the two inputs."""

    model: Model
    video: str
    sound: str | None
    back: Mapping[str, str]
    rate: float

    @classmethod
    def of(cls, model: Model, video: Any) -> "_Parts":
        """Raises `ModelError` for a model that is no autoencoder of clips."""
        spec = model.spec
        back: dict[str, str] = {}
        for name, kind in spec.outputs.items():
            if kind.kind == "grid" and kind.of_input:
                other = back.setdefault(kind.of_input, name)
                if other != name:
                    raise ModelError(
                        f"outputs '{other}' and '{name}' both give '{kind.of_input}' back; autoencoding wants one."
                    )
        videos, sounds = ([n for n, k in spec.inputs.items() if k.kind == kind] for kind in ("video", "audio"))
        if len(videos) != 1 or len(sounds) > 1 or not {*videos, *sounds} <= set(back):
            have = ", ".join(f"{name} ({kind.kind})" for name, kind in [*spec.inputs.items(), *spec.outputs.items()])
            raise ModelError(
                "autoencoding wants a model with one video input, at most one audio input, and for each a grid output "
                f"that names it (input: …), such as the preset perceiver-io-multimodal; this one has {have}."
            )
        shown, heard = _kind(model, videos[0]), _kind(model, sounds[0]) if sounds else None
        rate = shown.rate
        if rate is None and heard is not None:
            # Frames and samples of a clip last as long, or one of them would be given back twice.
            rate = shown.size[0] * heard.rate / heard.samples
        rate = rate or (frame_rate(video) if _is_film(video) else None) or _USUAL
        return cls(model, videos[0], next(iter(sounds), None), back, rate)

    def remarks(self, samples: Mapping[str, Sample]) -> Iterator[str]:
        """Where a clip lacks its sound, or frames behind its end."""
        if samples and self.sound and self.sound not in samples:
            yield "there is no sound at that time, so the model does without."
        if self.sound and self.sound in samples and samples[self.sound].padding:
            yield "the sound ends within the clip; what lacks of it is masked."
        if samples and samples[self.video].padding:
            size = _kind(self.model, self.video).size
            count = size[0] - samples[self.video].padding * size[0] // math.prod(size)
            yield f"the video has {count} of the {size[0]} frames that the model reads; those that lack are masked."

    @property
    def seconds(self) -> float:
        """Of a clip."""
        return _kind(self.model, self.video).size[0] / self.rate

    def samples(self, video: Any, sound: Any, start: float) -> dict[str, Sample]:
        """The clip that begins there as the inputs read it; none where the video ends before."""
        kind = _kind(self.model, self.video)
        frames = _frames(video, kind.channels, kind.size[0], self.rate, start)
        if not len(frames):
            return {}
        # What the model was made for may forbid what is wanted here: the beginning of something longer, and larger.
        how = "cut_first" if kind.resize == "none" else kind.resize
        found = {self.video: kind.with_changes(overflow="truncate", resize=how).parse(frames)}
        if self.sound is not None:
            kind = _kind(self.model, self.sound)
            heard = _heard(video, sound, kind, start)
            if heard is not None:
                taken = kind.with_changes(overflow="truncate", resample=True, mix=kind.channels == 1)
                found[self.sound] = taken.parse({"values": heard.values, "rate": heard.rate})
        return found


def _kind(model: Model, name: str) -> Any:
    return model.spec.inputs[name]


def _frames(video: Any, channels: int, count: int, rate: float, start: float) -> np.ndarray:
    if _is_film(video):
        return read_clip(video, channels, count, rate, start)
    array = load_npy(Path(video)) if isinstance(video, (str, Path)) else as_array(video, "the video")
    first = round(start * rate)
    return with_frames(array, channels, "the video")[first : first + count]


def _is_film(video: Any) -> bool:
    """Whether it is a file with times, and no array in one."""
    return is_file(video) and not (isinstance(video, (str, Path)) and Path(video).suffix.lower() == ".npy")


def _heard(video: Any, sound: Any, kind: Any, start: float) -> Sound | None:
    """The samples that the input reads from that second on, at their own rate; None where there are none."""
    if sound is None:
        if not is_file(video) or not has_track(video):
            return None
        sound = video

    def span(count: int, rate: float | None, what: str) -> tuple[int, int]:
        own = kind.rate if rate is None else rate
        first = min(round(start * own), count)
        return first, min(first + math.ceil(kind.samples * own / kind.rate), count)

    heard = read_sound(sound, span)
    return heard if len(heard.values) else None


@torch.no_grad()
def _one(parts: _Parts, samples: Mapping[str, Sample], chunk: int, advance: Advance) -> dict[str, Any]:
    """Of one clip: input → given and again, each without what only fills up; output of classes → probabilities."""
    model = parts.model
    inputs = {name: model.spec.inputs[name].collate([sample]) for name, sample in samples.items()}
    latents = model.encode(Batch(inputs, 1).to(model.device))
    found: dict[str, Any] = {}
    for name, sample in samples.items():
        output = parts.back[name]
        prediction = model.decode(latents, [output], chunk, advance=advance)
        (answer,) = model.output_module(output).answer(output, prediction[output], {})
        last = len(sample.values) - sample.padding // max(math.prod(sample.values.shape[1:-1]), 1)
        found[output] = sample.values[:last], answer[output][:last]
    for name, kind in model.spec.outputs.items():
        if kind.kind == "category":
            (answer,) = model.output_module(name).answer(name, model.decode(latents, [name])[name], {})
            likely = answer[f"{name}_probabilities"].items()
            found[name] = dict(sorted(likely, key=lambda pair: -pair[1]))
    return found


def _joined(parts: _Parts, found: list[dict[str, Any]]) -> Autoencoded:
    model, names = parts.model, {output: name for name, output in parts.back.items() if output in found[0]}
    given, again = (
        {output: np.concatenate([clip[output][side] for clip in found if output in clip]) for output in names}
        for side in (0, 1)
    )
    psnr = {}
    for output in names:
        peak = getattr(model.spec.outputs[output], "peak", None)
        # What is not known of a clip counts neither way.
        apart = np.square(again[output] - given[output].astype(np.float32))
        known = np.isfinite(apart)
        error = float(apart[known].mean()) if known.any() else 0.0
        if peak is not None and error > 0:
            psnr[output] = 20 * math.log10(peak) - 10 * math.log10(error)
    classes = [name for name, kind in model.spec.outputs.items() if kind.kind == "category"]
    rates = {output: float(_kind(model, name).rate or parts.rate) for output, name in names.items()}
    read = sum(math.prod(values.shape) for values in given.values())
    latents = len(found) * model.spec.latents.count * model.spec.latents.channels
    return Autoencoded(given, again, psnr, {n: [clip[n] for clip in found] for n in classes}, rates, (latents, read))
