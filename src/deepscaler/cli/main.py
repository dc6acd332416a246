"""The command line, put together from one file per panel of its help.

Thin: every command imports what it needs inside, so that --help answers at once.

A mistake of the user's (ValueError, OSError, a missing optional package) and a run that ended for a stated reason
(RunError) become one message on stderr; the traceback is shown with DEEPSCALER_DEBUG=1. Exit codes: 0 done, 1 failed,
2 wrong usage or recipe, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer

from deepscaler.cli import data, deploy, measure, run, understand
from deepscaler.cli.options import PlainFlags

PANELS = {"Run": {**run.COMMANDS, **deploy.COMMANDS}, "Measure": measure.COMMANDS, "Understand": understand.COMMANDS}

app = typer.Typer(
    name="deepscaler",
    help="Turn a base language model into a better reasoner, and know that it got better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in PANELS.items():
    for name, command in commands.items():
        app.command(name, cls=PlainFlags, rich_help_panel=panel)(command)
data_app = typer.Typer(help="Look at data sets and prepare them.", no_args_is_help=True)
for name, command in data.COMMANDS.items():
    data_app.command(name, cls=PlainFlags)(command)
app.add_typer(data_app, name="data", rich_help_panel="Data")


def main() -> None:
    """Entry point of the `deepscaler` command."""
    from deepscaler.observability import terminal

    terminal.install()
    try:
        app()
    except KeyboardInterrupt:  # outside a command; inside one the command line turns it into 130 itself
        sys.exit(130)
    except Exception as error:
        if os.environ.get("DEEPSCALER_DEBUG") == "1" or not _explains_itself(error):
            raise
        print(f"deepscaler: error: {_one_message(error)}", file=sys.stderr)
        sys.exit(2 if type(error).__name__ == "RecipeError" else 1)


def _explains_itself(error: Exception) -> bool:
    """Whether the message is written for the user; anything else is a fault of ours and keeps its traceback."""
    from deepscaler.types import RunError

    return isinstance(error, (ValueError, OSError, ModuleNotFoundError, RunError))


def _one_message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name!r} is not installed; `deepscaler doctor` says which extra brings it"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or f"{type(error).__name__} without a message; DEEPSCALER_DEBUG=1 shows where"


if __name__ == "__main__":
    main()
