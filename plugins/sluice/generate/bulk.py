"""SQL that copies a table's rows from PostgreSQL's COPY into ClickHouse without an event for each.

The text of COPY is what ClickHouse's TabSeparated reads. `data_types/copied.py` has the rule that
makes the stored rows those of the drain.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluice.catalog import Column, Table
from sluice.data_types.copied import CopyForm, copy_form
from sluice.generate.clickhouse import MACHINE_COLUMNS, literal, quoted
from sluice.generate.row_text import postgres_name


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRows:
    """The SQL of a table's rows in bulk.

    Attributes:
        selected: the expressions that COPY selects.
        fits: condition of the rows that may go this way; empty for all of them.
        insert: ClickHouse's statement, to be followed by COPY's text.
    """

    selected: str
    fits: str
    insert: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The machine columns of all rows of a load; see MACHINE_COLUMNS."""

    version: int
    seq: int
    committed_at: int


def topic_only(table: Table) -> str:
    """Return why a table's rows have to go through the topic; empty where they need not."""
    for column in table.columns:
        if _form(column) is None:
            marked = f" stored as {column.type.clickhouse}" if column.declared.clickhouse else ""
            return f"column {column.name} is {column.postgres_type}{marked}"
    return ""


def bulk_rows(table: Table, place: Place) -> BulkRows:
    """Return the SQL of a table of which every column can go in bulk; see `topic_only`."""
    names, structure, stored, copied, fits = [], [], [], [], []
    for at, column in enumerate(table.columns):
        form = _form(column)
        assert form is not None
        name = postgres_name(column)
        nullable = column.nullable and column.type.nullable
        names.append(quoted(column.name))
        structure.append(f"c{at} Nullable({form.sent})" if nullable else f"c{at} {form.sent}")
        stored.append(form.stored.replace("{}", f"c{at}"))
        copied.append(form.copied.replace("{}", name))
        if form.fits:
            fits.append(f"({_unless_null(column, form.fits).replace('{}', name)})")
    machine = (
        f"toUInt128('{place.version}')",
        "0",
        f"toUInt64({place.seq})",
        f"fromUnixTimestamp64Milli(toInt64({place.committed_at}))",
    )
    listed = ", ".join([*names, *(name for name, _ in MACHINE_COLUMNS)])
    return BulkRows(
        selected=", ".join(copied),
        fits=" AND ".join(fits),
        insert=f"INSERT INTO cdc.{quoted(table.storage)} ({listed})\n"
        f"SELECT {', '.join([*stored, *machine])}\n"
        f"FROM input({literal(', '.join(structure))}) FORMAT TabSeparated\n",
    )


def _unless_null(column: Column, fits: str) -> str:
    return f"{{}} IS NULL OR ({fits})" if column.nullable else fits


def _form(column: Column) -> CopyForm | None:
    # to_json of an extension's type may be its own cast to JSON, as that of hstore.
    if column.declared.kind == "array" and column.postgres_type.upper().startswith("HSTORE"):
        return None
    return copy_form(column.declared, nullable=column.nullable)
