"""Carries forward passed counts of tables that neither side has changed since.

A mark says in what state a table is on both sides. It is read before the table is counted, so that
a change during the count alters the mark of the next check. PostgreSQL's side is its counters of
inserted, updated and deleted rows, with the files of the table and its partitions and with the
moments since when the server counts; ClickHouse's side is the parts of the table and its
checkpoint. So a change that got lost on its way, and a row that only one side lost, alter the mark.

PostgreSQL reports its counters up to a minute late, and a superuser's session may switch them off.
So a count is carried forward for a limited time. Few small tables are counted each time: this costs
less than their marks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sluice.catalog import Catalog, Table
from sluice.catalog.quality_options import Status
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.ports import Checkpoint
from sluice.execution.progress import duration
from sluice.quality.checks import Check

# The name of a table or fact, and of a check.
Place = tuple[str, str]
# Counting so many rows takes some hundredths of a second on each side.
LEAST_ROWS = 100_000
# One statement on each side counts so many small tables.
FEW_TABLES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What is known before a run.

    Attributes:
        marks: the states of tables that can be carried, and of their facts.
        checks: passed checks that need not be repeated.
    """

    marks: Mapping[Place, str] = field(default_factory=dict)
    checks: Mapping[Place, Check] = field(default_factory=dict)

    def names(self, kind: str) -> frozenset[str]:
        """Return the tables or facts whose check of this kind need not be repeated."""
        return frozenset(name for name, check in self.checks if check == kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedForward:
    """Finds the checks that need not be repeated.

    Attributes:
        seconds: how long a result is carried forward; 0 for never.
        least_rows: the rows of a large table, by PostgreSQL's estimate; of few tables only large
            ones are carried.
    """

    source: PostgresSource
    clickhouse: ClickHouse
    catalog: Catalog
    queries: Mapping[str, str]
    seconds: int
    least_rows: float = LEAST_ROWS

    def find(self, tables: Sequence[Table]) -> Carried:
        """Return what is known of these tables; nothing where other servers hold parts of them."""
        if not self.seconds or self.clickhouse.cluster.name:
            return Carried()
        marks = self._marks(tables)
        return Carried(marks=marks, checks=self._checks(marks) if marks else {})

    def _marks(self, tables: Sequence[Table]) -> dict[Place, str]:
        least_rows = self.least_rows if len(tables) <= FEW_TABLES else -math.inf
        sources, marks = self.source.marks(tables, least_rows), dict[Place, str]()
        marked = [table for table in tables if table.name in sources]
        if not marked:
            return marks
        facts = [fact for fact in self.catalog.facts if fact.table.name in sources]
        names = [*(table.storage for table in marked), *(fact.name for fact in facts)]
        parts = dict(self.clickhouse.execute(self.queries["part_marks"], names=names))
        checkpoints = ClickHouseStore(self.clickhouse).checkpoints()
        for table in marked:
            if table.storage in parts and table.name in checkpoints:
                stored = f"{parts[table.storage]} {_drained(checkpoints[table.name])}"
                mark = f"{sources[table.name]} {stored}"
                marks[table.name, "row_count"] = marks[table.name, "ahead"] = mark
        for fact in facts:
            counted = marks.get((fact.table.name, "row_count"))
            if counted and fact.name in parts:
                marks[fact.name, "fact_row_count"] = f"{counted} {parts[fact.name]}"
        return marks

    def _checks(self, marks: Mapping[Place, str]) -> dict[Place, Check]:
        rows = self.clickhouse.execute(
            self.queries["carried"],
            tables=sorted({name for name, _ in marks}),
            checks=sorted({check for _, check in marks}),
            seconds=self.seconds,
        )
        return {
            (name, check): Check(
                table=name,
                check=check,
                status=Status.PASS,
                postgres=postgres,
                clickhouse=clickhouse,
                difference=f"neither side changed since it was compared {duration(ago)} ago",
                carried_s=ago,
            )
            for name, check, postgres, clickhouse, mark, ago in rows
            if marks.get((name, check)) == mark
        }


def _drained(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.server} {checkpoint.epoch} {checkpoint.last_seq} {checkpoint.truncated}"
