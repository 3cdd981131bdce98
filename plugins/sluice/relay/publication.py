"""The publication and the tables' keys: that every change of every table is sent.

PostgreSQL 18 skips, without an error, changes made while the publication was not there. So a
publication that was dropped and made again, or lost a table for a while, has to be noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql

from sluice.catalog import Catalog, Table
from sluice.errors import NeedsPerson, NotReady, PublicationIncomplete
from sluice.generate.publication import computed, options
from sluice.settings import RelaySettings

_AGAIN = "bring it and the tables back: sluice recover"
_OPERATIONS = "insert, update, delete, truncate"
_KEY = """
SELECT c.relreplident, i.indisreplident, i.indimmediate, array(
    SELECT a.attname::text FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
)
FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE c.oid = to_regclass(%s)
"""
# Computed columns are sent by PostgreSQL 18 and newer, which alone have pubgencols.
_PUBLICATION = """
SELECT oid::int8, pubinsert AND pubupdate AND pubdelete AND pubtruncate,
    coalesce(to_jsonb(p) ->> 'pubgencols' = 's', false), pubviaroot
FROM pg_publication p WHERE pubname = %s
"""
_PARTITIONED = "SELECT 1 FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'p'"
_TABLES = """
SELECT p.schemaname, p.tablename, p.rowfilter IS NOT NULL, r.oid::int8
FROM pg_publication_tables p
LEFT JOIN pg_publication_rel r ON r.prpubid = %s
    AND r.prrelid = to_regclass(format('%%I.%%I', p.schemaname, p.tablename))
WHERE p.pubname = %s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The publication as it is.

    Attributes:
        whole: whether it sends every operation, no table by a filter, partitions as their root.
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
    members = {(schema, name): (filtered, rel) for schema, name, filtered, rel in cursor}
    tables = [(table, members.get((table.schema, table.relation))) for table in catalog.tables]
    apart = [] if via_root else [table for table in catalog.tables if _partitioned(cursor, table)]
    return Publication(
        whole=whole and not apart and not any(member[0] for _, member in tables if member),
        identity={
            "oid": oid,
            "tables": {table.name: member[1] for table, member in tables if member},
        },
        missing=tuple(table for table, member in tables if member is None and table not in apart),
    )


def _partitioned(cursor: Any, table: Table) -> bool:
    cursor.execute(_PARTITIONED, [_quoted(cursor, table.schema, table.relation)])
    return cursor.fetchone() is not None


def ensure(cursor: Any, relay: RelaySettings, catalog: Catalog) -> None:
    """Create the publication of all tables, or add to it those that it lacks.

    Raises:
        PublicationIncomplete: this role may not, or the publication leaves out operations or rows.
    """
    name = _quoted(cursor, relay.publication)
    found = find(cursor, relay, catalog)
    if found is None:
        tables = _listed(cursor, catalog.tables)
        change = f"CREATE PUBLICATION {name} FOR TABLE {tables}{options(catalog)}"
    elif found.missing:
        change = f"ALTER PUBLICATION {name} ADD TABLE {_listed(cursor, found.missing)}"
    else:
        change = ""
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
        _require_whole(cursor, relay, made)


def require_unchanged(
    cursor: Any, relay: RelaySettings, catalog: Catalog, noted: dict[str, Any] | None
) -> tuple[Table, ...]:
    """That the publication sent everything since the snapshot that was noted.

    Returns:
        Tables that came to it since; they have no snapshot yet.

    Raises:
        PublicationIncomplete: it is gone, lacks a table, or was made again since.
    """
    found = find(cursor, relay, catalog)
    if found is None:
        raise PublicationIncomplete(
            f"publication {relay.publication} is gone; changes since then are not sent",
            remedy=_AGAIN,
        )
    _require_whole(cursor, relay, found)
    known = (noted or {}).get("publication")
    if not known:
        return ()
    members = found.identity["tables"]
    kept = known["oid"] == found.identity["oid"] and all(
        known["tables"][name] == member
        for name, member in members.items()
        if name in known["tables"]
    )
    if not kept:
        raise PublicationIncomplete(
            f"publication {relay.publication}, or a table's place in it, was made again since the"
            " last snapshot; what it did not send then is unknown",
            remedy=_AGAIN,
        )
    return tuple(table for table in catalog.tables if table.name not in known["tables"])


def require_keys(cursor: Any, catalog: Catalog) -> None:
    """That every table is there, with the models' key as what Postgres sends of old rows.

    Raises:
        NotReady: a table is not there.
        NeedsPerson: a table's key is another, deferrable, or not its replica identity.
    """
    for table in catalog.tables:
        name = _quoted(cursor, table.schema, table.relation)
        cursor.execute(_KEY, [name])
        row = cursor.fetchone()
        if row is None:
            raise NotReady(
                f"PostgreSQL has no table {table.schema}.{table.relation}",
                remedy="create the models' tables there",
            )
        identity, of_key, immediate, columns = row
        if set(columns) != {column.name for column in table.key} or not immediate:
            raise NeedsPerson(
                f"table {table.name}: its primary key in PostgreSQL is not the model's,"
                " or is deferrable",
                remedy="give table and model the same, not deferrable, primary key",
            )
        if identity == "n" or (identity == "i" and not of_key):
            raise NeedsPerson(
                f"table {table.name}: deletes do not carry its primary key",
                remedy=f"run in PostgreSQL: ALTER TABLE {name} REPLICA IDENTITY DEFAULT",
            )


def _require_whole(cursor: Any, relay: RelaySettings, found: Publication) -> None:
    name = _quoted(cursor, relay.publication)
    if found.missing:
        tables = _listed(cursor, found.missing)
        raise PublicationIncomplete(
            f"publication {relay.publication} lacks {tables}",
            remedy="run: sluice init, or in PostgreSQL as the tables' owner:"
            f" ALTER PUBLICATION {name} ADD TABLE {tables}",
        )
    if not found.whole:
        raise PublicationIncomplete(
            f"publication {relay.publication} leaves out operations, rows, computed columns or"
            " the root of partitions",
            remedy=f"run in PostgreSQL: ALTER PUBLICATION {name} SET (publish = '{_OPERATIONS}',"
            " publish_via_partition_root = true), publish_generated_columns = stored where columns"
            " are computed, remove row filters; then: sluice relay --snapshot",
        )


def _listed(cursor: Any, tables: Iterable[Table]) -> str:
    return ", ".join(_quoted(cursor, table.schema, table.relation) for table in tables)


def _quoted(cursor: Any, *names: str) -> str:
    return str(sql.Identifier(*names).as_string(cursor.connection))
