"""Reads the pipeline's state for the CDC page, its API, the metrics and `sluice status`.

The sources are summaries that the steps keep in `cdc`, the slot, and the topics' ends, so the cost
does not grow with the data. Row counts are those of the last check, which compared both sides as of
one point of the WAL. A service that does not answer is part of the overview, not an error: what
only that service knows is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from sluice.catalog import Catalog, Fact, Table
from sluice.catalog.key_selection import parse_key
from sluice.catalog.quality_options import Status
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.clients.topic_reader import TopicReader
from sluice.clients.topics import Topics
from sluice.errors import NotReady, SluiceError
from sluice.operate.flow import stages
from sluice.operate.health import concerns
from sluice.operate.overview import (
    BROKER,
    CLICKHOUSE,
    POSTGRESQL,
    RATE_MINUTES,
    CheckResult,
    DrainRun,
    FactState,
    Overview,
    RebuildRun,
    Service,
    Severity,
    Slot,
    TableState,
)
from sluice.operate.row_comparison import ComparedRow, compare_rows
from sluice.quality.causes import causes_in
from sluice.quality.checks import COLUMNS

T = TypeVar("T")
_ROW_COUNT, _FACT_ROW_COUNT, _CAUGHT_UP = "row_count", "fact_row_count", "caught_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Reads the overview.

    Attributes:
        slot: the replication slot's name.
        addresses: service -> address. Default: none.
        broker_data: the folder of the embedded broker's data; None for another broker.
    """

    catalog: Catalog
    source: PostgresSource
    clickhouse: ClickHouse
    topics: Topics
    reader: TopicReader
    queries: Mapping[str, str]
    slot: str
    addresses: Mapping[str, str] = field(default_factory=dict)
    broker_data: Path | None = None

    def overview(self) -> Overview:
        """Return the current overview; the three services are queried concurrently."""
        return self.observed()[0]

    def narrowed(self, table: Table) -> Monitor:
        """Return the monitor of one table; its overview has the findings of all."""
        return replace(self, catalog=replace(self.catalog, tables=(table,), facts=()))

    def observed(self) -> tuple[Overview, dict[str, SluiceError]]:
        """Return the current overview, and the error of each service that does not answer."""
        asks: tuple[tuple[str, Callable[[], Any]], ...] = (
            (POSTGRESQL, self._slot),
            (BROKER, self._ends),
            (CLICKHOUSE, self._kept),
        )
        errors: dict[str, SluiceError] = {}
        with ThreadPoolExecutor(len(asks)) as threads:
            queries = [threads.submit(ask, name, question, errors) for name, question in asks]
            slot, ends, kept = (query.result() for query in queries)
        services = tuple(
            _service(name, self.addresses.get(name, ""), errors.get(name)) for name, _ in asks
        )
        listed = {name: errors[name] for name, _ in asks if name in errors}
        return self._overview(services, slot, ends, kept), listed

    def checks(self, name: str) -> tuple[CheckResult, ...]:
        """Return the current result of each check of a table or fact, the newest first."""
        return _current(self._results()).get(name, ())

    def compare(self, table: Table, keys: Sequence[str]) -> tuple[ComparedRow, ...]:
        """Return the rows of these keys on both sides; see row_comparison.

        Raises:
            WrongUsage: a text is not a key of the table.
            Unreachable, NotReady: a side does not answer in time.
        """
        parsed = [parse_key(table, key) for key in keys]
        return compare_rows(self.source, self.clickhouse, table, parsed)

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
            drained_per_minute=kept.drained / RATE_MINUTES if kept else None,
            rebuilt_per_minute=kept.rebuilt / RATE_MINUTES if kept else None,
            sent=sum(ends.offsets.values()) if ends else None,
        )
        listed = concerns(state, causes_in(self.catalog))
        healthy = all(concern.severity != Severity.BAD for concern in listed)
        judged = replace(state, concerns=listed, healthy=healthy)
        return replace(judged, flow=stages(judged))

    def _slot(self) -> Slot:
        try:
            state = self.source.slot(self.slot)
        except NotReady:
            return Slot(name=self.slot)
        return Slot(
            name=self.slot,
            wal_status=state.wal_status,
            active=state.active,
            lag_bytes=state.lag_bytes,
            safe_wal_size=state.safe_wal_size,
            invalidation=state.invalidation,
        )

    def _ends(self) -> _Ends:
        names = [table.topic for table in self.catalog.tables]
        self.topics.require_listening()
        return _Ends(epoch=self.topics.epoch() or "", offsets=self.topics.ends(names))

    def _results(self) -> list[CheckResult]:
        return [
            check_result(table, check, _moment(at), status, *values)
            for table, check, at, status, values in self.clickhouse.execute(
                self.queries["last_checks"]
            )
        ]

    def _kept(self) -> _Kept:
        execute = self.clickhouse.execute
        ((drained, rebuilt),) = execute(self.queries["rates"], minutes=RATE_MINUTES)
        checkpoints = execute(self.queries["checkpoints"])
        results = self._results()
        return _Kept(
            checkpoints={name: (epoch, at) for name, epoch, at, _ in checkpoints},
            drains={
                name: drain_run(at, *values)
                for name, at, values in execute(self.queries["last_drains"])
            },
            checks=_current(results),
            rebuilds={
                name: rebuild_run(at, *values)
                for name, at, values in execute(self.queries["last_rebuilds"])
            },
            dead_letters=dict(execute(self.queries["dead_letters"])),
            fresh_at=_fresh_at({name: at for name, *_, at in checkpoints}, results),
            drained=drained,
            rebuilt=rebuilt,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """The broker's state: its epoch, and the offset after each topic's last event."""

    epoch: str
    offsets: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """ClickHouse's state, by table or fact.

    Attributes:
        drained, rebuilt: events and fact rows of the last RATE_MINUTES, of all.
    """

    checkpoints: Mapping[str, tuple[str, int]]
    drains: Mapping[str, DrainRun]
    checks: Mapping[str, tuple[CheckResult, ...]]
    rebuilds: Mapping[str, RebuildRun]
    dead_letters: Mapping[str, int]
    fresh_at: Mapping[str, int]
    drained: int
    rebuilt: int


def drain_run(at: datetime, events: int, rejected: int, seconds: float, fresh: Any) -> DrainRun:
    """Return the run in a row of cdc.drains."""
    return DrainRun(
        finished_at=at, events=events, rejected=rejected, seconds=seconds, freshness_s=fresh
    )


def _moment(at_ms: int) -> datetime:
    """Return a moment of milliseconds since 1970: of many, faster than the driver's."""
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc)


