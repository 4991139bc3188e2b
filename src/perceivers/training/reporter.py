"""What people see while something long runs: a bar on a terminal, plain lines when piped, nothing when asked."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Seconds between plain lines of one task, and between two looks of a bar.
EVERY, DRAWN_EVERY = 10.0, 0.2


class Reporter:
    """Notes and progress on standard error, so that standard output stays for results.

    `quiet`: nothing at all. On a terminal a rich bar, drawn at most every `DRAWN_EVERY` seconds; elsewhere a line at
    most every `EVERY` seconds.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self.console = Console(file=self.stream)
        self.live = self.console.is_terminal and not quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._begun = self._said = time.monotonic()

    def note(self, text: str) -> None:
        """One line that stays."""
        if self.quiet:
            return
        if self.live:
            console = self._bar.console if self._bar else self.console
            # As it is: a path keeps its brackets and colons, and is not cut into lines.
            console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def advance(self, label: str, done: int, total: int, detail: Callable[[], str] = lambda: "") -> None:
        """`done` of `total`; a new label begins a new bar. `detail` is asked only when it is shown."""
        if self.quiet:
            return
        now = time.monotonic()
        if new := label != self._label:
            self.close()
            self._label, self._begun, self._said = label, now, now
        if self.live:
            if new or done == total or now - self._said >= DRAWN_EVERY:
                self._said = now
                self._draw(label, done, total, detail())
        elif now - self._said >= EVERY:
            self._said = now
            left = (now - self._begun) / max(done, 1) * (total - done)
            said = [f"{label}: {done}/{total}", detail(), f"{clock(left)} left"]
            print("  ".join(part for part in said if part), file=self.stream, flush=True)

    def close(self) -> None:
        """End the present bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._label = None, None, ""

    def _draw(self, label: str, done: int, total: int, detail: str) -> None:
        if self._bar is None or self._task is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(label, total=total, detail=detail)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, detail=detail)


def clock(seconds: float) -> str:
    """`90 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def shown(values: Mapping[str, Any]) -> str:
    """Numbers for a line: `accuracy 0.9712  f1 0.9703`."""
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
