"""The first copy: all tables in one exported snapshot.

The permanent slot exists exactly when a snapshot is durable. A temporary slot exports the
snapshot and holds the WAL behind it; when every row is durable, it is copied to the permanent
slot. Killed before that, the temporary slot goes with its session and the snapshot starts again
at a later point; the closing `truncate` below its rows removes what the unfinished one left.

A table is read in ranges of its pages, not of its keys: PostgreSQL reads each page once, in the
order of the disk, whatever the key is, and knows beforehand how many there are. A row's page is
no other as long as the snapshot lasts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sluice.capture import publication as publications
from sluice.capture import slot as slots
from sluice.capture.exported_snapshot import export_snapshot
from sluice.capture.fenced_snapshot import ExactSnapshot
from sluice.capture.interruption import interrupted
from sluice.capture.metrics import Progress
from sluice.capture.publisher import Batch, Publisher
from sluice.capture.row_reader import RowReader, pages
from sluice.capture.standing import require_standing
from sluice.catalog import Catalog, Table
from sluice.clients.topics import SlotMark, Topics
from sluice.errors import NotReady, SlotBusy
from sluice.events.positions import format_lsn
from sluice.execution.progress import Pace
from sluice.settings import RelaySettings, Settings

log = logging.getLogger(__name__)

# 16 MB, a second of reading or less.
_PAGES_IN_A_RANGE = 2048


def take(
    settings: Settings,
    catalog: Catalog,
    publisher: Publisher,
    topics: Topics,
    check: Callable[[], None],
    progress: Progress,
) -> None:
    """Publish every row, wait until all is durable, and leave the permanent slot behind.

    A slot that is there is replaced at the end: killed before, it is left as it is.

    Args:
        check: called often; raises when the relay must stop or the broker was wiped.

    Raises:
        SlotBusy: another relay takes, or has just taken, the snapshot.
    """
    relay = settings.relay
    with (
        slots.replication(settings.postgres) as holder,
        slots.session(settings.postgres) as cursor,
    ):
        _claim(cursor, relay.slot)
        tables = catalog.tables
        temporary, batch = _copy(holder, cursor, relay, tables, publisher, check, progress)
        wait_until_durable(relay.ack, publisher, topics, batch, check)
        _replace(cursor, relay, catalog, topics, temporary, batch.end_lsn)
    log.info("snapshot: complete at %s", format_lsn(batch.end_lsn))


@contextmanager
def replacing(settings: Settings, catalog: Catalog, topics: Topics) -> Iterator[ExactSnapshot]:
    """Put a new slot in the place of the one that is there or was.

    Within the context PostgreSQL is as of the new slot's point, and who enters it sees to it that
    ClickHouse is so when it ends; then the slot is there. Killed before, or ended by an error, the
    slot that was to be replaced is left as it is.

    Raises:
        SlotBusy: another relay takes a snapshot, or reads from the slot.
    """
    relay = settings.relay
    with (
        slots.replication(settings.postgres) as holder,
        slots.session(settings.postgres) as cursor,
    ):
        _claim(cursor, relay.slot)
        faulty = publications.faults(cursor, catalog)
        publications.ensure(cursor, relay, catalog, faulty)
        temporary, point = export_snapshot(holder, cursor, relay)
        yield ExactSnapshot(settings.postgres, cursor, point)
        cursor.execute("COMMIT")
        _replace(cursor, relay, catalog, topics, temporary, point)
    log.info("slot %s begins at %s", relay.slot, format_lsn(point))


def _replace(
    cursor: Any, relay: RelaySettings, catalog: Catalog, topics: Topics, temporary: str, point: int
) -> None:
    """Put a copy of the temporary slot in the place of the permanent one, where there is one."""
    slots.drop(cursor, relay.slot, topics)
    _make_slot(cursor, relay, catalog, topics, temporary, point)


def _make_slot(
    cursor: Any, relay: RelaySettings, catalog: Catalog, topics: Topics, temporary: str, point: int
) -> None:
    topics.note_mark(relay.slot, SlotMark())  # the new slot is counted from 0
    copy = "SELECT pg_copy_logical_replication_slot(%s, %s, false)"
    cursor.execute(copy, [temporary, relay.slot])
    slots.note(cursor, relay, catalog, topics, format_lsn(point))


def add(
    settings: Settings,
    catalog: Catalog,
    tables: Sequence[Table],
    publisher: Publisher,
    topics: Topics,
    check: Callable[[], None],
    progress: Progress,
    done: Callable[[str, int], None] = lambda _table, _point: None,
) -> None:
    """Publish the rows of tables that came to the publication while the stream goes on.

    The stream sends their changes already, so each row that changes after the consistent point
    comes again with a higher version. Killed, it starts again: the note on the broker tells
    which tables were finished, and a marker in Postgres that there were others, should the
    broker lose its notes.

    Args:
        done: called with each table and the point as of which its rows were read, when they are
            durable and before that is noted.

    Raises:
        NotReady: a table left the publication and came back meanwhile.
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
        places = _places(cursor, relay, catalog, tables)
        _, batch = _copy(holder, cursor, relay, tables, publisher, check, progress)
        wait_until_durable(relay.ack, publisher, topics, batch, check)
        require_standing(cursor, relay, catalog, topics.slot_note(relay.slot))
        if _places(cursor, relay, catalog, tables) != places:
            raise NotReady(
                f"publication {relay.publication} did not have all added tables while their rows"
                " were read; they are read again"
            )
        for table in tables:
            done(table.name, batch.end_lsn)
        slots.note(cursor, relay, catalog, topics, format_lsn(batch.end_lsn))
        cursor.execute("SELECT pg_drop_replication_slot(%s)", [slots.addition(relay)])
    log.info("snapshot: %s added", ", ".join(table.name for table in tables))


