"""Queries ClickHouse on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from sluice.cli.formats import Format, print_result
from sluice.cli.help import LOOK

app = typer.Typer()


@app.command(rich_help_panel=LOOK)
def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="One statement in ClickHouse's SQL.")],
    form: Annotated[Format, typer.Option("--format", help="How to print the result.")] = "table",
    write: Annotated[
        bool, typer.Option("--write", help="Permit a statement that changes something.")
    ] = False,
) -> None:
    """Print the result of a ClickHouse query; read-only without --write."""
    from sluice import wiring

    print_result(form, *wiring.answer(context.obj, query, writes=write))
