"""The publication and the tables' keys: whether every change of every table is sent.

A publication that leaves out part of one table is a fault of that table alone; see standing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import psycopg2
from psycopg2 import sql

from sluice.capture import relations
from sluice.catalog import Catalog, Table
from sluice.errors import NeedsPerson, NotReady, PublicationIncomplete, SluiceError
from sluice.generate.publication import LISTS_COLUMNS, has_list, options
from sluice.settings import RelaySettings

_OPERATIONS = "insert, update, delete, truncate"
# Of each wanted table, the parts of old rows that pgoutput sends; NULL where it does not exist.
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
# Only PostgreSQL 18 and newer have pubgencols; they send computed columns if it or a list of
# columns includes them.
_PUBLICATION = """
SELECT oid::int8, pubinsert AND pubupdate AND pubdelete AND pubtruncate,
    coalesce(to_jsonb(p) ->> 'pubgencols' = 's', false), pubviaroot, quote_ident(pubname)
FROM pg_publication p WHERE pubname = %s
"""
# In a publication FOR ALL TABLES a table has no pg_publication_rel. PostgreSQL 15 and newer have
# row filters and column lists. Joined by name, as to_regclass fails without USAGE on the schema.
_TABLES = """
SELECT p.schemaname, p.tablename, c.oid::int8, format('%%I.%%I', p.schemaname, p.tablename),
    to_jsonb(p) ->> 'rowfilter' IS NOT NULL, coalesce(r.oid, c.oid)::int8,
    array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
        AND NOT attisdropped
        AND NOT coalesce(to_jsonb(p) -> 'attnames', to_jsonb(array[attname])) ? attname::text)
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
LEFT JOIN pg_publication_rel r ON r.prpubid = %s AND r.prrelid = c.oid
WHERE p.pubname = %s
"""
# The columns of a table that a list of columns may name; none where PostgreSQL would refuse updates
# of rows because of the list: with the whole row as replica identity.
_COLUMNS = """
SELECT attname::text FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relreplident = 'f' AND c.oid IN (
        SELECT attrelid UNION SELECT relid FROM pg_partition_tree(attrelid)))
ORDER BY attnum
"""
# Of each wanted table that exists, whether it is partitioned, and the ancestors of a partition.
_PARTITIONS = """
SELECT wanted.schema, wanted.relation, c.relkind = 'p',
    array(SELECT relid::oid::int8 FROM pg_partition_ancestors(c.oid))
FROM unnest(%s::text[], %s::text[]) AS wanted (schema, relation)
JOIN pg_namespace n ON n.nspname = wanted.schema::name
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relation::name
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The publication as PostgreSQL has it.

    Attributes:
        quoted: its quoted name.
        complete: whether it sends every operation.
        identity: its object id and those of its tables' memberships, which change if recreated.
        missing: tables of the catalog that can be added to it.
        narrow: tables whose list of columns lacks some of the model.
        faults: table name -> error, of tables that it does not send in full, missing ones included.
    """

    quoted: str
    complete: bool
    identity: dict[str, Any]
    missing: tuple[Table, ...]
    narrow: tuple[Table, ...]
    faults: dict[str, NeedsPerson]


def find(cursor: Any, relay: RelaySettings, catalog: Catalog) -> Publication | None:
    """Read the relay's publication; None where there is none."""
    cursor.execute(_PUBLICATION, [relay.publication])
    row = cursor.fetchone()
    if row is None:
        return None
    oid, complete, sends_computed, via_root, quoted = row
    cursor.execute(_TABLES, [oid, relay.publication])
    members = {(schema, name): _Member(*member) for schema, name, *member in cursor}
    partitions = _partitions(cursor, catalog, members.values())
    tables = [(table, members.get((table.schema, table.relation))) for table in catalog.tables]
    faults: dict[str, NeedsPerson] = {}
    missing, narrow = [], []
    for table, member in tables:
        place = _Place(
            name=relay.publication,
            alter=f"ALTER PUBLICATION {quoted}",
            table=table,
            quoted=_quoted(cursor, table.schema, table.relation),
            listed=partial(_columns, cursor, table),
            partition=partitions.get((table.schema, table.relation), _Partition()),
        )
        fault = place.fault(member, sends_computed=sends_computed, via_root=via_root)
        if fault is not None:
            faults[table.name] = fault
        if isinstance(fault, PublicationIncomplete):
            missing.append(table)
        elif fault is not None and member and member.lacks(table) and table.excluded:
            narrow.append(table)
    return Publication(
        quoted=quoted,
        complete=complete,
        identity={
            "oid": oid,
            "tables": {table.name: member.identity for table, member in tables if member},
        },
        missing=tuple(missing),
        narrow=tuple(narrow),
        faults=faults,
    )


