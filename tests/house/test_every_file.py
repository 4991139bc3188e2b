"""How every file of the house looks: short, described, finished, and free of what only one machine knows."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "perceivers"
LONGEST_FILE = 400
LONGEST_DECISION = 40

PYTHON = sorted(path for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
MODULES = sorted(SOURCE.rglob("*.py"))

# Put together from parts, so that this file does not hold what it looks for.
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")) + r")\b")
ANNOTATIONS = "from __future__ import " + "annotations"
# Folders that a person or a machine has, not a project. `/tmp` is left out: it is the same everywhere.
MACHINE = re.compile(r"(?<![\w.~-])/(?:" + "|".join(("work", "home", "root", "Users", "mnt", "opt", "srv")) + r")/\w")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_look_at():
    assert len(MODULES) > 40
    assert len(PYTHON) > len(MODULES)


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_no_file_is_longer_than_a_reader_can_hold(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_public_thing_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    bare = [place for place, node in public(tree) if not ast.get_docstring(node)]
    assert not bare, f"no docstring: {', '.join(bare)}"


def public(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions, classes and methods; magic methods are described by their class, overrides by their parent."""
    for node in getattr(tree, "body", []):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        place = f"{within}{node.name}"
        yield place, node
        if isinstance(node, ast.ClassDef):
            yield from public(node, f"{place}.")


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_nothing_is_left_unfinished_and_nothing_is_swallowed(path):
    text = path.read_text(encoding="utf-8")
    # jaxtyping reads annotations when a function is made; that import would turn them into strings.
    assert ANNOTATIONS not in text
    found = UNFINISHED.search(text)
    assert found is None, found
    silent = [handler.lineno for handler in ast.walk(ast.parse(text)) if swallows(handler)]
    assert not silent, f"errors vanish in lines {silent}"


def swallows(node: ast.AST) -> bool:
    """Whether `node` catches every error and does nothing about it."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    everything = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
    return everything and all(
        isinstance(line, ast.Pass) or ast.unparse(line) in ("...", "continue") for line in node.body
    )


def test_what_counts_as_swallowing():
    def only_handler(text: str) -> ast.AST:
        return next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ExceptHandler))

    assert swallows(only_handler("try:\n    f()\nexcept Exception:\n    pass"))
    assert swallows(only_handler("try:\n    f()\nexcept:\n    ..."))
    assert not swallows(only_handler("try:\n    f()\nexcept OSError:\n    pass"))
    assert not swallows(only_handler("try:\n    f()\nexcept Exception:\n    clean()\n    raise"))


def test_no_file_knows_the_machine_it_was_written_on():
    found = []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            match = MACHINE.search(line)
            if match and not line.startswith("#!"):
                found.append(f"{name(path)}:{number}: {match.group()}")
    assert not found


def texts() -> list[Path]:
    """Every text file that git would put into a clone, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    endings = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".cfg", ""}
    paths = [ROOT / line for line in listed if line]
    return [path for path in paths if path.suffix in endings and path.is_file() and path != ROOT / "LICENSE"]


def test_the_readme_maps_every_folder_and_every_file_beside_them():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(SOURCE).as_posix() for path in MODULES} - {"."}
    missing = [folder for folder in sorted(folders) if f"`{folder}/`" not in readme]
    missing += [
        path.name for path in SOURCE.glob("*.py") if path.name != "__init__.py" and f"`{path.name}`" not in readme
    ]
    assert not missing, f"README.md does not name {missing}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=name)
def test_decisions_are_short(path):
    assert re.match(r"^\d{3}-[a-z-]+\.md$", path.name)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_DECISION
