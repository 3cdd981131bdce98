"""The initial copy: all tables in one exported snapshot.

The permanent slot exists exactly when a snapshot is durable. A temporary slot exports the snapshot
and keeps its WAL; when every row is durable, it is copied to the permanent slot. If the relay is
killed before that, the temporary slot ends with its session and the snapshot starts again at a
later LSN; the closing `truncate` below its rows removes rows that the unfinished one left.

Rows in bulk are durable when ClickHouse has acknowledged them. Rebuilds see them when the tables'
checkpoints have moved past them, which is before the slot exists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sluice.capture import publication as publications
from sluice.capture import slot as slots
from sluice.capture.bulk import OpenLoads, no_loads
from sluice.capture.exported_snapshot import export_snapshot
from sluice.capture.fenced_snapshot import ExactSnapshot, hold
from sluice.capture.interruption import interrupted
from sluice.capture.metrics import Progress
from sluice.capture.publisher import Batch, Publisher
from sluice.capture.shapes import shapes
from sluice.capture.standing import require_standing
from sluice.capture.table_copy import TableCopies, page_ranges
from sluice.catalog import Catalog, Table
from sluice.clients.topics import SlotMark, Topics
from sluice.errors import NotReady, SlotBusy
from sluice.events.positions import format_lsn
from sluice.execution.failpoints import Reached, ignore
from sluice.printable import named
from sluice.settings import RelaySettings, Settings

log = logging.getLogger(__name__)

# Failpoints passed to `reached`, each after the effect it names, in order.
POINTS = (
    "tables held",
    "rows sent",  # in bulk; not yet acknowledged by ClickHouse
    "rows stored",  # in bulk
    "table copied",
    "rows published",
    "checkpoints moved",
    "rows drained",
    "snapshot noted",
)


def take(
    settings: Settings,
    catalog: Catalog,
    publisher: Publisher,
    topics: Topics,
    check: Callable[[], None],
    progress: Progress,
    loads: OpenLoads = no_loads,
    reached: Reached = ignore,
) -> None:
    """Copy every row, wait until all are durable, and create the permanent slot.

    An existing slot is replaced at the end; if the relay is killed before, it is unchanged.

    Args:
        check: called often; raises when the relay has to stop or the broker lost its topics.
        loads: opens the loads of tables whose rows may go in bulk. Default: none.
        reached: called with each of POINTS as it is passed.

    Raises:
        SlotBusy: another relay is taking the snapshot, or has just taken it.
    """
    relay = settings.relay
    with (
        slots.replication(settings.postgres) as holder,
        slots.session(settings.postgres) as cursor,
    ):
        _claim(cursor, relay.slot)
        temporary, batch = _copy(
            holder, cursor, relay, catalog.tables, publisher, check, progress, loads, reached
        )
        wait_until_durable(relay.ack, publisher, topics, batch, check)
        reached("rows drained")
        _replace(cursor, relay, catalog, topics, temporary, batch.end_lsn)
    reached("snapshot noted")
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
    loads: OpenLoads = no_loads,
    reached: Reached = ignore,
) -> None:
    """Copy the rows of tables that were added to the publication, beside the stream.

    The stream sends their changes already, so each row that changes after the consistent point is
    sent again with a higher version. A killed addition starts again: the note on the broker names
    the finished tables, and a marker in PostgreSQL says that there were others, in case the broker
    loses its notes.

    Args:
        done: called with each table and the LSN as of which its rows were read, when they are
            durable and before that is noted. Default: nothing.
        loads, reached: see `take`.

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
        _, batch = _copy(holder, cursor, relay, tables, publisher, check, progress, loads, reached)
        wait_until_durable(relay.ack, publisher, topics, batch, check)
        reached("rows drained")
        require_standing(cursor, relay, catalog, topics.slot_note(relay.slot))
        if _places(cursor, relay, catalog, tables) != places:
            raise NotReady(
                f"publication {relay.publication} did not have all added tables while their rows"
                " were read; they are read again"
            )
        for table in tables:
            done(table.name, batch.end_lsn)
        slots.note(cursor, relay, catalog, topics, format_lsn(batch.end_lsn))
        reached("snapshot noted")
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
    loads: OpenLoads,
    reached: Reached,
) -> tuple[str, Batch]:
    """Copy the tables' rows; return the temporary slot, which ends with `holder`, and the batch.

    The batch ends at the slot's consistent point.
    """
    with interrupted(check, holder, cursor), loads() as of_tables:
        temporary, point = export_snapshot(holder, cursor, relay)
        _hold_all(cursor, tables)
        reached("tables held")
        batch = Batch(end_lsn=point)
        known = shapes(cursor, tables)
        ranges = sum(len(page_ranges(shape.pages)) for shape in known.values())
        progress.begin_snapshot(len(tables), ranges)
        copies = TableCopies(
            cursor=cursor,
            publisher=publisher,
            batch=batch,
            check=check,
            progress=progress,
            loads=of_tables,
            reached=reached,
        )
        copied = [copies.copy(table, known[table.name]) for table in tables]
        publisher.flush(batch)
        cursor.execute("COMMIT")
        reached("rows published")
        # At the end, so that rebuilds read the rows once.
        for copying in filter(None, copied):
            copying.publish()
        reached("checkpoints moved")
    return temporary, batch


def _hold_all(cursor: Any, tables: Sequence[Table]) -> None:
    """Lock the tables against rewriting until all are read, as pg_dump does.

    Raises:
        NotReady: one was rewritten since the snapshot, which would read it as empty.
    """
    for name in sorted(hold(cursor, tables)):
        raise NotReady(f"PostgreSQL rewrote table {name} as the snapshot began")


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
