"""The stream: committed transactions from the slot to the topics, confirmed when durable."""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any

import psycopg2

from sluice.capture.background_call import BackgroundCall
from sluice.capture.duties import Clock
from sluice.capture.json_rows import TYPE_OIDS, RowEncoder, Transaction
from sluice.capture.metrics import Progress
from sluice.capture.parking import Parking
from sluice.capture.pgoutput import (
    MISSING,
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    Truncate,
    Type,
    Update,
    Value,
    decode,
)
from sluice.capture.publisher import Batch, Publisher, joined
from sluice.capture.slot_marks import Marks
from sluice.catalog import Catalog, Table
from sluice.data_types.masks import Mask
from sluice.errors import NeedsPerson, NotReady, Unreachable
from sluice.events.event import DELETE, INSERT, TRUNCATE, UPDATE
from sluice.settings import RelaySettings

log = logging.getLogger(__name__)

_FEEDBACK_SECONDS = 0.25
_LULL = 0.001  # seconds without a message, after which the read ones are sent
_NOTED = 0.005  # seconds between checks whether a mark was noted
_SOON = 0.02  # least seconds between confirmations of an idle stream
# Consecutive transactions are confirmed together up to this number of changes, and consecutive
# batches when more than this number wait for the drain.
_TOGETHER = 500
_MOST_PENDING = 5000

_ROWS = (Insert, Update, Delete)
_INSERT, _UPDATE, _DELETE, _TRUNCATE = (
    name.encode() for name in (INSERT, UPDATE, DELETE, TRUNCATE)
)
_NULL = b"null"

Row = list[Value]


