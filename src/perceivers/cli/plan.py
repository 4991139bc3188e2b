"""`perceivers plan`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from perceivers.models.layers import Layer
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
    memory_budget: Annotated[
        float | None, typer.Option(min=0, help="GB that training should keep within. Default: the recipe's, or none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Parameters, FLOPs and memory of a model that is not built."""
    from perceivers.training.plan import plan as run

    made = run(what, overrides or [], batch, memory_budget)
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
    from rich.markup import escape
    from rich.table import Table

    from perceivers.cli.listing import print_table

    listing = Table("part", title=escape(what), show_footer=True)
    listing.columns[0].footer = "all"
    listing.add_column("parameters", f"{made.parameters:,}", justify="right", no_wrap=True)
    listing.add_column("FLOPs a sample", _short(made.flops), justify="right", no_wrap=True)
    for part in made.parts:
        listing.add_row(escape(part.name), f"{part.parameters:,}", _short(part.flops))
    print_table(listing)
    sizes = ", ".join(f"{name} {count:,}" for name, count in made.elements.items())
    print(f"elements: {sizes}; joined {sum(made.elements.values()):,} × {made.channels}")
    print(f"latents: {made.latents[0]} × {made.latents[1]}")
    print("FLOPs: multiplications and additions of the forward pass; a training step takes about 3 times as many.\n")
    if made.layers:
        print_table(_layer_table(made))
        print("Seconds: an estimate for one sample, forward, on two cores. Why:")
        for why in dict.fromkeys(f"{layer.name}: {layer.why}" for layer in made.layers):
            print(f"  {why}")
    if made.training_paths != made.paths:
        print(f"In training: {', '.join(f'{name} {path}' for name, path in made.training_paths.items())}.")
    print()
    print_table(_memory_table(made))
    print("Memory is for float32; activations are an estimate, true within a factor of 2. Not counted: torch itself,")
    print("prepared samples (data.keep_bytes) and batches that workers prepare ahead.")
    for line in [*_budget(made), *made.assumed]:
        print(f"note: {line}.")


def _budget(made: "Plan") -> list[str]:
    """What a budget changed, and whether that is enough."""
    if made.budget is None:
        return []
    changes = ["keys and values of all elements are never made at once"] if made.flat else []
    changes += ["what latent blocks keep for the backward pass is computed again"] if made.recompute else []
    said = [f"to keep within {_bytes(made.budget)}, {' and '.join(changes)}"] if changes else []
    if not made.fits:
        most = made.largest_batch
        cure = f"a batch of {most:,} would" if most else "no batch does: take a smaller model"
        said.append(f"training does not fit into {_bytes(made.budget)}; {cure}")
    return said


def _layer_table(made: "Plan") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    listing = Table("layer", "read by", title="layer by layer")
    for column in ("at once", "seconds", "alive"):
        listing.add_column(column, justify="right", no_wrap=True)
    # A block that is repeated is one line.
    merged: list[tuple[Layer, int]] = []
    for layer in made.layers:
        if merged and merged[-1][0] == layer:
            merged[-1] = layer, merged[-1][1] + 1
        else:
            merged.append((layer, 1))
    for layer, times in merged:
        name = f"{times} × {layer.name}" if times > 1 else layer.name
        paths = ", ".join(dict.fromkeys(layer.paths.values()))
        chunks = ", ".join(f"{chunk:,}" for chunk in layer.chunks.values())
        listing.add_row(escape(name), paths, chunks, f"{times * layer.seconds:.3g}", _bytes(layer.bytes))
    return listing


def _memory_table(made: "Plan") -> "Table":
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
