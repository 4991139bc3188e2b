"""The command line. Every command is one call in Python; heavy imports happen inside the command that needs them."""

import os
import sys

import typer

from perceivers.cli import data, evaluate, init, plan, predict, presets, train

app = typer.Typer(
    name="perceivers",
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
app.add_typer(data.app, name="data")
app.command()(plan.plan)
app.command()(presets.presets)


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error (anywhere on the line)."),
) -> None:
    """Declare what goes in and what comes out; train, evaluate and predict with one Perceiver."""
    # `main` reads --debug itself, wherever it stands; it is here for --help.


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted. No traceback without --debug."""
    arguments = sys.argv[1:] if arguments is None else arguments
    from perceivers.errors import PerceiversError

    debug = "--debug" in arguments
    try:
        code = app([a for a in arguments if a != "--debug"], prog_name="perceivers", standalone_mode=True)
    except PerceiversError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone (… | head): nothing to say, and nothing more may be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code or 0)
