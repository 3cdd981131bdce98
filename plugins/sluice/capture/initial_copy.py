"""The initial copy: all tables in one exported snapshot.

The permanent slot exists exactly when a snapshot is durable. A temporary slot exports the snapshot
and keeps its WAL; when every row is durable, it is copied to the permanent slot. If the relay is
killed before that, the temporary slot ends with its session and the snapshot starts again at a
later LSN; the closing `truncate` below its rows removes rows that the unfinished one left.

A table is read in ranges of pages, not of keys: PostgreSQL reads each page once, in disk order,
whatever the key is, and the number of pages is known. A row stays in its page during the snapshot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sluice.capture import publication as publications
from sluice.capture import slot as slots
from sluice.capture.exported_snapshot import export_snapshot
from sluice.capture.fenced_snapshot import ExactSnapshot, hold
from sluice.capture.interruption import interrupted
from sluice.capture.metrics import Progress
from sluice.capture.publisher import Batch, Publisher
from sluice.capture.row_reader import RowReader
from sluice.capture.shapes import Shape, shapes
from sluice.capture.standing import require_standing
from sluice.catalog import Catalog, Table
from sluice.clients.topics import SlotMark, Topics
from sluice.errors import NotReady, SlotBusy
from sluice.events.positions import format_lsn
from sluice.execution.progress import Pace
from sluice.printable import named
from sluice.settings import RelaySettings, Settings

log = logging.getLogger(__name__)

# 16 MB, at most a second of reading.
_PAGES_IN_A_RANGE = 2048


def take(
    settings: Settings,
    catalog: Catalog,
    publisher: Publisher,
    topics: Topics,
    check: Callable[[], None],
    progress: Progress,
) -> None:
    """Publish every row, wait until all are durable, and create the permanent slot.

    An existing slot is replaced at the end; if the relay is killed before, it is unchanged.

    Args:
        check: called often; raises when the relay has to stop or the broker lost its topics.

    Raises:
        SlotBusy: another relay is taking the snapshot, or has just taken it.
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
    """Replace the slot, which may be gone, by a new one.

    The context is a snapshot at the new slot's LSN, in which the caller brings ClickHouse to that
    LSN. The slot is created at its end; if the caller is killed or fails, the old one is unchanged.

    Raises:
        SlotBusy: another relay is taking a snapshot, or reads from the slot.
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
    """Drop the permanent slot, if there is one, and create it as a copy of the temporary one."""
    slots.drop(cursor, relay.slot, topics)
    _make_slot(cursor, relay, catalog, topics, temporary, point)


def _make_slot(
    cursor: Any, relay: RelaySettings, catalog: Catalog, topics: Topics, temporary: str, point: int
) -> None:
    topics.note_mark(relay.slot, SlotMark())  # the server counts a new slot from 0
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
    """Publish the rows of tables that were added to the publication, beside the stream.

    The stream sends their changes already, so each row that changes after the consistent point is
    sent again with a higher version. A killed addition starts again: the note on the broker names
    the finished tables, and a marker in PostgreSQL says that there were others, in case the broker
    loses its notes.

    Args:
        done: called with each table and the LSN as of which its rows were read, when they are
            durable and before that is noted. Default: nothing.

    Raises:
        NotReady: a table was out of the publication meanwhile.
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
    log.info("snapshot: %s added", named(table.name for table in tables))


def _places(
    cursor: Any, relay: RelaySettings, catalog: Catalog, tables: Sequence[Table]
) -> list[int | None]:
    """Return the ids of the tables' memberships in the publication, which change if re-added."""
    publication = publications.find(cursor, relay, catalog)
    places = publication.identity["tables"] if publication else {}
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
    """Publish the tables' rows; return the temporary slot, which ends with `holder`, and the batch.

    The batch ends at the slot's consistent point.
    """
    with interrupted(check, holder, cursor):
        temporary, point = export_snapshot(holder, cursor, relay)
        _hold_all(cursor, tables)
        batch = Batch(end_lsn=point)
        known = shapes(cursor, tables)
        ranges = sum(len(_ranges(shape.pages)) for shape in known.values())
        progress.begin_snapshot(len(tables), ranges)
        for table in tables:
            _read(cursor, table, known[table.name], publisher, batch, check, progress)
            progress.snapshot_done += 1
        publisher.flush(batch)
        cursor.execute("COMMIT")
    return temporary, batch


def _hold_all(cursor: Any, tables: Sequence[Table]) -> None:
    """Lock the tables against rewriting until all are read, as pg_dump does.

    Raises:
        NotReady: one was rewritten since the snapshot, which would read it as empty.
    """
    for name in sorted(hold(cursor, tables)):
        raise NotReady(f"PostgreSQL rewrote table {name} as the snapshot began")


def _ranges(pages: int) -> list[tuple[int, int | None]]:
    """Return (first page, end page) of each range; the last has no end."""
    firsts = list(range(0, pages, _PAGES_IN_A_RANGE)) or [0]
    return list(zip(firsts, [*firsts[1:], None], strict=True))


def _read(
    cursor: Any,
    table: Table,
    shape: Shape,
    publisher: Publisher,
    batch: Batch,
    check: Callable[[], None],
    progress: Progress,
) -> None:
    """Publish one table's rows, and log the progress every few seconds."""
    before, ranges = progress.snapshot_rows, _ranges(shape.pages)
    pace, whole = Pace(log, f"snapshot: {table.name}, {{}} rows"), 0

    def report() -> None:
        check()
        progress.snapshot_rows = before + reader.rows
        pace.at(reader.rows, whole)

    reader = RowReader(cursor, table, publisher, batch, report, shape=shape)
    for number, (first, below) in enumerate(ranges, 1):
        reader.read_pages(first, below)
        progress.snapshot_ranges_done += 1
        whole = reader.rows * len(ranges) // number
        pace.at(reader.rows, whole)
    log.info("snapshot: %s, %d rows", table.name, reader.rows)
    reader.truncate_below()


def _claim(cursor: Any, slot: str) -> None:
    """Lock out other relays while this session lasts."""
    cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"sluice {slot}"])
    if not cursor.fetchone()[0]:
        raise SlotBusy(f"another relay is taking the snapshot of slot {slot!r}")


def wait_until_durable(
    ack: str, publisher: Publisher, topics: Topics, batch: Batch, check: Callable[[], None]
) -> None:
    """Wait until the batch is on the broker, and with `ack=drained` also in ClickHouse."""
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
    """Whether the drain group has passed the batch on every topic."""
    committed = topics.committed(batch.offsets)
    return all(committed.get(topic, 0) > offset for topic, offset in batch.offsets.items())
