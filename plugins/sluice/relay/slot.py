"""Publication and replication slot: what must be true before the relay starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extras import LogicalReplicationConnection

from sluice.adapters.postgres import connection_options, translated
from sluice.adapters.topics import Topics
from sluice.catalog import Catalog
from sluice.errors import (
    NeedsPerson,
    PublicationIncomplete,
    SlotBusy,
    SlotLost,
    SlotMissing,
    SourceChanged,
)
from sluice.positions import parse_lsn
from sluice.relay.envelope import SESSION_OPTIONS
from sluice.settings import PostgresSettings, RelaySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The slot can be read from; None for `confirmed_lsn` means that a snapshot comes first."""

    confirmed_lsn: int | None


def prepare(
    settings: PostgresSettings,
    relay: RelaySettings,
    catalog: Catalog,
    topics: Topics,
    *,
    snapshot: bool,
) -> Ready:
    """Check server, publication and slot; create the publication where there is none.

    Args:
        snapshot: a new snapshot is wanted although one was taken.

    Raises:
        SlotMissing, SlotLost, PublicationIncomplete, SourceChanged: a person decides.
        SlotBusy: another relay reads from the slot.
    """
    with session(settings) as cursor:
        _require_logical(cursor)
        ensure_publication(cursor, relay, catalog)
        row = _slot(cursor, relay.slot)
        system = _value(cursor, "SELECT system_identifier::text FROM pg_control_system()")
        note = topics.slot_note()
        if note and note["system_identifier"] != system and not snapshot:
            raise SourceChanged(
                "this PostgreSQL is not the server the last snapshot came from",
                remedy="if that is meant, take a new snapshot: sluice relay --snapshot",
            )
        if row is None:
            if note and not snapshot:
                raise SlotMissing(
                    f"replication slot {relay.slot!r} is gone; changes since are unknown",
                    remedy="take a new snapshot: sluice relay --snapshot",
                )
            return Ready(confirmed_lsn=None)
        return _present(cursor, row, relay, snapshot=snapshot)


def _present(cursor: Any, row: tuple[Any, ...], relay: RelaySettings, *, snapshot: bool) -> Ready:
    confirmed, wal_status, active_pid = row
    if active_pid is not None:
        raise SlotBusy(f"slot {relay.slot!r} is in use by another relay (pid {active_pid})")
    if snapshot:
        cursor.execute("SELECT pg_drop_replication_slot(%s)", [relay.slot])
        return Ready(confirmed_lsn=None)
    if wal_status == "lost" or confirmed is None:
        raise SlotLost(
            f"replication slot {relay.slot!r} was invalidated: WAL it needed is removed",
            remedy="raise max_slot_wal_keep_size, then run: sluice relay --snapshot",
        )
    wal_end = parse_lsn(_value(cursor, "SELECT pg_current_wal_lsn()::text"))
    if parse_lsn(confirmed) > wal_end:
        raise SourceChanged(
            f"slot {relay.slot!r} is ahead of the server's WAL: the server went back in time",
            remedy="take a new snapshot: sluice relay --snapshot",
        )
    return Ready(confirmed_lsn=parse_lsn(confirmed))


def ensure_publication(cursor: Any, relay: RelaySettings, catalog: Catalog) -> None:
    """Create the publication of all tables where there is none; refuse an incomplete one."""
    names = {f"{table.schema}.{table.name}" for table in catalog.tables}
    cursor.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", [relay.publication])
    tables = [sql.Identifier(table.schema, table.name) for table in catalog.tables]
    publication = sql.Identifier(relay.publication)
    if cursor.fetchone() is None:
        create = sql.SQL("CREATE PUBLICATION {} FOR TABLE {}")
        cursor.execute(create.format(publication, sql.SQL(", ").join(tables)))
        return
    cursor.execute(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s",
        [relay.publication],
    )
    missing = sorted(names - {name for (name,) in cursor.fetchall()})
    if missing:
        raise PublicationIncomplete(
            f"publication {relay.publication} lacks {', '.join(missing)}",
            remedy=f"run in PostgreSQL: ALTER PUBLICATION {relay.publication}"
            f" ADD TABLE {', '.join(missing)}; then: sluice relay --snapshot",
        )


@contextmanager
def session(settings: PostgresSettings) -> Iterator[Any]:
    """A cursor in autocommit mode with the pinned text forms."""
    with translated(settings):
        connection = psycopg2.connect(**connection_options(settings), options=SESSION_OPTIONS)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()


@contextmanager
def replication(settings: PostgresSettings) -> Iterator[Any]:
    """A cursor of a logical replication session with the pinned text forms."""
    with translated(settings):
        connection = psycopg2.connect(
            **connection_options(settings),
            options=SESSION_OPTIONS,
            connection_factory=LogicalReplicationConnection,
        )
        try:
            yield connection.cursor()
        finally:
            connection.close()


def _require_logical(cursor: Any) -> None:
    level = _value(cursor, "SHOW wal_level")
    if level != "logical":
        raise NeedsPerson(
            f"PostgreSQL has wal_level={level}",
            remedy="set wal_level=logical and restart PostgreSQL",
        )


def _slot(cursor: Any, name: str) -> tuple[Any, ...] | None:
    cursor.execute(
        "SELECT confirmed_flush_lsn::text, wal_status, active_pid"
        " FROM pg_replication_slots WHERE slot_name = %s",
        [name],
    )
    row: tuple[Any, ...] | None = cursor.fetchone()
    return row


def _value(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchone()[0]
