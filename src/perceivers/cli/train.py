"""`perceivers train`."""

import signal
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes, such as training.lr=3e-4.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Train a model by a recipe; the best one lands in RUN/model."""
    from perceivers.training.run import train as run

    result = run(recipe, out=out, overrides=overrides or [], resume=resume, quiet=quiet)
    if result.stopped_by is not None and result.stopped_by in signal.Signals.__members__:
        # Not 0: a script or scheduler must not take a run that was stopped for one that is done.
        raise typer.Exit(128 + signal.Signals[result.stopped_by])
