"""The command line. Every command is one call in Python; heavy imports happen inside the command that needs them."""

import io
import os
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from perceivers.cli import (
    autoencode,
    data,
    evaluate,
    fill,
    flow,
    generate,
    init,
    plan,
    predict,
    presets,
    train,
    weights,
)


class Commands(TyperGroup):
    """The commands, with interrupts and closed pipes as this command line promises, whatever typer makes of them."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            print("interrupted.", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of our output has gone (… | head): nothing to say, and nothing more may be written.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        return result


app = typer.Typer(
    name="perceivers",
    cls=Commands,
    help="Declare what goes in and what comes out; train, evaluate and predict with one Perceiver.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(init.init)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(fill.fill)
app.command()(flow.flow)
app.command()(autoencode.autoencode)
app.command()(generate.generate)
app.add_typer(data.app, name="data")
app.command()(plan.plan)
app.command()(presets.presets)
app.add_typer(weights.app, name="weights")


def _say_version(wanted: bool) -> None:
    if wanted:
        from perceivers import __version__

        print(f"perceivers {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_say_version, is_eager=True
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error (anywhere on the line)."),
) -> None:
    """Declare what goes in and what comes out; train, evaluate and predict with one Perceiver."""
    # `main` reads --debug itself, wherever it stands; it is here for --help.


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 bad usage, 130 or 143 stopped by Ctrl-C or SIGTERM.

    No traceback without --debug.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    from perceivers.errors import PerceiversError

    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A pipe on Windows has the system's code page; our lines are UTF-8 everywhere.
            stream.reconfigure(encoding="utf-8")
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            app([a for a in arguments if a != "--debug"], prog_name="perceivers")
        except (PerceiversError, OSError) as error:
            if debug:
                raise
            print(f"error: {_told(error)}", file=sys.stderr)
            sys.exit(1)


def _warn(message: Warning | str, *details: Any) -> None:
    """What a person needs of a warning: its words, not the line of code that gave it."""
    print(f"warning: {message}", file=sys.stderr)


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error)
