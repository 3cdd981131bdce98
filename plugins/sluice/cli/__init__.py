"""The command line: reads settings, and turns errors into a short message and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from sluice.cli import (
    dead_letters,
    doctor,
    pipeline,
    places,
    project,
    queries,
    stack,
    topics,
)
from sluice.cli.bars import bars
from sluice.cli.help import Group, collect
from sluice.cli.other_settings import warn_of_other_settings
from sluice.cli.output import Log, say
from sluice.errors import SluiceError, WrongUsage
from sluice.settings import make_importable, read_settings

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Maintain a ClickHouse star schema of SQLAlchemy models that follows PostgreSQL.",
)
collect(
    app,
    (
        stack.app,
        project.app,
        pipeline.app,
        queries.app,
        topics.app,
        places.app,
        doctor.app,
        dead_letters.app,
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"sluice {version('sluice')}")
        raise typer.Exit


@app.callback()
def _settings(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    make_importable(Path.cwd())
    context.obj = read_settings(os.environ)
    if context.invoked_subcommand not in {"up", "down"}:  # `up` stops there
        warn_of_other_settings(context.obj)


def main() -> None:
    """Run a command; exit 0 done, 1 finding, 2 wrong usage, 3 not ready, 4 needs a person."""
    logging.basicConfig(handlers=[Log()])
    # It logs a traceback for each refused connection, which our error reports in one line.
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)
    try:
        _require_text(sys.argv[1:])
        app()
    except SluiceError as error:
        say(*str(error).split("\n"), err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
    finally:
        bars.hide()


def _require_text(arguments: list[str]) -> None:
    """Require arguments that every service can be sent."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise WrongUsage(f"the argument {argument!r} is not UTF-8") from None
