"""Fenced snapshots: a table's rows as of an LSN, published beside the stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from psycopg2 import sql

from sluice.capture import slot as slots
from sluice.capture import standby
from sluice.capture.bulk import Load, Sent
from sluice.capture.exported_snapshot import export_snapshot
from sluice.capture.publisher import Batch, Publisher
from sluice.capture.row_reader import (
    RowReader,
    checksum_rows,
    count_rows,
    keys_between,
    present_keys,
    readable_keys,
    rows_on,
    selected_rows,
)
from sluice.capture.shapes import named, shapes
from sluice.catalog import Table
from sluice.catalog.key_selection import Selection, divisible, numbered
from sluice.clients.postgres import HEARTBEAT_PREFIX, apart, limit_statements, translated
from sluice.clients.source_tables import (
    from_rows,
    from_table,
    own_rows,
    own_table,
    relations,
)
from sluice.clients.topics import Topics
from sluice.errors import NotReady, SluiceError, Unreachable
from sluice.events.event import KeyText
from sluice.events.positions import parse_lsn
from sluice.execution.failpoints import Reached
from sluice.settings import PostgresSettings, Settings

_PAUSE = 0.1
_ATTEMPTS = 4
_KEYS_AT_ONCE = 50_000
# 64 MB, which is some seconds of checksums.
_PAGES_IN_A_PIECE = 8192
# A gigabyte, which is stored before a time limit of ClickHouse's user may end the insert.
_PAGES_IN_AN_INSERT = 131_072
# The places whose name another table has since the snapshot, or whose table or a partition of it
# was rewritten: pg_class is read in the snapshot, while names and functions give the present.
_REWRITTEN = """
SELECT DISTINCT place FROM unnest(%s::text[]) AS place CROSS JOIN LATERAL (
    SELECT place::regclass::oid AS oid UNION SELECT relid FROM pg_partition_tree(place::regclass)
) AS parts LEFT JOIN pg_class c ON c.oid = parts.oid
WHERE (c.oid IS NULL AND parts.oid = place::regclass)
    OR (c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid))
