"""Rebuilds a fact from the current-state tables.

An incremental rebuild recomputes the keys that changes since the last rebuild may have altered. A
full rebuild fills a shadow table range by range, verifies it and exchanges it for the fact, so
readers never see a partial fact; the replaced table is kept for a rollback.

A fact row's version is the number of changes its rebuild had seen. The rebuild that had seen more
therefore wins, in whatever order two of them write. A change that arrives while a rebuild reads is
above what that rebuild records as seen, so the next one recomputes its facts. Killed and concurrent
rebuilds are thus harmless. Each full rebuild exchanges only the shadow table that it filled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID, uuid4

from sluice.catalog import Fact
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import (
    NeedsPerson,
    NotReady,
    QualityFailed,
    SluiceError,
    StaleRebuild,
    TableDiffers,
    WrongUsage,
)
from sluice.execution.contention import until_done
from sluice.execution.failpoints import Reached, ignore
from sluice.generate.clickhouse import quoted
from sluice.generate.joins import differing_own
from sluice.generate.statements import FactStatements
from sluice.star.fact_rows import FactRows
from sluice.star.fact_tables import FactStorage
from sluice.star.rollups import Recorded, RollupSums, Seen
from sluice.warehouse.merges import merge
from sluice.warehouse.star_form import fact_differs, outdated

log = logging.getLogger(__name__)

_ATTEMPTS = 10
_CATCH_UPS = 3
_LATEST = (1 << 64) - 1  # no change has a higher _seq
# Rows computed and inserted at a time; this bounds memory (docs/benchmarks/fact.md).
RANGE_ROWS = 2_000_000

# Failpoints between every two effects, in order.
POINTS = (
    "shadow made",
    "keys found",
    "rows staged",
    "groups noted",
    "rows written",
    "sums read",
    "rollups summed",
    "verified",
    "recorded",
    "exchanged",
    "kept",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """The result of a rebuild.

    Attributes:
        mode: `none` (no changes), `incremental`, `full`, `backfill` or `rollback`.
        rows, deleted: the number of rows and of delete markers written.
        seconds: the duration.
    """

    fact: str
    mode: str
    rows: int
    deleted: int
    seconds: float

    def sentence(self) -> str:
        """Return the result as one line."""
        if self.mode == "none":
            return f"{self.fact}: no changes"
        what = "rollback to" if self.mode == "rollback" else f"{self.mode} rebuild of"
        text = f"{self.fact}: {what} {self.rows} rows"
        return f"{text}, {self.deleted} deleted, in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A fact's current table, and the last rebuild into it."""

    storage: UUID
    last: Recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """Rebuilds one fact.

    Attributes:
        star: the fact's generated statements.
        queries: the statements of sql/pipeline.sql.
        range_rows: rows computed and inserted at a time; memory grows with it.
        reached: called with each of POINTS as it is passed.
        progress: called with a line after each step of a full rebuild.
    """

    clickhouse: ClickHouse
    fact: Fact
    star: FactStatements
    queries: Mapping[str, str]
    range_rows: int = RANGE_ROWS
    reached: Reached = ignore
    progress: Callable[[str], None] = log.info

    def run(self, *, full: bool = False, formed: UUID | None = None) -> RebuildReport:
        """Update the fact, incrementally where that is possible.

        Args:
            formed: the identity of a table of the fact that was found to be the models', with its
                rollups. Default: compare them now.

        Raises:
            TableDiffers: the fact or a rollup differs from the models; writing would truncate
                values or sum the wrong ones.
            StaleRebuild: another rebuild exchanged the fact meanwhile; repeat the call.
            QualityFailed: a full rebuild differs from its source; nothing was exchanged.
        """
        started = time.monotonic()
        self._tables.catch_strays()
        storage = self._storage(self.fact.name)
        if formed is None or storage != formed:
            self._require_form()
        low = self._last_seen(storage)
        if full or low is None:
            report = self.renew()
            self.merge()
            return report
        self._rollups.sum_new(self._now(low.seen))
        mode, rows, deleted = self._catch_up(storage, low)
        return self._report(mode, started, rows, deleted)

    def renew(self) -> RebuildReport:
        """Rebuild in full, also where the fact's table differs from the models; see `run`."""
        started = time.monotonic()
        return self._report("full", started, self._full(), 0)

    def merge(self) -> None:
        """Merge the parts of the fact and its rollups, which makes readers' FINAL cheap.

        Merges during the fill would slow it down.
        """
        self.progress(f"{self.fact.name}: available to readers; merging its parts")
        try:
            for table in (self.fact.name, *(rollup.name for rollup in self.fact.table.rollups)):
                merge(self.clickhouse, self._tables.local(table))
        except SluiceError as error:
            # The rows are right without a merge, and another full rebuild may have replaced them.
            self.progress(f"{self.fact.name}: parts left to the nightly maintenance: {error}")

    def backfill(self, first: date, last: date) -> RebuildReport:
        """Recompute the facts of the days from `first` to `last`, both included.

        Backfills are idempotent and may run in any order and concurrently: rows are recomputed
        from the current state, and their version is the number of changes it had seen.

        Raises:
            WrongUsage: no column is marked as the fact's date, or `last` is before `first`.
            TableDiffers: as by run.
        """
        if self.fact.date is None:
            raise WrongUsage(
                f"{self.fact.name} has no date", remedy='mark a column with {"star": "date"}'
            )
        if first > last:
            raise WrongUsage(f"the last day is before the first: {first} to {last}")
        started, storage = time.monotonic(), self._storage(self.fact.name)
        low = self._last_seen(storage)
        if low is None:
            return self.run()
        self._require_form()
        now = self._now(self.drained())
        self._rows.touch_days(first, last)
        written = self._rows.rewrite(self.fact.name, now, self._rollups)
        self._rollups.sum_noted(low, now)
        self._record(storage, now, "backfill", written.rows, written.deleted, started)
        return self._report("backfill", started, written.rows, written.deleted)

    def rollback(self) -> RebuildReport:
        """Exchange the fact for the table that the last full rebuild replaced, and catch up.

        A second rollback undoes the first.

        Raises:
            WrongUsage: no table is kept, or it differs from the models.
        """
        started, kept = time.monotonic(), self.kept
        if not self.clickhouse.execute(self.queries["storage"], table=kept):
            raise WrongUsage(
                f"no earlier {self.fact.name} is kept", remedy="a full rebuild keeps the table"
            )
        if fact_differs(self.clickhouse, self.fact, kept):
            raise WrongUsage(
                f"cdc.{kept} differs from the models, or was made by another ClickHouse release",
                remedy="restore the models that it was built from, then run: sluice init",
            )
        storage = self._storage(kept)
        low = self._last_seen(storage)
        if low is None:
            raise WrongUsage(f"cdc.{kept} is incomplete", remedy="run: sluice rebuild --full")
        now = self._now(self.drained())
        self._rows.touch_changes(kept, low.seen, now.seen)
        written = self._rows.rewrite(kept, now)
        self._rollups.sum_all(kept, now)
        self._record(storage, now, "rollback", written.rows, written.deleted, started)
        self._exchange(kept)
        self._follow()
        return self._report("rollback", started, self.live_rows(self.fact.name), written.deleted)

    @property
    def _tables(self) -> FactStorage:
        return FactStorage(clickhouse=self.clickhouse, fact=self.fact, queries=self.queries)

    @property
    def _rows(self) -> FactRows:
        return FactRows(
            clickhouse=self.clickhouse,
            fact=self.fact,
            star=self.star,
            range_rows=self.range_rows,
            reached=self.reached,
            progress=self.progress,
        )

    @property
    def _rollups(self) -> RollupSums:
        return RollupSums(
            clickhouse=self.clickhouse, fact=self.fact, star=self.star, reached=self.reached
        )

    @property
    def kept(self) -> str:
        """Return the name of the table in `cdc` that the last full rebuild replaced."""
        return f"{self.fact.name}__kept"

    def drained(self) -> dict[str, int]:
        """Return the highest drained `_seq` of each of the fact's source tables."""
        drained = dict(self.clickhouse.execute(self.queries["drained"]))
        return {table.name: drained.get(table.name, 0) for table in self.fact.tables}

    def seen(self) -> Seen | None:
        """Return the `_seq` of each table that the fact has seen; None before its first rebuild."""
        standing = self.standing()
        return standing.last.seen if standing else None

    def standing(self) -> Standing | None:
        """Return the fact's current table and last rebuild; None before its first rebuild."""
        storage = self._storage(self.fact.name)
        last = self._last_seen(storage)
        return Standing(storage=storage, last=last) if last else None

    def touch_since(self, last: Recorded, target: str = "") -> None:
        """Collect the keys that changes since a rebuild may have altered; see FactRows."""
        latest = dict.fromkeys((table.name for table in self.fact.tables), _LATEST)
        self._rows.touch_changes(target or self.fact.name, last.seen, latest)

    def settled_notes(self, of: Standing) -> list[UUID]:
        """Return the rebuilds whose noted groups are contained in the current sums."""
        rows = self.clickhouse.execute(
            self.queries["settled_notes"],
            fact=self.fact.name,
            storage=str(of.storage),
            version=of.last.version,
        )
        return list(rows[0][0])

    def live_rows(self, table: str) -> int:
        """Return the number of live rows of a table in `cdc`."""
        return int(self.clickhouse.execute(self.queries["live_rows"], table=table)[0][0])

    def _require_form(self) -> None:
        for name in outdated(self.clickhouse, [self.fact]).values():
            raise TableDiffers(f"cdc.{name} differs from the models", remedy="run: sluice init")

    def _report(self, mode: str, started: float, rows: int, deleted: int) -> RebuildReport:
        seconds = time.monotonic() - started
        return RebuildReport(
            fact=self.fact.name, mode=mode, rows=rows, deleted=deleted, seconds=seconds
        )

    def _now(self, seen: Seen) -> Recorded:
        """Return the record of a rebuild that begins now, with a new id."""
        return Recorded(seen=seen, rebuild=uuid4())

    def _catch_up(self, storage: Any, low: Recorded | None = None) -> tuple[str, int, int]:
        """Recompute what changes since `low`, or since the last rebuild, may have altered."""
        started, low = time.monotonic(), low or self._last_seen(storage)
        assert low is not None, "it was recorded before"
        now = self._now(self.drained())
        if now.seen == low.seen:
            return "none", 0, 0
        self._rows.touch_changes(self.fact.name, low.seen, now.seen)
        written = self._rows.rewrite(self.fact.name, now, self._rollups)
        # Only the changes of a single range are held in memory for the sums.
        update = {0: self._rollups.settle, 1: self._rollups.add}
        update.get(written.ranges, self._rollups.sum_noted)(low, now)
        if self._storage(self.fact.name) != storage:
            raise StaleRebuild()
        self._record(storage, now, "incremental", written.rows, written.deleted, started)
        self.reached("recorded")
        return "incremental", written.rows, written.deleted

    def _follow(self) -> None:
        """Catch up the exchanged table, or the one that another rebuild exchanged it for."""
        until_done(lambda: self._catch_up(self._storage(self.fact.name)))

    def _full(self) -> int:
        """Fill, verify and exchange a shadow table, and catch up; return the number of rows."""
        started, shadow = time.monotonic(), f"{self.fact.name}__shadow_{uuid4().hex[:12]}"
        self._tables.create(shadow)
        try:
            with suppress(NeedsPerson):  # the server may not know the setting
                self._tables.hold_merges(shadow)
            storage, now = self._storage(shadow), self._now(self.drained())
            self.reached("shadow made")
            self._rows.fill(shadow, now)
            rows, caught_up = self._verify(shadow, now)
            self.reached("verified")
            self._rollups.sum_all(shadow, caught_up, once=caught_up == now)
            with suppress(NeedsPerson):
                self._tables.let_merge(shadow)
            self._record(storage, caught_up, "full", rows, 0, started)
            self.reached("recorded")
            self._exchange(shadow)
            self._keep(shadow)
        finally:
            self._tables.drop(shadow)
        self._follow()
        return rows

    def _exchange(self, table: str) -> None:
        fact, other = quoted(self.fact.name), quoted(table)
        self.clickhouse.execute(f"EXCHANGE TABLES cdc.{fact} AND cdc.{other}")
        self.reached("exchanged")
        self._tables.follow()

    def _keep(self, replaced: str) -> None:
        """Keep the replaced table for a rollback, instead of the previously kept one."""
        kept = quoted(self.kept)
        for _ in range(_ATTEMPTS):
            self._tables.drop(self.kept)
            # Another full rebuild may keep its own table in between.
            with suppress(NeedsPerson):
                self.clickhouse.execute(f"RENAME TABLE cdc.{quoted(replaced)} TO cdc.{kept}")
                break
        self.reached("kept")

    def _verify(self, shadow: str, now: Recorded) -> tuple[int, Recorded]:
        """Catch up with drains until shadow and source agree; return the rows and the new record.

        Row counts and a checksum of the fact's own columns are compared. If drains never pause,
        both sides must agree except for rows that later changes may have altered. A table that was
        only filled has each row once and needs no FINAL.
        """
        checksum = self.star.checksum_filled
        for _ in range(_CATCH_UPS):
            seen = self.drained()
            if seen != now.seen:
                self._rows.touch_changes(shadow, now.seen, seen)
                now, checksum = replace(now, seen=seen), self.star.checksum_fact
                self._rows.rewrite(shadow, now)
            expected = self.clickhouse.execute(self.star.checksum_source)[0]
            actual = self.clickhouse.execute(checksum, fact=shadow)[0]
            if actual == expected and self.drained() == now.seen:
                return int(actual[0]), now
            self.progress(f"{shadow}: {actual[0]} of {expected[0]} rows; catching up")
            time.sleep(0.5)
        if wrong := self._wrong_rows(shadow, now):
            raise QualityFailed(
                f"full rebuild of {self.fact.name}: {wrong} rows differ from"
                f" {self.fact.table.name}; the fact was not exchanged",
                remedy=f"run: sluice quality {self.fact.table.name}",
            )
        return int(actual[0]), now

    def _wrong_rows(self, shadow: str, now: Recorded) -> int:
        """Return the number of rows that differ from their source without a change since `now`.

        While drains run, the two sides are read at different points; rows that changed in between
        are left to the next rebuild.
        """
        key = ", ".join(quoted(column.name) for column in self.fact.key)
        drop = "DROP TEMPORARY TABLE IF EXISTS differing, touched"
        self.clickhouse.execute(drop)
        differing = differing_own(self.fact, shadow)
        self.clickhouse.execute(f"CREATE TEMPORARY TABLE differing ENGINE = Memory AS\n{differing}")
        self.touch_since(now, shadow)
        rows = self.clickhouse.execute(
            f"SELECT count() FROM differing WHERE ({key}) NOT IN (SELECT {key} FROM touched)"
        )
        self.clickhouse.execute(drop)
        return int(rows[0][0])

    def _storage(self, table: str) -> Any:
        rows = self.clickhouse.execute(self.queries["storage"], table=table)
        if not rows:
            raise NotReady(f"cdc.{table} does not exist", remedy="run: sluice init")
        return rows[0][0]

    def _last_seen(self, storage: Any) -> Recorded | None:
        rows = self.clickhouse.execute(
            self.queries["last_seen"], fact=self.fact.name, storage=str(storage)
        )
        return Recorded(seen=rows[0][0], rebuild=rows[0][1]) if rows else None

    def _record(
        self, storage: UUID, now: Recorded, mode: str, rows: int, deleted: int, started: float
    ) -> None:
        row = {
            "fact": self.fact.name,
            "storage": storage,
            "version": now.version,
            "mode": mode,
            "seen": dict(now.seen),
            "rows": rows,
            "deleted": deleted,
            "seconds": time.monotonic() - started,
            "rebuild": now.rebuild,
            "done_by": self.clickhouse.person,
        }
        self.clickhouse.insert_row("cdc.rebuilds", row)
