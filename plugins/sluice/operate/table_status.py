"""Reads the state and the history of one table, as `sluice status TABLE --json` prints them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from sluice.catalog import Table
from sluice.catalog.quality_options import Status
from sluice.errors import SluiceError
from sluice.execution.outcomes import Outcomes
from sluice.operate.monitor import Monitor
from sluice.operate.overview import (
    CLICKHOUSE,
    POSTGRESQL,
    CheckResult,
    Concern,
    DrainRun,
    Severity,
)
from sluice.operate.row_comparison import MOST_COMPARED, ComparedRow
from sluice.operate.status import PROGRAMS, live_rows
from sluice.operate.table_history import (
    ClosedFinding,
    ResyncRun,
    RunningRead,
    read_closed,
    read_resyncs,
    read_running,
)
from sluice.quality.causes import causes_in
from sluice.quality.checks import COLUMNS

T = TypeVar("T")


def read_table_status(monitor: Monitor, table: Table) -> dict[str, Any]:
    """Return what is known of a table; what cannot be read is None or empty.

    `errors` has the error of each service that does not answer, `troubles` that of a count.
    """
    state, errors = monitor.observed()
    outcomes, name = Outcomes(), table.name
    known = next(one for one in state.tables if one.name == name)

    def ask(service: str, read: Callable[[], T], unknown: T) -> T:
        if service not in errors:
            try:
                return read()
            except SluiceError as error:
                errors[service] = error
        return unknown

    def fence() -> dict[str, int]:
        counted = monitor.source.fence([table])
        outcomes.troubles.update(counted.troubles)
        return counted.rows

    def live() -> dict[str, int]:
        return live_rows(clickhouse, {name: table.storage}, outcomes)

    nothing: RunningRead | None = None
    clickhouse, queries = monitor.clickhouse, monitor.queries
    expected = ask(POSTGRESQL, fence, dict[str, int]())
    stored = ask(CLICKHOUSE, live, dict[str, int]())
    checks = ask(CLICKHOUSE, lambda: monitor.checks(name), tuple[CheckResult, ...]())
    resyncs = ask(
        CLICKHOUSE, lambda: read_resyncs(clickhouse, queries, table), tuple[ResyncRun, ...]()
    )
    running = ask(CLICKHOUSE, lambda: read_running(clickhouse, queries, table), nothing)
    closed = ask(
        CLICKHOUSE,
        lambda: read_closed(clickhouse, queries, name, resyncs),
        tuple[ClosedFinding, ...](),
    )
    differing = () if errors else _differing(monitor, table, checks)
    concerns = [concern for concern in state.concerns if _concerns(concern, name)]
    follows = causes_in(monitor.catalog).find(state.findings)
    bad = any(concern.severity == Severity.BAD for concern in concerns)
    return {
        "table": name,
        "topic": known.topic,
        "storage": known.storage,
        "postgres_rows": expected.get(name),
        "clickhouse_rows": stored.get(name),
        "pending_events": known.pending_events,
        "dead_letters": known.dead_letters,
        "freshness_s": known.freshness_s,
        "compared_at": _text(known.compared_at),
        "last_drain": known.last_drain and _drain(known.last_drain),
        "running": _running(running) if running else None,
        "last_resync": _resync(resyncs[0]) if resyncs else None,
        "checks": [_check(one, follows.get((name, one.check), ())) for one in checks],
        "differing": [_row(one) for one in differing],
        "closed": [_closed(one) for one in closed],
        "concerns": [asdict(concern) for concern in concerns],
        "troubles": {of: str(error) for of, error in outcomes.troubles.items()},
        "errors": {PROGRAMS[service]: str(error) for service, error in errors.items()},
        "healthy": not (bad or errors or outcomes.troubles),
    }


def _concerns(concern: Concern, table: str) -> bool:
    """Whether it is about the table, about what its differences cause, or about all tables."""
    return concern.table in {None, table} or table in concern.follows


def _check(result: CheckResult, follows: Sequence[str]) -> dict[str, Any]:
    return {
        "check": result.check,
        "status": result.status.value,
        "checked_at": _text(result.checked_at),
        "postgres": result.postgres,
        "clickhouse": result.clickhouse,
        "keys": list(result.keys),
        "repair": "" if follows else result.repair,
        "follows": list(follows),
    }


def _differing(
    monitor: Monitor, table: Table, checks: Sequence[CheckResult]
) -> tuple[ComparedRow, ...]:
    """Return the rows that a check of every column found to differ, as both sides have them now.

    None where a side is silent, or the keys are those of an earlier model.
    """
    failed = [one for one in checks if one.check == COLUMNS and one.status == Status.FAIL]
    keys = [key for one in failed for key in one.keys]
    try:
        return monitor.compare(table, keys[:MOST_COMPARED])
    except SluiceError:
        return ()


def _row(row: ComparedRow) -> dict[str, Any]:
    return {
        "key": row.key,
        "in_postgres": row.in_postgres,
        "in_clickhouse": row.in_clickhouse,
        "values": [
            {"column": one.column, "postgres": one.postgres, "clickhouse": one.clickhouse}
            for one in row.differing
        ],
    }


def _drain(run: DrainRun) -> dict[str, Any]:
    return {**asdict(run), "finished_at": _text(run.finished_at)}


def _resync(run: ResyncRun) -> dict[str, Any]:
    return {**asdict(run), "finished_at": _text(run.finished_at)}


def _running(read: RunningRead) -> dict[str, Any]:
    return {**asdict(read), "began_at": _text(read.began_at), "last_at": _text(read.last_at)}


def _closed(one: ClosedFinding) -> dict[str, Any]:
    return {
        "check": one.check,
        "failed_at": _text(one.failed_at),
        "passed_at": _text(one.passed_at),
        "repair": one.repair and _resync(one.repair),
    }


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
