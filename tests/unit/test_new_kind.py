"""Adding a kind is adding a file and a line: one that the library does not have goes through all of it."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("new_kinds.py")


def test_a_new_input_and_a_new_output_plan_train_evaluate_and_predict(tmp_path):
    ran = subprocess.run(
        [sys.executable, PROGRAM, tmp_path], capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    # A convolution of 3 × 3 × 1 → 4 on four cells.
    assert found["flops"]["input place"] == 2 * 4 * 9 * 4
    assert found["assumed"] == ["output 'label': assumed 2 grades"]
    assert found["labels"] == {"label": ["20", "30", "40"]}
    assert set(found["scores"]["label"]) == {"hits"}
    assert set(found["classes"]["label"]) == {"20", "30", "40"}
    assert sum(row["support"] for row in found["classes"]["label"].values()) == 6
    assert found["picture"]
    assert {answer["label"] for answer in found["answers"]} <= {"20", "30", "40"}
