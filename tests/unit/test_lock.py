"""One process a run folder."""

import fcntl
import os
import subprocess
import sys

import pytest
import toys

from perceivers import train
from perceivers.errors import TrainingError
from perceivers.training.lock import LOCK, RunLock

HOLD = """
import sys
from pathlib import Path
from perceivers.training.lock import RunLock
with RunLock(Path(sys.argv[1])) as lock:
    lock.take()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused(holder, tmp_path):
    with pytest.raises(TrainingError, match="another process is training in"), RunLock(tmp_path) as lock:
        lock.take()
    assert (tmp_path / LOCK).exists(), "the holder's lock is not the refused one's to remove"


def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.wait()
    with RunLock(tmp_path) as lock:
        lock.take()
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_a_forked_child_does_not_hold_it(tmp_path):
    """It may outlive a killed run, as a process that prepares batches does; the run is resumed meanwhile."""
    go_on, end = os.pipe()
    ready, begun = os.pipe()
    with RunLock(tmp_path) as lock:
        lock.take()
        child = os.fork()
        if child == 0:
            os.close(end)
            os.write(begun, b"x")
            os.read(go_on, 1)
            os._exit(0)
        assert os.read(ready, 1) == b"x"
        with pytest.raises(TrainingError), RunLock(tmp_path) as other:
            other.take()
        # As a kill would: the descriptor goes, the file stays.
        lock.let_go()
        with RunLock(tmp_path) as other:
            other.take()
    for descriptor in (end, go_on, ready, begun):
        os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0


def test_taking_twice_is_taking_once(tmp_path):
    with RunLock(tmp_path / "new") as lock:
        lock.take()
        lock.take()
        descriptor = os.open(tmp_path / "new" / LOCK, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_not_taken_leaves_nothing(tmp_path):
    with RunLock(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_in_progress_is_neither_resumed_nor_begun_again(holder, tmp_path, resume):
    data = toys.write_people(tmp_path.parent / f"{tmp_path.name}-data").parent
    with pytest.raises(TrainingError, match="another process is training in"):
        train(toys.recipe(), out=tmp_path, base=data, quiet=True, resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]
