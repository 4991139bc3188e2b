"""`perceivers flow`."""

from pathlib import Path
from typing import Annotated

import typer


def flow(
    model: Annotated[Path, typer.Argument(help="A model directory or run folder: image_pair in, flow out.")],
    first: Annotated[Path, typer.Argument(help="The first image.")],
    second: Annotated[Path, typer.Argument(help="The second, of the same size.")],
    out: Annotated[Path, typer.Option(help="The .npy file to write: (height, width, 2), right and down in pixels.")],
    picture: Annotated[Path | None, typer.Option(help="A .png file: the colour wheel.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Write how far each pixel moved from one image to another."""
    import numpy as np

    from perceivers.atomic import check_writable, replace_file
    from perceivers.errors import DataError
    from perceivers.flow_tiles import flow_picture, optical_flow
    from perceivers.training.reporter import Reporter

    for path, ending in ((out, ".npy"), (picture, ".png")):
        if path is not None and path.suffix.lower() != ending:
            raise DataError(f"'{path}': wanted a file that ends in {ending}.")
        if path is not None:
            check_writable(path, (first, second), overwrite)
    reporter = Reporter(quiet)
    found = optical_flow(model, first, second, device, reporter.advance)
    reporter.close()

    replace_file(out, lambda stream: np.save(stream, found, allow_pickle=False))
    length = np.hypot(found[..., 0], found[..., 1])
    print(
        f"{out}: {found.shape[0]}×{found.shape[1]}, {length.mean():.2f} pixels in the mean, {length.max():.2f} at most"
    )
    if picture is not None:
        from PIL import Image

        replace_file(picture, lambda stream: Image.fromarray(flow_picture(found)).save(stream, format="PNG"))
        print(f"{picture}: hue is the direction, full colour {length.max():.2f} pixels")
