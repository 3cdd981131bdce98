"""The shapes of tables in PostgreSQL: columns, pages, names; of all tables in few queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from sluice.capture.pgoutput import RelationColumn
from sluice.catalog import Table
from sluice.clients.source_tables import from_rows, relations

_TEXT_OID = 25  # of a masked column
# Of each place, its table's and partitions' largest number of pages.
_PAGES = """
SELECT place, max(pg_relation_size(parts.oid) / current_setting('block_size')::int)::int8
FROM unnest(%s::text[]) AS place CROSS JOIN LATERAL (
    SELECT place::regclass::oid AS oid UNION SELECT relid FROM pg_partition_tree(place::regclass)
) AS parts
GROUP BY place
"""
# Columns of each place with their types; a domain, however deep, has its base type.
_COLUMNS = """
WITH RECURSIVE resolved AS (
    SELECT place, attname, attnum, attgenerated <> '' AS generated, atttypid AS type
    FROM unnest(%s::text[]) AS place JOIN pg_attribute ON attrelid = place::regclass
    WHERE attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT r.place, r.attname, r.attnum, r.generated, t.typbasetype
    FROM resolved r JOIN pg_type t ON t.oid = r.type AND t.typtype = 'd'
)
SELECT place, attname, type::int8, generated, format_type(type, -1) FROM resolved
WHERE type NOT IN (SELECT oid FROM pg_type WHERE typtype = 'd') ORDER BY place, attnum
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A table as PostgreSQL has it.

    Attributes:
        source: the table for FROM, see `own_rows`.
        columns: those that are sent, see Table.sends; computed ones only if they are in the models,
            as pgoutput publishes them; masked ones are texts.
        pages: number of pages; of a partitioned table, of its longest partition.
    """

    source: sql.Composable
    columns: Sequence[RelationColumn]
    pages: int


def shapes(cursor: Any, tables: Sequence[Table]) -> dict[str, Shape]:
    """Return the tables' shapes by name, in three queries."""
    known = relations(cursor, tables)
    places = {named(cursor, table): table for table in tables}
    cursor.execute(_PAGES, [list(places)])
    lengths = dict(cursor.fetchall())
    columns: dict[str, list[RelationColumn]] = {place: [] for place in places}
    computed = {
        place: {column.name for column in table.columns if column.generated}
        for place, table in places.items()
    }
    masked = {place: {c.name for c in table.masked} for place, table in places.items()}
    for place, name, oid, generated, _ in columns_of(cursor, list(places)):
        if places[place].sends(name) and (not generated or name in computed[place]):
            kind = _TEXT_OID if name in masked[place] else oid
            column = RelationColumn(name=name, type_oid=kind, in_key=False)
            columns[place].append(column)
    return {
        table.name: Shape(
            source=from_rows(table, known, [column.name for column in columns[place]]),
            columns=columns[place],
            pages=int(lengths[place]),
        )
        for place, table in places.items()
    }


def columns_of(cursor: Any, places: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return (place, name, type's OID, whether it is computed, type) of the places' columns."""
    cursor.execute(_COLUMNS, [list(places)])
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def named(cursor: Any, table: Table) -> str:
    """Return the table's quoted name, its place."""
    return str(sql.Identifier(table.schema, table.relation).as_string(cursor.connection))
