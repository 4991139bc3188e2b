"""Imports go down only, and what is heavy is imported late."""

import ast
import subprocess
import sys
from pathlib import Path

from fresh_process import HEAVY, modules_after

from perceivers.inputs import KINDS as INPUTS
from perceivers.outputs import KINDS as OUTPUTS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "perceivers"
# The kinds' classes by the way of their folder, which imports them.
CLASSES = {f"perceivers.inputs.{kind.__name__}" for kind in INPUTS.values()}
CLASSES |= {f"perceivers.outputs.{kind.__name__}" for kind in OUTPUTS.values()}


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


def test_only_their_own_folders_know_the_kinds():
    """Whatever else tells kinds apart would have to be taught each new one."""
    kinds = {kind.__module__ for kinds in (INPUTS, OUTPUTS) for kind in kinds.values()}
    kinds |= {f"perceivers.inputs.{name}" for name in ("augment_image", "augment_points", "augment_series")}
    kinds |= {f"perceivers.inputs.{name}" for name in ("columns", "grid", "lift")}
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path.relative_to(SOURCE).parts[0] in ("inputs", "outputs"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found += [f"{path.name}: {name}" for name in imported(node) if name in kinds or name in CLASSES]
    assert not found


def imported(node: ast.AST) -> list[str]:
    """The modules, and the names out of modules, that an import brings."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{name.name}" for name in node.names)]
    return []


def test_public_names_are_seen_before_they_are_used():
    """By completion and help; looking at the names imports nothing."""
    code = "import perceivers; assert set(perceivers.__all__) <= set(dir(perceivers)), dir(perceivers)"
    assert not modules_after(code) & HEAVY
