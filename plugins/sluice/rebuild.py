"""The rebuild: brings a fact up to date with the current-state tables.

Incremental: the keys that changes since the last rebuild can have altered are recomputed, so the
cost follows the change. Full: all of it into a shadow table that is verified, then exchanged, so
readers never see a half.

A fact row's version is the number of changes its rebuild had seen. A rebuild that had seen more
therefore wins over one that had seen less, in whatever order two of them write; and a change that
arrives while a rebuild reads is above what that rebuild claims to have seen, so the next one
recomputes its facts. That makes killed and concurrent rebuilds harmless.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice.adapters.clickhouse import ClickHouse
from sluice.catalog import Fact
from sluice.errors import QualityFailed, StaleRebuild
from sluice.generate.clickhouse import quoted
from sluice.generate.star import fact_table

log = logging.getLogger(__name__)

_ATTEMPTS = 10
Seen = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """What a rebuild did; mode is `none` (nothing had changed), `incremental` or `full`."""

    fact: str
    mode: str
    rows: int
    deleted: int
    seconds: float

    def sentence(self) -> str:
        """The rebuild in one line."""
        if self.mode == "none":
            return f"{self.fact}: nothing had changed"
        text = f"{self.fact}: {self.mode} rebuild of {self.rows} rows"
        return f"{text}, {self.deleted} deleted, in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """Rebuilds one fact.

    Attributes:
        star: the fact's generated statements.
        queries: the statements of sql/clickhouse/pipeline.sql.
    """

    clickhouse: ClickHouse
    fact: Fact
    star: Mapping[str, str]
    queries: Mapping[str, str]

    def run(self, *, full: bool = False) -> RebuildReport:
        """Bring the fact up to date, by its changes where that is possible.

        Raises:
            StaleRebuild: another rebuild exchanged the fact meanwhile; run it again.
            QualityFailed: a full rebuild does not have the source's rows; nothing was exchanged.
        """
        started = time.monotonic()
        storage = self._storage(self.fact.name)
        low = self._last_seen(storage)
        if full or low is None:
            mode, rows, deleted = "full", self._full(), 0
        else:
            mode, rows, deleted = self._catch_up(storage, low)
        seconds = time.monotonic() - started
        return RebuildReport(
            fact=self.fact.name, mode=mode, rows=rows, deleted=deleted, seconds=seconds
        )

    def drained(self) -> dict[str, int]:
        """Source table -> highest drained `_seq`, of the fact's tables."""
        found = dict(self.clickhouse.execute(self.queries["drained"]))
        return {table.name: found.get(table.name, 0) for table in self.fact.tables}

    def seen(self) -> Seen | None:
        """What the fact as it stands has seen; None before its first rebuild."""
        return self._last_seen(self._storage(self.fact.name))

    def _catch_up(self, storage: Any, low: Seen) -> tuple[str, int, int]:
        started, high = time.monotonic(), self.drained()
        if high == low:
            return "none", 0, 0
        rows, deleted = self._insert_touched(self.fact.name, low, high)
        if self._storage(self.fact.name) != storage:
            raise StaleRebuild()
        seconds = time.monotonic() - started
        self._record(storage, high, "incremental", rows, deleted, seconds)
        return "incremental", rows, deleted

    def _insert_touched(self, target: str, low: Seen, high: Seen) -> tuple[int, int]:
        """Recompute into `target` what changes in (low, high] touch: rows and tombstones."""
        bounds: dict[str, Any] = {f"low_{table}": low.get(table, 0) for table in high}
        bounds |= {f"high_{table}": seq for table, seq in high.items()}
        version = sum(high.values())
        execute = self.clickhouse.execute
        execute("DROP TEMPORARY TABLE IF EXISTS touched")
        execute(self.star["touched"], fact=target, **bounds)
        execute(self.star["insert_touched"], fact=target, version=version)
        rows = self.clickhouse.written_rows()
        execute(self.star["insert_tombstones"], fact=target, version=version)
        deleted = self.clickhouse.written_rows()
        execute("DROP TEMPORARY TABLE touched")
        return rows, deleted

    def _full(self) -> int:
        """All rows into a shadow table, verified, exchanged, caught up; how many rows.

        The table that was exchanged out stays under the shadow's name until the next full rebuild.
        """
        started, shadow = time.monotonic(), f"{self.fact.name}__shadow"
        execute = self.clickhouse.execute
        execute(f"DROP TABLE IF EXISTS cdc.{quoted(shadow)} SYNC")
        execute(fact_table(self.fact, shadow))
        storage, high = self._storage(shadow), self.drained()
        execute(self.star["insert_all"], fact=shadow, version=sum(high.values()))
        rows, high = self._verify(shadow, high)
        if self._storage(shadow) != storage:
            raise StaleRebuild()
        self._record(storage, high, "full", rows, 0, time.monotonic() - started)
        execute(f"EXCHANGE TABLES cdc.{quoted(self.fact.name)} AND cdc.{quoted(shadow)}")
        self._catch_up(storage, high)
        return rows

    def _verify(self, shadow: str, high: dict[str, int]) -> tuple[int, dict[str, int]]:
        """Catch up with what drains brought meanwhile until the counts agree at one point."""
        for _ in range(_ATTEMPTS):
            now = self.drained()
            if now != high:
                self._insert_touched(shadow, high, now)
                high = now
            expected = self.live_rows(self.fact.table.storage)
            rows = self.live_rows(shadow)
            if rows == expected and self.drained() == high:
                return rows, high
            log.info("%s: %d rows of %d; catching up", shadow, rows, expected)
            time.sleep(0.5)
        raise QualityFailed(
            f"full rebuild of {self.fact.name}: {rows} rows instead of {expected};"
            " the fact was left as it is",
            remedy=f"run: sluice quality {self.fact.table.name}",
        )

    def live_rows(self, table: str) -> int:
        """Live rows of a table in `cdc`."""
        return int(self.clickhouse.execute(self.queries["live_rows"], table=table)[0][0])

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
