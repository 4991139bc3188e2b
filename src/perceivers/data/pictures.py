"""A picture of what is in a table: a grid of samples, each image, series or text with its label above it."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perceivers.atomic import replace_file
from perceivers.data.files import IMAGE_SUFFIXES
from perceivers.data.table import Table
from perceivers.errors import DataError, missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS = (".png", ".pdf", ".svg")
_PANELS_ACROSS = 8  # panels in a row
_LINE, _LONGEST_TEXT = 24, 120  # characters that fit above a panel or in a line of it, and in the whole panel
_MOST_CHANNELS = 16  # a two-dimensional float array with at most so many columns is a series of channels
_PIXELS = 160  # an image file is drawn at no more than this height and width


def picture_grid(
    table: Table, path: Path, columns: Sequence[str] | None = None, count: int = 32, label: str | None = "label"
) -> Path:
    """Draw `count` samples spread evenly over `table` into the picture file `path` and return it.

    Each sample has one panel per column of `columns`: uint8 arrays (H, W) or (H, W, C), and files or bytes that hold an
    image, are drawn as images; other arrays or lists of numbers, (T,) or (T, C), as lines over the step; anything else
    as text. `columns=None` takes those drawn as images or series, or all columns but `label` when there are none; the
    first eight of them. The cell of the column `label`, where there is one, stands above the sample. The file is PNG,
    PDF or SVG by its ending, and appears whole or not at all. Raises `DataError` for an empty table, an unknown column,
    another ending or a place that cannot be written to; a cell that cannot be drawn becomes a panel that says why.
    """
    if path.suffix.lower() not in _FORMATS:
        raise DataError(f"cannot draw a picture into {path}: the name must end in {', '.join(_FORMATS)}.")
    if len(table) == 0:
        raise DataError(f"{table.name}: there are no samples to draw.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "train", "drawing a picture") from error
    names = list(columns) if columns else _drawable(table, label)[:_PANELS_ACROSS]
    chosen = table.take(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    across = min(max(1, _PANELS_ACROSS // len(names)), len(chosen))  # samples in a row
    down = -(-len(chosen) // across)
    width, height = 1.6 * across * len(names), 1.75 * down  # inches
    figure = Figure(figsize=(width, height))
    # Fixed margins, in inches over the size: matplotlib's own layouts warn and give up when a text is long.
    figure.subplots_adjust(0.25 / width, 0.15 / height, 1 - 0.05 / width, 1 - 0.35 / height, wspace=0.25, hspace=0.4)
    FigureCanvasAgg(figure)  # no global state: this figure has its own canvas and pyplot knows nothing of it
    for sample in range(len(chosen)):
        for place, name in enumerate(names):
            panel = figure.add_subplot(down, across * len(names), sample * len(names) + place + 1)
            panel.set_title(_title(chosen, sample, label, place, names), fontsize=8, parse_math=False)
            _draw(panel, _plain(chosen.column(name)[sample]), table.base)
    _save(figure, path)
    return path


def _title(table: Table, sample: int, label: str | None, place: int, names: Sequence[str]) -> str:
    """The label above the sample's first panel, the column's name above each where there are several."""
    lines = []
    if label is not None and label in table.columns:
        lines.append(_text(table.columns[label][sample], _LINE) if place == 0 else "")
    return "\n".join([*lines, _text(names[place], _LINE)] if len(names) > 1 else lines)


def _drawable(table: Table, label: str | None) -> list[str]:
    """The columns whose first cell that is there is an image or a series, or else all but the label."""
    first = {name: next((cell for cell in column if cell is not None), None) for name, column in table.columns.items()}
    drawn = [name for name, cell in first.items() if _kind(_plain(cell)) != "text"]
    return drawn or [name for name in table.columns if name != label] or list(table.columns)


def _plain(cell: Any) -> Any:
    """Lists of numbers as an array, and what a mapping says of an image (as Hugging Face tables hold); others as is."""
    if isinstance(cell, Mapping) and {"bytes", "path"} & set(cell):
        return cell.get("bytes") or cell.get("path")
    if isinstance(cell, list) and cell:
        try:
            array = np.asarray(cell, dtype=np.float64)
        except (TypeError, ValueError):  # words, or rows of different lengths: drawn as text
            return cell
        return array if array.ndim <= 2 and array.size else cell
    return cell


def _kind(cell: Any) -> str:
    """How a cell is drawn: `file` (an image in a file or in bytes), `image`, `series` or `text`."""
    if isinstance(cell, bytes):
        return "file"
    if isinstance(cell, str | Path):
        return "file" if str(cell).lower().endswith(IMAGE_SUFFIXES) else "text"
    if isinstance(cell, np.ndarray) and cell.ndim in (1, 2, 3) and cell.dtype.kind in "uif":
        if cell.ndim == 3 or (cell.ndim == 2 and (cell.dtype == np.uint8 or cell.shape[1] > _MOST_CHANNELS)):
            return "image"
        return "series"
    return "text"


def _draw(panel: "Axes", cell: Any, base: Path | None) -> None:
    kind = _kind(cell)
    if kind == "file":
        cell = _image(cell, base)
        kind = _kind(cell)
    if kind == "image":
        if cell.ndim == 3 and cell.shape[2] not in (1, 3, 4):
            cell = cell.mean(axis=2)  # channels that are not colours: their mean, in grey
        darkest, brightest = (0, 255) if cell.dtype == np.uint8 else (None, None)
        panel.imshow(cell, cmap="gray", vmin=darkest, vmax=brightest)
        panel.set_axis_off()
    elif kind == "series":
        panel.plot(cell, linewidth=0.6)
        panel.tick_params(labelsize=5, length=2, pad=1)
    else:
        lines = textwrap.fill(_text(cell, _LONGEST_TEXT), _LINE)
        panel.text(0.5, 0.5, lines, ha="center", va="center", fontsize=6, parse_math=False)
        panel.set_axis_off()


def _image(cell: bytes | str | Path, base: Path | None) -> np.ndarray | str:
    """The picture in a file or in bytes, made small: uint8 (H, W, 3), or float32 (H, W) when it has more than 8 bits.

    A picture that cannot be read gives a line that says why.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise missing_extra("pillow", "data", "drawing image files") from error
    from perceivers.inputs.decode import FORMATS, MOST_PIXELS

    source = io.BytesIO(cell) if isinstance(cell, bytes) else (base or Path()) / cell
    what = "image" if isinstance(cell, bytes) else Path(cell).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    return f"{what}: {image.width}×{image.height} pixels are too many"
                image.draft("RGB", (_PIXELS, _PIXELS))
                upright = ImageOps.exif_transpose(image)
                upright.thumbnail((_PIXELS, _PIXELS))
                if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
                    return np.asarray(upright, dtype=np.float32)
                return np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return f"{what}: {error}"


def _text(cell: Any, longest: int) -> str:
    if isinstance(cell, np.ndarray):
        return f"array {cell.shape} {cell.dtype}"
    if cell is None:
        return "(absent)"
    text = " ".join(str(cell).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _save(figure: "Figure", path: Path) -> None:
    def write(stream: Any) -> None:
        figure.savefig(stream, format=path.suffix.lower()[1:], dpi=100)

    try:
        with warnings.catch_warnings():
            # Labels in a script that the font has not: their letters become boxes, which is no reason to speak up.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            replace_file(path, write)
    except OSError as error:
        raise DataError(f"cannot write the picture {path}: {error.strerror or error}.") from error
