"""The command line: reads settings, and turns errors into a short message and an exit code."""

from __future__ import annotations

import logging
import os
import sys

import typer

from sluice.cli import dead_letters, doctor, pipeline, stack
from sluice.cli.output import OneLine, say
from sluice.errors import SluiceError
from sluice.settings import read_settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Maintain a ClickHouse star schema of SQLAlchemy models that follows PostgreSQL.",
)
for _group in (stack.app, pipeline.app, doctor.app, dead_letters.app):
    app.registered_commands += _group.registered_commands
    app.registered_groups += _group.registered_groups


@app.callback()
def _settings(context: typer.Context) -> None:
    context.obj = read_settings(os.environ)


def main() -> None:
    """Run a command; exit 0 done, 1 finding, 2 wrong usage, 3 not ready, 4 needs a person."""
    logs = logging.StreamHandler()
    logs.setFormatter(OneLine("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[logs])
    # It logs a traceback for each refused connection, which our error reports in one line.
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)
    try:
        app()
    except SluiceError as error:
        say(*str(error).split("\n"), err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
