"""Tables as PostgreSQL's catalog has them, read for many tables by one query."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from sluice.catalog import Table
from sluice.data_types.masks import mask_sql
from sluice.execution.batches import batches

_NUMERIC = re.compile(r"numeric\((\d+)(?:,\s*(-?\d+))?\)")
_COLUMNS_AT_ONCE = 20_000
# The wanted tables that exist. Names are compared as they are: to_regclass would raise for all
# tables where the role may not use the schema of one.
_PLACES = """place AS MATERIALIZED (
    SELECT w.at, c.oid, c.relkind
    FROM unnest(%(schemas)s::name[], %(relations)s::name[]) WITH ORDINALITY
        AS w (schema, relation, at)
    JOIN pg_namespace n ON n.nspname = w.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation
)"""
_WANTED = """wanted AS MATERIALIZED (
    SELECT * FROM unnest(%(tables)s::int[], %(names)s::text[], %(types)s::text[])
        AS w (at, name, type)
)"""
# Table -> whether it is partitioned, and the estimated rows of it and its partitions.
_RELATIONS = f"""
WITH {_PLACES}
SELECT p.at, p.relkind = 'p', coalesce(sum(c.reltuples) FILTER (WHERE c.relkind = 'r'), 0)
FROM place p
CROSS JOIN LATERAL (SELECT p.oid UNION SELECT relid FROM pg_partition_tree(p.oid)) AS t (oid)
JOIN pg_class c ON c.oid = t.oid
GROUP BY p.at, p.relkind
"""
# Table of many rows -> the state of its rows and those of its partitions: their files, and the rows
# that were inserted, updated and deleted since the server counts them. A crash, a restart and a
# reset begin the counters anew; a TRUNCATE, which is not counted, makes a new file.
_MARKS = f"""
WITH {_PLACES}, server AS (
    SELECT concat_ws(' ', pg_postmaster_start_time(), d.stats_reset, b.stats_reset) AS since
    FROM pg_stat_database d, pg_stat_bgwriter b
    WHERE d.datname = current_database() AND current_setting('track_counts') = 'on'
)
SELECT p.at, md5(concat_ws(' ', s.since, string_agg(concat_ws(
    ' ', c.oid, c.relfilenode, pg_stat_get_tuples_inserted(c.oid),
    pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_deleted(c.oid)
), ',' ORDER BY c.oid)))
FROM server s, place p
CROSS JOIN LATERAL (SELECT p.oid UNION SELECT relid FROM pg_partition_tree(p.oid)) AS t (oid)
JOIN pg_class c ON c.oid = t.oid
GROUP BY p.at, s.since
HAVING coalesce(sum(c.reltuples) FILTER (WHERE c.relkind = 'r'), 0) >= %(least_rows)s
"""
# Column -> its type in PostgreSQL, whether that is the model's, whether it is NOT NULL, and its
# type without domains. A domain counts as its base type with its modifier; all types of text are
# equal, enums included. `depth` counts arrays: a domain over an array adds no dimension. Each type
# is resolved once, however many columns have it.
_SCHEMA = f"""
WITH RECURSIVE {_PLACES}, {_WANTED}, present AS MATERIALIZED (
    SELECT w.at, w.name, w.type AS wanted, a.atttypid AS type, a.atttypmod AS modifier,
        a.attnotnull AS required
    FROM wanted w LEFT JOIN place p USING (at)
    LEFT JOIN pg_attribute a ON a.attrelid = p.oid AND a.attname = w.name AND a.attnum > 0
        AND NOT a.attisdropped
), model AS MATERIALIZED (
    SELECT name, to_regtype(name)::oid AS type FROM (SELECT DISTINCT type AS name FROM wanted) t
), kind AS (
    SELECT type, modifier FROM present UNION SELECT type, -1 FROM model
), resolved AS (
    SELECT type AS first, modifier AS its, type, modifier, 0 AS depth, false AS required FROM kind
    UNION ALL
    SELECT r.first, r.its, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE e.oid END,
        CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE r.modifier END,
        r.depth + (t.typtype <> 'd')::int, r.required OR (t.typnotnull AND r.depth = 0)
    FROM resolved r JOIN pg_type t ON t.oid = r.type
    LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
    WHERE t.typtype = 'd' OR e.oid IS NOT NULL
), base AS MATERIALIZED (
    SELECT DISTINCT ON (r.first, r.its) r.*, t.typcategory IN ('S', 'E') AS is_text
    FROM resolved r JOIN pg_type t ON t.oid = r.type
    WHERE t.typtype <> 'd'
    ORDER BY r.first, r.its, r.depth DESC
)
SELECT a.at, a.name, format_type(a.type, a.modifier),
    coalesce(p.depth = m.depth AND (p.type = m.type OR (p.is_text AND m.is_text)), false),
    a.required OR p.required, format_type(p.type, p.modifier) || repeat('[]', p.depth)
