"""Copies rows in bulk: from COPY in an exported snapshot straight into ClickHouse.

The rows get the version that they would have on the topic, so they win over everything older and
lose to every change after the fence, in whatever order both are stored. The snapshot's session
holds the table (`ACCESS SHARE`) until ClickHouse has stored the rows: a TRUNCATE or a migration
waits, and its events come later.

A rebuild reads the changes up to the last drained `_seq`. Rows in bulk are written far above it,
where no drain comes, and the checkpoint moves past them once all are stored. If a load of another
process has moved it past them before, a rebuild may have missed some: they get a new `_seq`, and it
is tried again. Loads of one process never do that to each other; see Unpublished. Rows of a killed
load come in view with the table's next load, or the nightly maintenance.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any
from uuid import uuid4

from psycopg2 import sql

from sluice.capture.bulk import Loaded, Sent, copy_rows
from sluice.capture.row_reader import TOO_LARGE, savepoint
from sluice.catalog import Table
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.clickhouse_http import insertion
from sluice.clients.source_tables import own_rows
from sluice.drain.resume import Resumption
from sluice.errors import NeedsPerson, NotReady, Refused
from sluice.events.positions import before, pack
from sluice.execution.contention import until_done
from sluice.execution.failpoints import Reached
from sluice.generate.bulk import BulkRows, Place, bulk_rows
from sluice.generate.clickhouse import MACHINE_COLUMNS, quoted
from sluice.settings import ClickHouseSettings

log = logging.getLogger(__name__)

_LEFT_SECONDS = 3600
# Seconds between attempts of a load that ClickHouse refuses.
_WAITS = (0.5, 2.0, 8.0)
# More than ClickHouse waits for a client that is silent (30), and than it writes blocks.
_ENDED_SECONDS = 60.0
_RUNNING = """
SELECT query_id FROM system.processes WHERE startsWith(query_id, {prefix:String}) LIMIT 1
"""


class Unpublished:
    """Loads of one table that are not published yet, of readers in one process.

    The checkpoint moves only up to the lowest number that another of them still writes at. So no
    rebuild passes rows that are not stored yet, and rows of a load that fails stay above it, where
    the next load and the nightly maintenance look for them.

    Attributes:
        turn: held while a load begins or is published.
        running: the numbers of loads that are not stored yet, or that failed.
        stored: number and version of loads that are stored.
    """

    def __init__(self) -> None:
        self.turn = Lock()
        self.running = set[int]()
        self.stored = set[tuple[int, int]]()

    def due(self) -> set[tuple[int, int]]:
        """Return those of `stored` that are below all running loads."""
        return {(seq, of) for seq, of in self.stored if all(seq < n for n in self.running)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkLoad:
    """Copies selected rows of one table; see capture.bulk.Load.

    Attributes:
        drain: moves the table's checkpoint.
        differences: returns how the table differs in PostgreSQL from its model at present.
        load: share of the time that PostgreSQL may read, above 0 to 1.
        alone: start of the query ids of inserts that only one process at a time sends: it waits for
            those of a killed predecessor. Default: empty, for any number of processes.
        unpublished: shared by the table's loads of one process. Default: no others.
    """

    settings: ClickHouseSettings
    clickhouse: ClickHouse
    drain: Resumption
    table: Table
    differences: Callable[[Table], Sequence[str]]
    load: float = 1.0
    alone: str = ""
    unpublished: Unpublished = field(default_factory=Unpublished)

    def begin(self, fence: int, offset: int | None = None) -> BulkCopying:
        """See capture.bulk.Load.

        Raises:
            NotReady: ClickHouse has not ended a predecessor's insert.
        """
        if self.alone:
            self._await_predecessor()
        running = self.unpublished.running
        with self.unpublished.turn:
            present = self.drain.present(self.table)
            epoch = present.epoch
            place = Place(
                version=pack(epoch, fence, 1) if offset is None else before(epoch, offset, 1),
                seq=max([self.unused(present.last_seq), *(n + 1 for n in running)]),
                committed_at=int(time.time() * 1000),
            )
            running.add(place.seq)
        return BulkCopying(self, place, epoch)

    def unused(self, last: int) -> int:
        """Return a `_seq` above those of all drains and of all other loads that have begun."""
        return max(last, highest_seq(self.clickhouse, self.table, last)) + _ahead()

    def _await_predecessor(self) -> None:
        """Wait until no insert of a killed copy runs: its rows would be stored after the truncate
        that has to hide them.
        """
        deadline = time.monotonic() + _ENDED_SECONDS
        while running := self.clickhouse.execute(_RUNNING, prefix=self.alone):
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{self.table.name}: insert {running[0][0]} of an earlier copy has not ended",
                    remedy="if it does not end by itself, end it in ClickHouse: KILL QUERY WHERE"
                    f" query_id = '{running[0][0]}'",
                )
            time.sleep(_WAITS[0])


class BulkCopying:
    """See capture.bulk.Copying."""

    def __init__(self, load: BulkLoad, place: Place, epoch: int) -> None:
        self._load, self._place, self._epoch = load, place, epoch
        self._table, self._copied = load.table, 0

    def copy(
        self,
        cursor: Any,
        condition: sql.Composable,
        reached: Reached,
        sent: Sent,
    ) -> Loaded:
        """See capture.bulk.Copying."""
        if differences := self._load.differences(self._table):
            return self._by_topic(condition, f"PostgreSQL differs from the model: {differences[0]}")
        rows = bulk_rows(self._table, self._place)
        try:
            count = self._patiently(partial(self._copy, cursor, condition, rows, reached, sent))
        except TOO_LARGE as error:
            reason = str(error).splitlines()[0]
            return self._by_topic(condition, f"a row is too large for COPY: {reason}")
        except Refused as error:
            if not error.too_large:
                raise
            return self._by_topic(condition, error.what)
        except NeedsPerson as error:  # the text, or a setting; the drain decides about each row
            return self._by_topic(condition, error.what)
        self._copied += count
        others = sql.SQL("({}) AND ({}) IS NOT TRUE").format(condition, sql.SQL(rows.fits))
        return Loaded(rows=count, others=others if rows.fits else None)

    def publish(self) -> None:
        """See capture.bulk.Copying."""
        load, place, shared = self._load, self._place, self._load.unpublished
        with shared.turn:
            shared.running.discard(place.seq)
            if self._copied:
                shared.stored.add((place.seq, place.version))
            while due := shared.due():
                highest = max(seq for seq, _ in due)
                shared.stored -= due
                if until_done(partial(load.drain.publish, self._table, highest, self._epoch)):
                    continue
                seq = load.unused(load.drain.present(self._table).last_seq)
                for former, version in due:
                    self._renumber(former, seq, version)
                    shared.stored.add((seq, version))

    def _by_topic(self, condition: sql.Composable, reason: str) -> Loaded:
        log.warning("%s: rows go through the topic: %s", self._table.name, reason)
        return Loaded(rows=0, others=condition)

    def _copy(
        self,
        cursor: Any,
        condition: sql.Composable,
        rows: BulkRows,
        reached: Reached,
        sent: Sent,
    ) -> int:
        fitting = sql.SQL("({}) AND ({}) IS TRUE").format(condition, sql.SQL(rows.fits or "true"))
        source, selected = own_rows(cursor, self._table), sql.SQL(rows.selected)
        pacing = _Pacing(self._load.load, sent)
        query_id = f"{self._load.alone}{uuid4()}"
        with (
            savepoint(cursor, Exception),
            insertion(self._load.settings, rows.insert, pacing.sent, query_id) as body,
        ):
            count = copy_rows(cursor, selected, source, fitting, body)
            reached("rows sent")
        reached("rows stored")
        return count

    def _patiently(self, copy: Callable[[], int]) -> int:
        """Copy, again where ClickHouse refuses for now: the same rows replace those stored."""
        for wait in _WAITS:
            try:
                return copy()
            except Refused as error:
                if error.too_large:
                    raise
                log.warning("%s: %s; trying again in %.1f s", self._table.name, error, wait)
                time.sleep(wait)
        return copy()

    def _renumber(self, former: int, seq: int, version: int) -> None:
        """Write a load's rows again at another `_seq`; they replace themselves."""
        columns = ", ".join(quoted(column.name) for column in self._table.columns)
        names = ", ".join(name for name, _ in MACHINE_COLUMNS)
        storage = f"cdc.{quoted(self._table.storage)}"
        self._load.clickhouse.execute(
            f"INSERT INTO {storage} ({columns}, {names})\n"
            f"SELECT {columns}, _version, _is_deleted, {{seq:UInt64}}, _committed_at\n"
            f"FROM {storage} WHERE _seq = {{former:UInt64}} AND _version = {{version:UInt128}}",
            seq=seq,
            former=former,
            version=version,
        )


