"""A run killed by SIGKILL at any moment and resumed is the run that was never stopped, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).with_name("kill_harness.py")


def compared(folder: Path, kills: int, *recipe: str) -> dict[str, Any]:
    """The harness's report on a run in peace and one that was killed so many times."""
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(folder), str(kills), "1", *recipe],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == kills, report
    assert report["status"] == 0, report
    assert report["same_lines"], "losses, rates, gradient norms or scores differ"
    assert report["same_files"] == [True, True, True], "weights, state or the best model differ"
    return report


def test_ten_kills_change_no_bit(tmp_path: Path) -> None:
    """Dropout, augmentation, input dropout, averages, LAMB and batch norm are all on."""
    report = compared(tmp_path, 10)
    assert report["lines"] >= 50, "45 training lines and five looks at the validation split"


@pytest.mark.slow
def test_nor_with_a_worker_adamw_and_patience(tmp_path: Path) -> None:
    """The worker has prepared batches ahead when the run is killed; early stopping counts on."""
    report = compared(tmp_path, 3, "worker")
    assert 12 <= report["steps"] < 90, "ended by its patience"
