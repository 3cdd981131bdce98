"""Prints the result of a query as a table, CSV, JSON or Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any, Literal

from sluice.cli.output import say, say_exactly, say_json
from sluice.cli.tables import print_table
from sluice.errors import WrongUsage
from sluice.printable import printable

Format = Literal["table", "csv", "json", "markdown"]
_MARKED = str.maketrans({"|": r"\|", "<": "&lt;", "\\": r"\\"})


def print_result(
    form: Format, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]
) -> None:
    """Print a result.

    Args:
        columns: name and ClickHouse type of each.
    """
    names = [name for name, _ in columns]
    if form == "json":
        _print_json(columns, rows)
    elif not columns:
        say("done")
    elif form == "csv":
        _print_csv(names, rows)
    elif form == "markdown":
        _print_markdown(names, rows)
    else:
        print_table(names, rows)


def _print_csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    r"""Print CSV as ClickHouse writes it: quoted texts, and an unquoted \N for NULL.

    Python's csv does not distinguish NULL from a text before Python 3.12.
    """
    say_exactly("\n".join(",".join(map(_field, row)) for row in (names, *rows)))


def _field(value: Any) -> str:
    if value is None:
        return r"\N"
    if isinstance(value, bool | int | float | Decimal):
        return str(value)
    quoted = _text(value).replace('"', '""')
    return f'"{quoted}"'


def _print_json(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> None:
    names = [name for name, _ in columns]
    for name in names:
        if names.count(name) > 1:
            raise WrongUsage(
                f"two columns are named {name!r}, and JSON needs a name for each",
                remedy="name one with AS, or use another --format",
            )
    described = [{"name": name, "type": kind} for name, kind in columns]
    values = [dict(zip(names, map(_json, row), strict=True)) for row in rows]
    say_json({"columns": described, "rows": values}, indent=2)


def _print_markdown(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    aligned = [
        "---:" if any(isinstance(row[at], int | float | Decimal) for row in rows) else "---"
        for at in range(len(names))
    ]
    texts = (["NULL" if value is None else _cell(_text(value)) for value in row] for row in rows)
    for line in ([_cell(name) for name in names], aligned, *texts):
        say(f"| {' | '.join(line)} |")


def _cell(text: str) -> str:
    return printable(text.translate(_MARKED))


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _json(value: Any) -> Any:
    """Return a value as JSON has it; a number that JSON lacks is null, a decimal keeps its text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | time):  # and datetime
        return value.isoformat()
    if isinstance(value, dict):
        return {_text(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(item) for item in value]
    return _text(value)
