"""Resync: rows of a table read again from Postgres, beside the relay and the drain.

A range of keys is read in one exported snapshot, its fence, and goes onto the table's topic as
`read` events at (fence, 1). So the rows win over everything older and lose to every change after
the fence, however the two arrive. When they are drained, live rows of the range below the fence are
rows that Postgres does not have, or rows that could not be stored. Postgres is asked in the same
snapshot which of their keys it has (ADR 22): those keep their last good version, the others get a
`delete` at (fence, 0). Then the range is done. Killed anywhere, the next run goes on with the
ranges that are not, and with those of which a row could not be stored; see ranges.py. A repair of
many rows does not remember but look: it leaves out ranges whose rows are those of Postgres already.

Where changes come from Redpanda Connect, whose order is that of the topic, the fence is the topic's
end, taken before the snapshot. What comes after it the snapshot may have seen as well; coming again
it leads to the same state.
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
from sluice.execution.failpoints import Reached, go_on
from sluice.generate.row_text import same_sum
from sluice.repair.ghost_rows import checksum_below, live_keys_below
from sluice.warehouse.key_ranges import KeyRange, Plan, Plans, Progress, RangeDone, divided

log = logging.getLogger(__name__)

# What `Resync.reached` is told, in the order of the effects before them.
POINTS = (
    "planned",
    "fence taken",
    "rows published",
    "rows drained",
    "deletes drained",
    "range noted",
    "run recorded",
)
# Some seconds of reading: little is lost with a run that is killed, and a fence costs a few
# hundredths of one.
_ROWS_IN_A_RANGE = 200_000
_REASONS = 3  # so many are told
_HIDDEN = "a version or truncation ahead of the source hides the row; run it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncReport:
    """What a resync of one table did.

    Attributes:
        fence: the point of the WAL as of which the last rows were read.
        rows: how many were read.
        deleted: how many rows ClickHouse had that Postgres has not.
        before: ranges that a run before had done, of how many.
        equal: ranges that were not read, because nothing differed in them.
        unstored: rows that could not be stored, and keep their last good version: reason -> how
            many.
        parked: the holes of the table that stay, and what closes them; see wiring/parked.py.
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
        """How many rows could not be stored."""
        return sum(self.unstored.values())

    def sentence(self) -> str:
        """The resync in one line."""
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
        told = "; ".join(named[:_REASONS])
        return (
            f"{self.rejected} rows could not be stored and keep their last good version:"
            f" {told}{more}"
        )


class Division(Protocol):
    """Divides a selection."""

    def __call__(
        self, table: Table, selection: Selection, rows: int
    ) -> tuple[int, Sequence[KeyText]]:
        """The number of selected rows, and each key that comes after another `rows` of them."""


class Reading(Protocol):
    """Rows of a table as of a fence, on their way to the topic.

    Attributes:
        fence: the point of the WAL.
        offset: where offsets order the changes, the one that the rows stand before.
        begins: the offset on the topic at which the rows begin, or before.
    """

    fence: int
    offset: int | None
    begins: int

    def checksum(self, selection: Selection) -> tuple[int, int]:
        """How many rows are selected, and the sum of their checksums."""

    def read(self, selection: Selection) -> int:
        """Publish the selected rows; how many."""

    def present(self, selection: Selection, texts: Sequence[str]) -> Collection[str]:
        """Which of these keys Postgres has as of the fence; see live_keys."""

    def delete(self, key: str) -> None:
        """Publish a delete of the row with this key, a JSON object, below the rows."""

    def wait(self) -> None:
        """Return when the drain has gone past everything published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Reads tables again.

    Attributes:
        reading: opens a fence for a table; by offset where that is said.
        clickhouse: a session.
        rows: of one range.
        hidden: counts the rows of a selection, written at a version, that something ahead of the
            source hides.
        reached: called with each of POINTS as it is passed.
    """

    clickhouse: ClickHouse
    reading: Callable[[Table, bool], AbstractContextManager[Reading]]
    division: Division
    plans: Plans
    hidden: Callable[[Table, Selection, int], int]
    rows: int = _ROWS_IN_A_RANGE
    reached: Reached = go_on

    def run(
        self,
        table: Table,
        selection: Selection,
        *,
        restart: bool = False,
        differing: bool = False,
    ) -> ResyncReport:
        """Read the selected rows again, and delete what Postgres does not have.

        Args:
            restart: read all of them, also where a killed run of the same selection left some.
            differing: leave out ranges whose rows are equal.

        Raises:
            NotReady: a transaction that was open did not end in time, or set-up is not finished.
        """
        plan = self.plan(table, selection, restart=restart)
        self.reached("planned")
        return self.read(plan, differing=differing)

    def plan(self, table: Table, selection: Selection, *, restart: bool = False) -> Plan:
        """What the last run of the selection left, or new ranges; see `run`."""
        _, epoch = self._source(table)
        unfinished = self.plans.unfinished(table, selection, epoch)
        if unfinished is not None and not restart:
            log.info(
                "resync: %s goes on where a run stopped: %d of %d ranges are done",
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
        """Read the ranges of a plan that are left, or one of several shares of them; see `run`."""
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
            selection=plan.asked if shares == 1 else f"{plan.asked}, share {share + 1} of {shares}",
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
        """Whether ClickHouse's rows of a range are those of the fence already.

        What is drained later and is older than the fence leads to the same rows.
        """
        count, total = reading.checksum(selection)
        present = checksum_below(self.clickhouse, table, selection, version)
        return count == present[0] and same_sum(total, present[1])

    def _read(self, table: Table, part: KeyRange, reading: Reading, version: int) -> RangeDone:
        """Read one range and bring it to ClickHouse."""
        rows = reading.read(part.selection)
        self.reached("rows published")
        reading.wait()
        self.reached("rows drained")
        older = live_keys_below(self.clickhouse, table, part.selection, version)
        present = reading.present(part.selection, list(older)) if older else ()
        gone = older.keys() - set(present)
        for text in gone:
            reading.delete(older[text])
        if gone:
            reading.wait()
        self.reached("deletes drained")
        unstored = self._unstored(table, reading)
        if hidden := self.hidden(table, part.selection, version + 1):
            unstored[_HIDDEN] = hidden
        return RangeDone(fence=reading.fence, rows=rows, deleted=len(gone), unstored=unstored)

    def _unstored(self, table: Table, reading: Reading) -> dict[str, int]:
        """The rows of a reading that could not be stored: reason -> how many."""
        place = place_of(reading.fence, reading.offset)
        store = ClickHouseStore(self.clickhouse)
        return dict(store.unstored(table.name, place, reading.begins))

    def _source(self, table: Table) -> tuple[str, int]:
        """The table's change source and epoch."""
        found = self.clickhouse.execute(
            "SELECT argMax(source, generation), max(epoch) FROM cdc.checkpoints"
            " WHERE source_table = {table:String} GROUP BY source_table",
            table=table.name,
        )
        source, epoch = found[0] if found else ("", 0)
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
    """The version of the deletes; the rows are just above it."""
    if reading.offset is None:
        return pack(epoch, reading.fence, 0)
    try:
        return before(epoch, reading.offset, 0)
    except ValueError:
        raise NotReady(
            f"{table.topic} is empty: Redpanda Connect has not begun its snapshot"
        ) from None
