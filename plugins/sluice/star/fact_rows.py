"""Computes and writes a fact's rows, one insert for each range of its key.

The fact's own rows of a range are staged in the session, then the rows of each dimension that they
refer to, then all are joined: memory grows with the range, not with the tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from sluice.catalog import Fact
from sluice.clients.clickhouse import ClickHouse
from sluice.execution.failpoints import Reached
from sluice.execution.progress import Amount, Line
from sluice.generate.clickhouse import quoted
from sluice.generate.statements import FactStatements
from sluice.star.rollups import Recorded, RollupSums, Seen

Range = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The number of rows and delete markers written, and of ranges."""

    rows: int
    deleted: int
    ranges: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FactRows:
    """Writes the rows of one fact.

    Attributes:
        star: the fact's generated statements.
        range_rows: rows computed and inserted at a time; memory grows with it.
        reached: called with each failpoint as it is passed.
        progress: called with a line after each range of a full rebuild.
    """

    clickhouse: ClickHouse
    fact: Fact
    star: FactStatements
    range_rows: int
    reached: Reached
    progress: Callable[[str], None]

    def fill(self, shadow: str, now: Recorded) -> int:
        """Write all rows into an empty table; return their number."""
        started, rows = time.monotonic(), 0
        ranges = list(self._ranges(self.star.all_ranges))
        for done, bounds in enumerate(ranges, start=1):
            self._stage(self.star.stage_range, bounds)
            rows += self._insert(self.star.insert_range, "staged_fact", shadow, now)
            seconds = time.monotonic() - started
            left = seconds / done * (len(ranges) - done)
            text = (
                f"{self.fact.name}: range {done} of {len(ranges)}, {rows} rows in"
                f" {seconds:.1f} s, about {left:.0f} s left"
            )
            amount = Amount(
                work=f"{self.fact.name}: ranges", done=done, total=len(ranges), seconds_left=left
            )
            self.progress(Line(text, amount))
        self._clear_stage()
        return rows

    def touch_changes(self, target: str, low: Seen, high: Seen) -> None:
        """Collect the keys of `target` that changes in (low, high] may have altered."""
        self._clear_touched()
        paths = [(self.star.touched_by_fact, self.fact.table.name)]
        paths += [(self.star.touched_by[d.prefix], d.table.name) for d in self.fact.dimensions]
        for statement, table in paths:
            since = low.get(table, 0)
            if since < high[table]:
                self.clickhouse.execute(statement, fact=target, low=since, high=high[table])
        self.reached("keys found")

    def touch_days(self, first: date, last: date) -> None:
        """Collect the keys of the fact's rows of these days."""
        assert self.star.touched_by_date, "the fact has a date"
        self._clear_touched()
        self.clickhouse.execute(
            self.star.touched_by_date, fact=self.fact.name, first=first, last=last
        )
        self.reached("keys found")

    def rewrite(self, target: str, now: Recorded, rollups: RollupSums | None = None) -> Written:
        """Recompute the collected keys into `target`, delete markers included, and its rollups."""
        rows = deleted = ranges = 0
        for bounds in self._ranges(self.star.touched_ranges):
            self._stage(self.star.stage_touched, bounds)
            self.clickhouse.execute(self.star.join)
            self.clickhouse.execute(self.star.join_tombstones, **bounds)
            markers = self.clickhouse.written_rows()
            if rollups:
                rollups.note(now)
            rows += self._insert(self.star.insert_joined, "joined", target, now) - markers
            deleted += markers
            ranges += 1
        self._clear_stage()
        self._drop_temporary("touched")
        return Written(rows=rows, deleted=deleted, ranges=ranges)

    def _clear_touched(self) -> None:
        self._drop_temporary("touched")
        self.clickhouse.execute(self.star.touched)

    def _ranges(self, listing: str) -> Iterator[Range]:
        """Yield the bounds of a key's ranges as query parameters, in the key's order."""
        starts = self.clickhouse.execute(listing, step=self.range_rows)
        for at, start in enumerate(starts):
            last = at + 1 == len(starts)
            bounds: dict[str, Any] = {"first": int(at == 0), "last": int(last)}
            bounds |= {f"low_{n}": text for n, text in enumerate(start)}
            end = start if last else starts[at + 1]
            yield bounds | {f"high_{n}": text for n, text in enumerate(end)}

    def _stage(self, rows: str, bounds: Range) -> None:
        """Copy the rows of a range, and those they refer to, to temporary tables."""
        self._clear_stage()
        self.clickhouse.execute(rows, **bounds)
        for statement in self.star.stage.values():  # in the order of the dimensions, parents first
            self.clickhouse.execute(statement)
        self.reached("rows staged")

    def _clear_stage(self) -> None:
        """Free the memory of the previous range."""
        prefixes = [dimension.prefix for dimension in self.fact.dimensions]
        self._drop_temporary("joined", *(f"staged_{name}" for name in ("fact", *prefixes)))

    def _insert(self, statement: str, source: str, target: str, now: Recorded) -> int:
        self.clickhouse.execute(statement, fact=target, version=now.version)
        # Not the number of rows written: a row for another server of a cluster is written twice.
        rows = self.clickhouse.execute(f"SELECT count() FROM {source}")[0][0]
        self.reached("rows written")
        return int(rows)

    def _drop_temporary(self, *tables: str) -> None:
        listed = ", ".join(map(quoted, tables))
        self.clickhouse.execute(f"DROP TEMPORARY TABLE IF EXISTS {listed}")
