"""The publication and the tables' keys: that every change of every table is sent.

PostgreSQL 18 skips, without an error, changes made while the publication was not there. So a
publication that was dropped and made again, or lost a table for a while, has to be noticed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2 import sql

from sluice.catalog import Catalog, Table
from sluice.errors import NeedsPerson, NotReady, PublicationIncomplete, SluiceError
from sluice.generate.publication import computed, options
from sluice.relay import relations
from sluice.settings import RelaySettings

_AGAIN = "bring it and the tables back: sluice recover"
_OPERATIONS = "insert, update, delete, truncate"
# Of each table that is wanted, what pgoutput sends of its old rows; NULL where it is not there.
_RELATIONS = """
SELECT c.relkind::text, c.relreplident::text, i.indisreplident, i.indimmediate, array(
    SELECT a.attname::text FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
)
FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS wanted (schema, relation, place)
LEFT JOIN pg_namespace n ON n.nspname = wanted.schema::name
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relation::name
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
ORDER BY wanted.place
"""
# Computed columns are sent by PostgreSQL 18 and newer, which alone have pubgencols.
_PUBLICATION = """
SELECT oid::int8, pubinsert AND pubupdate AND pubdelete AND pubtruncate,
    coalesce(to_jsonb(p) ->> 'pubgencols' = 's', false), pubviaroot
FROM pg_publication p WHERE pubname = %s
"""
_PARTITIONED = "SELECT 1 FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'p'"
# A table of a publication FOR ALL TABLES is a member by itself. PostgreSQL 15 and newer have row
# filters and lists of columns.
_TABLES = """
SELECT p.schemaname, p.tablename, to_jsonb(p) ->> 'rowfilter' IS NOT NULL,
    coalesce(r.oid, c.oid)::int8,
    array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
        AND NOT attisdropped AND attgenerated = ''
        AND NOT coalesce(to_jsonb(p) -> 'attnames', to_jsonb(array[attname])) ? attname::text)
