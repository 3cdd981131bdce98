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
from sluice.errors import SlotBusy
from sluice.events import READ, TRUNCATE
from sluice.positions import format_lsn, parse_lsn
from sluice.relay import publication as publications
from sluice.relay import slot as slots
from sluice.relay.envelope import RowEncoder, Transaction
from sluice.relay.pgoutput import RelationColumn, Value
from sluice.relay.publisher import Batch, Publisher
from sluice.settings import Settings

log = logging.getLogger(__name__)

_UNESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ROWS_BETWEEN_CHECKS = 1000


def take(
    settings: Settings,
    catalog: Catalog,
    publisher: Publisher,
    topics: Topics,
    check: Callable[[], None],
    *,
    again: bool,
) -> None:
    """Publish every row, wait until all is durable, and leave the permanent slot behind.

    Args:
        check: called often; raises when the relay must stop or the broker was wiped.
        again: a slot that is there is dropped first.

    Raises:
        SlotBusy: another relay takes, or has just taken, the snapshot.
    """
    relay = settings.relay
    with (
        slots.replication(settings.postgres) as holder,
        slots.session(settings.postgres) as cursor,
    ):
        _claim(cursor, relay.slot)
        if again:
            slots.drop(cursor, relay.slot, topics)
        temporary, batch = _copy(holder, cursor, settings, catalog.tables, publisher, check)
        _wait_until_durable(relay.ack, publisher, topics, batch, check)
        copy = "SELECT pg_copy_logical_replication_slot(%s, %s, false)"
        cursor.execute(copy, [temporary, relay.slot])
        slots.note(cursor, relay, catalog, topics, format_lsn(batch.end_lsn))
    log.info("snapshot: complete at %s", format_lsn(batch.end_lsn))


def add(
    settings: Settings,
    catalog: Catalog,
    tables: Sequence[Table],
    publisher: Publisher,
    topics: Topics,
    check: Callable[[], None],
) -> None:
    """Publish the rows of tables that came to the publication while the stream goes on.

    The stream sends their changes already, so each row that changes after the consistent point
    comes again with a higher version. Killed, it starts again: the note on the broker tells
    which tables were finished, and a marker in Postgres that there were others, should the
    broker lose its notes.
    """
    relay = settings.relay
    with (
        slots.replication(settings.postgres) as holder,
        slots.session(settings.postgres) as cursor,
    ):
        _claim(cursor, slots.addition(relay))
        if not slots.adding(cursor, relay):
            create = "SELECT pg_create_physical_replication_slot(%s)"
            cursor.execute(create, [slots.addition(relay)])
        _, batch = _copy(holder, cursor, settings, tables, publisher, check)
        _wait_until_durable(relay.ack, publisher, topics, batch, check)
        noted = topics.slot_note(relay.slot)
        publications.require_unchanged(cursor, relay, catalog, noted)
        slots.note(cursor, relay, catalog, topics, format_lsn(batch.end_lsn))
        cursor.execute("SELECT pg_drop_replication_slot(%s)", [slots.addition(relay)])
    log.info("snapshot: %s added", ", ".join(table.name for table in tables))


def _copy(
    holder: Any,
    cursor: Any,
    settings: Settings,
    tables: Sequence[Table],
    publisher: Publisher,
    check: Callable[[], None],
) -> tuple[str, Batch]:
    """Publish the tables' rows; the temporary slot that lasts as long as `holder`, and the batch.

    The batch ends at the slot's consistent point.
    """
    temporary = f"{settings.relay.slot[:40]}_snapshot_{holder.connection.info.backend_pid}"
    holder.execute(
        f'CREATE_REPLICATION_SLOT "{temporary}" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT'
    )
    _, point, exported, _ = holder.fetchone()
    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    cursor.execute("SET TRANSACTION SNAPSHOT %s", [exported])
    batch = Batch(end_lsn=parse_lsn(point))
    for table in tables:
        _publish(cursor, table, publisher, batch, check)
    cursor.execute("COMMIT")
    return temporary, batch


def _claim(cursor: Any, slot: str) -> None:
    """Hold off other relays while this session lasts."""
    cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"sluice {slot}"])
    if not cursor.fetchone()[0]:
        raise SlotBusy(f"another relay takes the snapshot of slot {slot!r}")


def _publish(
    cursor: Any, table: Table, publisher: Publisher, batch: Batch, check: Callable[[], None]
) -> None:
    """The table's rows, and then what deletes everything older."""
    transaction = Transaction(batch.end_lsn, int(time.time() * 1000))
    columns = _columns(cursor, table)
    key = [column.name for column in table.key]
    sink = _Sink(table, RowEncoder(table.name, columns, key), transaction, publisher, batch, check)
    query = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
        sql.Identifier(table.schema, table.relation),
        sql.SQL(", ").join(map(sql.Identifier, key)),
    )
    cursor.copy_expert(query.as_string(cursor.connection), sink)
    sink.close()
    log.info("snapshot: %s, %d rows", table.name, sink.rows)


def _columns(cursor: Any, table: Table) -> list[RelationColumn]:
    """The columns that pgoutput publishes: of computed ones those of the models."""
    name = sql.Identifier(table.schema, table.relation).as_string(cursor.connection)
    cursor.execute(
        "SELECT attname, atttypid::int8, attgenerated <> '' FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [name],
    )
    wanted = {column.name for column in table.columns if column.generated}
    return [
        RelationColumn(name=column, type_oid=oid, in_key=False)
        for column, oid, generated in cursor.fetchall()
        if not generated or column in wanted
    ]


class _Sink:
    """Takes COPY's lines as they come and publishes them."""

    def __init__(
        self,
        table: Table,
        encoder: RowEncoder,
        transaction: Transaction,
        publisher: Publisher,
        batch: Batch,
        check: Callable[[], None],
    ) -> None:
        self.rows = 0
        self._topic, self._encoder, self._transaction = table.topic, encoder, transaction
        self._publisher, self._batch, self._check = publisher, batch, check

    def write(self, line: bytes) -> None:
        """One row of COPY's text format."""
        values = [_unescaped(value) for value in line[:-1].split(b"\t")]
        self._send(READ, 1, self._encoder.key(values), self._encoder.row(values))
        self.rows += 1
        if self.rows % _ROWS_BETWEEN_CHECKS == 0:
            self._publisher.poll()
            self._check()

    def close(self) -> None:
        """Below the rows, so that it deletes everything but them."""
        self._send(TRUNCATE, 0, None, "null")
        self._check()

    def _send(self, operation: str, ordinal: int, key: str | None, payload: str) -> None:
        lsn = self._batch.end_lsn
        value = self._transaction.event(self._encoder, operation, lsn, ordinal, payload, "null")
        self._publisher.publish(self._topic, key, value, self._batch)


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
    ack: str, publisher: Publisher, topics: Topics, batch: Batch, check: Callable[[], None]
) -> None:
    while batch.undelivered:
        publisher.poll(0.2)
        check()
    if ack == "broker":
        return
    log.info("snapshot: on the broker, waiting for the drain")
    while not _drained(topics, batch):
        publisher.poll(0.5)
        check()


def _drained(topics: Topics, batch: Batch) -> bool:
    """Whether the drain group has gone past the batch on every topic."""
    committed = topics.committed(batch.offsets)
    return all(committed.get(topic, 0) > offset for topic, offset in batch.offsets.items())
