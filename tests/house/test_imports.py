"""Imports go down only, and what is heavy is imported late."""

import subprocess
import sys
from pathlib import Path

from fresh_process import HEAVY, modules_after

ROOT = Path(__file__).resolve().parents[2]


def test_imports_go_down_only():
    lint = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 broken" in ran.stdout


def test_import_perceivers_imports_nothing_else():
    loaded = modules_after("import perceivers; perceivers.__version__")
    assert "perceivers" in loaded
    assert not loaded & (HEAVY | {"pydantic", "yaml", "typer", "rich"})


def test_building_a_model_needs_no_engine_and_no_reader():
    """With the base install alone a spec becomes a model."""
    loaded = modules_after("from perceivers import build, load")
    assert "torch" in loaded
    assert not loaded & (HEAVY - {"torch", "numpy"} | {"typer"})
