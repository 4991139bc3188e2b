"""`perceivers evaluate`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model directory or a run folder.")],
    data: Annotated[str | None, typer.Option(help="Data set, table or folder. Default: the recipe's.")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test. Default: the recipe's.")] = None,
    bad_rows: Annotated[
        str | None, typer.Option(help="Rows that cannot be read: stop, or skip them. Default: the recipe's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for metrics.json and pictures.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Score a model: all, per class, and without each input."""
    from perceivers.errors import unknown
    from perceivers.training.evaluate import evaluate as run

    if bad_rows not in (None, "stop", "skip"):
        raise unknown("--bad-rows", bad_rows, ["stop", "skip"])
    result = run(model, out=out, source=data, split=split, bad_rows=bad_rows, device=device, quiet=quiet or as_json)
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        _show(result)


def _show(result: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from perceivers.cli.listing import print_table

    samples = f"{result['samples']:,} sample{'s' if result['samples'] > 1 else ''}"
    table = Table(title=escape(f"{result['model']} on {result['split']} ({samples})"))
    table.add_column("inputs")
    names = [f"{output} {metric}" for output, group in result["scores"].items() for metric in group]
    for name in names:
        table.add_column(name, justify="right")
    rows = {"all": result["scores"], **{f"without {name}": scores for name, scores in result["without"].items()}}
    for label, scores in rows.items():
        table.add_row(label, *[_number(value, 4) for group in scores.values() for value in group.values()])
    print_table(table)
    for output, classes in result["classes"].items():
        if len(classes) > 50:
            continue
        table = Table(title=output)
        for heading in ("class", "precision", "recall", "f1", "support"):
            table.add_column(heading, justify="left" if heading == "class" else "right")
        for name, row in classes.items():
            shares = [_number(row[score], 3) for score in ("precision", "recall", "f1")]
            table.add_row(escape(name), *shares, str(row["support"]))
        print_table(table)


def _number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"
