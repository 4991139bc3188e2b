"""`perceivers data list | fetch | show`: the data sets that can be had by name, and a look at a table of one's own."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table as Listing

from perceivers.cli.listing import print_table

if TYPE_CHECKING:
    from perceivers.data.named import NamedData
    from perceivers.data.table import Table

app = typer.Typer(help="Look at data: named data sets and tables of your own.", no_args_is_help=True)

_MOST_CLASSES = 50  # a column with more distinct values is not listed class by class


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the data sets that can be had by name."""
    from perceivers.data.named import NAMED

    if as_json:
        typer.echo(json.dumps([_description(data) for data in NAMED.values()], indent=2, ensure_ascii=False))
        return
    # Some lines each, not a table: six columns leave no room for words in a narrow window.
    for data in NAMED.values():
        sizes = " / ".join(f"{size:,}" for size in data.sizes.values())
        at_hand = "at hand" if data.at_hand else "not at hand"
        typer.echo(f"{data.name}: {data.title}")
        typer.echo(f"  {sizes} {' / '.join(data.sizes)}, {len(data.classes)} classes")
        typer.echo(f"  licence: {data.licence}; {at_hand}")


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="Name of a data set, as `perceivers data list` gives it.")]) -> None:
    """Fetch a named data set; print where it lies and its checksum."""
    from perceivers.data.cache import cache_file, noted_sha256
    from perceivers.data.named import named

    data = named(name)
    tables = data.load()
    typer.echo(f"{data.name}: " + ", ".join(f"{len(table):,} {split}" for split, table in tables.items()))
    typer.echo(f"from: {data.source}")
    if data.kept_as:
        typer.echo(f"file: {cache_file(data.kept_as)}")
        typer.echo(f"sha256: {noted_sha256(data.kept_as)}")
    else:
        typer.echo("file: none; it comes with the library")


@app.command()
def show(
    what: Annotated[str, typer.Argument(metavar="NAME_OR_TABLE", help="Name of a data set, or a table of your own.")],
    out: Annotated[Path | None, typer.Option(help="Draw some samples into this picture: PNG, PDF or SVG.")] = None,
    label: Annotated[str, typer.Option(help="The column with the labels.")] = "label",
    count: Annotated[int, typer.Option(min=1, max=400, help="How many samples the picture shows.")] = 32,
) -> None:
    """Print what a data set or table holds; draw some of it with --out."""
    from perceivers.data.look import tables as tables_of
    from perceivers.data.named import NAMED
    from perceivers.data.pictures import picture_grid

    own = Path(what).exists() or what not in NAMED
    tables = tables_of(what)
    if not own:
        data = NAMED[what]
        for line in ("title", "licence", "licence_note", "source", "citation", "modality", "splits"):
            typer.echo(f"{line.replace('_', ' ')}: {getattr(data, line)}")
    if label != "label":
        next(iter(tables.values())).column(label)  # a column that was asked for must be there; the default may not be
    _print_columns(next(iter(tables.values())))
    _print_counts(tables, label)
    if out is not None:
        typer.echo(f"picture: {picture_grid(next(iter(tables.values())), out, count=count, label=label)}")


def _description(data: "NamedData") -> dict[str, Any]:
    texts = ("name", "title", "licence", "licence_note", "source", "citation", "modality", "splits")
    return {text: getattr(data, text) for text in texts} | {
        "sizes": dict(data.sizes),
        "classes": list(data.classes),
        "inputs": dict(data.inputs),
        "outputs": dict(data.outputs),
        "at_hand": data.at_hand,
    }


def _print_columns(table: "Table") -> None:
    listing = Listing("column", "holds")
    for name, column in table.columns.items():
        listing.add_row(escape(name), escape(_holds(column)))
    print_table(listing)


def _holds(column: Any) -> str:
    """What a column holds, in a few words: `arrays (28, 28, 1) uint8`, `str, 10 different, such as 'Coat'; 3 empty`."""
    from perceivers.cells import is_missing

    if hasattr(column, "dtype") and column.ndim > 1:
        return f"arrays {column.shape[1:]} {column.dtype}"
    if hasattr(column, "dtype") and column.dtype.kind in "iuf":
        numbers = column[column == column]  # not the NaNs
        empty = f"; {len(column) - len(numbers):,} empty or NaN" if len(numbers) < len(column) else ""
        extent = f"{numbers.min()} to {numbers.max()}{empty}" if len(numbers) else "no number"
        return f"{column.dtype}, {extent}"
    cells = [cell for cell in column if not is_missing(cell)]
    empty = f"; {len(column) - len(cells):,} empty" if len(cells) < len(column) else ""
    kinds = " or ".join(sorted({type(cell).__name__ for cell in cells}))
    if not cells:
        return "nothing: every cell is empty"
    try:
        different = len(set(cells))
    except TypeError:  # lists and arrays cannot be counted like this
        return f"{kinds}{empty}"
    text = str(cells[0])
    return f"{kinds}, {different:,} different, such as {text if len(text) <= 40 else text[:39] + '…'!r}{empty}"


def _print_counts(tables: "dict[str, Table]", label: str) -> None:
    """Samples per split, and per class where the label column has not too many."""
    counts = {
        split: Counter(map(str, table.columns[label])) if label in table.columns else Counter()
        for split, table in tables.items()
    }
    classes = sorted(set().union(*counts.values()))
    listing = Listing("class" if classes else "samples", *tables)
    for name in classes if len(classes) <= _MOST_CLASSES else []:
        listing.add_row(escape(name), *(f"{count[name]:,}" for count in counts.values()))
    if len(classes) > _MOST_CLASSES:
        listing.add_row(f"{len(classes):,} classes", *(f"{len(count):,}" for count in counts.values()))
    listing.add_section()
    listing.add_row("all", *(f"{len(table):,}" for table in tables.values()))
    print_table(listing)
