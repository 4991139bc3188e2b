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
    out: Annotated[Path, typer.Option(help="Where to write the recipe.")] = Path("recipe.yaml"),
) -> None:
    """Look at a table and write a commented recipe that trains on it."""
    from perceivers.atomic import replace_file
    from perceivers.errors import PerceiversError
    from perceivers.training.draft import TargetNeededError, draft_recipe

    if out.exists():
        raise PerceiversError(f"'{out}' exists and is left as it is. Give another name: --out NAME.yaml")
    try:
        text = draft_recipe(table, target, out)
    except TargetNeededError as error:
        if not _has_terminal():
            raise
        print(f"Columns of {table}: {', '.join(error.columns)}", file=sys.stderr)
        text = draft_recipe(table, typer.prompt("Which one is to be learned", err=True), out)
    try:
        replace_file(out, lambda stream: stream.write(text.encode()) and None)
    except OSError as failure:
        raise PerceiversError(f"'{out}' could not be written: {failure.strerror or failure}.") from failure
    print(f"{out}: written; read it, then: perceivers train {out}")


def _has_terminal() -> bool:
    """Whether someone is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()
