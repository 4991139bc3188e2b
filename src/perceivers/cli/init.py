"""`perceivers init`."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def init(
    table: Annotated[str, typer.Argument(help="A table, a folder of class folders, or a named data set.")],
    target: Annotated[
        str | None, typer.Option(help="The column to learn. Default: the one called label, target, class, y, …")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the recipe; - prints it.")] = Path("recipe.yaml"),
) -> None:
    """Look at a table and write a commented recipe for it."""
    from perceivers.training.draft import TargetNeededError

    try:
        _write(table, target, out)
    except TargetNeededError as error:
        if not _has_terminal():
            raise
        print(f"Columns of {table}: {', '.join(error.columns)}", file=sys.stderr)
        _write(table, typer.prompt("Which one is to be learned", err=True), out)


def _write(table: str, target: str | None, out: Path) -> None:
    from perceivers.training.draft import draft_recipe
    from perceivers.training.draft import init as run

    if out == Path("-"):
        print(draft_recipe(table, target), end="")
    else:
        path = run(table, target, out)
        print(f"{path}: written; read it, then: perceivers train {path}")


def _has_terminal() -> bool:
    """Whether someone is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()
