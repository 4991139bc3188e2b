"""One process a run folder: two that wrote into one would ruin each other's checkpoints."""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from weakref import WeakSet

from perceivers.errors import TrainingError

LOCK = ".lock"
_HOLDERS: "WeakSet[RunLock]" = WeakSet()


class RunLock:
    """Keeps the run folder `run` for this process from `take` until the `with` block ends.

    The system gives the lock back when a process ends in any way, so a killed run can be resumed at once. Where files
    cannot be locked so (Windows) nothing is kept. Processes that this one forks, as those that prepare batches, do not
    hold it: they live on for seconds when this one is killed.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._held: int | None = None

    def take(self) -> None:
        """Make the folder if need be and lock it, once. Raises `TrainingError` when another process holds it."""
        try:
            import fcntl
        except ImportError:
            return
        if self._held is not None:
            return
        self.run.mkdir(parents=True, exist_ok=True)
        while self._held is None:
            descriptor = os.open(self.run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise TrainingError(
                    f"another process is training in '{self.run}'; wait for it, stop it, or give another folder by "
                    "--out (out=…)."
                ) from None
            # Its last holder may have removed the file between these two calls; then that is no lock any more.
            if os.fstat(descriptor).st_nlink:
                self._held = descriptor
                _HOLDERS.add(self)
            else:
                os.close(descriptor)

    def let_go(self) -> None:
        """In a forked child: close its copy, which leaves the lock to the parent."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held is not None:
            with suppress(OSError):  # a folder that was taken away holds no lock to remove
                os.unlink(self.run / LOCK)
            os.close(self._held)
            self._held = None


def _let_go_of_all() -> None:
    for lock in list(_HOLDERS):
        lock.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_of_all)