FROM pg_publication_tables p
JOIN pg_class c ON c.oid = to_regclass(format('%%I.%%I', p.schemaname, p.tablename))
LEFT JOIN pg_publication_rel r ON r.prpubid = %s AND r.prrelid = c.oid
WHERE p.pubname = %s
"""
# What the publication sends of a partitioned table, in the names of these.
_ROOTS = """
SELECT format('%%I.%%I', p.schemaname, p.tablename) FROM pg_publication_tables p
WHERE p.pubname = %s AND to_regclass(format('%%I.%%I', p.schemaname, p.tablename)) IN (
    SELECT relid FROM pg_partition_ancestors(to_regclass(%s))
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The publication as it is.

    Attributes:
        whole: whether it sends every operation, no table by a filter or without columns of its
            model, partitions as their root.
        identity: its object id and those of its tables' memberships; made again, they differ.
        missing: tables of the catalog that it lacks.
    """

    whole: bool
    identity: dict[str, Any]
    missing: tuple[Table, ...]


def find(cursor: Any, relay: RelaySettings, catalog: Catalog) -> Publication | None:
    """The relay's publication; None when there is none."""
    cursor.execute(_PUBLICATION, [relay.publication])
    row = cursor.fetchone()
    if row is None:
        return None
    oid, whole, sends_computed, via_root = row
    whole = whole and (sends_computed or not computed(catalog))
    cursor.execute(_TABLES, [oid, relay.publication])
    members = {(schema, name): member for schema, name, *member in cursor}
    tables = [(table, members.get((table.schema, table.relation))) for table in catalog.tables]
    cut = [
        table
        for table, member in tables
        if member and (member[0] or {column.name for column in table.columns} & {*member[2]})
    ]
    apart = [] if via_root else [table for table in catalog.tables if _partitioned(cursor, table)]
    return Publication(
        whole=whole and not apart and not cut,
        identity={
            "oid": oid,
            "tables": {table.name: member[1] for table, member in tables if member},
        },
        missing=tuple(table for table, member in tables if member is None and table not in apart),
    )


def _partitioned(cursor: Any, table: Table) -> bool:
    cursor.execute(_PARTITIONED, [_quoted(cursor, table.schema, table.relation)])
    return cursor.fetchone() is not None


def ensure(
    cursor: Any, relay: RelaySettings, catalog: Catalog, without: Collection[str] = ()
) -> None:
    """Create the publication of all tables, or add to it those that it lacks.

    Args:
        without: names of tables that are left out; see `faults`.

    Raises:
        PublicationIncomplete: this role may not, or the publication leaves out operations or rows.
    """
    name = _quoted(cursor, relay.publication)
    found = find(cursor, relay, catalog)
    lacking = [
        table
        for table in (catalog.tables if found is None else found.missing)
        if table.name not in without
    ]
    change = ""
    if found is None and lacking:
        tables = _listed(cursor, lacking)
        change = f"CREATE PUBLICATION {name} FOR TABLE {tables}{options(catalog)}"
    elif lacking:
        for table in lacking:
            _require_own_name(cursor, relay, table)
        change = f"ALTER PUBLICATION {name} ADD TABLE {_listed(cursor, lacking)}"
    try:
        if change:
            cursor.execute(change)
    except psycopg2.errors.InsufficientPrivilege as error:
        raise PublicationIncomplete(
            f"publication {relay.publication} lacks tables, and this role may not change it",
            remedy=f"run in PostgreSQL, as the tables' owner: {change}",
        ) from error
    made = find(cursor, relay, catalog)
    if made is not None:
        missing = tuple(table for table in made.missing if table.name not in without)
        _require_whole(cursor, relay, replace(made, missing=missing))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the tables stand in the publication.

    Attributes:
        added: tables that came to it since the snapshot that was noted; they have none yet.
        unsent: tables whose changes cannot be sent, and why.
        renewed: tables whose changes are sent, and were not for a while.
    """

    added: tuple[Table, ...]
    unsent: dict[str, SluiceError]
    renewed: dict[str, SluiceError]


def require_standing(
    cursor: Any, relay: RelaySettings, catalog: Catalog, noted: dict[str, Any] | None
) -> Standing:
    """Find how the tables stand since the snapshot that was noted.

    Raises:
        PublicationIncomplete: of all tables something is not sent, or was not for a while; or it
            lacks a table that it never had.
    """
    found = find(cursor, relay, catalog)
    if found is None:
        raise PublicationIncomplete(
            f"publication {relay.publication} is gone; changes since then are not sent",
            remedy=_AGAIN,
        )
    known = (noted or {}).get("publication") or {}
    places = known.get("tables", {})
    if known and known["oid"] != found.identity["oid"]:
        raise PublicationIncomplete(
            f"publication {relay.publication} was made again since the last snapshot; what it did"
            " not send then is unknown",
            remedy=_AGAIN,
        )
    wrong = faults(cursor, catalog)
    new = [
        table
        for table in found.missing
        if known and table.name not in places and table.name not in wrong
    ]
    _require_whole(cursor, relay, replace(found, missing=tuple(new)))
    unsent: dict[str, SluiceError] = {
        table.name: _lacking(cursor, relay, (table,)) for table in found.missing
    }
    unsent.update(wrong)
    members = found.identity["tables"]
    renewed: dict[str, SluiceError] = {
        name: PublicationIncomplete(
            f"table {name}'s place in publication {relay.publication} was made again",
            remedy=_AGAIN,
        )
        for name, place in members.items()
        if name in places and places[name] not in (None, place) and name not in unsent
    }
    added = (table for table in catalog.tables if table.name not in places) if known else ()
    return Standing(
        added=tuple(table for table in added if table.name not in unsent),
        unsent=unsent,
        renewed=renewed,
    )


def faults(cursor: Any, catalog: Catalog) -> dict[str, SluiceError]:
    """Find the tables whose changes cannot be sent as the models need them.

    Returns:
        Table name -> why, and what to do. NotReady where it is not there; NeedsPerson where it is
        of a kind that cannot be followed, or its key is another, deferrable, or not its replica
        identity.
    """
    kinds = relations.faults(cursor, catalog)
    schemas = [table.schema for table in catalog.tables]
    cursor.execute(_RELATIONS, [schemas, [table.relation for table in catalog.tables]])
    found = zip(catalog.tables, cursor.fetchall(), strict=True)
    named = {
        table.name: kinds.get(table.name) or _fault(cursor, table, *row) for table, row in found
    }
    return {name: error for name, error in named.items() if error is not None}


def require_faultless(cursor: Any, catalog: Catalog) -> None:
    """Raise the fault of the first table that has one; see `faults`."""
    for error in faults(cursor, catalog).values():
        raise error


def _fault(
    cursor: Any,
    table: Table,
    kind: str | None,
    identity: str,
    of_key: bool | None,
    immediate: bool | None,
    columns: list[str],
) -> SluiceError | None:
    """What is wrong with one table; see `faults`.

    Args:
        kind, identity: `relkind` and `relreplident` of pg_class.
        of_key: whether the primary key was chosen as the replica identity's index.
        immediate, columns: of the primary key.
    """
    if kind is None:
        return NotReady(
            f"PostgreSQL has no table {table.schema}.{table.relation}",
            remedy="create the models' tables there",
        )
    if set(columns) != {column.name for column in table.key} or not immediate:
        return NeedsPerson(
            f"table {table.name}: its primary key in PostgreSQL is not the model's,"
            " or is deferrable",
            remedy="give table and model the same, not deferrable, primary key",
        )
    if identity == "n" or (identity == "i" and not of_key):
        name = _quoted(cursor, table.schema, table.relation)
        return NeedsPerson(
            f"table {table.name}: deletes do not carry its primary key",
            remedy=f"run in PostgreSQL: ALTER TABLE {name} REPLICA IDENTITY DEFAULT",
        )
    return None


def _lacking(cursor: Any, relay: RelaySettings, missing: Iterable[Table]) -> PublicationIncomplete:
    name, tables = _quoted(cursor, relay.publication), _listed(cursor, missing)
    return PublicationIncomplete(
        f"publication {relay.publication} lacks {tables}",
        remedy="run: sluice init, or in PostgreSQL as the tables' owner:"
        f" ALTER PUBLICATION {name} ADD TABLE {tables}",
    )


def _require_whole(cursor: Any, relay: RelaySettings, found: Publication) -> None:
    name = _quoted(cursor, relay.publication)
    for table in found.missing:
        _require_own_name(cursor, relay, table)
    if found.missing:
        raise _lacking(cursor, relay, found.missing)
    if not found.whole:
        raise PublicationIncomplete(
            f"publication {relay.publication} leaves out operations, rows, columns or the root of"
            " partitions",
            remedy=f"run in PostgreSQL: ALTER PUBLICATION {name} SET (publish = '{_OPERATIONS}',"
            " publish_via_partition_root = true), publish_generated_columns = stored where columns"
            " are computed, remove row filters and lists of columns; then: sluice relay --snapshot",
        )


def _require_own_name(cursor: Any, relay: RelaySettings, table: Table) -> None:
    """That a table which the publication does not list is not sent in the name of another."""
    name = _quoted(cursor, table.schema, table.relation)
    cursor.execute(_ROOTS, [relay.publication, name])
    roots = [root for (root,) in cursor.fetchall()]
    if roots:
        raise PublicationIncomplete(
            f"publication {relay.publication} sends partition {name} in the name of"
            f" {', '.join(roots)}",
            remedy="model the partitioned table, or take it out in PostgreSQL: ALTER PUBLICATION"
            f" {_quoted(cursor, relay.publication)} DROP TABLE {', '.join(roots)};"
            " then: sluice init, sluice recover",
        )


def _listed(cursor: Any, tables: Iterable[Table]) -> str:
    """The tables without their INHERITS children, whose own keys are nobody's concern."""
    return ", ".join(f"ONLY {_quoted(cursor, t.schema, t.relation)}" for t in tables)


def _quoted(cursor: Any, *names: str) -> str:
    return str(sql.Identifier(*names).as_string(cursor.connection))