class Stream:
    """The stream of one replication session.

    Args:
        committed: the drain group's next offsets; None with `ack=broker`.
        check: called often; ends the stream by raising.
        marks: the LSNs that may be confirmed.
        parking: the tables that are left out.
        progress: updated four times a second.
        masks: returns the masks of a table's columns by name.
    """

    def __init__(
        self,
        cursor: Any,
        relay: RelaySettings,
        catalog: Catalog,
        publisher: Publisher,
        committed: BackgroundCall[dict[str, int]] | None,
        check: Callable[[], None],
        marks: Marks,
        parking: Parking,
        progress: Progress,
        masks: Callable[[Table], Mapping[str, Mask]],
    ) -> None:
        self._cursor = cursor
        self._masks = masks
        self._relay = relay
        self._publisher = publisher
        self._committed = committed
        self._check = check
        self._marks = marks
        self._parking = parking
        self._progress = progress
        self._tables = {(table.schema, table.relation): table for table in catalog.tables}
        self._relations: dict[int, tuple[RowEncoder, str] | None] = {}
        self._base_types: dict[int, int] = {}  # OID of a described type -> OID of its base type
        self._transaction = Transaction(0, 0)
        self._batch = Batch()
        self._ordinal = 0
        self._open_ms: int | None = None  # commit time of the transaction that is being read
        self._pending: deque[Batch] = deque()
        self._on_broker = 0  # batches that were on the broker when `committed` began
        self._durable = self._confirmed = 0
        self._end = 0  # end LSN of the last transaction that was read
        self._ahead = 0  # LSN that psycopg2 may confirm by itself: see _look_ahead
        self._fed_back = 0.0
        self._silence = 0.0
        self._clock = Clock(_FEEDBACK_SECONDS, time.monotonic)
        publisher.wait = self.attend  # keeps the session while the broker accepts nothing

    def run(self, confirmed_lsn: int) -> None:
        """Stream until an error or a stop; PostgreSQL resumes at its own confirmed LSN."""
        self._durable = self._confirmed = confirmed_lsn
        self._silence = _tolerated_silence(self._cursor)
        self._start()
        log.info("streaming from slot %s", self._relay.slot)
        self._fed_back = time.monotonic()
        read, take, due = self._cursor.read_message, self._take, self._clock.due
        while True:
            if due():
                self._close()
                self._attend()
            message = read()
            if message is not None:
                take(decode(message.payload), message.data_start)
            elif not select.select([self._cursor], [], [], _LULL)[0]:
                self._close()
                self._rest()
            else:
                self._look_ahead(self._cursor.wal_end)

    def attend(self) -> None:
        """Four times a second run checks, settle batches and confirm."""
        if self._clock.due():
            self._attend()

    def _attend(self) -> None:
        silence = time.monotonic() - self._fed_back
        if silence > self._silence:
            # After half of wal_sender_timeout PostgreSQL asks, and psycopg2 answers by itself. In
            # the middle of a transaction its answer can confirm others that are not durable.
            raise Unreachable(
                f"the relay was held up for {silence:.0f} s; the session is restarted"
            )
        self._check()
        self._publisher.poll()
        self._settle()
        self._confirm()

    def _rest(self) -> None:
        """Confirm durable transactions while there is nothing to read, and wait for more."""
        self._look_ahead(self._cursor.wal_end)
        self._publisher.poll()
        self._settle()
        if self._confirmable() > self._confirmed and time.monotonic() - self._fed_back >= _SOON:
            self._confirm()
        # The broker acknowledges within milliseconds, the drain within a minute.
        soon = self._durable > self._confirmed or (self._committed is None and self._pending)
        select.select([self._cursor], [], [], 0.005 if soon else 0.05)

    def _look_ahead(self, lsn: int) -> None:
        """Note the LSN that psycopg2 may confirm by itself.

        Once the last transaction is confirmed, psycopg2 advances with each keepalive up to the next
        transaction. Nothing more is read until that LSN is noted.
        """
        if self._confirmed < self._end:
            return
        self._ahead = max(self._ahead, lsn)
        while self._ahead > self._marks.noted:
            self._marks.wanted = max(self._marks.wanted, self._ahead)
            self.attend()
            time.sleep(_NOTED)

    def _close(self) -> None:
        """Send published messages; end the batch if it has a complete transaction.

        It may have the first changes of the next one too, which only delays it.
        """
        self._publisher.flush(self._batch)
        if not self._batch.end_lsn:
            return
        self._pending.append(self._batch)
        self._batch = Batch(commit_ms=self._open_ms)
        if len(self._pending) > _MOST_PENDING:
            self._join()

    def _join(self) -> None:
        """Join batches that are on the broker in pairs, which are confirmed together."""
        delivered = list(takewhile(_delivered, self._pending))
        later = islice(self._pending, len(delivered), None)
        pairs = (delivered[at : at + 2] for at in range(0, len(delivered), 2))
        self._pending = deque([*(joined(*pair) for pair in pairs), *later])
        self._on_broker //= 2

    def _confirmable(self) -> int:
        """Return the durable LSN as far as it is noted; request a note of the rest."""
        marks = self._marks
        if self._durable > marks.noted:
            # Up to the last transaction, which else would wait for a note of its own.
            marks.wanted = max(marks.wanted, self._durable, self._end)
        return min(self._durable, marks.noted)

    def _confirm(self) -> None:
        """Confirm the durable and noted LSN to PostgreSQL, which also keeps the session."""
        confirmed = self._confirmable()
        self._progress.events = self._publisher.published
        self._progress.read_lsn = self._end
        self._progress.oldest_ms = (self._pending or (self._batch,))[0].commit_ms
        if self._ahead > self._marks.noted:
            return
        self._cursor.send_feedback(flush_lsn=confirmed, force=True)
        self._progress.confirmed_lsn = confirmed
        self._confirmed, self._fed_back = confirmed, time.monotonic()

    def _start(self) -> None:
        options = {
            "proto_version": "1",
            "publication_names": self._relay.publication,
            "messages": "true",
        }
        try:
            self._cursor.start_replication(
                slot_name=self._relay.slot, decode=False, options=options
            )
        except psycopg2.errors.UndefinedObject as error:
            raise NotReady(f"slot {self._relay.slot!r} was dropped") from error

    def _settle(self) -> None:
        """Remove the first batches that are durable by the relay's `ack`."""
        pending, committed = self._pending, self._committed
        if committed is None:
            while pending and not pending[0].undelivered:
                self._durable = pending.popleft().end_lsn
            return
        offsets = committed.answer()
        # Only batches that were on the broker before the call: offsets of a former broker do not
        # apply to later ones of its successor.
        while self._on_broker and offsets is not None and _covers(offsets, pending[0]):
            self._durable = pending.popleft().end_lsn
            self._on_broker -= 1
        while pending and not pending[0].undelivered and not pending[0].offsets:
            self._durable = pending.popleft().end_lsn
            self._on_broker = max(0, self._on_broker - 1)
        if pending and not pending[0].undelivered and committed.due():
            self._on_broker = sum(1 for _ in takewhile(_delivered, islice(pending, _MOST_PENDING)))
            self._progress.published_lsn = pending[self._on_broker - 1].end_lsn
            committed.begin()

    def _take(self, change: Message, lsn: int) -> None:
        if isinstance(change, _ROWS):
            relation = self._relations.get(change.relation_id)
            if relation is not None:
                self._row(relation, change, lsn)
        elif isinstance(change, Begin):
            if self._confirmed >= self._end:  # a keepalive may have come before it
                self._ahead = max(self._ahead, change.commit_lsn)
                self._marks.wanted = max(self._marks.wanted, self._ahead)
            self._transaction = Transaction(change.commit_lsn, change.commit_ms)
            self._ordinal = 0
            self._open_ms = change.commit_ms
            if self._batch.commit_ms is None:
                self._batch.commit_ms = change.commit_ms
        elif isinstance(change, Commit):
            self._batch.end_lsn = self._end = change.end_lsn
            self._open_ms = None
            if self._batch.messages >= _TOGETHER:
                self._close()
        elif isinstance(change, Type):
            base = TYPE_OIDS.get(change.name) if change.schema == "pg_catalog" else None
            self._base_types[change.oid] = change.oid if base is None else base
        elif isinstance(change, Relation):
            self._relations[change.relation_id] = self._relation(change)
        elif isinstance(change, Truncate):
            for relation_id in change.relation_ids:
                relation = self._relations.get(relation_id)
                if relation is not None and relation[0].table not in self._parking.tables:
                    self._publish(relation, _TRUNCATE, lsn, None, _NULL, _NULL)

    def _relation(self, relation: Relation) -> tuple[RowEncoder, str] | None:
        table: Table | None = self._tables.get((relation.schema, relation.table))
        if table is None:
            return None
        key = [column.name for column in table.key]
        base = self._base_types
        columns = [
            replace(column, type_oid=base.get(column.type_oid, column.type_oid))
            for column in relation.columns
        ]
        # All columns where whole old rows are sent, none where nothing is.
        sent = {column.name for column in relation.columns if column.in_key}
        try:
            if sent and sent != set(key) and len(sent) < len(relation.columns):
                raise NeedsPerson(
                    f"a change does not have the model's key: {', '.join(sorted(sent))}",
                    remedy=f"run in PostgreSQL: ALTER TABLE {table.name} REPLICA IDENTITY DEFAULT,"
                    " where its primary key is the model's",
                )
            hidden = [column.name for column in columns if not table.sends(column.name)]
            masks = self._masks(table)
            encoder = RowEncoder(table.name, columns, key, excluded=hidden, masks=masks)
            return encoder, table.topic
        except NeedsPerson as error:
            self._parking.park(table.name, self._end, error)
            return None

    def _row(
        self, relation: tuple[RowEncoder, str], change: Insert | Update | Delete, lsn: int
    ) -> None:
        encoder, _ = relation
        if encoder.table in self._parking.tables:
            return
        try:
            if isinstance(change, Insert):
                row = change.new
                self._publish(relation, _INSERT, lsn, encoder.key(row), encoder.row(row), _NULL)
            elif isinstance(change, Delete):
                key = encoder.key(change.old)
                self._publish(relation, _DELETE, lsn, key, key, _NULL)
            else:
                old, row = change.old, _with_old_values(change.old, change.new)
                moved = old is not None and not encoder.same_key(old, row)
                before = encoder.key(old) if old is not None and moved else _NULL
                self._publish(relation, _UPDATE, lsn, encoder.key(row), encoder.row(row), before)
        except ValueError as error:
            fault = NeedsPerson(
                f"a change does not have the model's key: {error}",
                remedy=f"run in PostgreSQL: ALTER TABLE {encoder.table} REPLICA IDENTITY DEFAULT",
            )
            self._parking.park(encoder.table, self._end, fault)

    def _publish(
        self,
        relation: tuple[RowEncoder, str],
        operation: bytes,
        lsn: int,
        key: bytes | None,
        payload: bytes,
        before: bytes,
    ) -> None:
        encoder, topic = relation
        self._ordinal += 1
        value = self._transaction.event(encoder, operation, lsn, self._ordinal, payload, before)
        self._publisher.publish(topic, key, value, self._batch)


def _delivered(batch: Batch) -> bool:
    return not batch.undelivered


def _covers(offsets: dict[str, int], batch: Batch) -> bool:
    return all(offsets.get(topic, 0) > offset for topic, offset in batch.offsets.items())


def _tolerated_silence(cursor: Any) -> float:
    """Return the seconds without feedback before PostgreSQL may ask for it."""
    cursor.execute("SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'")
    milliseconds = int(cursor.fetchone()[0])
    return 0.4 * milliseconds / 1000 if milliseconds else float("inf")


def _with_old_values(old: Row | None, new: Row) -> Row:
    """Return the new row with MISSING values taken from the old key or row, where it has them."""
    if old is None or MISSING not in new:
        return new
    return [
        before if after is MISSING and before is not None else after
        for before, after in zip(old, new, strict=True)
    ]
