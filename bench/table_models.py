"""Writes a package of SQLAlchemy models with any number of tables, and fills its tables.

A star has at most ten tables: a fact, and dimensions of two levels. Keys are integers, UUIDs and
texts; the other columns rotate through the common types. Every second star is in the schema
`trade`. Values are functions of a row's number, so that any number of rows fits the foreign keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Connection, MetaData, Table, text

PACKAGE, SCHEMA = "many", "trade"
_LARGEST = 10
_HEAD = '''"""{title}"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger, Boolean, Date, DateTime, Double, ForeignKey, Integer, Numeric, SmallInteger, String,
    Text, Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from {package}.base import Base
'''
_BASE = '''"""The base of all models."""

from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """See DeclarativeBase."""
'''
# Kind of table -> (its key's types in Python and PostgreSQL, the kind that refers to it), in the
# order in which a star gets them.
_KINDS = {
    "order": ("int", "BigInteger", ""),
    "customer": ("int", "BigInteger", "order"),
    "product": ("UUID", "Uuid", "order"),
    "region": ("str", "String(20)", "customer"),
    "store": ("int", "Integer", "order"),
    "brand": ("int", "Integer", "product"),
    "supplier": ("UUID", "Uuid", "order"),
    "country": ("str", "String(20)", "store"),
    "campaign": ("int", "Integer", "order"),
    "carrier": ("int", "Integer", "order"),
}
# Column -> its types in Python and PostgreSQL; a table has six of them.
_COLUMNS = {
    "name": ("str", "String(80)"),
    "price": ("Decimal", "Numeric(12, 2)"),
    "made_at": ("datetime", "DateTime(timezone=True)"),
    "active": ("bool", "Boolean"),
    "day": ("date", "Date"),
    "facts": ("dict[str, Any]", "JSONB"),
    "tags": ("list[str]", "ARRAY(Text)"),
    "ratio": ("float", "Double"),
    "size": ("int", "SmallInteger"),
}
_EACH = 6
# Type in SQLAlchemy -> value of row number {n} in SQL.
_VALUES = {
    "BigInteger": "{n}",
    "Integer": "{n}",
    "SmallInteger": "({n} % 100)",
    "Numeric": "(({n} % 10000) / 100.0)",
    "Double": "({n} / 7.0)",
    "String": "('text ' || {n})",
    "Text": "('note ' || {n})",
    "Uuid": "md5(({n})::text)::uuid",
    "DateTime": "(timestamptz '2026-01-01' + ({n} % 1000000) * interval '1 second')",
    "Date": "(date '2000-01-01' + ({n} % 9000)::int)",
    "Boolean": "({n} % 2 = 0)",
    "JSONB": "jsonb_build_object('number', {n})",
    "ARRAY": "array['tag ' || {n} % 7]",
}


def write_models(folder: Path, count: int) -> None:
    """Write the package, with `count` tables, below a folder."""
    package, sizes = folder / PACKAGE, list(_sizes(count))
    package.mkdir(parents=True)
    (package / "base.py").write_text(_BASE)
    for number, size in enumerate(sizes):
        (package / f"star_{number:03}.py").write_text(_star(number, size))
    modules = ", ".join(f"star_{number:03}" for number in range(len(sizes)))
    (package / "__init__.py").write_text(
        f'"""The models of {count} tables."""\n\nfrom {PACKAGE} import {modules}\n'
        f"from {PACKAGE}.base import Base\n"
    )


def _sizes(count: int) -> Iterator[int]:
    """Yield the number of tables of each star, as equal as possible."""
    stars = math.ceil(count / _LARGEST)
    for number in range(stars):
        yield count // stars + (number < count % stars)


def _star(number: int, size: int) -> str:
    """Return the module of a star; a table comes after those that it refers to."""
    kinds = list(_KINDS)[:size]
    models = [_model(kind, at, kinds, number) for at, kind in reversed(list(enumerate(kinds)))]
    return "\n\n".join([_HEAD.format(title=f"Star {number}.", package=PACKAGE), *models])


def _model(kind: str, at: int, kinds: Sequence[str], star: int) -> str:
    python, sql, _ = _KINDS[kind]
    marks = {} if at else {"star": "fact"}
    options = {"schema": SCHEMA} if star % 2 else {}
    lines = [
        f'class {kind.title()}{star:03}(Base):\n    """A table of the star."""\n',
        f'    __tablename__ = "{kind}_{star:03}"',
        f"    __table_args__ = {({'info': marks} if marks else {}) | options!r}",
        f"    id: Mapped[{python}] = mapped_column({sql}, primary_key=True, autoincrement=False)",
    ]
    columns = [*_COLUMNS.items()] * 2
    for name, (of_python, of_sql) in columns[at % len(_COLUMNS) :][:_EACH]:
        lines.append(f"    {name}: Mapped[{of_python}] = mapped_column({of_sql})")
    lines.append("    note: Mapped[str | None] = mapped_column(Text)")
    for other in kinds:
        key, key_sql, referrer = _KINDS[other]
        if referrer == kind:
            place = f"{SCHEMA}.{other}" if star % 2 else other
            lines += [
                f"    {other}_id: Mapped[{key}] = mapped_column({key_sql},"
                f' ForeignKey("{place}_{star:03}.id"))',
                f"    {other}: Mapped[{other.title()}{star:03}] = relationship()",
            ]
    return "\n".join(lines) + "\n"


def create(connection: Connection, metadata: MetaData, rows: int) -> None:
    """Create the tables, each with rows numbered from 1."""
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    metadata.create_all(connection)
    for table in metadata.sorted_tables:
        connection.execute(text(insertion(table, rows, 1, rows)))


def insertion(table: Table, rows: int, first: int, last: int) -> str:
    """Return the statement that inserts the rows of these numbers.

    Args:
        rows: the number of rows of the tables that it refers to.
    """
    values = ", ".join(_value(column, rows) for column in table.columns)
    return f"INSERT INTO {table} SELECT {values} FROM generate_series({first}, {last}) AS n"


def key(table: Table, number: int) -> str:
    """Return a row's key in SQL."""
    return _VALUES[type(table.c.id.type).__name__].format(n=number)


def _value(column: object, rows: int) -> str:
    number = f"(1 + n % {rows})" if column.foreign_keys else "n"  # type: ignore[attr-defined]
    return _VALUES[type(column.type).__name__].format(n=number)  # type: ignore[attr-defined]