FROM present a
LEFT JOIN base p ON p.first = a.type AND p.its = a.modifier
LEFT JOIN model w ON w.name = a.wanted
LEFT JOIN base m ON m.first = w.type AND m.its = -1
"""
# Columns that the model lacks. Computed ones hold no data of their own and are not sent.
_MORE = f"""
WITH {_PLACES}, {_WANTED}
SELECT p.at, a.attname FROM place p
JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attgenerated = ''
WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.at = p.at AND w.name = a.attname)
ORDER BY p.at, a.attnum
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table that PostgreSQL has.

    Attributes:
        rows: PostgreSQL's estimate of its rows and those of its partitions.
    """

    partitioned: bool
    rows: float


def relations(cursor: Any, tables: Sequence[Table]) -> dict[str, Relation]:
    """Return the tables that exist, by name of the source table."""
    cursor.execute(_RELATIONS, _places(tables))
    return {
        tables[at - 1].name: Relation(partitioned=partitioned, rows=rows)
        for at, partitioned, rows in cursor.fetchall()
    }


def marks(cursor: Any, tables: Sequence[Table], least_rows: float) -> dict[str, str]:
    """See PostgresSource.marks."""
    cursor.execute(_MARKS, {**_places(tables), "least_rows": least_rows})
    return {tables[at - 1].name: mark for at, mark in cursor.fetchall()}


def own_rows(cursor: Any, table: Table) -> sql.Composable:
    """Return the FROM expression of a table's rows, masked, without its INHERITS children.

    A partitioned table, which has no rows of its own, is read with its partitions. Whatever reads
    more than keys reads from this expression, so that no value leaves PostgreSQL unmasked.
    """
    return from_rows(table, relations(cursor, [table]))


def from_rows(
    table: Table, known: Mapping[str, Relation], columns: Sequence[str] | None = None
) -> sql.Composable:
    """See `own_rows`.

    Args:
        known: the result of `relations`.
        columns: the columns that are needed. Default: None, for those of the model.
    """
    name, masks = from_table(table, known), {column.name: column.mask for column in table.masked}
    if not masks:
        return name
    names = [column.name for column in table.columns] if columns is None else columns
    listed = sql.SQL(", ").join(_masked(one, masks.get(one, "")) for one in names)
    # PostgreSQL merges it into the query around it, so conditions on the key use its index.
    return sql.SQL("(SELECT ctid, {} FROM {}) AS masked").format(listed, name)


def _masked(column: str, mask: str) -> sql.Composable:
    name = sql.Identifier(column)
    if not mask:
        return name
    expression = sql.SQL(mask_sql(mask).replace("{}", "{0}")).format(name)
    return sql.SQL("{} AS {}").format(expression, name)


def own_table(cursor: Any, table: Table) -> sql.Composable:
    """Name a table for LOCK, and for FROM where only keys are read, which are never masked."""
    return from_table(table, relations(cursor, [table]))


def from_table(table: Table, known: Mapping[str, Relation]) -> sql.Composable:
    """See `own_table`.

    Args:
        known: the result of `relations`.
    """
    name = sql.Identifier(table.schema, table.relation)
    relation = known.get(table.name)
    return name if relation and relation.partitioned else sql.SQL("ONLY {}").format(name)


def schema_differences(cursor: Any, tables: Sequence[Table]) -> dict[str, list[str]]:
    """See PostgresSource.schema_differences."""
    differences: dict[str, list[str]] = {table.name: [] for table in tables}
    for batch in _batches(tables):
        cursor.execute(_SCHEMA, _wanted(batch))
        columns = {(at, name): row for at, name, *row in cursor.fetchall()}
        for at, table in enumerate(batch, 1):
            differences[table.name] = list(_differences(table, at, columns))
    return differences


def more_columns(cursor: Any, tables: Sequence[Table]) -> dict[str, list[str]]:
    """See PostgresSource.more_columns."""
    more: dict[str, list[str]] = {table.name: [] for table in tables}
    for batch in _batches(tables):
        cursor.execute(_MORE, _wanted(batch))
        for at, name in cursor.fetchall():
            table = batch[at - 1]
            if name not in table.excluded:
                more[table.name].append(name)
    return more


def _differences(
    table: Table, at: int, columns: Mapping[tuple[int, str], Sequence[Any]]
) -> Iterator[str]:
    for column in table.columns:
        present, same, required, base = columns[at, column.name]
        if present is None:
            yield f"{column.name} is not in PostgreSQL"
        elif not same or _digits_differ(base, column.postgres_type):
            wanted = column.postgres_type.lower()
            resolved = "" if base == present else f" ({base})"
            yield f"{column.name} is {present}{resolved}, the model says {wanted}"
        elif not required and not column.nullable:
            yield f"{column.name} is nullable, but not in the model"


def _batches(tables: Sequence[Table]) -> Iterator[list[Table]]:
    """Divide tables by their columns, which bound the text of a query and its result."""
    return batches(tables, lambda table: len(table.columns), len(tables), _COLUMNS_AT_ONCE)


def _places(tables: Sequence[Table]) -> dict[str, list[Any]]:
    return {
        "schemas": [table.schema for table in tables],
        "relations": [table.relation for table in tables],
    }


def _wanted(tables: Sequence[Table]) -> dict[str, list[Any]]:
    columns = [(at, column) for at, table in enumerate(tables, 1) for column in table.columns]
    return {
        **_places(tables),
        "tables": [at for at, _ in columns],
        "names": [column.name for _, column in columns],
        "types": [column.postgres_type for _, column in columns],
    }


def _digits_differ(present: str, wanted: str) -> bool:
    """Whether two numerics, or arrays of them, differ in precision or scale."""
    return _digits(present) != _digits(wanted)


def _digits(name: str) -> tuple[int, int] | None:
    """Parse precision and scale of `numeric(p, s)` or `numeric(p)`; None without them."""
    match = _NUMERIC.match(name.lower())
    return (int(match[1]), int(match[2] or 0)) if match else None
