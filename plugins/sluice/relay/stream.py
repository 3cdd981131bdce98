"""The stream: committed transactions from the slot onto the topics, confirmed when durable."""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sluice.adapters.topics import Topics
from sluice.catalog import Catalog
from sluice.events import DELETE, INSERT, TRUNCATE, UPDATE
from sluice.relay.envelope import Place, RowEncoder, event
from sluice.relay.pgoutput import (
    MISSING,
    Begin,
    Commit,
    Delete,
    Insert,
    Relation,
    Truncate,
    Update,
    Value,
    decode,
)
from sluice.relay.publisher import Batch, Publisher
from sluice.settings import RelaySettings

log = logging.getLogger(__name__)

_FEEDBACK_SECONDS = 0.5


class Stream:
    """Reads one replication session; `run` returns when `check` says so by raising."""

    def __init__(
        self,
        cursor: Any,
        relay: RelaySettings,
        catalog: Catalog,
        publisher: Publisher,
        topics: Topics,
        check: Callable[[], None],
    ) -> None:
        self._cursor = cursor
        self._relay = relay
        self._catalog = catalog
        self._publisher = publisher
        self._topics = topics
        self._check = check
        self._relations: dict[int, RowEncoder | None] = {}
        self._begin = Begin(commit_lsn=0, commit_ms=0)
        self._batch = Batch()
        self._ordinal = 0
        self._pending: deque[Batch] = deque()
        self._confirmed = 0
        self._fed_back = 0.0
        publisher.wait = self.feed_back  # the session is kept while the broker takes nothing

    def run(self, confirmed_lsn: int) -> None:
        """Stream until an error or a stop; Postgres resumes at its own confirmed position."""
        self._confirmed = confirmed_lsn
        self._cursor.start_replication(
            slot_name=self._relay.slot,
            decode=False,
            options={
                "proto_version": "1",
                "publication_names": self._relay.publication,
                "messages": "true",
            },
        )
        log.info("streaming from slot %s", self._relay.slot)
        while True:
            message = self._cursor.read_message()
            if message is None:
                select.select([self._cursor], [], [], 0.05)
                self._publisher.poll()
                self.feed_back()
            else:
                self._take(message)

    def feed_back(self) -> None:
        """Tell Postgres what is durable, at most every half second; also keeps the session."""
        now = time.monotonic()
        if now - self._fed_back < _FEEDBACK_SECONDS:
            return
        self._fed_back = now
        self._check()
        self._publisher.poll()
        for batch in self._durable():
            self._confirmed = max(self._confirmed, batch.end_lsn)
        self._cursor.send_feedback(flush_lsn=self._confirmed, force=True)

    def _durable(self) -> list[Batch]:
        """Take the transactions from the front that are durable by the relay's `ack`."""
        durable = []
        committed: dict[str, int] | None = None
        while self._pending and not self._pending[0].undelivered:
            batch = self._pending[0]
            if batch.offsets and self._relay.ack == "drained":
                if committed is None:
                    names = [table.topic for table in self._catalog.tables]
                    committed = self._topics.committed(names)
                if any(committed[topic] <= offset for topic, offset in batch.offsets.items()):
                    break
            durable.append(self._pending.popleft())
        return durable

    def _take(self, message: Any) -> None:
        change = decode(message.payload)
        if isinstance(change, Begin):
            self._begin, self._batch, self._ordinal = change, Batch(), 0
        elif isinstance(change, Commit):
            self._commit(change)
        elif isinstance(change, Relation):
            self._relations[change.relation_id] = self._encoder(change)
        elif isinstance(change, Truncate):
            for relation_id in change.relation_ids:
                encoder = self._relations.get(relation_id)
                if encoder:
                    self._publish(encoder, TRUNCATE, message, None, "null", "null")
        elif isinstance(change, Insert | Update | Delete):
            encoder = self._relations.get(change.relation_id)
            if encoder:
                self._row(encoder, change, message)
        if self._ordinal % 500 == 0:
            self._publisher.poll()
            self.feed_back()

    def _commit(self, commit: Commit) -> None:
        batch = self._batch
        batch.end_lsn = commit.end_lsn
        last = self._pending[-1] if self._pending else None
        empty = not batch.undelivered and not batch.offsets
        if last and empty and not last.undelivered and not last.offsets:
            last.end_lsn = commit.end_lsn
        else:
            self._pending.append(batch)

    def _encoder(self, relation: Relation) -> RowEncoder | None:
        for table in self._catalog.tables:
            if (table.schema, table.name) == (relation.schema, relation.table):
                return RowEncoder(table.name, relation.columns, [c.name for c in table.key])
        return None

    def _row(self, encoder: RowEncoder, change: Insert | Update | Delete, message: Any) -> None:
        if isinstance(change, Insert):
            self._publish(encoder, INSERT, message, change.new, encoder.row(change.new), "null")
        elif isinstance(change, Delete):
            self._publish(encoder, DELETE, message, change.old, encoder.key(change.old), "null")
        else:
            old, new = change.old, change.new
            moved = old is not None and not encoder.same_key(old, new)
            before = encoder.key(old) if old is not None and moved else "null"
            whole = _with_old_values(old, new)
            self._publish(encoder, UPDATE, message, new, encoder.row(whole), before)

    def _publish(
        self,
        encoder: RowEncoder,
        operation: str,
        message: Any,
        row: list[Value] | None,
        payload: str,
        before: str,
    ) -> None:
        self._ordinal += 1
        place = Place(
            lsn=message.data_start,
            commit_lsn=self._begin.commit_lsn,
            ordinal=self._ordinal,
            commit_ms=self._begin.commit_ms,
        )
        value = event(encoder.table, operation, place, payload, before)
        key = encoder.key(row) if row is not None else None
        topic = self._catalog.table(encoder.table).topic
        self._publisher.publish(topic, key, value, self._batch)


def _with_old_values(old: list[Value] | None, new: list[Value]) -> list[Value]:
    """Under REPLICA IDENTITY FULL the old row has the values that were left out."""
    if old is None or MISSING not in new:
        return new
    return [
        before if after == MISSING and before is not None else after
        for before, after in zip(old, new, strict=True)
    ]
