"""The replication slot and sessions: the conditions under which the relay starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extras import LogicalReplicationConnection

from sluice.capture import publication as publications
from sluice.capture.interruption import interrupted
from sluice.capture.standing import require_standing
from sluice.catalog import Catalog, Table
from sluice.clients.postgres import APPLICATION, TIMELINE, first_line, opened
from sluice.clients.slot_loss import INVALIDATION, cause, remedy
from sluice.clients.topics import SlotMark, Topics
from sluice.errors import (
    NeedsPerson,
    SlotBusy,
    SlotLost,
    SlotMissing,
    SlotRecreated,
    SluiceError,
    SourceChanged,
    Unreachable,
)
from sluice.events.event import CONNECT, RELAY
from sluice.events.positions import format_lsn, parse_lsn
from sluice.settings import PostgresSettings, RelaySettings

# Decoded transactions of a slot, and since when the server counts them; a crash resets both.
_COUNTED = """
SELECT coalesce(s.total_txns, 0),
    (extract(epoch FROM greatest(b.stats_reset, s.stats_reset)) * 1000)::int8
FROM pg_stat_bgwriter b LEFT JOIN pg_stat_replication_slots s ON s.slot_name = %s
"""
RECOVER = "restore slot and tables: sluice recover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The result of `prepare`.

    Attributes:
        confirmed_lsn: the slot's confirmed LSN; None where a snapshot comes first.
        added: tables that need a snapshot beside the stream. Default: none.
        unsent: table -> error, where changes cannot be sent, or were not for a while.
    """

    confirmed_lsn: int | None
    added: tuple[Table, ...] = ()
    unsent: dict[str, SluiceError] = field(default_factory=dict)


def prepare(
    settings: PostgresSettings,
    relay: RelaySettings,
    catalog: Catalog,
    topics: Topics,
    *,
    snapshot: bool,
    check: Callable[[], None] = lambda: None,
) -> Ready:
    """Check server, tables, publication and slot; create the publication for a first snapshot.

    Args:
        snapshot: whether to take a new snapshot even if there was one.
        check: ends the preparation by raising.

    Raises:
        SlotMissing, SlotRecreated, SlotLost, PublicationIncomplete, SourceChanged: a person
            decides.
        SlotBusy: another relay reads from the slot.
        NotReady: a table does not exist yet.
    """
    with session(settings) as cursor, interrupted(check, cursor):
        _require_logical(cursor)
        row = _slot(cursor, relay.slot)
        if row is not None and row[2] is not None:
            raise SlotBusy(f"slot {relay.slot!r} is in use by another relay (pid {row[2]})")
        if row is None or snapshot:
            publications.require_faultless(cursor, catalog)
        noted = topics.slot_note()
        if not snapshot:
            mark = topics.mark(relay.slot)
            _require_same_server(cursor, noted, mark.wal)
            noted = topics.slot_note(relay.slot)
            if row is None and noted and noted["consistent_point"]:
                raise SlotMissing(
                    f"replication slot {relay.slot!r} is gone; later changes are unknown",
                    remedy=RECOVER,
                )
            if row is not None:
                _require_same_slot(cursor, relay.slot, mark, row[3])
        if row is None or snapshot:
            for fault in publications.ensure(cursor, relay, catalog).values():
                raise fault
            return Ready(confirmed_lsn=None)
        confirmed = _usable(cursor, row, relay.slot)
        standing = require_standing(cursor, relay, catalog, noted)
        added = standing.added
        if noted is None:  # the broker lost the note, or the relay was killed before it
            # The tables of an unfinished addition are unknown as well: all are read again.
            added = catalog.tables if adding(cursor, relay) else ()
            added = tuple(table for table in added if table.name not in standing.unsent)
            if not added:
                note(cursor, relay, catalog, topics, row[0])
        elif not added and adding(cursor, relay):  # killed after the note
            cursor.execute("SELECT pg_drop_replication_slot(%s)", [addition(relay)])
        unsent = {**standing.renewed, **standing.unsent}
        return Ready(confirmed_lsn=confirmed, added=added, unsent=unsent)


def reader(cursor: Any, name: str) -> int | None:
    """Return the pid of the PostgreSQL process that reads from the slot; None without one."""
    row = _slot(cursor, name)
    return None if row is None else row[2]


def change_source(cursor: Any, name: str) -> str:
    """Return the source that reads from the slot, by its session's name; empty without one."""
    cursor.execute(
        "SELECT a.application_name FROM pg_replication_slots s JOIN pg_stat_activity a"
        " ON a.pid = s.active_pid WHERE s.slot_name = %s",
        [name],
    )
    row = cursor.fetchone()
    if row is None:
        return ""
    return RELAY if row[0] == APPLICATION else CONNECT


def snapshot_taken(topics: Topics, relay: RelaySettings) -> bool:
    """Whether a complete snapshot is noted, so that there was a slot."""
    noted = topics.slot_note(relay.slot)
    return bool(noted and noted["consistent_point"])


def mark(cursor: Any, name: str, lsn: str) -> SlotMark:
    """Read the slot's mark while the server's WAL is at `lsn`."""
    cursor.execute(_COUNTED, [name])
    transactions, since = cursor.fetchone()
    return SlotMark(wal=parse_lsn(lsn), transactions=transactions, counted_since=since)


def adding(cursor: Any, relay: RelaySettings) -> bool:
    """Whether an addition of tables is unfinished; see initial_copy.add."""
    return _slot(cursor, addition(relay)) is not None


