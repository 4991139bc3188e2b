"""`perceivers autoencode`."""

from pathlib import Path
from typing import Annotated

import typer


def autoencode(
    model: Annotated[Path, typer.Argument(help="A model directory or run folder: video and sound in, the same out.")],
    video: Annotated[Path, typer.Argument(help="A video file, or frames as .npy.")],
    out: Annotated[Path, typer.Option(help="The folder to write: GIF, PNG, WAV and answers.json.")],
    sound: Annotated[Path | None, typer.Option(help="A sound file. Default: the sound of the video file.")] = None,
    start: Annotated[float, typer.Option(help="The second at which to begin.")] = 0.0,
    clips: Annotated[int, typer.Option(help="How many clips, one behind the other.")] = 1,
    chunk: Annotated[int, typer.Option(help="Queries answered at once: any number gives the same.")] = 16_384,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier clip in --out.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Write what an autoencoder gives back of a clip.

    It is encoded once and asked query by query.
    """
    from perceivers.clips.autoencoding import autoencode as run
    from perceivers.clips.files import check_folder, write_clips
    from perceivers.training.reporter import Reporter

    check_folder(out, overwrite)
    reporter = Reporter(quiet)
    found = run(model, video, sound, start=start, clips=clips, chunk=chunk, device=device, advance=reporter.advance)
    reporter.close()
    files = write_clips(found, out, overwrite)
    latents, values = found.numbers
    print(f"{out}: {', '.join(path.name for path in files)}")
    print(f"{values:,} numbers through {latents:,}, {values / latents:.0f} times fewer")
    for name, decibels in found.psnr.items():
        print(f"{name}: {decibels:.2f} dB")
    for name, each in found.guesses.items():
        for place, guesses in enumerate(each, start=1):
            head = f"{name}, clip {place}" if len(each) > 1 else name
            print(f"{head}: {', '.join(f'{label} {chance:.1%}' for label, chance in list(guesses.items())[:5])}")
