"""The pipeline's state, for the CDC page, its API, the metrics and `sluice status`.

Everything comes from summaries that the steps keep in `cdc`, from the slot and from the topics'
ends: no reading here grows with the data. Row counts are those of the last check, which compared
both sides as of one point of the WAL. A service that does not answer is part of the picture, not
an error of it: what only it knows is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from sluice.catalog import Catalog, Fact, Table
from sluice.catalog.quality_options import Status
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.clients.topics import Topics
from sluice.errors import NotReady, SluiceError
from sluice.operate.health import concerns
from sluice.operate.overview import (
    BAD,
    BROKER,
    CLICKHOUSE,
    POSTGRESQL,
    CheckResult,
    DrainRun,
    FactState,
    Overview,
    RebuildRun,
    Service,
    Slot,
    TableState,
)

T = TypeVar("T")
_ROW_COUNT, _FACT_ROW_COUNT, _CAUGHT_UP = "row_count", "fact_row_count", "caught_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Reads the overview.

    Attributes:
        slot: the replication slot's name.
    """

    catalog: Catalog
    source: PostgresSource
    clickhouse: ClickHouse
    topics: Topics
    queries: Mapping[str, str]
    slot: str

    def overview(self) -> Overview:
        """The pipeline now; the three services are asked at once."""
        with ThreadPoolExecutor(3) as threads:
            asked = (
                threads.submit(_ask, POSTGRESQL, self._slot),
                threads.submit(_ask, BROKER, self._ends),
                threads.submit(_ask, CLICKHOUSE, self._kept),
            )
            postgres, slot = asked[0].result()
            broker, ends = asked[1].result()
            warehouse, kept = asked[2].result()
        return self._overview((postgres, broker, warehouse), slot, ends, kept)

    def answered(self) -> Overview:
        """The pipeline now, where every service answers.

        Raises:
            Unreachable: a service does not answer.
            NotReady: `sluice init` has not run.
        """
        names = (POSTGRESQL, BROKER, CLICKHOUSE)
        services = tuple(Service(name=name, answers=True, error="") for name in names)
        return self._overview(services, self._slot(), self._ends(), self._kept())

    def _overview(
        self,
        services: tuple[Service, ...],
        slot: Slot | None,
        ends: _Ends | None,
        kept: _Kept | None,
    ) -> Overview:
        state = Overview(
            at=datetime.now(timezone.utc),
            healthy=True,
            tables=tuple(_table(table, kept, ends) for table in self.catalog.tables),
            facts=tuple(_fact(fact, kept) for fact in self.catalog.facts),
            slot=slot or Slot(name=self.slot),
            services=services,
            concerns=(),
            findings=_findings(kept),
        )
        found = tuple(concerns(state))
        return replace(state, concerns=found, healthy=all(one.severity != BAD for one in found))

    def _slot(self) -> Slot:
        try:
            found = self.source.slot(self.slot)
        except NotReady:
            return Slot(name=self.slot)
        return Slot(
            name=self.slot,
            wal_status=found.wal_status,
            active=found.active,
            lag_bytes=found.lag_bytes,
            safe_wal_size=found.safe_wal_size,
            invalidation=found.invalidation,
        )

    def _ends(self) -> _Ends:
        names = [table.topic for table in self.catalog.tables]
        with ThreadPoolExecutor(1) as threads:  # most of either is waiting for the broker
            epoch = threads.submit(self.topics.epoch)
            return _Ends(offsets=self.topics.ends(names), epoch=epoch.result() or "")

    def _kept(self) -> _Kept:
        asked = self.clickhouse.execute
        results = [
            check_result(table, check, at, status, *values)
            for table, check, at, status, values in asked(self.queries["last_checks"])
        ]
        return _Kept(
            checkpoints={
                name: (epoch, at) for name, epoch, at in asked(self.queries["checkpoints"])
            },
            drains={
                name: drain_run(at, *values)
                for name, at, values in asked(self.queries["last_drains"])
            },
            checks=_current(results),
            rebuilds={
                name: _rebuild_run(at, *values)
                for name, at, values in asked(self.queries["last_rebuilds"])
            },
            dead_letters=dict(asked(self.queries["dead_letters"])),
            fresh_at=dict(asked(self.queries["freshness"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """The broker's side: its epoch, and topic -> the offset after its last event."""

    epoch: str
    offsets: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """ClickHouse's side, by table or fact."""

    checkpoints: Mapping[str, tuple[str, int]]
    drains: Mapping[str, DrainRun]
    checks: Mapping[str, tuple[CheckResult, ...]]
    rebuilds: Mapping[str, RebuildRun]
    dead_letters: Mapping[str, int]
    fresh_at: Mapping[str, int]


def drain_run(at: datetime, events: int, rejected: int, seconds: float, fresh: Any) -> DrainRun:
    """A row of cdc.drains."""
    return DrainRun(
        finished_at=at, events=events, rejected=rejected, seconds=seconds, freshness_s=fresh
    )


def check_result(table: str, check: str, at: datetime, *values: Any) -> CheckResult:
    """A row of cdc.quality_checks: status, both numbers, fence, keys, repair."""
    status, postgres, clickhouse, fence, keys, repair = values
    return CheckResult(
        table=table,
        check=check,
        status=Status(status),
        checked_at=at,
        postgres=postgres,
        clickhouse=clickhouse,
        fence=fence,
        keys=tuple(keys),
        repair=repair.removeprefix("run: "),
    )


def _rebuild_run(at: datetime, mode: str, rows: int, deleted: int, seconds: float) -> RebuildRun:
    return RebuildRun(finished_at=at, mode=mode, rows=rows, deleted=deleted, seconds=seconds)


def _ask(name: str, question: Callable[[], T]) -> tuple[Service, T | None]:
    try:
        return Service(name=name, answers=True, error=""), question()
    except SluiceError as error:
        return Service(name=name, answers=False, error=error.what), None


def _current(results: Sequence[CheckResult]) -> dict[str, tuple[CheckResult, ...]]:
    """Table or fact -> its results that stand, the newest first.

    The newest of each check stands; rows that were counted answer `caught_up`.

    Args:
        results: the newest first.
    """
    newest: dict[tuple[str, str], CheckResult] = {}
    for one in results:
        newest.setdefault((one.table, one.check), one)
    standing: dict[str, tuple[CheckResult, ...]] = {}
    for one in newest.values():
        counted = newest.get((one.table, _ROW_COUNT))
        if one.check != _CAUGHT_UP or counted is None or one.checked_at > counted.checked_at:
            standing[one.table] = (*standing.get(one.table, ()), one)
    return standing


def _telling(checks: tuple[CheckResult, ...]) -> CheckResult | None:
    """The result that says most: a failure, then one that did not pass, then the row count."""
    return min(
        checks,
        key=lambda one: (
            one.status != Status.FAIL,
            one.status == Status.PASS,
            one.check not in {_ROW_COUNT, _FACT_ROW_COUNT},
        ),
        default=None,
    )


def _table(table: Table, kept: _Kept | None, ends: _Ends | None) -> TableState:
    name = table.name
    checks = kept.checks.get(name, ()) if kept else ()
    counted = next((one for one in checks if one.check == _ROW_COUNT), None)
    return TableState(
        name=name,
        topic=table.topic,
        storage=f"cdc.{table.storage}",
        postgres_rows=counted.postgres if counted else None,
        clickhouse_rows=counted.clickhouse if counted else None,
        counted_at=counted.checked_at if counted else None,
        pending_events=_pending(table, kept, ends) if kept and ends else None,
        freshness_s=_age(kept.fresh_at.get(name)) if kept else None,
        dead_letters=kept.dead_letters.get(name, 0) if kept else None,
        last_drain=kept.drains.get(name) if kept else None,
        last_check=_telling(checks),
        freshness_limit=table.quality.limit("freshness"),
    )


def _pending(table: Table, kept: _Kept, ends: _Ends) -> int:
    epoch, drained = kept.checkpoints.get(table.name, ("", 0))
    return max(0, ends.offsets.get(table.topic, 0) - (drained if epoch == ends.epoch else 0))


def _age(at_ms: int | None) -> float | None:
    now = datetime.now(timezone.utc).timestamp()
    return round(max(0.0, now - at_ms / 1000), 1) if at_ms else None


def _fact(fact: Fact, kept: _Kept | None) -> FactState:
    checks = kept.checks.get(fact.name, ()) if kept else ()
    counted = next((one for one in checks if one.check == _FACT_ROW_COUNT), None)
    return FactState(
        name=fact.name,
        rows=counted.clickhouse if counted else None,
        expected_rows=counted.postgres if counted else None,
        counted_at=counted.checked_at if counted else None,
        last_rebuild=kept.rebuilds.get(fact.name) if kept else None,
        last_check=_telling(checks),
    )


def _findings(kept: _Kept | None) -> tuple[CheckResult, ...]:
    """Results that stand and are no pass, failures first."""
    every = (one for results in (kept.checks if kept else {}).values() for one in results)
    return tuple(
        sorted(
            (one for one in every if one.status != Status.PASS),
            key=lambda one: (one.status != Status.FAIL, one.table, one.check),
        )
    )
