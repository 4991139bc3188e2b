"""Help in under a second is help without torch: a test of what is imported, since a clock measures the machine."""

import pytest
from fresh_process import HEAVY, modules_after

COMMANDS = ("train", "evaluate", "predict", "fill", "generate", "data", "presets", "plan", "init", "weights")


@pytest.mark.parametrize("arguments", [[], *[[command] for command in COMMANDS]], ids=lambda a: " ".join(a) or "all")
def test_help_comes_without_the_heavy_imports(arguments):
    code = f"""
from perceivers.cli.main import main
try:
    main({[*arguments, "--help"]!r})
except SystemExit as done:
    assert not done.code, done.code
"""
    loaded = modules_after(code)
    assert "typer" in loaded
    assert not loaded & HEAVY