def addition(relay: RelaySettings) -> str:
    """Return the name of the marker of an unfinished addition: a physical slot without WAL."""
    return f"{relay.slot[:55]}_adding"


def note(
    cursor: Any, relay: RelaySettings, catalog: Catalog, topics: Topics, point: str | None
) -> None:
    """Note on the broker that a snapshot is complete, or with None that one is due."""
    publication = publications.find(cursor, relay, catalog)
    topics.note_slot(
        {
            "slot": relay.slot,
            "system_identifier": _system(cursor),
            "timeline": _timeline(cursor),
            "consistent_point": point,
            "publication": publication.identity if publication else {},
        }
    )


def drop(cursor: Any, name: str, topics: Topics) -> None:
    """Drop the slot if it exists; noted first, so that a crash does not lead to SlotMissing.

    Raises:
        SlotBusy: a relay reads from it.
    """
    row = _slot(cursor, name)
    if row is not None and row[2] is not None:
        raise SlotBusy(f"slot {name!r} is in use by another relay (pid {row[2]})")
    topics.note_slot({"slot": name, "system_identifier": _system(cursor), "consistent_point": None})
    if row is not None:
        cursor.execute("SELECT pg_drop_replication_slot(%s)", [name])


@contextmanager
def session(settings: PostgresSettings) -> Iterator[Any]:
    """Open a session and a cursor in autocommit mode."""
    with opened(settings) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def replication(settings: PostgresSettings) -> Iterator[Any]:
    """Open a logical replication session and a cursor."""
    with opened(settings, factory=LogicalReplicationConnection) as connection:
        try:
            yield connection.cursor()
        except psycopg2.errors.ObjectInUse as error:
            raise SlotBusy("the slot is in use by another relay") from error
        except psycopg2.DatabaseError as error:
            if error.pgcode is None:  # psycopg2 has no class for a lost session
                raise Unreachable(
                    f"PostgreSQL ended the replication session: {first_line(error)}"
                ) from error
            raise


def _require_logical(cursor: Any) -> None:
    level = _value(cursor, "SHOW wal_level")
    if level != "logical":
        raise NeedsPerson(
            f"PostgreSQL has wal_level={level}",
            remedy="set wal_level=logical and restart PostgreSQL",
        )


def _require_same_server(cursor: Any, noted: dict[str, Any] | None, wal: int) -> None:
    """Require that LSNs continue: else versions in ClickHouse could be above new ones."""
    what = ""
    if noted and noted["system_identifier"] != _system(cursor):
        what = "this PostgreSQL is not the server the last snapshot came from"
    elif noted and noted.get("timeline") not in (None, _timeline(cursor)):
        what = "this PostgreSQL was promoted or restored since the last snapshot: another timeline"
    elif wal > _wal_end(cursor):
        what = f"this PostgreSQL was rewound: its WAL was at {format_lsn(wal)} before"
    if what:
        raise SourceChanged(
            what,
            remedy="if this is intended, restore slot and tables: sluice recover",
        )


def _require_same_slot(cursor: Any, name: str, noted: SlotMark, restart_lsn: str | None) -> None:
    """Require that the slot is the marked one.

    The server's count of a recreated slot starts at 0. A crash of the server resets all counts;
    then a slot whose restart_lsn is beyond the mark is another one, as a slot keeps WAL from its
    creation on. The reader's confirmations advance restart_lsn too, but it lags by two records of
    running transactions, logged every 15 s, while the mark is one second old.
    """
    present = mark(cursor, name, "0/0")
    if present.counted_since == noted.counted_since:
        same = present.transactions >= noted.transactions
    else:
        same = not (noted.wal and restart_lsn) or parse_lsn(restart_lsn) <= noted.wal
    if not same:
        raise SlotRecreated(
            f"replication slot {name!r} was dropped and recreated; it does not have the changes"
            " in between",
            remedy=RECOVER,
        )


def _usable(cursor: Any, row: tuple[Any, ...], name: str) -> int:
    """Return the slot's confirmed LSN, if the slot can be read."""
    confirmed, invalidation = row[0], row[4]
    if invalidation or confirmed is None:
        raise SlotLost(
            f"replication slot {name!r} was invalidated: {cause(invalidation)}",
            remedy=remedy(invalidation),
        )
    if parse_lsn(confirmed) > _wal_end(cursor):
        raise SourceChanged(
            f"slot {name!r} is ahead of the server's WAL: the server was rewound",
            remedy=RECOVER,
        )
    return parse_lsn(confirmed)


def _system(cursor: Any) -> str:
    return str(_value(cursor, "SELECT system_identifier::text FROM pg_control_system()"))


def _timeline(cursor: Any) -> int:
    return int(_value(cursor, f"SELECT {TIMELINE}"), 16)


def _wal_end(cursor: Any) -> int:
    return parse_lsn(_value(cursor, "SELECT pg_current_wal_lsn()::text"))


def _slot(cursor: Any, name: str) -> tuple[Any, ...] | None:
    cursor.execute(
        "SELECT confirmed_flush_lsn::text, wal_status, active_pid, restart_lsn::text,"
        f" {INVALIDATION} FROM pg_replication_slots s WHERE slot_name = %s",
        [name],
    )
    row: tuple[Any, ...] | None = cursor.fetchone()
    return row


def _value(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchone()[0]
