"""Resyncs tables: reads rows again from PostgreSQL while relay and drain keep running.

A range of keys is read in one exported snapshot, its fence, and published on the table's topic as
`read` events at (fence, 1). So the rows win over everything older and lose to every change after
the fence, in whatever order both arrive. Once they are drained, live rows of the range below the
fence are rows that PostgreSQL does not have, or rows that could not be stored. The same snapshot
tells which of their keys PostgreSQL has (ADR 22): those keep their last good version, the others
get a `delete` at (fence, 0). If wanted, both sides' checksums as of the fence are compared. Then
the range is done. An interrupted run resumes with the other ranges, and with those of which a row
could not be stored; see key_ranges.py. A repair of many rows skips the ranges that are equal
instead.

Redpanda Connect orders changes by their offset, so its fence is the topic's end, taken before the
snapshot. The snapshot may contain later changes as well; applying them again is harmless.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event, Lock
from typing import Protocol

from sluice.capture.bulk import Sent
from sluice.catalog import Table
from sluice.catalog.key_selection import Selection
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.errors import NotReady, QualityFailed, RowsRejected
from sluice.events.event import CONNECT, KeyText, place_of
from sluice.events.positions import before, format_lsn, pack
from sluice.execution.failpoints import Reached, ignore
from sluice.execution.side_by_side import until_one_fails
from sluice.generate.row_text import same_sum
from sluice.repair.ghost_rows import checksum_below, live_keys_below
from sluice.warehouse.key_ranges import KeyRange, Plan, Plans, Progress, RangeDone, divided

log = logging.getLogger(__name__)

# Failpoints passed to `Resync.reached`, each after the effect it names, in order.
POINTS = (
    "planned",
    "fence taken",
    "rows sent",  # in bulk; not yet acknowledged by ClickHouse
    "rows stored",  # in bulk
    "rows published",
    "rows drained",
    "deletes drained",
    "range noted",
    "run recorded",
)
# A range takes seconds to copy, so an interrupted run loses little; a fence is much cheaper.
_ROWS_IN_A_RANGE = 1_000_000
_REASONS = 3  # reasons named in a sentence
# Seconds before each comparison of a range. A change that is stored while ClickHouse reads current
# state and history may hide its row or return it twice; that does not happen several times in a
# row. Of a row that was inserted and deleted before the fence, a relay that is behind may have sent
# the insert alone: it gets time to send the delete.
_PAUSES = (0.0, 0.0, 0.0, 2.0, 10.0, 20.0)
_HIDDEN = "a version or truncation ahead of the source hides the row; run it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncReport:
    """The result of a resync of one table.

    Attributes:
        fence: the LSN as of which the last rows were read; 0 where none were.
        rows: the number of rows read.
        deleted: the number of rows deleted, which PostgreSQL does not have.
        seconds: the duration.
        before: the ranges done by an earlier run, and the number of all ranges.
        equal: ranges skipped because nothing differed in them.
        verified: ranges of which the checksums of both sides agreed after they were read.
        unstored: the number of rows that could not be stored, by reason.
        parked: the table's remaining holes and their remedy; see wiring/parked.py.
    """

    table: str
    selection: str
    fence: int
    rows: int
    deleted: int
    seconds: float
    before: tuple[int, int] = (0, 1)
    equal: int = 0
    verified: int = 0
    unstored: Mapping[str, int] = field(default_factory=dict)
    parked: str = ""

    @property
    def rejected(self) -> int:
        """Return the number of rows that could not be stored."""
        return sum(self.unstored.values())

    def sentence(self) -> str:
        """Return the result as one line."""
        text = f"{self.table}: {self._done()}"
        if self.unstored:
            text += f"; {self._rejections()}"
        return f"{text}; {self.parked}" if self.parked else text

    def _done(self) -> str:
        if not self.fence:
            return f"nothing is left to read ({self.selection})"
        text = (
            f"{self.rows} rows read again as of {format_lsn(self.fence)}"
            f" ({self.selection}), {self.deleted} deleted, in {self.seconds:.1f} s"
        )
        done, ranges = self.before
        if self.equal:
            text += f"; {self.equal} of {ranges} ranges were equal"
        if self.verified:
            text += f"; {self.verified} of {ranges} ranges were verified"
        if done:
            text += f"; {done} of {ranges} ranges were done before"
        return text

    def require_stored(self) -> None:
        """Raise RowsRejected where rows could not be stored."""
        if self.unstored:
            raise RowsRejected(
                f"{self.table}: {self._rejections()}",
                remedy="correct them in PostgreSQL, or the models; see: sluice dead-letters list"
                f" --table {self.table}",
            )

    def _rejections(self) -> str:
        named = [f"{reason} ({count})" for reason, count in self.unstored.items()]
        more = f"; and {len(named) - _REASONS} other reasons" if len(named) > _REASONS else ""
        reasons = "; ".join(named[:_REASONS])
        return (
            f"{self.rejected} rows could not be stored and keep their last good version:"
            f" {reasons}{more}"
        )


class Division(Protocol):
    """Divides a selection."""

    def __call__(
        self, table: Table, selection: Selection, rows: int
    ) -> tuple[int, Sequence[KeyText]]:
        """Return the number of selected rows, and the keys that divide them by `rows`."""


class Reading(Protocol):
    """Rows of a table as of a fence, on their way to the topic.

    Attributes:
        fence: the LSN.
        offset: the fence where offsets order the changes; otherwise None.
        begins: an offset on the topic at or before the first row.
    """

    fence: int
    offset: int | None
    begins: int

    def checksum(self, selection: Selection) -> tuple[int, int]:
        """Return the number of selected rows, and their checksum."""

    def read(self, selection: Selection, reached: Reached, sent: Sent) -> int:
        """Copy the selected rows in bulk, or publish them; return their number.

        Args:
            reached: see Resync.
            sent: called often until the reading ends, also while it waits, with the number of rows
                so far; ends the reading by raising.
        """

    def present(self, selection: Selection, texts: Sequence[str]) -> Collection[str]:
        """Return those of the keys that PostgreSQL has as of the fence; see live_keys_below."""

    def delete(self, key: str) -> None:
        """Publish a delete of a key, a JSON object, at a version just below the rows."""

    def wait(self) -> None:
        """Wait until the drain has passed everything published."""


class _Stopped(Exception):
    """The run ends by the error of another reader."""


class _Work:
    """The ranges of a run, and what their readers have found in them.

    Args:
        by_offset, epoch: of the table's change source.
        differing: see Resync.run.

    Attributes:
        stop: set when the run ends by an error.
        fence: the latest.
    """

    def __init__(
        self,
        plan: Plan,
        parts: Sequence[KeyRange],
        *,
        by_offset: bool,
        epoch: int,
        differing: bool,
    ) -> None:
        self.plan, self.table = plan, plan.table
        self.by_offset, self.epoch, self.differing = by_offset, epoch, differing
        self.stop = Event()
        self.fence = self.rows = self.deleted = self.equal = self.verified = 0
        self.unstored = Counter[str]()
        self._progress, self._turn = Progress(plan, parts), Lock()

    def at(self, part: KeyRange, rows: int) -> None:
        """Take in the rows of a range so far.

        Raises:
            _Stopped: it is not to be read further.
        """
        if self.stop.is_set():
            raise _Stopped
        if line := self._progress.at(part, rows):
            log.info("resync: %s", line)

    def add(self, part: KeyRange, done: RangeDone, *, equal: bool) -> None:
        """Take in a finished range."""
        with self._turn:
            self.fence = max(self.fence, done.fence)
            self.rows += done.rows
            self.deleted += done.deleted
            self.equal += equal
            self.verified += done.verified
            self.unstored.update(done.unstored)
        log.info("resync: %s", self._progress.add(part, done.rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Reads tables again.

    Attributes:
        reading: opens a fence for a table, by offset if the flag is set.
        hidden: returns the rows of a selection, written at a version, that a version ahead of the
            source hides.
        another: opens the same resync for another thread, with sessions of its own.
        readers: the most ranges that are read at a time. Default: 1.
        verify: whether to compare the checksums of each range after it was read. Default: false.
        rows: the rows of one range; a million by default.
        reached: called with each of POINTS as it is passed.
    """

    clickhouse: ClickHouse
    reading: Callable[[Table, bool], AbstractContextManager[Reading]]
    division: Division
    plans: Plans
    hidden: Callable[[Table, Selection, int], int]
    another: Callable[[], AbstractContextManager[Resync]]
    readers: int = 1
    verify: bool = False
    rows: int = _ROWS_IN_A_RANGE
    reached: Reached = ignore

    def run(
        self,
        table: Table,
        selection: Selection,
        *,
        restart: bool = False,
        differing: bool = False,
    ) -> ResyncReport:
        """Read the selected rows again, and delete those that PostgreSQL does not have.

        Args:
            restart: whether to read all of them instead of resuming an interrupted run.
            differing: whether to skip ranges whose rows are equal.

        Raises:
            NotReady: an open transaction did not end in time, or set-up is not finished.
        """
        plan = self.plan(table, selection, restart=restart)
        self.reached("planned")
        return self.read(plan, differing=differing)

    def plan(self, table: Table, selection: Selection, *, restart: bool = False) -> Plan:
        """Return the plan of an interrupted run of the selection, or a new one; see `run`."""
        _, epoch = self._source(table)
        unfinished = self.plans.unfinished(table, selection, epoch)
        if unfinished is not None and not restart:
            log.info(
                "resync: %s: resuming an interrupted run: %d of %d ranges are done",
                table.name,
                len(unfinished.done),
                len(unfinished.ranges),
            )
            return unfinished
        total, keys = self.division(table, selection, self.rows)
        plan = divided(table, selection, total, self.rows, keys)
        self.plans.keep(plan, epoch)
        return plan

    def read(
        self, plan: Plan, share: int = 0, shares: int = 1, *, differing: bool = False
    ) -> ResyncReport:
        """Read the open ranges of a plan, or one of several shares of them; see `run`."""
        started, table = time.monotonic(), plan.table
        parts = [part for part in plan.open if part.number % shares == share]
        source, epoch = self._source(table)
        work = _Work(plan, parts, by_offset=source == CONNECT, epoch=epoch, differing=differing)
        # Offsets as fences would be the same for several readers of a quiet topic.
        readers = 1 if work.by_offset else min(self.readers, len(parts))
        if readers > 1:
            read = partial(self._read_beside, work)
            until_one_fails(read, parts, self.another, readers, work.stop)
        else:
            for part in parts:
                self._read_range(work, part)
        report = ResyncReport(
            table=table.name,
            selection=plan.purpose
            if shares == 1
            else f"{plan.purpose}, share {share + 1} of {shares}",
            fence=work.fence,
            rows=work.rows,
            deleted=work.deleted,
            seconds=time.monotonic() - started,
            before=(len(plan.done), len(plan.ranges)),
            equal=work.equal,
            verified=work.verified,
            unstored=work.unstored,
        )
        if parts:
            self._keep(report)
        self.reached("run recorded")
        return report

    def _read_beside(self, work: _Work, own: Resync, part: KeyRange) -> None:
        """Read a range with a thread's own sessions, unless another range has failed."""
        try:
            replace(own, reached=self.reached)._read_range(work, part)
        except _Stopped:
            log.info("resync: %s: range %d is left to the next run", work.table.name, part.number)

    def _read_range(self, work: _Work, part: KeyRange) -> None:
        """Read a range behind a fence of its own, and note it."""
        table = work.table
        with self.reading(table, work.by_offset) as reading:
            self.reached("fence taken")
            version = _fence(table, reading, work.epoch)
            same = work.differing and self._same(table, part.selection, reading, version)
            done = RangeDone(fence=reading.fence)
            if not same:
                done = self._read(work, part, reading, version)
        self.plans.finish(work.plan, part, done)
        self.reached("range noted")
        work.add(part, done, equal=same)

    def _same(self, table: Table, selection: Selection, reading: Reading, version: int) -> bool:
        """Whether ClickHouse's rows of a range equal those of the fence.

        Changes older than the fence that are drained later lead to the same rows.
        """
        return self._agree(table, selection, reading.checksum(selection), version)

    def _agree(
        self, table: Table, selection: Selection, expected: tuple[int, int], below: int
    ) -> bool:
        """Whether the live rows of a range below a version have this number and checksum."""
        count, total = checksum_below(self.clickhouse, table, selection, below)
        return count == expected[0] and same_sum(expected[1], total)

    def _verify(self, table: Table, part: KeyRange, reading: Reading, version: int) -> bool:
        """Compare a range as of its fence, now that its rows and deletes are stored.

        Later changes are left out: their rows are taken from the history, at the fence's version.

        Returns:
            False for single keys, and where offsets are the fence: the snapshot is of later.

        Raises:
            QualityFailed: both sides differ.
        """
        if part.selection.keys or reading.offset is not None:
            return False
        expected, below = reading.checksum(part.selection), version + 2  # rows are at version + 1
        for pause in _PAUSES:
            if pause:
                time.sleep(pause)
                reading.wait()
            if self._agree(table, part.selection, expected, below):
                return True
        count, _ = checksum_below(self.clickhouse, table, part.selection, below)
        raise QualityFailed(
            f"{table.name}: {part.selection.sentence()} differ after they were read again as of"
            f" {format_lsn(reading.fence)}: PostgreSQL has {expected[0]} rows, ClickHouse {count},"
            " or values differ",
            remedy=f"see which: sluice quality {table.name} --deep; then run it again, which reads"
            " this range and those that are left. If the relay is behind, wait for it first",
        )

    def _read(self, work: _Work, part: KeyRange, reading: Reading, version: int) -> RangeDone:
        """Read one range, and wait until it is in ClickHouse."""
        table = work.table
        rows = reading.read(part.selection, self.reached, partial(work.at, part))
        self.reached("rows published")
        reading.wait()
        self.reached("rows drained")
        older = live_keys_below(self.clickhouse, table, part.selection, version)
        present = reading.present(part.selection, list(older)) if older else ()
        ghosts = older.keys() - set(present)
        for text in ghosts:
            reading.delete(older[text])
        if ghosts:
            reading.wait()
        self.reached("deletes drained")
        unstored = self._unstored(table, reading)
        if hidden := self.hidden(table, part.selection, version + 1):
            unstored[_HIDDEN] = hidden
        # Rows that could not be stored keep an older version, or are missing.
        verified = self.verify and not unstored and self._verify(table, part, reading, version)
        return RangeDone(
            fence=reading.fence,
            rows=rows,
            deleted=len(ghosts),
            unstored=unstored,
            verified=verified,
        )

    def _unstored(self, table: Table, reading: Reading) -> dict[str, int]:
        """Return the number of rows of a reading that could not be stored, by reason."""
        place = place_of(reading.fence, reading.offset)
        store = ClickHouseStore(self.clickhouse)
        return dict(store.unstored(table.name, place, first=reading.begins))

    def _source(self, table: Table) -> tuple[str, int]:
        """Return the table's change source and epoch."""
        rows = self.clickhouse.execute(
            "SELECT argMax(source, generation), max(epoch) FROM cdc.checkpoints"
            " WHERE source_table = {table:String} GROUP BY source_table",
            table=table.name,
        )
        source, epoch = rows[0] if rows else ("", 0)
        return str(source), int(epoch)

    def _keep(self, report: ResyncReport) -> None:
        self.clickhouse.insert_row(
            "cdc.resyncs",
            {
                "source_table": report.table,
                "selection": report.selection,
                "fence": format_lsn(report.fence),
                "rows": report.rows,
                "deleted": report.deleted,
                "rejected": report.rejected,
                "seconds": report.seconds,
                "done_by": self.clickhouse.person,
            },
        )


def _fence(table: Table, reading: Reading, epoch: int) -> int:
    """Return the version of the deletes; that of the rows is just above it."""
    if reading.offset is None:
        return pack(epoch, reading.fence, 0)
    try:
        return before(epoch, reading.offset, 0)
    except ValueError:
        raise NotReady(
            f"{table.topic} is empty: Redpanda Connect has not started its snapshot"
        ) from None
