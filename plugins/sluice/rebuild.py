"""The rebuild: brings a fact up to date with the current-state tables.

Incremental: the keys that changes since the last rebuild can have altered are recomputed, so the
cost follows the change. Full: all of it, range by range, into a shadow table that is verified,
then exchanged, so readers never see a half; the table it replaced is kept for a rollback.

A fact row's version is the number of changes its rebuild had seen. A rebuild that had seen more
therefore wins over one that had seen less, in whatever order two of them write; and a change that
arrives while a rebuild reads is above what that rebuild claims to have seen, so the next one
recomputes its facts. That makes killed and concurrent rebuilds harmless. Each full rebuild fills a
shadow table of its own name, so it can only ever exchange what it filled itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import uuid4

from sluice.adapters.clickhouse import ClickHouse
from sluice.catalog import Fact
from sluice.errors import NeedsPerson, QualityFailed, StaleRebuild, WrongUsage
from sluice.fact_storage import FactStorage
from sluice.generate.clickhouse import quoted

log = logging.getLogger(__name__)

_ATTEMPTS = 10
# Rows that are made and inserted at a time: about 1 GB of memory with wide rows.
RANGE_ROWS = 1_000_000
Seen = Mapping[str, int]
Range = Mapping[str, Any]

# Where a rebuild stands between two effects, in order; tests kill it at each.
POINTS = (
    "shadow made",
    "keys found",
    "rows staged",
    "groups noted",
    "rows written",
    "rollups summed",
    "verified",
    "recorded",
    "exchanged",
    "kept",
)


def _go_on(_: str) -> None:
    """Nothing waits for the rebuild."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """What a rebuild did.

    Attributes:
        mode: `none` (nothing had changed), `incremental`, `full`, `backfill` or `rollback`.
    """

    fact: str
    mode: str
    rows: int
    deleted: int
    seconds: float

    def sentence(self) -> str:
        """The rebuild in one line."""
        if self.mode == "none":
            return f"{self.fact}: nothing had changed"
        what = "rollback to" if self.mode == "rollback" else f"{self.mode} rebuild of"
        text = f"{self.fact}: {what} {self.rows} rows"
        return f"{text}, {self.deleted} deleted, in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """Rebuilds one fact.

    Attributes:
        star: the fact's generated statements.
        queries: the statements of sql/clickhouse/pipeline.sql.
        range_rows: rows that are made and inserted at a time; memory follows it.
        reached: called with each of POINTS as it is passed.
        progress: called with a line for people after each range of a long rebuild.
    """

    clickhouse: ClickHouse
    fact: Fact
    star: Mapping[str, str]
    queries: Mapping[str, str]
    range_rows: int = RANGE_ROWS
    reached: Callable[[str], None] = _go_on
    progress: Callable[[str], None] = log.info

    def run(self, *, full: bool = False) -> RebuildReport:
        """Bring the fact up to date, by its changes where that is possible.

        Raises:
            StaleRebuild: another rebuild exchanged the fact meanwhile; run it again.
            QualityFailed: a full rebuild does not have the source's rows; nothing was exchanged.
        """
        started = time.monotonic()
        self._tables.catch_strays()
        storage = self._storage(self.fact.name)
        low = self._last_seen(storage)
        if full or low is None:
            return self._report("full", started, self._full(), 0)
        self._sum_new(low)
        mode, rows, deleted = self._catch_up(storage, low)
        return self._report(mode, started, rows, deleted)

    def backfill(self, first: date, last: date) -> RebuildReport:
        """Recompute the facts of the days from `first` to `last`, both included.

        Days can be redone in any order, again, and several at once: rows are recomputed from the
        current state, and their version is what that had seen.

        Raises:
            WrongUsage: no column is marked as the fact's date, or the days are out of order.
        """
        if self.fact.date is None:
            raise WrongUsage(
                f"{self.fact.name} has no date", remedy='mark a column with {"star": "date"}'
            )
        if first > last:
            raise WrongUsage(f"the days end before they begin: {first} to {last}")
        started, storage = time.monotonic(), self._storage(self.fact.name)
        low = self._last_seen(storage)
        if low is None:
            return self.run()
        high = self.drained()
        self._create_touched()
        self.clickhouse.execute(
            self.star["touched_by_date"], fact=self.fact.name, first=first, last=last
        )
        rows, deleted = self._rewrite(self.fact.name, high)
        self._sum_noted(low, high)
        self._record(storage, high, "backfill", rows, deleted, time.monotonic() - started)
        return self._report("backfill", started, rows, deleted)

    def rollback(self) -> RebuildReport:
        """Exchange the fact for the table that the last full rebuild replaced, and catch up.

        Once more, and it is undone.

        Raises:
            WrongUsage: no table was kept.
        """
        started, kept = time.monotonic(), self.kept
        if not self.clickhouse.execute(self.queries["storage"], table=kept):
            raise WrongUsage(
                f"no earlier {self.fact.name} is kept", remedy="a full rebuild keeps one"
            )
        storage = self._storage(kept)
        low = self._last_seen(storage)
        if low is None:
            raise WrongUsage(f"cdc.{kept} was never finished", remedy="run: sluice rebuild --full")
        high = self.drained()
        rows, deleted = self._insert_touched(kept, low, high)
        self._sum_all(kept, high)
        self._record(storage, high, "rollback", rows, deleted, time.monotonic() - started)
        self._exchange(kept)
        self._catch_up(storage, high)
        return self._report("rollback", started, self.live_rows(self.fact.name), deleted)

    @property
    def _tables(self) -> FactStorage:
        return FactStorage(clickhouse=self.clickhouse, fact=self.fact, queries=self.queries)

    @property
    def kept(self) -> str:
        """The table in `cdc` that the last full rebuild replaced."""
        return f"{self.fact.name}__kept"

    def drained(self) -> dict[str, int]:
        """Source table -> highest drained `_seq`, of the fact's tables."""
        found = dict(self.clickhouse.execute(self.queries["drained"]))
        return {table.name: found.get(table.name, 0) for table in self.fact.tables}

    def seen(self) -> Seen | None:
        """What the fact as it stands has seen; None before its first rebuild."""
        return self._last_seen(self._storage(self.fact.name))

    def live_rows(self, table: str) -> int:
        """Live rows of a table in `cdc`."""
        return int(self.clickhouse.execute(self.queries["live_rows"], table=table)[0][0])

    def _report(self, mode: str, started: float, rows: int, deleted: int) -> RebuildReport:
        seconds = time.monotonic() - started
        return RebuildReport(
            fact=self.fact.name, mode=mode, rows=rows, deleted=deleted, seconds=seconds
        )

    def _catch_up(self, storage: Any, low: Seen) -> tuple[str, int, int]:
        started, high = time.monotonic(), self.drained()
        if high == low:
            return "none", 0, 0
        rows, deleted = self._insert_touched(self.fact.name, low, high)
        self._sum_noted(low, high)
        if self._storage(self.fact.name) != storage:
            raise StaleRebuild()
        seconds = time.monotonic() - started
        self._record(storage, high, "incremental", rows, deleted, seconds)
        self.reached("recorded")
        return "incremental", rows, deleted

    def _insert_touched(self, target: str, low: Seen, high: Seen) -> tuple[int, int]:
        """Recompute into `target` what changes in (low, high] touch: rows and tombstones."""
        self._create_touched()
        ways = {"fact": self.fact.table.name}
        ways |= {dimension.prefix: dimension.table.name for dimension in self.fact.dimensions}
        for way, table in ways.items():
            since = low.get(table, 0)
            if since < high[table]:
                self.clickhouse.execute(
                    self.star[f"touched_by_{way}"], fact=target, low=since, high=high[table]
                )
        return self._rewrite(target, high)

    def _create_touched(self) -> None:
        self._drop_temporary("touched")
        self.clickhouse.execute(self.star["touched"])

    def _rewrite(self, target: str, high: Seen) -> tuple[int, int]:
        """Recompute into `target` what is touched, range by range: rows and tombstones."""
        self.reached("keys found")
        rows = deleted = 0
        for bounds in self._ranges("touched_ranges"):
            self._stage("stage_touched", bounds)
            self.clickhouse.execute(self.star["join"])
            self.clickhouse.execute(self.star["join_tombstones"], **bounds)
            gone = self.clickhouse.written_rows()
            self._note_groups(target, high)
            rows += self._insert("insert_joined", "joined", target, high) - gone
            deleted += gone
        self._drop_temporary("touched")
        return rows, deleted

    def _ranges(self, listing: str) -> Iterator[Range]:
        """Bounds of a key's ranges as parameters, in the key's order."""
        starts = self.clickhouse.execute(self.star[listing], step=self.range_rows)
        for at, start in enumerate(starts):
            last = at + 1 == len(starts)
            bounds: dict[str, Any] = {f"low_{n}": text for n, text in enumerate(start)}
            end = start if last else starts[at + 1]
            yield {**bounds, **{f"high_{n}": text for n, text in enumerate(end)}, "last": int(last)}

    def _stage(self, rows: str, bounds: Range) -> None:
        """The rows of a range and those they lead to, in the session's own tables."""
        self._stage_nothing()
        self.clickhouse.execute(self.star[rows], **bounds)
        for dimension in self.fact.dimensions:
            self.clickhouse.execute(self.star[f"stage_{dimension.prefix}"])
        self.reached("rows staged")

    def _insert(self, how: str, source: str, target: str, high: Seen) -> int:
        self.clickhouse.execute(self.star[how], fact=target, version=sum(high.values()))
        # Not what was written: a row that goes to another server is written here and there.
        rows = self.clickhouse.execute(f"SELECT count() FROM {source}")[0][0]
        self.reached("rows written")
        return int(rows)

    def _drop_temporary(self, *tables: str) -> None:
        for table in tables:
            self.clickhouse.execute(f"DROP TEMPORARY TABLE IF EXISTS {quoted(table)}")

    def _full(self) -> int:
        """All rows into a shadow table, verified, exchanged, caught up; how many rows."""
        started, shadow = time.monotonic(), f"{self.fact.name}__shadow_{uuid4().hex[:12]}"
        self._tables.create(shadow)
        try:
            storage, high = self._storage(shadow), self.drained()
            self.reached("shadow made")
            self._fill(shadow, high)
            rows, high = self._verify(shadow, high)
            self.reached("verified")
            self._sum_all(shadow, high)
            self._record(storage, high, "full", rows, 0, time.monotonic() - started)
            self.reached("recorded")
            self._exchange(shadow)
            self._keep(shadow)
        finally:
            self._tables.drop(shadow)
        self._catch_up(storage, high)
        return rows

    def _fill(self, shadow: str, high: Seen) -> None:
        started, rows = time.monotonic(), 0
        ranges = list(self._ranges("all_ranges"))
        for done, bounds in enumerate(ranges, start=1):
            self._stage("stage_range", bounds)
            rows += self._insert("insert_range", "staged_fact", shadow, high)
            seconds = time.monotonic() - started
            left = seconds / done * (len(ranges) - done)
            self.progress(
                f"{self.fact.name}: range {done} of {len(ranges)}, {rows} rows in"
                f" {seconds:.1f} s, about {left:.0f} s left"
            )
        self._stage_nothing()

    def _stage_nothing(self) -> None:
        """Free the memory of the last range."""
        prefixes = [dimension.prefix for dimension in self.fact.dimensions]
        self._drop_temporary("joined", *(f"staged_{name}" for name in ("fact", *prefixes)))

    def _exchange(self, table: str) -> None:
        one, other = quoted(self.fact.name), quoted(table)
        self.clickhouse.execute(f"EXCHANGE TABLES cdc.{one} AND cdc.{other}")
        self.reached("exchanged")
        self._tables.follow()

    def _keep(self, replaced: str) -> None:
        """Keep the replaced table for a rollback, in place of the one kept before."""
        kept = quoted(self.kept)
        for _ in range(_ATTEMPTS):
            self._tables.drop(self.kept)
            # Another full rebuild may keep its own in between.
            with suppress(NeedsPerson):
                self.clickhouse.execute(f"RENAME TABLE cdc.{quoted(replaced)} TO cdc.{kept}")
                break
        self.reached("kept")

    def _verify(self, shadow: str, high: dict[str, int]) -> tuple[int, dict[str, int]]:
        """Catch up with what drains brought meanwhile until both sides agree at one point.

        Compared are live rows and a checksum of every column that is the fact's own.
        """
        found = expected = (0, 0)
        for _ in range(_ATTEMPTS):
            now = self.drained()
            if now != high:
                self._insert_touched(shadow, high, now)
                high = now
            expected = self.clickhouse.execute(self.star["checksum_source"])[0]
            found = self.clickhouse.execute(self.star["checksum_fact"], fact=shadow)[0]
            if found == expected and self.drained() == high:
                return int(found[0]), high
            self.progress(f"{shadow}: {found[0]} rows of {expected[0]}; catching up")
            time.sleep(0.5)
        differ = f"{found[0]} rows instead of {expected[0]}"
        if found[0] == expected[0]:
            differ = "the checksum differs"
        raise QualityFailed(
            f"full rebuild of {self.fact.name}: {differ}; the fact was left as it is",
            remedy=f"run: sluice quality {self.fact.table.name}",
        )

    def _note_groups(self, target: str, high: Seen) -> None:
        for rollup in self.fact.table.rollups:
            self.clickhouse.execute(
                self.star[f"{rollup.name}_note"], fact=target, version=sum(high.values())
            )
            self.reached("groups noted")

    def _sum_new(self, low: Seen) -> None:
        """Sum all for a rollup that came to the models later: nothing has written to it yet."""
        for rollup in self.fact.table.rollups:
            rows = self.clickhouse.execute(f"SELECT count() FROM cdc.{quoted(rollup.name)}")
            if not rows[0][0]:
                self._sum_all(self.fact.name, low)

    def _sum_noted(self, low: Seen, high: Seen) -> None:
        self._sum("sum_touched", self.fact.name, high, since=sum(low.values()))

    def _sum_all(self, table: str, high: Seen) -> None:
        self._sum("sum_all", table, high)

    def _sum(self, how: str, table: str, high: Seen, **since: Any) -> None:
        """Write sums; of two that had seen the same, the one that read later wins.

        Backfills that run at once have seen the same, and one may sum a group before another has
        written to it: so the server's clock before the reading is the version's lower half.
        """
        for rollup in self.fact.table.rollups:
            read_at = self.clickhouse.execute("SELECT toUnixTimestamp64Nano(now64(9))")[0][0]
            version = sum(high.values()) << 64 | read_at
            statement = self.star[f"{rollup.name}_{how}"]
            self.clickhouse.execute(statement, fact=table, version=version, **since)
            self.reached("rollups summed")

    def _storage(self, table: str) -> Any:
        rows = self.clickhouse.execute(self.queries["storage"], table=table)
        if not rows:
            raise StaleRebuild(f"cdc.{table} is not there; run: sluice init")
        return rows[0][0]

    def _last_seen(self, storage: Any) -> Seen | None:
        rows = self.clickhouse.execute(
            self.queries["last_seen"], fact=self.fact.name, storage=str(storage)
        )
        return rows[0][0] if rows else None

    def _record(
        self, storage: Any, seen: Seen, mode: str, rows: int, deleted: int, seconds: float
    ) -> None:
        row = {
            "fact": self.fact.name,
            "storage": storage,
            "version": sum(seen.values()),
            "mode": mode,
            "seen": dict(seen),
            "rows": rows,
            "deleted": deleted,
            "seconds": seconds,
        }
        self.clickhouse.insert_row("cdc.rebuilds", row)