class _Member(NamedTuple):
    """A table's membership.

    Attributes:
        oid, quoted: the table's id and quoted name.
        filtered: whether it has a row filter.
        identity: the membership's id.
        left_out: the columns that are not sent.
    """

    oid: int
    quoted: str
    filtered: bool
    identity: int
    left_out: list[str]

    def lacks(self, table: Table) -> list[str]:
        """Return the columns of the model that are not sent."""
        known = {column.name for column in table.columns}
        return [name for name in sorted(self.left_out) if name in known]


class _Partition(NamedTuple):
    """Whether a table is partitioned, and in whose names a partition's changes are sent."""

    partitioned: bool = False
    roots: tuple[str, ...] = ()


def _partitions(
    cursor: Any, catalog: Catalog, members: Iterable[_Member]
) -> dict[tuple[str, str], _Partition]:
    """Read by one query, by schema and name, how the existing tables are partitioned."""
    published = {member.oid: member.quoted for member in members}
    schemas = [table.schema for table in catalog.tables]
    cursor.execute(_PARTITIONS, [schemas, [table.relation for table in catalog.tables]])
    return {
        (schema, name): _Partition(
            partitioned, tuple(published[oid] for oid in ancestors if oid in published)
        )
        for schema, name, partitioned, ancestors in cursor
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A table's place in the publication.

    Attributes:
        name: the publication's name.
        alter: the beginning of the statement that changes it.
        quoted: the table's quoted name.
        listed: returns its list of columns, see `_columns`.
    """

    name: str
    alter: str
    table: Table
    quoted: str
    listed: Callable[[], str]
    partition: _Partition

    def fault(
        self, member: _Member | None, *, sends_computed: bool, via_root: bool
    ) -> NeedsPerson | None:
        """Return the table's fault, if it is not sent in full; PublicationIncomplete if missing."""
        name, table, alter = self.name, self.table.name, self.alter
        if not via_root and self.partition.partitioned:
            return NeedsPerson(
                f"publication {name} sends the partitions of table {table} in their own names",
                remedy=f"run in PostgreSQL: {alter} SET (publish_via_partition_root = true);"
                " then: sluice init",
            )
        if member is None:
            return self._absence()
        computed = {column.name: column.generated for column in self.table.columns}
        lacking = member.lacks(self.table)
        if lacking and not sends_computed and all(computed[name] for name in lacking):
            return NeedsPerson(
                f"publication {name} sends table {table} without the columns that PostgreSQL"
                f" computes: {', '.join(lacking)}",
                remedy=f"run in PostgreSQL: {alter} SET (publish_generated_columns = stored)",
            )
        if not lacking and not member.filtered:
            return None
        left_out = f"without its columns {', '.join(lacking)}" if lacking else "with a row filter"
        return NeedsPerson(
            f"publication {name} sends table {table} {left_out}",
            remedy=f"run in PostgreSQL: {alter} DROP TABLE ONLY {self.quoted};"
            f" {alter} ADD TABLE ONLY {self.quoted}{self.listed()}",
        )

    def _absence(self) -> NeedsPerson:
        """Return the fault of a table that the publication does not list."""
        if self.partition.roots:
            listed = ", ".join(self.partition.roots)
            return NeedsPerson(
                f"publication {self.name} sends partition {self.quoted} in the name of {listed}",
                remedy="model the partitioned table, or remove it in PostgreSQL:"
                f" {self.alter} DROP TABLE {listed}; then: sluice init",
            )
        return PublicationIncomplete(
            f"publication {self.name} lacks {self.quoted}",
            remedy="run: sluice init, or in PostgreSQL as the tables' owner:"
            f" {self.alter} ADD TABLE ONLY {self.quoted}",
        )


def ensure(
    cursor: Any, relay: RelaySettings, catalog: Catalog, without: Collection[str] = ()
) -> dict[str, NeedsPerson]:
    """Create the publication of all tables, or add the missing ones and missing columns.

    Columns that the models exclude are left out, where PostgreSQL can (15 and newer). A table that
    lacks columns is removed and added again; the relay then parks it until it is resynced.

    Args:
        without: names of tables to leave out; see `faults`. Default: none.

    Returns:
        Table name -> error, of other tables that it still does not send in full.

    Raises:
        PublicationIncomplete: this role may not change it, or it leaves out operations.
    """
    name = _quoted(cursor, relay.publication)
    present = find(cursor, relay, catalog)
    lacking = [
        table
        for table in (catalog.tables if present is None else present.missing)
        if table.name not in without
    ]
    changes = []
    if present is None and lacking:
        tables = _listed(cursor, lacking)
        changes.append(f"CREATE PUBLICATION {name} FOR TABLE {tables}{options(catalog)}")
    elif lacking:
        changes.append(f"ALTER PUBLICATION {name} ADD TABLE {_listed(cursor, lacking)}")
    for table in present.narrow if present else ():
        place = f"ONLY {_quoted(cursor, table.schema, table.relation)}"
        changes.append(f"ALTER PUBLICATION {name} DROP TABLE {place}")
        changes.append(f"ALTER PUBLICATION {name} ADD TABLE {_listed(cursor, [table])}")
    change = "; ".join(changes)  # PostgreSQL runs them in one transaction
    try:
        if change:
            cursor.execute(change)
    except psycopg2.errors.InsufficientPrivilege as error:
        raise PublicationIncomplete(
            f"publication {relay.publication} lacks tables, and this role may not change it",
            remedy=f"run in PostgreSQL, as the tables' owner: {change}",
        ) from error
    changed = find(cursor, relay, catalog)
    if changed is None:
        return {}
    if not changed.complete:
        raise incomplete(relay, changed)
    return {name: fault for name, fault in changed.faults.items() if name not in without}


def incomplete(relay: RelaySettings, publication: Publication) -> PublicationIncomplete:
    """Return the error of a publication that does not send every operation."""
    return PublicationIncomplete(
        f"publication {relay.publication} leaves out operations of every table, so none can be"
        " sent without the others",
        remedy=f"run in PostgreSQL: ALTER PUBLICATION {publication.quoted} SET"
        f" (publish = '{_OPERATIONS}'); then: sluice recover",
    )


def faults(cursor: Any, catalog: Catalog) -> dict[str, SluiceError]:
    """Find the tables whose changes cannot be sent as the models need them.

    Returns:
        Table name -> error. NotReady where it does not exist; NeedsPerson where its kind cannot be
        followed, or its key differs from the model's, is deferrable or not its replica identity.
    """
    kinds = relations.faults(cursor, catalog)
    schemas = [table.schema for table in catalog.tables]
    cursor.execute(_RELATIONS, [schemas, [table.relation for table in catalog.tables]])
    rows = zip(catalog.tables, cursor.fetchall(), strict=True)
    named = {
        table.name: kinds.get(table.name) or _fault(cursor, table, *row) for table, row in rows
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
    """Return one table's fault; see `faults`.

    Args:
        kind, identity: `relkind` and `relreplident` of pg_class.
        of_key: whether the primary key is the replica identity's index.
        immediate, columns: `indimmediate` and columns of the primary key.
    """
    if kind is None:
        return NotReady(
            f"PostgreSQL has no table {table.schema}.{table.relation}",
            remedy="create the models' tables there, or rename those named otherwise; then: sluice"
            " init",
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


def _listed(cursor: Any, tables: Iterable[Table]) -> str:
    """Return the tables with ONLY, as the keys of INHERITS children do not matter."""
    return ", ".join(
        f"ONLY {_quoted(cursor, t.schema, t.relation)}{_columns(cursor, t)}" for t in tables
    )


def _columns(cursor: Any, table: Table) -> str:
    """Return the list of columns to publish of a table that excludes some; empty for all."""
    if not has_list(table) or cursor.connection.server_version < LISTS_COLUMNS:
        return ""
    cursor.execute(_COLUMNS, [_quoted(cursor, table.schema, table.relation)])
    present = [name for (name,) in cursor.fetchall()]
    names = ", ".join(_quoted(cursor, name) for name in present if table.sends(name))
    return f" ({names})" if names else ""


def _quoted(cursor: Any, *names: str) -> str:
    return str(sql.Identifier(*names).as_string(cursor.connection))
