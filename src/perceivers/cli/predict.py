"""`perceivers predict`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def predict(
    model: Annotated[Path, typer.Argument(help="A model directory or a run folder.")],
    inputs: Annotated[list[str], typer.Argument(help="One table, or files, or - for JSON lines on standard input.")],
    out: Annotated[Path | None, typer.Option(help=".jsonl, .csv, .tsv or .parquet. Default: JSON lines here.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file --out that exists.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row; --out is not written.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    top: Annotated[
        int | None, typer.Option(min=1, help="Of many classes, only so many probabilities, the likeliest first.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Answer rows in the order given. A row that cannot be read becomes a row with an `error`; exit 1 if all do."""
    from perceivers.predictor import Predictor, check_output
    from perceivers.predictor import predict as run
    from perceivers.training.reporter import Reporter

    if out is not None:
        check_output(out, inputs, overwrite)
    reporter = Reporter(quiet)
    predictor = Predictor(model, device, top=top)
    if inputs == ["-"]:
        rows = predictor.lines(sys.stdin.buffer, strict)
        if out is not None:
            from perceivers.data.files import write_rows

            rows = list(rows)
            write_rows(rows, out)
    else:
        rows = run(predictor, inputs, out=out, strict=strict, advance=reporter.advance, overwrite=overwrite)
    failed, count = 0, 0
    for row in rows:
        count, failed = count + 1, failed + ("error" in row)
        if out is None:
            print(_line(row), flush=inputs == ["-"])
    reporter.close()
    for line in predictor.missing.lines():
        reporter.note(line)
    if failed:
        reporter.note(f"{failed} of {count} rows could not be read; each has an error.")
    if out is not None:
        reporter.note(f"{count} row{'s' if count > 1 else ''}: {out}")
    if failed == count:
        # A script must not take nothing but errors for success.
        raise typer.Exit(1)


def _line(row: dict[str, Any]) -> str:
    # Arrays, such as flow, are lists in JSON.
    row = {name: cell.tolist() if hasattr(cell, "tolist") else cell for name, cell in row.items()}
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file's name need not be Unicode
        return json.dumps(row)
    return text
