"""Prints query results as a table, or one column per line where a table does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sluice.cli.bars import bars
from sluice.printable import printable, printable_lines


def print_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows as a table, numbers right-aligned.

    A terminal that is too narrow gets each row as lines of `name value`; a pipe gets the table in
    its full width.
    """
    bars.hide()
    table, console = _table(names, rows), Console()
    width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    if not console.is_terminal:
        Console(width=max(width, 80)).print(table)
    elif width <= console.width:
        console.print(table)
    else:
        for row in rows:
            console.print(_record(names, row))
    if not rows:
        console.print("no rows")


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table()
    for index, name in enumerate(names):
        numeric = any(isinstance(row[index], int | float | Decimal) for row in rows)
        table.add_column(
            Text(printable(name)), justify="right" if numeric else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _record(names: Sequence[str], row: Sequence[Any]) -> Table:
    lines = Table(show_header=False)
    for name, value in zip(names, row, strict=True):
        lines.add_row(Text(printable(name)), _text(value))
    return lines


def _text(value: Any) -> Text:
    """Return a value without markup or control characters; its lines stay in its cell."""
    return Text("NULL" if value is None else printable_lines(str(value)))
