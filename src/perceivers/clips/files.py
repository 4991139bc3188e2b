"""What came out of an autoencoder as files that people look at and listen to."""

import io
import json
import wave
from pathlib import Path

import numpy as np

from perceivers.atomic import replace_folder
from perceivers.clips.autoencoding import Autoencoded
from perceivers.errors import DataError, missing_extra

ANSWERS = "answers.json"
_ACROSS = 8  # frames in the picture of a video
_GAP = 4  # pixels between frames
_GUESSES = 5


def write_clips(found: Autoencoded, folder: Path, overwrite: bool = False) -> list[Path]:
    """Write a clip that was given back into `folder`, which appears whole, and return its files.

    Of each output with frames NAME.gif (left what was shown, right what came back) and NAME.png (some frames: above
    what was shown, below what came back); of each sound NAME.wav and NAME-given.wav; and answers.json: the five
    likeliest classes of each clip, and psnr in dB. With `overwrite` a folder that is an earlier one, and holds nothing
    else, is replaced; any other that is not empty raises `DataError`.
    """
    check_folder(folder, overwrite)
    with replace_folder(folder) as new:
        for name, again in found.again.items():
            given = found.given[name]
            if again.ndim == 4:
                _moving(given, again, found.rates[name], new / f"{name}.gif")
                _still(given, again, new / f"{name}.png")
            else:
                (new / f"{name}.wav").write_bytes(_sound(again, found.rates[name]))
                (new / f"{name}-given.wav").write_bytes(_sound(given, found.rates[name]))
        latents, values = found.numbers
        guesses = {
            name: [dict(list(clip.items())[:_GUESSES]) for clip in clips] for name, clips in found.guesses.items()
        }
        told = {"psnr": dict(found.psnr), "guesses": guesses, "latent_numbers": latents, "input_numbers": values}
        # What is replaced another time: these, and never what someone else laid beside them.
        told["files"] = sorted(path.name for path in new.iterdir())
        (new / ANSWERS).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return sorted(folder.iterdir())


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """Raise `DataError` for a folder that holds something, which with `overwrite` may be an earlier clip alone."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if (folder.exists() and not folder.is_dir()) or (names and not names <= _written(folder / ANSWERS)):
        raise DataError(f"'{folder}' exists and is not a clip that was given back; give another folder.")
    if names and not overwrite:
        raise DataError(
            f"'{folder}' is an earlier clip, and would be replaced; give another folder, or allow it by --overwrite "
            "(overwrite=True)."
        )


def _written(answers: Path) -> set[str]:
    """The names of the files that an earlier clip wrote; none where there was no such clip."""
    try:
        told = json.loads(answers.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    files = told.get("files") if isinstance(told, dict) else None
    return {ANSWERS, *map(str, files)} if isinstance(files, list) else set()


def _bytes(frames: np.ndarray) -> np.ndarray:
    """(…, 3) uint8 of frames of 0 to 255: RGB, or the first channel as grey. What is unknown is 0."""
    whole = np.clip(np.rint(np.nan_to_num(frames)), 0, 255).astype(np.uint8)
    return whole if whole.shape[-1] == 3 else np.repeat(whole[..., :1], 3, axis=-1)


def _moving(given: np.ndarray, again: np.ndarray, rate: float, path: Path) -> None:
    pictures = _pictures(np.concatenate([_bytes(given), _bytes(again)], axis=2))
    first, *others = pictures
    # A GIF counts in hundredths of a second.
    first.save(path, save_all=True, append_images=others, duration=max(round(100 / rate), 2) * 10, loop=0)


def _still(given: np.ndarray, again: np.ndarray, path: Path) -> None:
    chosen = np.linspace(0, len(given) - 1, min(_ACROSS, len(given))).round().astype(int)
    frames, height, width, _ = given[chosen].shape
    sheet = np.full((2 * height + _GAP, frames * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for row, video in enumerate((_bytes(given[chosen]), _bytes(again[chosen]))):
        for place, frame in enumerate(video):
            top, left = row * (height + _GAP), place * (width + _GAP)
            sheet[top : top + height, left : left + width] = frame
    (picture,) = _pictures(sheet[None])
    picture.save(path)


def _pictures(frames: np.ndarray) -> list:
    try:
        from PIL import Image
    except ImportError:
        raise missing_extra("pillow", "data", "writing pictures") from None
    return [Image.fromarray(frame) for frame in frames]


def _sound(samples: np.ndarray, rate: float) -> bytes:
    """A WAV file of 16 bits."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(round(rate))
        file.writeframes(np.rint(np.clip(np.nan_to_num(samples), -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