def _ahead() -> int:
    """Return the distance of a load's `_seq` from the numbers in use: milliseconds since 1970.

    It is more than all changes that drains number while a range is copied, and UInt64 has room for
    10 million loads. Of loads side by side the later one gets the higher `_seq` though neither sees
    the other's rows yet, so those that end in the order in which they began need no new one.
    """
    return time.time_ns() // 1_000_000


def highest_seq(clickhouse: ClickHouse, table: Table, above: int) -> int:
    """Return the highest `_seq` of a table above this one, by an index; 0 where none is."""
    ((highest,),) = clickhouse.execute(
        f"SELECT max(_seq) FROM cdc.{quoted(table.storage)} WHERE _seq > {{above:UInt64}}",
        above=above,
    )
    return int(highest)


def publish_strays(clickhouse: ClickHouse, drain: Resumption, table: Table) -> bool:
    """Publish rows that a killed load has left unpublished; return whether there were some.

    Rows count as left when none came for _LEFT_SECONDS. A load that runs nevertheless notices that
    it was passed, and numbers its rows anew.
    """
    present = drain.store.checkpoint(table.name)
    ((highest, idle),) = clickhouse.execute(
        "SELECT max(_seq), dateDiff('second', max(_ingested_at), now64(3))"
        f" FROM cdc.{quoted(table.storage)} WHERE _seq > {{above:UInt64}}",
        above=present.last_seq if present else 0,
    )
    return (
        bool(highest)
        and idle >= _LEFT_SECONDS
        and until_done(lambda: drain.publish(table, highest, drain.present(table).epoch))
    )


class _Pacing:
    """Reports progress, and pauses so that PostgreSQL reads for a share of the time.

    Args:
        load: see BulkLoad.
        sent: see capture.bulk.Copying.
    """

    def __init__(self, load: float, sent: Sent) -> None:
        self._report = sent
        self._rows, self._load, self._since = 0, load, time.monotonic()

    def sent(self, chunk: bytes) -> None:
        """Take in a chunk that was sent; COPY ends each row with its only line feed."""
        self._rows += chunk.count(b"\n")
        self._report(self._rows)
        busy = time.monotonic() - self._since
        time.sleep(busy * (1 - self._load) / self._load)
        self._since = time.monotonic()
