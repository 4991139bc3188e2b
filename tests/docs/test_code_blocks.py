"""Every code block of the README and the docs is true: Python runs, recipes are read, commands marked as such run.

Blocks of one page share their names and their folder, in order, so that a page can tell a story.
"""

import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from page_blocks import Block, blocks

import perceivers
from perceivers.cli.main import app, main
from perceivers.models.spec import as_spec
from perceivers.plain_yaml import read_yaml
from perceivers.training.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands}
COMMANDS |= {group.name for group in app.registered_groups}

# Enough of a model to put beside a lone input or output.
# What the outputs of the pages ask with.
_INPUT = {
    "x": {"kind": "number", "columns": ["a"]},
    "note": {"kind": "text"},
    "pair": {"kind": "image_pair", "size": [8, 8]},
    "units": {"kind": "points", "count": 4},
}
_OUTPUT = {"y": {"kind": "category"}}


def code(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("python", "yaml", "bash")]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if code(page)], ids=page_name)
def test_the_code_of_a_page(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    run: dict[str, Callable[[Block], None]] = {
        "python": lambda block: exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names),
        "yaml": check_yaml,
        "bash": run_commands,
    }
    for block in code(page):
        try:
            run[block.language](block)
        except BaseException as error:
            error.add_note(f"{page_name(page)}, the {block.language} block at line {block.line}")
            raise


def check_yaml(block: Block) -> None:
    """A block says in its first line what it is.

    A recipe marked with `file: NAME` is written there for what follows; one marked `trains` makes two steps.
    """
    what = block.text.splitlines()[0]
    if what == "# recipe":
        target = next((Path(mark.removeprefix("file: ")) for mark in block.marks if mark.startswith("file: ")), None)
        path = target or Path("recipe.yaml")
        path.write_text(block.text)
        read_recipe(path)
        if "trains" in block.marks:
            result = perceivers.train(path, overrides=["training.epochs=null", "training.steps=2"], quiet=True)
            assert result.steps == 2
    elif what == "# inputs":
        as_spec({"inputs": read_yaml(block.text, "the block"), "outputs": _OUTPUT})
    elif what == "# part of a spec":
        as_spec({"outputs": _OUTPUT, **read_yaml(block.text, "the block")})
    else:
        known = "'# recipe', '# inputs', '# outputs' or '# part of a spec'"
        assert what == "# outputs", f"a YAML block begins with {known}, not '{what}'"
        as_spec({"inputs": _INPUT, "outputs": read_yaml(block.text, "the block")})


def run_commands(block: Block) -> None:
    """Lines that call perceivers are run when the block is marked `runs`, and must at least be commands when not."""
    for line in block.text.replace("\\\n", " ").splitlines():
        command, *arguments = shlex.split(line, comments=True) or [""]
        if command != "perceivers":
            continue
        assert arguments[0] in COMMANDS or arguments[0].startswith("-"), f"there is no command '{arguments[0]}'"
        if "runs" in block.marks:
            # People see a warning of the command; here it must not be an error.
            with warnings.catch_warnings():
                warnings.simplefilter("default", UserWarning)
                with pytest.raises(SystemExit) as done:
                    main(arguments)
            assert not done.value.code, f"'{line}' ended with exit code {done.value.code}"


def test_there_are_pages_with_code():
    assert {"README.md", "docs/start.md", "docs/inputs.md"} <= {page_name(page) for page in PAGES if code(page)}


def test_a_false_block_fails(tmp_path):
    """The tests above can fail: each language has a block that they must refuse."""
    page = tmp_path / "page.md"
    page.write_text("text\n\n<!-- runs -->\n\n```bash\nperceivers presets --nonsense\n```\n\n```yaml\nkey: 1\n```\n")
    command, recipe = blocks(page)
    assert (command.line, command.marks, recipe.marks) == (6, ("runs",), ())
    with pytest.raises(AssertionError, match="exit code 2"):
        run_commands(command)
    with pytest.raises(AssertionError, match="a YAML block begins with"):
        check_yaml(recipe)
