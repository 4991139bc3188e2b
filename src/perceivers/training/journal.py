"""What a run writes down while it goes: metrics.jsonl, TensorBoard and curves.png."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perceivers.atomic import replace_file
from perceivers.errors import TrainingError, missing_extra
from perceivers.outputs import KINDS


class Journal:
    """Appends to a run folder. On resumption, lines after the resumed step are taken back first."""

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("tensorboard", "train", "training") from None
        self.path = folder / "metrics.jsonl"
        lines = [line for line in read_lines(self.path) if line["step"] <= first_step]
        replace_file(self.path, lambda stream: stream.writelines(_encoded(line) for line in lines))
        self.stream = self.path.open("ab")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None)

    def write(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """One line {"step", "group", …}; the same numbers to TensorBoard under `group/name`.

        What is not a finite number is null in the line, since JSON has no other word for it.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.stream.write(_encoded({"step": step, "group": group, **finite}))
        self.stream.flush()
        for name, value in finite.items():
            if value is not None:
                self.board.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self.stream.close()
        self.board.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a last line torn by a kill is left out. Raises `TrainingError` for others."""
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
            lines.append({"step": int(line["step"]), "group": str(line["group"]), **line})
        except (ValueError, TypeError, KeyError):
            raise TrainingError(
                f"{path}, line {number}: this is not a line of a run's metrics. "
                "Take the line out, or move the file away."
            ) from None
    return lines


def draw_curves(folder: Path) -> Path:
    """curves.png from metrics.jsonl: the losses, and the headline scores of the validation split."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "matplotlib", "train", "drawing curves") from None

    lines = read_lines(folder / "metrics.jsonl")
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    for group, style in (("train", "-"), ("validation", "o-")):
        points = _points([line for line in lines if line["group"] == group], "loss")
        if points:
            losses.plot(*zip(*points, strict=True), style, markersize=3, linewidth=1, label=group)
    names = sorted({k for line in lines if line["group"] == "validation" for k in line} - {"step", "group", "loss"})
    curves = {name for kind in KINDS.values() for name in kind.curves}
    for name in [n for n in names if n.partition(".")[2] in curves] or names:
        points = _points([line for line in lines if line["group"] == "validation"], name)
        if points:
            scores.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1, label=name)
    for axes, title in ((losses, "loss"), (scores, "validation")):
        axes.set_title(title)
        axes.set_xlabel("step")
        if axes.lines:
            axes.legend()
    path = folder / "curves.png"
    replace_file(path, lambda stream: figure.savefig(stream, format="png", dpi=110))
    return path


def _points(lines: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def _encoded(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, allow_nan=False) + "\n").encode()