def check_result(table: str, check: str, at: datetime, *values: Any) -> CheckResult:
    """Return the result in a row of cdc.quality_checks."""
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


def rebuild_run(at: datetime, mode: str, rows: int, deleted: int, seconds: float) -> RebuildRun:
    """Return the run in a row of cdc.rebuilds."""
    return RebuildRun(finished_at=at, mode=mode, rows=rows, deleted=deleted, seconds=seconds)


def ask(name: str, question: Callable[[], T], errors: dict[str, SluiceError]) -> T | None:
    """Return a service's answer; note its error, and return None, if it does not answer."""
    try:
        return question()
    except SluiceError as error:
        errors[name] = error
        return None


def _service(name: str, address: str, error: SluiceError | None) -> Service:
    if error is None:
        return Service(name=name, answers=True, error="", address=address)
    remedy = error.remedy or "sluice doctor"
    return Service(name=name, answers=False, error=error.what, remedy=remedy, address=address)


def _current(results: Sequence[CheckResult]) -> dict[str, tuple[CheckResult, ...]]:
    """Return the current results of each table or fact, newest first.

    These are the newest of each check. A later row count supersedes `caught_up`.

    Args:
        results: newest first.
    """
    newest: dict[tuple[str, str], CheckResult] = {}
    for result in results:
        newest.setdefault((result.table, result.check), result)
    current: dict[str, tuple[CheckResult, ...]] = {}
    for (table, check), result in newest.items():
        counted = newest.get((table, _ROW_COUNT))
        if check != _CAUGHT_UP or counted is None or result.checked_at > counted.checked_at:
            current[table] = (*current.get(table, ()), result)
    return current


def _fresh_at(committed: Mapping[str, int], results: Sequence[CheckResult]) -> dict[str, int]:
    """Return table -> the last moment of which ClickHouse has everything, ms since 1970.

    This is the query `freshness` of pipeline.sql on results that are read anyway.

    Args:
        committed: table -> commit time of its newest drained change.
    """
    fresh = dict(committed)
    for result in results:
        if result.check in {_ROW_COUNT, _CAUGHT_UP} and result.status == Status.PASS:
            at = round(result.checked_at.timestamp() * 1000)
            fresh[result.table] = max(fresh.get(result.table, 0), at)
    return fresh


def _gravest(checks: tuple[CheckResult, ...]) -> CheckResult | None:
    """Return the gravest result: a failure, then another that did not pass, then the row count."""
    return min(
        checks,
        key=lambda result: (
            result.status != Status.FAIL,
            result.status == Status.PASS,
            result.check not in {_ROW_COUNT, _FACT_ROW_COUNT},
        ),
        default=None,
    )


def _table(table: Table, kept: _Kept | None, ends: _Ends | None) -> TableState:
    name = table.name
    checks = kept.checks.get(name, ()) if kept else ()
    counted = next((result for result in checks if result.check == _ROW_COUNT), None)
    compared = next((result for result in checks if result.check == COLUMNS), None)
    return TableState(
        name=name,
        topic=table.topic,
        storage=f"cdc.{table.storage}",
        postgres_rows=counted.postgres if counted else None,
        clickhouse_rows=counted.clickhouse if counted else None,
        counted_at=counted.checked_at if counted else None,
        compared_at=compared.checked_at if compared else None,
        pending_events=_pending(table, kept, ends) if kept and ends else None,
        freshness_s=_age(kept.fresh_at.get(name)) if kept else None,
        dead_letters=kept.dead_letters.get(name, 0) if kept else None,
        last_drain=kept.drains.get(name) if kept else None,
        last_check=_gravest(checks),
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
    counted = next((result for result in checks if result.check == _FACT_ROW_COUNT), None)
    return FactState(
        name=fact.name,
        rows=counted.clickhouse if counted else None,
        expected_rows=counted.postgres if counted else None,
        counted_at=counted.checked_at if counted else None,
        last_rebuild=kept.rebuilds.get(fact.name) if kept else None,
        last_check=_gravest(checks),
    )


def _findings(kept: _Kept | None) -> tuple[CheckResult, ...]:
    """Return the current results that did not pass, failures first."""
    every = (result for results in (kept.checks if kept else {}).values() for result in results)
    return tuple(
        sorted(
            (result for result in every if result.status != Status.PASS),
            key=lambda result: (result.status != Status.FAIL, result.table, result.check),
        )
    )
