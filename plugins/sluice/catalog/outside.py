"""Applies the marks in a project's sluice.toml to the tables of the models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import sqlalchemy as sa

from sluice.catalog.mappers import place
from sluice.errors import WrongUsage
from sluice.printable import nearest
from sluice.settings import FILE, OutsideMarks

_WILDCARDS = frozenset("*?[")


def mark_tables(tables: Sequence[sa.Table], marks: OutsideMarks) -> None:
    """Add the marks to the `info` of tables and columns; tables left out are marked `exclude`."""
    for table in tables:
        name = place(table)
        if marks.include and not any(_names(one, name) for one in marks.include):
            table.info["exclude"] = True
        for pattern, given in marks.tables.items():
            if _names(pattern, name):
                table.info.update(given)
        for column in table.columns:
            for pattern, given in marks.columns.items():
                if _names(pattern, [*name, str(column.name)]):
                    column.info.update(given)


def require_matches(tables: Sequence[sa.Table], marks: OutsideMarks) -> None:
    """Require that each pattern without wildcards names a table or column of the models.

    Raises:
        WrongUsage: one does not; the remedy is the nearest name.
    """
    of_tables = [place(table) for table in tables]
    of_columns = [[*place(table), str(column.name)] for table in tables for column in table.columns]
    _require_each("include", marks.include, of_tables)
    _require_each("marks.tables", marks.tables, of_tables)
    _require_each("marks.columns", marks.columns, of_columns)


def _require_each(place: str, patterns: Iterable[str], names: Sequence[Sequence[str]]) -> None:
    for pattern in patterns:
        if _WILDCARDS & set(pattern) or any(_names(pattern, name) for name in names):
            continue
        written = list(_written(names))
        raise WrongUsage(
            f"{FILE}: {place}: the models have no {pattern}",
            remedy=f"the nearest is {nearest(pattern, written)}"
            if written
            else "import models that have tables",
        )


def _written(names: Sequence[Sequence[str]]) -> Iterator[str]:
    for name in names:
        yield ".".join(name[1:])
        yield ".".join(name)


def _names(pattern: str, name: Sequence[str]) -> bool:
    """Whether a pattern names a table or column; without a schema, in any."""
    parts = pattern.split(".")
    own = name[len(name) - len(parts) :]
    return len(parts) in {len(name), len(name) - 1} and all(map(fnmatchcase, own, parts))
