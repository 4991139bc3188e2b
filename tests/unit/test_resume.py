"""A run killed by SIGKILL at any moment and resumed is the run that was never stopped, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

HARNESS = Path(__file__).with_name("kill_harness.py")


def test_ten_kills_change_no_bit(tmp_path: Path) -> None:
    """Dropout, augmentation, input dropout, averages, LAMB and batch norm are all on."""
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(tmp_path), "10", "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 10, report
    assert report["status"] == 0, report
    assert report["lines"] >= 50, "45 training lines and five looks at the validation split"
    assert report["same_lines"], "losses, rates, gradient norms or scores differ"
    assert report["same_files"] == [True, True, True], "weights, state or the best model differ"
