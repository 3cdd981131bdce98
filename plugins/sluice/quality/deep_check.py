"""The deep check: every column of every row, on both sides, as of one point of the WAL.

Postgres is read in an exported snapshot, whose point is exact; ClickHouse as of the same point,
by row versions and history. So writes that go on raise no alarm and hide none. A table is compared
in ranges of its key: first one checksum a bucket on both sides; then, of the buckets that differ,
one a row; then the columns of the rows that differ. Memory is bounded by buckets and by the keys
that are reported.

Ranges need no common point, as each row is compared by itself. So a snapshot is held for half a
minute and then another is opened: however long the check, Postgres keeps back no more WAL and dead
rows than of that, and no lock for longer. And ranges in which nothing differed are noted: killed
anywhere, the next check goes on with the others; see ranges.py. It leaves alone what another check
is at just then: what that one has compared says nothing of now.

Of Redpanda Connect's tables, whose positions are no points of the WAL, ClickHouse is read as it is
now. A row that differs there is looked at twice, and counts if neither side changed in between.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.ports import Checkpoint
from sluice.errors import NotReady
from sluice.events.event import CONNECT
from sluice.execution.failpoints import Reached, go_on
from sluice.execution.outcomes import Outcomes
from sluice.quality.differences import TableFindings, seen_twice
from sluice.quality.range_check import RangeCheck, Snapshot
from sluice.warehouse.key_ranges import (
    DEEP_CHECK,
    KeyRange,
    Plan,
    Plans,
    Progress,
    RangeDone,
    divided,
)

log = logging.getLogger(__name__)

# What `DeepCheck.reached` is told, in the order of the effects before them.
POINTS = ("planned", "range compared", "range noted", "run ended")
# Some seconds of reading: little is lost with a check that is killed.
_ROWS_IN_A_RANGE = 1_000_000
# Seconds; opening a snapshot takes about one, as the drain has to pass its point. For so long a
# migration waits, and whoever comes to the table after it.
_HELD = 30.0
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepCheck:
    """Compares tables with their source.

    Attributes:
        snapshot: opens Postgres at a point that the drain has passed.
        checkpoint: how far a table is drained by now.
        restart: compare all ranges, also where a check that was killed left some.
        claim: marks a run as at work here; False where another check is at it.
        rows: of one range.
        reached: called with each of POINTS as it is passed.
    """

    clickhouse: ClickHouse
    snapshot: Callable[[], AbstractContextManager[Snapshot]]
    checkpoint: Callable[[Table], Checkpoint]
    plans: Plans
    restart: bool = False
    claim: Callable[[str], bool] = lambda _: True
    rows: int = _ROWS_IN_A_RANGE
    reached: Reached = go_on

    def tables(
        self, tables: Sequence[Table], outcomes: Outcomes
    ) -> Iterator[tuple[Table, TableFindings]]:
        """Compare each table with its source; those that cannot be are left to `outcomes`."""
        plans = []
        with ExitStack() as stack:
            snapshots = _Snapshots(self.snapshot, stack)
            for table in tables:
                findings = None
                snapshots.require()  # without one no table can be compared
                with outcomes.of(table.name):
                    plan = self._plan(snapshots.present(table), table)
                    findings = self._table(snapshots, plan)
                if findings is None:
                    snapshots.renew()
                    continue
                plans.append(plan)
                log.info(
                    "deep: %s, %d rows, %d buckets differ",
                    table.name,
                    findings.postgres,
                    findings.buckets,
                )
                yield table, findings
        for plan in plans:  # all at the end: until then a killed check has not told its findings
            self.plans.end(plan)
        self.reached("run ended")

    def _plan(self, snapshot: Snapshot, table: Table) -> Plan:
        """What a killed check left of the table, or all of it."""
        epoch = self.checkpoint(table).epoch
        plan = None if self.restart else self.plans.unfinished_check(table, epoch)
        if plan is not None and self.claim(plan.run):
            log.info(
                "deep: %s goes on where a check stopped: %d of %d ranges are equal",
                table.name,
                len(plan.done),
                len(plan.ranges),
            )
            return plan
        total, keys = snapshot.division(table, self.rows)
        plan = replace(divided(table, Selection(), total, self.rows, keys), asked=DEEP_CHECK)
        self.claim(plan.run)  # before another check can find it
        self.plans.keep(plan, epoch)
        self.reached("planned")
        return plan

    def _table(self, snapshots: _Snapshots, plan: Plan) -> TableFindings:
        equal = sum(part.rows for part in plan.ranges if part.number in plan.done)
        findings = TableFindings(
            postgres=equal, clickhouse=equal, point=snapshots.present(plan.table).point
        )
        progress = Progress(plan, plan.open, "compared")
        for part in plan.open:
            found = self._compared(snapshots.present(plan.table), plan.table, part, findings)
            findings.add(found)
            self.reached("range compared")
            if not found.differences and found.complete:
                self.plans.finish(plan, part, RangeDone(fence=found.point, rows=found.postgres))
                self.reached("range noted")
            told = progress.add(part, found.postgres)
            if len(plan.ranges) > 1:
                log.info("deep: %s", told)
        return findings

    def _compared(
        self, snapshot: Snapshot, table: Table, part: KeyRange, known: TableFindings
    ) -> TableFindings:
        checkpoint, count = self.checkpoint(table), len(known.differences)
        found = RangeCheck(self.clickhouse, snapshot, table, part, checkpoint, count).run()
        if checkpoint.source != CONNECT or not found.differences:
            return found
        with ExitStack() as stack:
            later = _Snapshots(self.snapshot, stack).present(table)
            checkpoint = self.checkpoint(table)
            again = RangeCheck(self.clickhouse, later, table, part, checkpoint, count).run()
        return seen_twice(found, again)


class _Snapshots:
    """One snapshot after the other, the last of them open until the stack closes."""

    def __init__(
        self, opening: Callable[[], AbstractContextManager[Snapshot]], stack: ExitStack
    ) -> None:
        self._opening, self._stack = opening, stack
        self._open: Snapshot | None = None
        self._until = 0.0

    def present(self, table: Table) -> Snapshot:
        """The one that is open; the next when it has been held for long, or lacks the table's rows.

        Raises:
            NotReady: the table is truncated all the time.
        """
        for _ in range(_ATTEMPTS):
            snapshot = self.require()
            if snapshot.holds(table):
                return snapshot
            self.renew()
        raise NotReady(f"{table.name} was truncated each time before it could be compared")

    def require(self) -> Snapshot:
        """The one that is open, or the next."""
        if self._open is None or time.monotonic() > self._until:
            self._stack.close()
            self._open = self._stack.enter_context(self._opening())
            self._until = time.monotonic() + _HELD
        return self._open

    def renew(self) -> None:
        """Have the next one opened when one is needed."""
        self._until = 0.0
