"""Compares every column of every row of PostgreSQL and ClickHouse as of a point of the WAL.

PostgreSQL is read in an exported snapshot, whose point is exact; ClickHouse as of the same point,
by row versions and history. So concurrent writes neither raise nor hide a finding. A table is
compared in ranges of its key: one checksum per bucket on both sides, then one per row in buckets
that differ, then the columns of the rows that differ. Buckets and reported keys bound the memory.
Small tables that are equal are found first, many in a statement; see small_tables.py.

Rows are compared one by one, so ranges need no common point. Snapshots are replaced regularly:
however long the check takes, PostgreSQL retains little WAL and few dead rows for it, and holds
locks briefly. Equal ranges are noted, so an interrupted check resumes with the others; see
key_ranges.py. Ranges of a check that is still running are not taken over.

Positions of Redpanda Connect's tables are no points of the WAL, so ClickHouse is read as it is now.
A row that differs there is read twice, and counts if neither side changed in between.
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
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.ports import Checkpoint
from sluice.errors import NotReady, SluiceError
from sluice.events.event import CONNECT
from sluice.execution.failpoints import Reached, ignore
from sluice.execution.outcomes import Outcomes
from sluice.execution.progress import Pace
from sluice.printable import named
from sluice.quality.differences import TableFindings, seen_twice
from sluice.quality.range_check import RangeCheck, Snapshot
from sluice.quality.small_tables import SmallTables
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

# Failpoints passed to `DeepCheck.reached`, each after the effect it names, in order.
POINTS = ("planned", "range compared", "range noted", "run ended")
# A range takes seconds to read, so an interrupted check loses little.
_ROWS_IN_A_RANGE = 1_000_000
# A table with less than this part of a range's rows is small.
_SMALL = 20
# Seconds that a snapshot is held. A migration waits as long, and so do queries after it; a new
# snapshot costs about a second, since the drain has to pass its point.
_HELD = 30.0
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepCheck:
    """Compares tables with their source.

    Attributes:
        snapshot: opens PostgreSQL at a point that the drain has passed.
        checkpoint: returns a table's current checkpoint.
        restart: whether to compare all ranges instead of resuming an interrupted check.
        claim: claims a run for this check; False where another check holds it.
        rows: the rows of one range; 1,000,000 by default.
        reached: called with each of POINTS as it is passed.
    """

    clickhouse: ClickHouse
    snapshot: Callable[[], AbstractContextManager[Snapshot]]
    checkpoint: Callable[[Table], Checkpoint]
    plans: Plans
    restart: bool = False
    claim: Callable[[str], bool] = lambda _: True
    rows: int = _ROWS_IN_A_RANGE
    reached: Reached = ignore

    def tables(
        self, tables: Sequence[Table], outcomes: Outcomes
    ) -> Iterator[tuple[Table, TableFindings]]:
        """Compare each table with its source; errors go to `outcomes`."""
        plans = []
        with ExitStack() as stack:
            snapshots = _Snapshots(self.snapshot, stack)
            equal = self._equal(snapshots, tables)
            pace = Pace(log, "deep: {} tables compared")
            for number, table in enumerate(tables, start=1):
                pace.at(number - 1, len(tables))
                if table.name in equal:
                    yield table, equal[table.name]
                    continue
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
        for plan in plans:  # all at the end: before it an interrupted check has reported nothing
            self.plans.end(plan)
        self.reached("run ended")

    def _equal(self, snapshots: _Snapshots, tables: Sequence[Table]) -> dict[str, TableFindings]:
        """Return the findings of small tables that are equal; see small_tables.py."""
        small = SmallTables(
            clickhouse=self.clickhouse,
            checkpoints=ClickHouseStore(self.clickhouse).checkpoints,
            most_rows=self.rows // _SMALL,
        )
        equal: dict[str, TableFindings] = {}
        for batch in small.batches(tables):
            snapshot = snapshots.require()
            try:
                equal |= small.equal(snapshot, batch)
            except SluiceError as error:
                log.info(
                    "deep: %s are compared one by one: %s", named(t.name for t in batch), error
                )
                snapshots.renew()
        if equal:
            log.info("deep: %d small tables are equal", len(equal))
        return equal

    def _plan(self, snapshot: Snapshot, table: Table) -> Plan:
        """Return the plan of an interrupted check of the table, or a new one."""
        epoch = self.checkpoint(table).epoch
        plan = None if self.restart else self.plans.unfinished_check(table, epoch)
        if plan is not None and self.claim(plan.run):
            log.info(
                "deep: %s: resuming an interrupted check: %d of %d ranges are equal",
                table.name,
                len(plan.done),
                len(plan.ranges),
            )
            return plan
        total, keys = snapshot.division(table, self.rows)
        plan = replace(divided(table, Selection(), total, self.rows, keys), purpose=DEEP_CHECK)
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
            result = self._compared(snapshots.present(plan.table), plan.table, part, findings)
            findings.add(result)
            self.reached("range compared")
            if not result.differences and result.complete:
                self.plans.finish(plan, part, RangeDone(fence=result.point, rows=result.postgres))
                self.reached("range noted")
            line = progress.add(part, result.postgres)
            if len(plan.ranges) > 1:
                log.info("deep: %s", line)
        return findings

    def _compared(
        self, snapshot: Snapshot, table: Table, part: KeyRange, known: TableFindings
    ) -> TableFindings:
        checkpoint, count = self.checkpoint(table), len(known.differences)
        first = RangeCheck(self.clickhouse, snapshot, table, part, checkpoint, count).run()
        if checkpoint.source != CONNECT or not first.differences:
            return first
        with ExitStack() as stack:
            later = _Snapshots(self.snapshot, stack).present(table)
            checkpoint = self.checkpoint(table)
            second = RangeCheck(self.clickhouse, later, table, part, checkpoint, count).run()
        return seen_twice(first, second)


class _Snapshots:
    """Opens one snapshot after the other; the last one stays open until the stack closes."""

    def __init__(
        self, opening: Callable[[], AbstractContextManager[Snapshot]], stack: ExitStack
    ) -> None:
        self._opening, self._stack = opening, stack
        self._open: Snapshot | None = None
        self._until = 0.0

    def present(self, table: Table) -> Snapshot:
        """Return the open snapshot, or a new one if it is too old or lacks the table's rows.

        Raises:
            NotReady: the table was truncated in every attempt.
        """
        for _ in range(_ATTEMPTS):
            snapshot = self.require()
            if snapshot.holds(table):
                return snapshot
            self.renew()
        raise NotReady(f"{table.name} was truncated before each attempt to compare it")

    def require(self) -> Snapshot:
        """Return the open snapshot, or a new one if it is too old."""
        if self._open is None or time.monotonic() > self._until:
            self._stack.close()
            self._open = self._stack.enter_context(self._opening())
            self._until = time.monotonic() + _HELD
        return self._open

    def renew(self) -> None:
        """Replace the open snapshot on its next use."""
        self._until = 0.0
