"""`perceivers plan`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perceivers.models.plan import Plan


def plan(
    what: Annotated[str, typer.Argument(metavar="RECIPE_OR_PRESET", help="A recipe file, or the name of a preset.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes, such as model.latents.count=256 (of a preset: latents.count=256)."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples. Default: the recipe's batch size; preset: 1.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Parameters, FLOPs and memory of a model, before anything is allocated."""
    from perceivers.training.plan import plan as run

    made = run(what, overrides or [], batch)
    if as_json:
        print(json.dumps(_plain(what, made), indent=1, ensure_ascii=False))
    else:
        _show(what, made)


def _plain(what: str, made: "Plan") -> dict[str, object]:
    return {
        "what": what,
        "parameters": made.parameters,
        "flops": made.flops,
        **asdict(made),
        "memory": {**asdict(made.memory), "training": made.memory.training, "inference": made.memory.inference},
    }


def _show(what: str, made: "Plan") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    listing = Table("part", title=escape(what), show_footer=True)
    listing.columns[0].footer = "all"
    listing.add_column("parameters", f"{made.parameters:,}", justify="right", no_wrap=True)
    listing.add_column("FLOPs a sample", _short(made.flops), justify="right", no_wrap=True)
    for part in made.parts:
        listing.add_row(escape(part.name), f"{part.parameters:,}", _short(part.flops))
    console.print(listing)
    sizes = ", ".join(f"{name} {count:,}" for name, count in made.elements.items())
    print(f"elements: {sizes}; joined {sum(made.elements.values()):,} × {made.channels}")
    print("read by: " + ", ".join(f"{name} {path}" for name, path in made.paths.items()))
    print(f"latents: {made.latents[0]} × {made.latents[1]}")
    print("FLOPs: multiplications and additions of the forward pass; a training step takes about 3 times as many.\n")
    console.print(_memory_table(made))
    print("Memory is for float32; activations are an estimate, true within a factor of 2. Not counted: torch itself,")
    print("prepared samples (data.keep_bytes) and batches that workers prepare ahead.")
    for line in made.assumed:
        print(f"note: {line}.")


def _memory_table(made: "Plan") -> object:
    from rich.table import Table

    memory = made.memory
    listing = Table(f"memory, batch {made.batch:,}", show_footer=True)
    listing.columns[0].footer = "all"
    listing.add_column("training", _bytes(memory.training), justify="right", no_wrap=True)
    listing.add_column("inference", _bytes(memory.inference), justify="right", no_wrap=True)
    listing.add_row("parameters", _bytes(memory.parameters), _bytes(memory.parameters))
    listing.add_row("gradients", _bytes(memory.gradients), "")
    listing.add_row("optimiser (two moments)", _bytes(memory.moments), "")
    if memory.averages:
        listing.add_row("averaged weights", _bytes(memory.averages), "")
    listing.add_row("activations", _bytes(memory.training_activations), _bytes(memory.inference_activations))
    return listing


def _short(count: int) -> str:
    """`404.3 B`, `12.0 M`, `150`."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return str(count)


def _bytes(count: int) -> str:
    """`1.3 GB`, `20.5 MB`; powers of ten."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"
