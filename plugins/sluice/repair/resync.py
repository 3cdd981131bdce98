"""Resyncs tables: reads rows again from PostgreSQL while relay and drain keep running.

A range of keys is read in one exported snapshot, its fence, and published on the table's topic as
`read` events at (fence, 1). So the rows win over everything older and lose to every change after
the fence, in whatever order both arrive. Once they are drained, live rows of the range below the
fence are rows that PostgreSQL does not have, or rows that could not be stored. The same snapshot
tells which of their keys PostgreSQL has (ADR 22): those keep their last good version, the others
get a `delete` at (fence, 0). Then the range is done. An interrupted run resumes with the other
ranges, and with those of which a row could not be stored; see key_ranges.py. A repair of many rows
skips the ranges that are equal instead.

Redpanda Connect orders changes by their offset, so its fence is the topic's end, taken before the
snapshot. The snapshot may contain later changes as well; applying them again is harmless.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.errors import NotReady, RowsRejected
from sluice.events.event import CONNECT, KeyText, place_of
from sluice.events.positions import before, format_lsn, pack
from sluice.execution.failpoints import Reached, ignore
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

    def read(self, selection: Selection, reached: Reached) -> int:
        """Copy the selected rows in bulk, or publish them; return their number.

        Args:
            reached: see Resync.
        """

    def present(self, selection: Selection, texts: Sequence[str]) -> Collection[str]:
        """Return those of the keys that PostgreSQL has as of the fence; see live_keys_below."""

    def delete(self, key: str) -> None:
        """Publish a delete of a key, a JSON object, at a version just below the rows."""

    def wait(self) -> None:
        """Wait until the drain has passed everything published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Reads tables again.

    Attributes:
        reading: opens a fence for a table, by offset if the flag is set.
        hidden: returns the rows of a selection, written at a version, that a version ahead of the
            source hides.
        rows: the rows of one range; a million by default.
        reached: called with each of POINTS as it is passed.
    """

    clickhouse: ClickHouse
    reading: Callable[[Table, bool], AbstractContextManager[Reading]]
    division: Division
    plans: Plans
    hidden: Callable[[Table, Selection, int], int]
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
        fence = rows = deleted = equal = 0
        unstored = Counter[str]()
        progress = Progress(plan, parts)
        for part in parts:
            with self.reading(table, source == CONNECT) as reading:
                self.reached("fence taken")
                version = _fence(table, reading, epoch)
                fence = reading.fence
                same = differing and self._same(table, part.selection, reading, version)
                equal += same
                done = RangeDone(fence=fence)
                if not same:
                    done = self._read(table, part, reading, version)
            self.plans.finish(plan, part, done)
            self.reached("range noted")
            rows, deleted = rows + done.rows, deleted + done.deleted
            unstored.update(done.unstored)
            log.info("resync: %s", progress.add(part, done.rows))
        report = ResyncReport(
            table=table.name,
            selection=plan.purpose
            if shares == 1
            else f"{plan.purpose}, share {share + 1} of {shares}",
            fence=fence,
            rows=rows,
            deleted=deleted,
            seconds=time.monotonic() - started,
            before=(len(plan.done), len(plan.ranges)),
            equal=equal,
            unstored=unstored,
        )
        if parts:
            self._keep(report)
        self.reached("run recorded")
        return report

    def _same(self, table: Table, selection: Selection, reading: Reading, version: int) -> bool:
        """Whether ClickHouse's rows of a range equal those of the fence.

        Changes older than the fence that are drained later lead to the same rows.
        """
        count, total = reading.checksum(selection)
        present = checksum_below(self.clickhouse, table, selection, version)
        return count == present[0] and same_sum(total, present[1])

    def _read(self, table: Table, part: KeyRange, reading: Reading, version: int) -> RangeDone:
        """Read one range, and wait until it is in ClickHouse."""
        rows = reading.read(part.selection, self.reached)
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
        return RangeDone(fence=reading.fence, rows=rows, deleted=len(ghosts), unstored=unstored)

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
