"""The small form in the header of each of the papers' recipes can be pasted into a shell, and is read."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from perceivers.training.recipe import read_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes" / "paper").glob("*.yaml"))


def small(recipe: Path) -> str:
    """The header's changes as one line of a shell."""
    header = re.match(r"(?:#.*\n)+", recipe.read_text(encoding="utf-8"))
    assert header is not None
    parts = re.findall(r"^# small:((?:.*\n)(?:#            .*\n)*)", header[0], re.MULTILINE)
    assert parts, "the header has a small form"
    return " ".join(line.lstrip("# ") for part in parts for line in part.splitlines())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_small_form_is_read_as_it_stands(recipe):
    read_recipe(recipe, shlex.split(small(recipe)))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_no_shell_changes_the_small_form(recipe):
    # zsh refuses brackets that name no file, bash takes braces apart: only quoted ones arrive.
    bare = re.sub(r"'[^']*'", "", small(recipe))
    assert not set('[]{}*?$!~`;&|<>()"') & set(bare)
    if shell := shutil.which("bash"):
        answer = subprocess.run(
            [shell, "-c", f"printf '%s\\n' {small(recipe)}"], capture_output=True, text=True, check=True
        )
        assert answer.stdout.splitlines() == shlex.split(small(recipe))