"""

Passed = Callable[[int], Mapping[str, SluiceError]]
_NONE: Mapping[str, SluiceError] = {}


class FencedReading:
    """See resync.Reading."""

    def __init__(
        self,
        cursor: Any,
        table: Table,
        batch: Batch,
        publisher: Publisher,
        topics: Topics,
        drain: Callable[[], None],
        offset: int | None,
        load: Load | None = None,
    ) -> None:
        self.fence, self.offset, self.begins = batch.end_lsn, offset, log_end(topics, table)
        self._cursor, self._table, self._names = cursor, table, [table.topic]
        self._load, self._loaded, self._copied = load, False, 0
        self._sent: Sent = lambda _: None
        self._incarnation = topics.incarnation(self._names)
        self._batch, self._publisher = batch, publisher
        self._topics, self._drain = topics, drain
        self._rows = RowReader(cursor, table, publisher, batch, self._check, offset)

    def checksum(self, selection: Selection) -> tuple[int, int]:
        """See resync.Reading."""
        return checksum_rows(self._cursor, self._table, selection)

    def read(self, selection: Selection, reached: Reached, sent: Sent) -> int:
        """See resync.Reading."""
        self._sent, readable = sent, self._readable(selection)
        if readable is None:
            return 0
        if self._load is None:
            return self._rows.read(readable)
        copying = self._load.begin(self.fence, self.offset)
        for condition in self._pieces(readable):
            loaded = copying.copy(self._cursor, condition, reached, self._check)
            self._copied += loaded.rows
            if loaded.others is not None:
                self._rows.read_where(loaded.others)
        copying.publish()
        self._loaded = True
        return self._copied + self._rows.rows

    def _pieces(self, selection: Selection) -> list[sql.Composable]:
        """Return the conditions of the inserts that copy a selection; all rows are a range of
        pages each, because a table whose keys cannot be divided may be of any size.
        """
        if not selection.everything:
            return [selected_rows(self._cursor, self._table, selection)]
        pages = shapes(self._cursor, [self._table])[self._table.name].pages
        firsts = range(0, max(1, pages), _PAGES_IN_AN_INSERT)
        ends = [*firsts[1:], None]
        return [rows_on(first, below) for first, below in zip(firsts, ends, strict=True)]

    def present(self, selection: Selection, texts: Sequence[str]) -> set[str]:
        """See resync.Reading."""
        keys: set[str] = set()
        readable = self._readable(selection)
        for start in range(0, len(texts) if readable else 0, _KEYS_AT_ONCE):
            some = texts[start : start + _KEYS_AT_ONCE]
            keys |= present_keys(self._cursor, self._table, readable or selection, some)
        return keys

    def _readable(self, selection: Selection) -> Selection | None:
        """Return the selection without keys that PostgreSQL cannot read; None without any."""
        if not selection.keys:
            return selection
        keys = readable_keys(self._cursor, self._table, selection.keys)
        return Selection(keys=tuple(keys)) if keys else None

    def delete(self, key: str) -> None:
        """See resync.Reading."""
        self._rows.delete(key)

    def wait(self) -> None:
        """See resync.Reading."""
        self._publisher.flush(self._batch)
        while self._batch.undelivered:
            self._publisher.poll(0.2)
            self._check()
        awaited = dict(self._batch.offsets)
        if self._loaded:  # past the topic, so nothing that was published is at its end
            awaited[self._table.topic] = log_end(self._topics, self._table) - 1
        while awaited:
            self._drain()
            committed = self._topics.committed(awaited)
            if all(committed[topic] > offset for topic, offset in awaited.items()):
                return
            if self._topics.incarnation(self._names) != self._incarnation:
                raise Unreachable("the topic was recreated; the rows have to be read again")
            self._check()
            time.sleep(_PAUSE)  # another drain is running

    def _check(self, copying: int = 0) -> None:
        """Report the rows read so far, with those of a copy that is running."""
        self._publisher.require_working()
        self._sent(self._copied + copying + self._rows.rows)


@contextmanager
def fenced_reading(
    settings: Settings,
    table: Table,
    topics: Topics,
    drain: Callable[[], None],
    *,
    by_offset: bool = False,
    load: Load | None = None,
) -> Iterator[FencedReading]:
    """Open a fence for the context.

    Args:
        drain: drains the table once.
        load: copies rows past the topic. Default: None, for all rows through the topic.
        by_offset: whether offsets instead of LSNs order the table's changes. The topic's end is
            then read before the snapshot, which includes all events before it. Default: false.

    Raises:
        NotReady: an open transaction did not end within a minute, or the table was rewritten before
            each attempt to read it.
    """
    end = log_end(topics, table) if by_offset else None
    for _ in range(_ATTEMPTS):
        with (
            slots.replication(settings.postgres) as holder,
            slots.session(settings.postgres) as cursor,
        ):
            _, point = export_snapshot(holder, cursor, settings.relay)
            snapshot = ExactSnapshot(settings.postgres, cursor, point)
            if snapshot.holds(table):
                with snapshot.reading(settings, table, topics, drain, end, load) as reading:
                    yield reading
                return
    raise NotReady(
        f"PostgreSQL rewrote table {table.name} before each attempt to read it",
        remedy="run it again when no migration is running",
    )


def hold(cursor: Any, tables: Sequence[Table]) -> set[str]:
    """Lock tables against rewriting for the transaction; return those that its snapshot lacks.

    A table that was truncated, rewritten by ALTER TABLE or swapped under its name is empty in every
    older snapshot.
    """
    known = relations(cursor, tables)
    listed = sql.SQL(", ").join(from_table(table, known) for table in tables)
    cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(listed))
    places = {named(cursor, table): table.name for table in tables}
    cursor.execute(_REWRITTEN, [list(places)])
    return {places[place] for (place,) in cursor.fetchall()}


def log_end(topics: Topics, table: Table) -> int:
    """Return the offset of a table's next event."""
    return topics.ends([table.topic])[table.topic]


def division(
    settings: Settings, table: Table, selection: Selection, rows: int
) -> tuple[int, list[KeyText]]:
    """See resync.Division; an indivisible selection has no keys between."""
    if selection.keys:
        return len(selection.keys), []
    with slots.session(settings.postgres) as cursor:
        total = count_rows(cursor, table, selection)
        if total <= rows or not divisible(table):
            return total, []
        return total, keys_between(cursor, table, selection, rows)


@contextmanager
def exact_snapshot(settings: Settings, passed: Passed) -> Iterator[ExactSnapshot]:
    """Open a snapshot at an exact LSN; see range_check.Snapshot.

    Args:
        passed: waits until the drain has passed the LSN, or gives up; returns the tables that are
            behind, with their errors.

    Raises:
        NotReady: an open transaction did not end within a minute, a query exceeded the time limit
            of checks, or the replica is far behind.
    """
    with (
        slots.session(settings.postgres) as primary,
        slots.replication(settings.compared) as holder,
        slots.session(settings.compared) as cursor,
    ):
        logging: AbstractContextManager[None] = nullcontext()
        if settings.replica:
            standby.require_replayed(settings, cursor, primary, _mark(primary))
            logging = standby.running_transactions_logged(settings.postgres)
        with logging:
            _, point = export_snapshot(holder, cursor, settings.relay)
        limit_statements(cursor, settings.statement_seconds)
        _mark(primary)
        behind = passed(point)
        yield ExactSnapshot(
            settings.compared,
            cursor,
            point,
            settings.quality_load,
            behind,
            standby=settings.replica is not None,
        )


