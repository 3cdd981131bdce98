"""A fact's rows: made range by range of its key, and written, each range in one insert.

Of a range its own rows are staged in the session, then of each dimension the rows that those lead
to, then all of it is joined: memory follows the range, not the tables.
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
from sluice.generate.clickhouse import quoted
from sluice.generate.statements import FactStatements
from sluice.star.rollups import Recorded, RollupSums, Seen

Range = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Rows and delete markers that were written, and in how many ranges."""

    rows: int
    deleted: int
    ranges: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FactRows:
    """The rows of one fact.

    Attributes:
        range_rows: rows that are made and inserted at a time; memory follows it.
    """

    clickhouse: ClickHouse
    fact: Fact
    star: FactStatements
    range_rows: int
    reached: Reached
    progress: Callable[[str], None]

    def fill(self, shadow: str, now: Recorded) -> int:
        """Write all rows into an empty table; how many."""
        started, rows = time.monotonic(), 0
        ranges = list(self._ranges(self.star.all_ranges))
        for done, bounds in enumerate(ranges, start=1):
            self._stage(self.star.stage_range, bounds)
            rows += self._insert(self.star.insert_range, "staged_fact", shadow, now)
            seconds = time.monotonic() - started
            left = seconds / done * (len(ranges) - done)
            self.progress(
                f"{self.fact.name}: range {done} of {len(ranges)}, {rows} rows in"
                f" {seconds:.1f} s, about {left:.0f} s left"
            )
        self._stage_nothing()
        return rows

    def touch_changes(self, target: str, low: Seen, high: Seen) -> None:
        """Find the keys of `target` that changes in (low, high] can have altered."""
        self._touch_nothing()
        ways = [(self.star.touched_by_fact, self.fact.table.name)]
        ways += [(self.star.touched_by[d.prefix], d.table.name) for d in self.fact.dimensions]
        for statement, table in ways:
            since = low.get(table, 0)
            if since < high[table]:
                self.clickhouse.execute(statement, fact=target, low=since, high=high[table])
        self.reached("keys found")

    def touch_days(self, first: date, last: date) -> None:
        """Find the keys of the fact's rows of these days."""
        assert self.star.touched_by_date, "the fact has a date"
        self._touch_nothing()
        self.clickhouse.execute(
            self.star.touched_by_date, fact=self.fact.name, first=first, last=last
        )
        self.reached("keys found")

    def rewrite(self, target: str, now: Recorded, rollups: RollupSums | None = None) -> Written:
        """Recompute into `target` what is touched, tombstones included, and tell its rollups."""
        rows = deleted = ranges = 0
        for bounds in self._ranges(self.star.touched_ranges):
            self._stage(self.star.stage_touched, bounds)
            self.clickhouse.execute(self.star.join)
            self.clickhouse.execute(self.star.join_tombstones, **bounds)
            gone = self.clickhouse.written_rows()
            if rollups:
                rollups.note(now)
            rows += self._insert(self.star.insert_joined, "joined", target, now) - gone
            deleted += gone
            ranges += 1
        self._stage_nothing()
        self._drop_temporary("touched")
        return Written(rows=rows, deleted=deleted, ranges=ranges)

    def _touch_nothing(self) -> None:
        self._drop_temporary("touched")
        self.clickhouse.execute(self.star.touched)

    def _ranges(self, listing: str) -> Iterator[Range]:
        """Bounds of a key's ranges as parameters, in the key's order."""
        starts = self.clickhouse.execute(listing, step=self.range_rows)
        for at, start in enumerate(starts):
            last = at + 1 == len(starts)
            bounds: dict[str, Any] = {"first": int(at == 0), "last": int(last)}
            bounds |= {f"low_{n}": text for n, text in enumerate(start)}
            end = start if last else starts[at + 1]
            yield bounds | {f"high_{n}": text for n, text in enumerate(end)}

    def _stage(self, rows: str, bounds: Range) -> None:
        """The rows of a range and those they lead to, in the session's own tables."""
        self._stage_nothing()
        self.clickhouse.execute(rows, **bounds)
        for statement in self.star.stage.values():  # parents first, as the dimensions are
            self.clickhouse.execute(statement)
        self.reached("rows staged")

    def _stage_nothing(self) -> None:
        """Free the memory of the last range."""
        prefixes = [dimension.prefix for dimension in self.fact.dimensions]
        self._drop_temporary("joined", *(f"staged_{name}" for name in ("fact", *prefixes)))

    def _insert(self, how: str, source: str, target: str, now: Recorded) -> int:
        self.clickhouse.execute(how, fact=target, version=now.version)
        # Not what was written: a row that goes to another server is written here and there.
        rows = self.clickhouse.execute(f"SELECT count() FROM {source}")[0][0]
        self.reached("rows written")
        return int(rows)

    def _drop_temporary(self, *tables: str) -> None:
        listed = ", ".join(map(quoted, tables))
        self.clickhouse.execute(f"DROP TEMPORARY TABLE IF EXISTS {listed}")
