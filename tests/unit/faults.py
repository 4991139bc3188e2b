"""Faults at every point where the disk changes: used by the tests of what must survive them."""

import io
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from perceivers import atomic
from perceivers.training import checkpoints

CHANGES = ("mkdir", "rename", "replace", "unlink", "rmdir")


def instrument(patch: pytest.MonkeyPatch, on_point: Callable[[str], None]) -> None:
    """Call `on_point(what)` before every change of the disk, and in the middle of every write.

    `fsync` is a point and nothing else: what a process wrote outlives its death, though not a power cut, without it.
    """

    class Watched(io.FileIO):
        def write(self, data) -> int:
            data = memoryview(data)
            on_point("write")
            written = super().write(data[: len(data) // 2])
            on_point("half written")
            return written + super().write(data[len(data) // 2 :])

    def watched_open(path: Path, mode: str) -> io.FileIO:
        if mode != "rb":
            on_point("create")
        return Watched(path, mode)

    def watched(function: Callable, name: str) -> Callable:
        def call(*args, **kwargs):
            on_point(name)
            return function(*args, **kwargs)

        return call

    for name in CHANGES:
        patch.setattr(os, name, watched(getattr(os, name), name))
    patch.setattr(os, "fsync", lambda descriptor: on_point("fsync"))
    patch.setattr(atomic, "_exchange", watched(atomic._exchange, "exchange"))
    for module in (atomic, checkpoints):
        patch.setattr(module, "open", watched_open, raising=False)


def killed_at(point: int, action: Callable[[], None]) -> bool:
    """Run `action` in a child that SIGKILLs itself at that point; False when `action` ended before reaching it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child touches no thread of the parent
        child = os.fork()
    if child == 0:
        seen = 0

        def on_point(_: str) -> None:
            nonlocal seen
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

        status = 1
        try:
            instrument(pytest.MonkeyPatch(), on_point)
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the action failed by itself"
    return False


def failing_at(point: int, error: OSError, action: Callable[[], None]) -> bool:
    """Run `action` with `error` raised at that point and never again; False when it ended before reaching it."""
    seen = 0

    def on_point(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == point + 1:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        instrument(patch, on_point)
        action()
    return seen > point