def _places(
    cursor: Any, relay: RelaySettings, catalog: Catalog, tables: Sequence[Table]
) -> list[int | None]:
    """The tables' places in the publication; another place says that one was out of it."""
    found = publications.find(cursor, relay, catalog)
    places = found.identity["tables"] if found else {}
    return [places.get(table.name) for table in tables]


def _copy(
    holder: Any,
    cursor: Any,
    relay: RelaySettings,
    tables: Sequence[Table],
    publisher: Publisher,
    check: Callable[[], None],
    progress: Progress,
) -> tuple[str, Batch]:
    """Publish the tables' rows; the temporary slot that lasts as long as `holder`, and the batch.

    The batch ends at the slot's consistent point.
    """
    with interrupted(check, holder, cursor):
        temporary, point = export_snapshot(holder, cursor, relay)
        batch = Batch(end_lsn=point)
        parts = [(table, _ranges(pages(cursor, table))) for table in tables]
        progress.begin_snapshot(len(tables), sum(len(ranges) for _, ranges in parts))
        for table, ranges in parts:
            _read(cursor, table, ranges, publisher, batch, check, progress)
            progress.snapshot_done += 1
        publisher.flush(batch)
        cursor.execute("COMMIT")
    return temporary, batch


def _ranges(pages: int) -> list[tuple[int, int | None]]:
    """The pages from each first to before each second; the last range has no end."""
    firsts = list(range(0, pages, _PAGES_IN_A_RANGE)) or [0]
    return list(zip(firsts, [*firsts[1:], None], strict=True))


def _read(
    cursor: Any,
    table: Table,
    ranges: Sequence[tuple[int, int | None]],
    publisher: Publisher,
    batch: Batch,
    check: Callable[[], None],
    progress: Progress,
) -> None:
    """Publish one table's rows, and tell every few seconds how far that is."""
    before = progress.snapshot_rows
    pace = Pace(log, f"snapshot: {table.name}, {{}} rows")

    def tell() -> None:
        check()
        progress.snapshot_rows = before + reader.rows

    reader = RowReader(cursor, table, publisher, batch, tell)
    for number, (first, below) in enumerate(ranges, 1):
        reader.read_pages(first, below)
        progress.snapshot_ranges_done += 1
        pace.at(reader.rows, total=reader.rows * len(ranges) // number)
    log.info("snapshot: %s, %d rows", table.name, reader.rows)
    reader.truncate_below()


def _claim(cursor: Any, slot: str) -> None:
    """Hold off other relays while this session lasts."""
    cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"sluice {slot}"])
    if not cursor.fetchone()[0]:
        raise SlotBusy(f"another relay takes the snapshot of slot {slot!r}")


def wait_until_durable(
    ack: str, publisher: Publisher, topics: Topics, batch: Batch, check: Callable[[], None]
) -> None:
    """Wait until the batch is on the broker, and with `ack=drained` in ClickHouse as well."""
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