def _mark(primary: Any) -> int:
    """Write a message to the WAL, so that a relay soon passes its LSN, which is returned."""
    primary.execute("SELECT pg_logical_emit_message(true, %s, '')::text", [HEARTBEAT_PREFIX])
    return parse_lsn(primary.fetchone()[0])


class ExactSnapshot:
    """See range_check.Snapshot.

    Args:
        load: share of the time spent in queries, above 0 to 1; the rest are pauses. Default: 1.
        behind: table -> error, where ClickHouse is not as of the LSN. Default: none.
        standby: whether the session is on a standby. Default: false.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        cursor: Any,
        point: int,
        load: float = 1.0,
        behind: Mapping[str, SluiceError] = _NONE,
        *,
        standby: bool = False,
    ) -> None:
        self.point, self._cursor, self._load = point, cursor, load
        self._settings, self._behind, self._standby = settings, behind, standby

    @contextmanager
    def reading(
        self,
        settings: Settings,
        table: Table,
        topics: Topics,
        drain: Callable[[], None],
        offset: int | None = None,
        load: Load | None = None,
    ) -> Iterator[FencedReading]:
        """Open a fence on a table at this LSN; see `fenced_reading`."""
        publisher, batch = Publisher(settings.kafka, lambda: None), Batch(end_lsn=self.point)
        try:
            with self._apart(table):
                yield FencedReading(
                    self._cursor, table, batch, publisher, topics, drain, offset, load
                )
        finally:
            publisher.abandon()

    def count(self, table: Table) -> int:
        """Return the table's row count.

        Raises:
            NotReady: the table was rewritten since and is empty in the snapshot.
        """
        if not self.holds(table):
            raise NotReady(f"PostgreSQL rewrote table {table.name} before it was counted")
        with self._apart(table):
            place = own_table(self._cursor, table)
            self._cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(place))
            return int(self._cursor.fetchone()[0])

    def held(self, tables: Sequence[Table]) -> dict[str, str]:
        """See range_check.Snapshot.

        Raises:
            SluiceError: one of them cannot be locked within a second.
        """
        tables = [table for table in tables if table.name not in self._behind]
        if not tables:
            return {}
        with self._apart():
            self._cursor.execute("SET LOCAL lock_timeout = '1s'")
            lacking = hold(self._cursor, tables)
            self._cursor.execute("SET LOCAL lock_timeout = 0")
            known = relations(self._cursor, tables)
        return {
            table.name: str(from_rows(table, known).as_string(self._cursor.connection))
            for table in tables
            if table.name not in lacking
        }

    def source(self, table: Table) -> str:
        """See range_check.Snapshot."""
        return str(own_rows(self._cursor, table).as_string(self._cursor.connection))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """See range_check.Snapshot."""
        with self._throttled(), self._apart():
            self._cursor.execute(query)
            rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def holds(self, table: Table) -> bool:
        """See range_check.Snapshot."""
        if table.name in self._behind:
            raise self._behind[table.name]
        with self._apart(table):
            return not hold(self._cursor, [table])

    def pieces(self, table: Table) -> Sequence[str]:
        """See range_check.Snapshot; without pauses one piece, for parallel workers."""
        if self._load == 1:
            return ("true",)
        with self._apart(table):
            pages = shapes(self._cursor, [table])[table.name].pages
            starts = range(0, pages + 1, _PAGES_IN_A_PIECE)
        return [
            f"ctid >= '({first},0)'::tid AND ctid < '({first + _PAGES_IN_A_PIECE},0)'::tid"
            for first in starts
        ]

    def division(self, table: Table, rows: int) -> tuple[int, list[KeyText]]:
        """See range_check.Snapshot; only tables with integer keys are divided."""
        with self._throttled(), self._apart(table):
            total = count_rows(self._cursor, table, Selection())
        if total <= rows or not numbered(table):
            return total, []
        with self._throttled(), self._apart(table):
            return total, keys_between(self._cursor, table, Selection(), rows)

    def _apart(self, table: Table | None = None) -> AbstractContextManager[None]:
        # No savepoint on a standby: replay cancels a conflicting query, but within a savepoint it
        # ends the whole session, without a reason.
        if self._standby:
            return translated(self._settings, table)
        return apart(self._settings, self._cursor, table)

    @contextmanager
    def _throttled(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        time.sleep((time.monotonic() - begun) * (1 - self._load) / self._load)
