"""`perceivers weights show`: what a file of weights holds, of this library and of others."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perceivers.models.convert import Stored, StoredArray

app = typer.Typer(help="Look at weights, of this library and of others.", no_args_is_help=True)


OVERWRITE = "Replace a model directory --out that exists."


@app.callback()
def weights() -> None:
    """Look at weights, of this library and of others."""


@app.command()
def show(
    file: Annotated[
        Path,
        typer.Argument(
            help="A pickle of DeepMind's, a transformers folder, a safetensors, PyTorch or npz file, a model directory."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what a file of weights holds; nothing in it is run."""
    from perceivers.models.convert import read_weights

    stored = read_weights(file)
    if as_json:
        print(_json(stored))
    else:
        _show(stored)


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="A pickle of DeepMind's, an npz of its arrays, a transformers folder, or a state dict of "
            "perceiver-pytorch or krasserm's perceiver-io."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The model directory to write.")],
    preset: Annotated[str | None, typer.Option(help="The published model whose weights they are.")] = None,
    spec: Annotated[
        Path | None, typer.Option(help="A JSON or YAML file with the spec, or what weights do not tell of it.")
    ] = None,
    deviations: Annotated[
        bool,
        typer.Option("--deviations", help="Of a transformers folder: compute what transformers does, not DeepMind."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """Make a model directory, which perceivers.load opens, of official weights."""
    from perceivers.models.convert import import_weights

    made = import_weights(source, out, preset=preset, spec=spec, deviations=deviations, overwrite=overwrite)
    print(f"{made}: {sum(p.stat().st_size for p in made.iterdir()):,} bytes; perceivers.load opens it")


@app.command()
def resize(
    model: Annotated[Path, typer.Argument(help="A model directory or a run folder.")],
    sizes: Annotated[list[str], typer.Argument(help="input=size, such as image=288,288 or text=4096.")],
    out: Annotated[Path, typer.Option("--out", help="The model directory to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """Make a model for inputs of another size; learned positions are interpolated, nothing is trained."""
    from perceivers.models.resize import resize_folder, size_of

    made = resize_folder(model, dict(size_of(text) for text in sizes), out, overwrite)
    print(f"{made}: {sum(p.stat().st_size for p in made.iterdir()):,} bytes; measure its scores anew")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A model directory or a run folder.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    format: Annotated[str, typer.Option("--format", help="transformers is the only one.")] = "transformers",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder of transformers --out that exists.")
    ] = False,
) -> None:
    """Write a model as another library reads it."""
    from perceivers.errors import unknown
    from perceivers.models.convert import export_transformers
    from perceivers.models.weights import load

    if format != "transformers":
        raise unknown("format", format, ["transformers"])
    made = export_transformers(load(model), out, overwrite)
    print(f"{made}: {', '.join(sorted(p.name for p in made.iterdir()))}")


@app.command()
def verify(
    file: Annotated[
        Path,
        typer.Argument(
            help="Recorded vectors: an npz, or a transformers folder with io.npz; or a pickle of DeepMind's."
        ),
    ],
) -> None:
    """Compute the outputs that are recorded in a file again; exit 1 where one is off, 2 for what is not verified.

    Of a pickle, which holds no outputs, the weights are compared with what the model gives back of them.
    """
    from perceivers.errors import PerceiversError
    from perceivers.models.convert.verify import verification

    try:
        done = verification(file)
    # 1 says that outputs were computed and differ: no other fault may.
    except PerceiversError as error:
        print(f"not verified: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    what, kept = ("module", "exactly") if done.weights_only else ("output", "within rtol=atol=1e-4")
    width = max((len(name) for name in done.found), default=0)
    for name, comparison in done.found.items():
        said = (
            "" if comparison.within else f"  {'changed' if done.weights_only else 'outside 1e-4 + 1e-4 · |recorded|'}"
        )
        print(f"{name:<{width}}  absolute {comparison.absolute:.2e}  relative {comparison.relative:.2e}{said}")
    for line in done.said:
        print(line)
    count = f"{len(done.found)} {what}{'' if len(done.found) == 1 else 's'}"
    off = [name for name, comparison in done.found.items() if not comparison.within]
    if off:
        kept = "not exactly given back" if done.weights_only else "outside rtol=atol=1e-4"
        print(f"differs: {len(off)} of {count} {kept}: {', '.join(off)}")
        raise typer.Exit(1)
    print(f"agrees: {count} {kept}")


def _json(stored: "Stored") -> str:
    from perceivers.models.convert.stored import refused

    try:
        # ASCII: the names are a stranger's, and a terminal obeys some characters.
        return json.dumps(_plain(stored), indent=1)
    except RecursionError:
        why = "what stands beside its arrays is nested too deep to print; without --json the arrays can be seen."
        raise refused(stored.path, why) from None


def _plain(stored: "Stored") -> dict[str, Any]:
    return {
        "path": str(stored.path),
        "format": stored.format,
        "family": stored.family,
        "parameters": stored.parameters,
        "modules": {name: _trained(arrays) for name, arrays in stored.modules.items()},
        "arrays": {
            name: {"shape": list(array.shape), "dtype": array.dtype, "trained": array.trained}
            for name, array in stored.arrays.items()
        },
        "extra": dict(stored.extra),
    }


def _show(stored: "Stored") -> None:
    from rich.markup import escape
    from rich.table import Table

    from perceivers.cli.listing import print_table
    from perceivers.models.convert.stored import printable

    listing = Table(title=escape(printable(str(stored.path))), show_footer=True)
    count = len(stored.arrays)
    listing.add_column("module", f"all, {count:,} array{'s' * (count != 1)}", overflow="fold")
    listing.add_column("arrays", overflow="fold")
    listing.add_column("parameters", f"{stored.parameters:,}", justify="right", no_wrap=True)
    for module, arrays in stored.modules.items():
        lines = [f"{printable(array.name)} {_shape(array)} {array.dtype}" for array in arrays.values()]
        # Of running means, inputs and answers the last column says nothing: they are not trained.
        trained = f"{count:,}" if (count := _trained(arrays)) else ""
        listing.add_row(escape(printable(module)), escape("\n".join(lines)), trained)
    print_table(listing)
    print(f"format: {stored.format}\nfamily: {stored.family}")
    for name, value in stored.extra.items():
        print(f"{printable(name)}: {_short(value)}")


def _trained(arrays: "dict[str, StoredArray]") -> int:
    return sum(array.size for array in arrays.values() if array.trained)


def _shape(array: "StoredArray") -> str:
    return f"({', '.join(str(n) for n in array.shape)})"


def _short(value: Any) -> str:
    from perceivers.models.convert.stored import shortened

    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return shortened(", ".join(value))
    if isinstance(value, (dict, list)):
        return f"{len(value):,} entries; --json prints them"
    return shortened(str(value))
