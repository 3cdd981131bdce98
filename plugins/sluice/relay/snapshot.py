"""The first copy: all tables in one exported snapshot.

The permanent slot exists exactly when a snapshot is durable. A temporary slot exports the
snapshot and holds the WAL behind it; when every row is durable, it is copied to the permanent
slot. Killed before that, the temporary slot goes with its session and the snapshot starts again
at a later point; the closing `truncate` below its rows removes what the unfinished one left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from psycopg2 import sql

from sluice.adapters.topics import Topics
from sluice.catalog import Catalog, Table
from sluice.events import READ, TRUNCATE
from sluice.positions import parse_lsn
from sluice.relay import slot as slots
from sluice.relay.envelope import Place, RowEncoder, event
from sluice.relay.pgoutput import RelationColumn, Value
from sluice.relay.publisher import Batch, Publisher
from sluice.settings import PostgresSettings, RelaySettings

log = logging.getLogger(__name__)

_UNESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def take(
    settings: PostgresSettings,
    relay: RelaySettings,
    catalog: Catalog,
    publisher: Publisher,
    topics: Topics,
    check: Callable[[], None],
) -> None:
    """Publish every row, wait until all is durable, and leave the permanent slot behind.

    Args:
        check: called often; raises when the relay must stop or the broker was wiped.
    """
    with slots.replication(settings) as holder, slots.session(settings) as cursor:
        temporary = f"{relay.slot}_snapshot_{int(time.time())}"
        holder.execute(
            f'CREATE_REPLICATION_SLOT "{temporary}" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT'
        )
        _, point, exported, _ = holder.fetchone()
        lsn, now = parse_lsn(point), int(time.time() * 1000)
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SET TRANSACTION SNAPSHOT %s", [exported])
        batch = Batch(end_lsn=lsn)
        for table in catalog.tables:
            place = Place(lsn=lsn, commit_lsn=lsn, ordinal=1, commit_ms=now)
            rows = _copy(cursor, table, place, publisher, batch)
            below = Place(lsn=lsn, commit_lsn=lsn, ordinal=0, commit_ms=now)
            emptied = event(table.name, TRUNCATE, below, "null", "null")
            publisher.publish(table.topic, None, emptied, batch)
            log.info("snapshot: %s, %d rows", table.name, rows)
            check()
        cursor.execute("COMMIT")
        _wait_until_durable(relay, publisher, topics, batch, check)
        cursor.execute(
            "SELECT pg_copy_logical_replication_slot(%s, %s, false)", [temporary, relay.slot]
        )
        cursor.execute("SELECT system_identifier::text FROM pg_control_system()")
        system = cursor.fetchone()[0]
    topics.note_slot({"slot": relay.slot, "system_identifier": system, "consistent_point": point})
    log.info("snapshot: complete at %s", point)


def _copy(cursor: Any, table: Table, place: Place, publisher: Publisher, batch: Batch) -> int:
    """Publish the table's rows; how many."""
    name = sql.Identifier(table.schema, table.name)
    cursor.execute(
        "SELECT attname, atttypid::int FROM pg_attribute WHERE attrelid = %s::regclass"
        " AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        [name.as_string(cursor.connection)],
    )
    columns = [RelationColumn(name=n, type_oid=oid, in_key=False) for n, oid in cursor.fetchall()]
    key = [column.name for column in table.key]
    encoder = RowEncoder(table.name, columns, key)
    query = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
        name,
        sql.SQL(", ").join(map(sql.Identifier, key)),
    )
    sink = _Sink(table, encoder, place, publisher, batch)
    cursor.copy_expert(query.as_string(cursor.connection), sink)
    return sink.rows


class _Sink:
    """Takes COPY's lines as they come and publishes them."""

    def __init__(
        self,
        table: Table,
        encoder: RowEncoder,
        place: Place,
        publisher: Publisher,
        batch: Batch,
    ) -> None:
        self.rows = 0
        self._topic, self._table = table.topic, table.name
        self._encoder, self._place = encoder, place
        self._publisher, self._batch = publisher, batch

    def write(self, line: bytes) -> None:
        """One row of COPY's text format."""
        values = [_unescaped(value) for value in line.removesuffix(b"\n").split(b"\t")]
        payload = self._encoder.row(values)
        value = event(self._table, READ, self._place, payload, "null")
        self._publisher.publish(self._topic, self._encoder.key(values), value, self._batch)
        self.rows += 1
        if self.rows % 1000 == 0:
            self._publisher.poll()


def _unescaped(field: bytes) -> Value:
    if b"\\" not in field:
        return field
    if field == rb"\N":
        return None
    head, *rest = field.split(b"\\")
    return head + b"".join(_joined(rest))


def _joined(parts: Sequence[bytes]) -> list[bytes]:
    """The pieces after each backslash, their escapes resolved; an empty piece is `\\\\`."""
    joined, literal = [], False
    for part in parts:
        if literal:
            joined.append(part)
            literal = False
        elif part == b"":
            joined.append(b"\\")
            literal = True
        else:
            joined.append(_UNESCAPED.get(part[:1], part[:1]) + part[1:])
    return joined


def _wait_until_durable(
    relay: RelaySettings,
    publisher: Publisher,
    topics: Topics,
    batch: Batch,
    check: Callable[[], None],
) -> None:
    told = False
    while batch.undelivered or not (relay.ack == "broker" or drained(topics, batch)):
        publisher.poll(0.2)
        if not batch.undelivered and not told:
            log.info("snapshot: on the broker, waiting for the drain")
            told = True
        check()


def drained(topics: Topics, batch: Batch) -> bool:
    """Whether the drain group has gone past the batch on every topic."""
    committed = topics.committed(batch.offsets)
    return all(committed.get(topic, 0) > offset for topic, offset in batch.offsets.items())
