"""The models' tables in PostgreSQL, and the kinds of table that cannot be followed.

A table can be followed when its changes are in the WAL under its own name and this role can read
its rows. docs/models.md lists the kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sluice.catalog import Catalog, Table
from sluice.errors import NeedsPerson
from sluice.generate.publication import computed
from sluice.printable import named

# Each wanted table that exists, with quoted names.
_RELATIONS = """
WITH wanted AS (
    SELECT place, c.oid, relkind, relpersistence, relreplident, relispartition,
        format('%%I.%%I', nspname, relname) AS quoted
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS w (schema, relation, place)
    JOIN pg_namespace n ON nspname = schema::name
    JOIN pg_class c ON relnamespace = n.oid AND relname = relation::name
)
SELECT w.place::int, w.quoted, w.relkind::text, w.relpersistence::text,
    row_security_active(w.oid), quote_ident(current_user),
    current_setting('server_version_num')::int / 10000,
    array(SELECT quoted FROM wanted WHERE oid <> w.oid
        AND w.relispartition AND oid IN (SELECT relid FROM pg_partition_ancestors(w.oid))
        ORDER BY 1),
    array(SELECT format('%%I.%%I', nspname, relname)
        FROM pg_partition_tree(w.oid) JOIN pg_class p ON p.oid = relid
        JOIN pg_namespace n ON n.oid = relnamespace
        WHERE p.relkind = 'f' OR (p.relkind = 'r' AND p.relpersistence <> 'p') ORDER BY 1),
    array(SELECT format('%%I.%%I', nspname, relname)
        FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
        JOIN pg_namespace n ON n.oid = relnamespace
        WHERE inhparent = w.oid AND w.relkind = 'r' AND c.oid NOT IN (SELECT oid FROM wanted)
        ORDER BY 1),
    array(SELECT attname::text FROM pg_attribute
        WHERE attrelid = w.oid AND attgenerated = 'v' AND NOT attisdropped),
    array(SELECT attname::text FROM pg_attribute
        WHERE attrelid = w.oid AND attgenerated = 's' AND NOT attisdropped),
    w.relreplident = 'f'
FROM wanted w ORDER BY w.place
"""
_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a composite type",
}
_TABLES, _LOGGED = ("r", "p"), "p"
_SENDS_COMPUTED = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One table of the models as PostgreSQL has it; names of tables are quoted, with schema.

    Attributes:
        kind, persistence: `relkind` and `relpersistence` of pg_class.
        secured: whether row-level security hides rows from `user`, the session's role.
        server: PostgreSQL's major version.
        roots: tables of the models of which it is a partition.
        unsent: its partitions whose changes are not in the WAL.
        children: tables that inherit from it by INHERITS and are not in the models.
        virtual, stored: columns that PostgreSQL computes when they are read, or written.
        full: whether its replica identity is all columns.
    """

    table: Table
    quoted: str
    kind: str
    persistence: str
    secured: bool
    user: str
    server: int
    roots: list[str]
    unsent: list[str]
    children: list[str]
    virtual: list[str]
    stored: list[str]
    full: bool


def relations(cursor: Any, tables: Sequence[Table]) -> list[Relation]:
    """Read the existing tables, by one query."""
    schemas = [table.schema for table in tables]
    cursor.execute(_RELATIONS, [schemas, [table.relation for table in tables]])
    names = list(Relation.__dataclass_fields__)[1:]
    return [
        Relation(table=tables[place - 1], **dict(zip(names, row, strict=True)))
        for place, *row in cursor.fetchall()
    ]


def faults(cursor: Any, catalog: Catalog) -> dict[str, NeedsPerson]:
    """Find the tables that PostgreSQL does not send, or does not let this role read.

    Returns:
        Table name -> error.
    """
    errors, sends_computed = {}, computed(catalog)
    for relation in relations(cursor, catalog.tables):
        for what, remedy in _faults(relation, sends_computed=sends_computed):
            name = relation.table.name
            errors[name] = NeedsPerson(f"table {name} {what}", remedy=remedy)
            break
    return errors


def uncovered(cursor: Any, catalog: Catalog) -> dict[str, str]:
    """Return table name -> its INHERITS children without a model, in words."""
    return {
        relation.table.name: f"rows of {named(relation.children)}, which inherit from table"
        f" {relation.table.name}, are not its own: a child is followed by a model of its own"
        for relation in relations(cursor, catalog.tables)
        if relation.children
    }


def _faults(relation: Relation, *, sends_computed: bool) -> Iterator[tuple[str, str]]:
    """Yield (fault, remedy) of a table, the most severe first.

    Args:
        sends_computed: whether the publication sends columns that are computed when written.
    """
    quoted, user = relation.quoted, relation.user
    if relation.kind not in _TABLES:
        kind = _KINDS.get(relation.kind, "no table")
        yield (
            f"is {kind} in PostgreSQL, which sends no changes",
            "remove its model, or model the table that its rows come from",
        )
    if relation.persistence != _LOGGED:
        yield (
            "is unlogged or temporary: its changes are not in the WAL",
            f"run in PostgreSQL: ALTER TABLE {quoted} SET LOGGED; then: sluice init",
        )
    if relation.unsent:
        listed = named(relation.unsent)
        yield (
            f"has partitions that are foreign or unlogged, whose changes are not sent: {listed}",
            "run ALTER TABLE ... SET LOGGED for each that is unlogged, or detach it from"
            f" {quoted}; then: sluice resync {relation.table.name}",
        )
    if relation.roots:
        yield (
            f"is a partition of {named(relation.roots)}, in whose name its changes are sent",
            "model the partitioned table or its partitions, not both",
        )
    if relation.secured:
        yield (
            f"hides rows from role {user} by row-level security",
            f"run in PostgreSQL: ALTER ROLE {user} BYPASSRLS; or connect as the table's owner,"
            " without FORCE ROW LEVEL SECURITY",
        )
    yield from _column_faults(relation)
    unsent = [*relation.virtual, *([] if sends_computed else relation.stored)]
    if unsent and relation.full and relation.server >= _SENDS_COMPUTED:
        yield (
            "has REPLICA IDENTITY FULL and computed columns that are not sent, so that PostgreSQL"
            f" refuses its updates and deletes once it is published: {', '.join(sorted(unsent))}",
            f"run in PostgreSQL: ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT; then: sluice init",
        )


def _column_faults(relation: Relation) -> Iterator[tuple[str, str]]:
    columns = {column.name: column for column in relation.table.columns}
    virtual = [name for name in relation.virtual if name in columns]
    stored = [name for name in relation.stored if name in columns]
    plain = [name for name in stored if not columns[name].generated]
    if virtual:
        yield (
            f"has columns that are computed when they are read, never sent: {', '.join(virtual)}",
            "make them GENERATED ... STORED in PostgreSQL, or remove them from the model",
        )
    if stored and relation.server < _SENDS_COMPUTED:
        yield (
            f"has columns that PostgreSQL {relation.server} computes and does not send:"
            f" {', '.join(stored)}",
            f"use PostgreSQL {_SENDS_COMPUTED} or newer, or remove them from the model",
        )
    if plain:
        yield (
            f"has columns that PostgreSQL computes and the model does not: {', '.join(plain)}",
            "mark them Computed(..., persisted=True) in the model; then: sluice generate,"
            " sluice init",
        )
