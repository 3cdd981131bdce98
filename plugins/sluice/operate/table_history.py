"""Reads the history of one table: its runs, the versions of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from sluice.catalog import Table
from sluice.catalog.key_selection import without_bounds
from sluice.clients.clickhouse import ClickHouse
from sluice.events.event import KeyText
from sluice.events.positions import format_lsn, unpack
from sluice.generate.clickhouse import quoted
from sluice.operate.monitor import check_result, drain_run, rebuild_run
from sluice.operate.overview import CheckResult, DrainRun, RebuildRun
from sluice.operate.trends import ALWAYS, Period

RUNS, VERSIONS = 20, 50
_LONGEST = 200  # characters of a value


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncRun:
    """One resync of a table; its rows were read as of the LSN `fence`, by order of `done_by`."""

    table: str
    finished_at: datetime
    selection: str
    fence: str
    rows: int
    deleted: int
    seconds: float
    done_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRead:
    """A resync or deep check of several ranges that has not ended, or was interrupted lately.

    Attributes:
        purpose: the selected rows in words, or `deep check`.
        rows: those expected in all of its ranges.
        last_at: when its last range ended, or when it began.
        seconds_left: an estimate by the ranges that are done; None before the first.
    """

    purpose: str
    ranges: int
    ranges_done: int
    rows: int
    rows_read: int
    began_at: datetime
    last_at: datetime
    seconds_left: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedFinding:
    """A check that passed again after a failure.

    Attributes:
        failed_at: when it last failed.
        repair: the last resync in between, of the table or of one that the fact is derived from;
            None where it passed without.
    """

    check: str
    failed_at: datetime
    passed_at: datetime
    repair: ResyncRun | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a row.

    Attributes:
        lsn: the commit LSN; for Redpanda Connect the offset in the same format.
        values: shortened text by column; None for NULL.
        changed: columns that differ from the previous version.
    """

    lsn: str
    deleted: bool
    committed_at: datetime
    ingested_at: datetime
    values: dict[str, str | None]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRuns:
    """The last runs on a table, and what they closed within a week; newest first.

    Attributes:
        running: the read of its ranges that has not ended. Default: none.
    """

    drains: tuple[DrainRun, ...]
    checks: tuple[CheckResult, ...]
    resyncs: tuple[ResyncRun, ...]
    closed: tuple[ClosedFinding, ...]
    running: RunningRead | None = None

    def without_keys(self) -> TableRuns:
        """The runs for those who may not see rows."""
        return replace(
            self,
            checks=tuple(one.without_keys() for one in self.checks),
            resyncs=tuple(map(_without_bounds, self.resyncs)),
            running=self.running
            and replace(self.running, purpose=without_bounds(self.running.purpose)),
            closed=tuple(
                replace(one, repair=one.repair and _without_bounds(one.repair))
                for one in self.closed
            ),
        )


def _without_bounds(run: ResyncRun) -> ResyncRun:
    return replace(run, selection=without_bounds(run.selection))


def read_runs(
    clickhouse: ClickHouse, queries: Mapping[str, str], table: Table, period: Period = ALWAYS
) -> TableRuns:
    """Return the last runs of each kind in a period, and the checks that passed again lately."""
    drains = _rows(clickhouse, queries, "drains_of", period, table=table.name)
    resyncs = last = read_resyncs(clickhouse, queries, table)
    if period != ALWAYS:
        resyncs = read_resyncs(clickhouse, queries, table, period)
    return TableRuns(
        drains=tuple(drain_run(*row) for row in drains),
        checks=read_checks(clickhouse, queries, table.name, period),
        resyncs=resyncs,
        closed=read_closed(clickhouse, queries, table.name, last),
        running=read_running(clickhouse, queries, table),
    )


def read_running(
    clickhouse: ClickHouse, queries: Mapping[str, str], table: Table
) -> RunningRead | None:
    """Return the resync or deep check of a table's ranges that has not ended, if there is one."""
    rows = clickhouse.execute(queries["running_of"], table=table.name)
    if not rows:
        return None
    purpose, ranges, done, expected, read, began, last = rows[0]
    return RunningRead(
        purpose=purpose,
        ranges=ranges,
        ranges_done=done,
        rows=expected,
        rows_read=read,
        began_at=began,
        last_at=last,
        seconds_left=_seconds_left(expected - read, read, began, last),
    )


def _seconds_left(left: int, read: int, began: datetime, last: datetime) -> float | None:
    """Estimate when the other rows are read, by how long those took that are."""
    taken = (last - began).total_seconds()
    if not read or taken <= 0:
        return None
    waited = (datetime.now(timezone.utc) - last).total_seconds()
    return round(max(0.0, max(0, left) * taken / read - waited), 1)


def read_resyncs(
    clickhouse: ClickHouse, queries: Mapping[str, str], table: Table, period: Period = ALWAYS
) -> tuple[ResyncRun, ...]:
    """Return a table's last resyncs in a period, newest first."""
    rows = _rows(clickhouse, queries, "resyncs_of", period, table=table.name)
    names = ResyncRun.__slots__
    return tuple(ResyncRun(**dict(zip(names, (table.name, *row), strict=True))) for row in rows)


def _rows(
    clickhouse: ClickHouse, queries: Mapping[str, str], query: str, period: Period, **values: Any
) -> list[tuple[Any, ...]]:
    return clickhouse.execute(
        queries[query], start=period.start, end=period.end, limit=RUNS, **values
    )


def read_checks(
    clickhouse: ClickHouse, queries: Mapping[str, str], name: str, period: Period = ALWAYS
) -> tuple[CheckResult, ...]:
    """Return the last check results of a table or fact in a period, newest first."""
    rows = _rows(clickhouse, queries, "checks_of", period, table=name)
    return tuple(check_result(name, check, at, *values) for at, check, *values in rows)


def read_closed(
    clickhouse: ClickHouse,
    queries: Mapping[str, str],
    name: str,
    resyncs: Sequence[ResyncRun] = (),
) -> tuple[ClosedFinding, ...]:
    """Return the checks of a table or fact that passed again within a week, newest first.

    Args:
        resyncs: of the table, or of a fact's tables, newest first. Default: none.
    """

    def closed(check: str, failed: datetime, passed: datetime) -> ClosedFinding:
        between = (run for run in resyncs if failed < run.finished_at < passed)
        repair = next(between, None)
        return ClosedFinding(check=check, failed_at=failed, passed_at=passed, repair=repair)

    return tuple(closed(*row) for row in clickhouse.execute(queries["closed_findings"], table=name))


def read_rebuilds(
    clickhouse: ClickHouse, queries: Mapping[str, str], fact: str, period: Period = ALWAYS
) -> tuple[RebuildRun, ...]:
    """Return a fact's last rebuilds in a period, newest first."""
    rows = _rows(clickhouse, queries, "rebuilds_of", period, fact=fact)
    return tuple(rebuild_run(*row) for row in rows)


def read_versions(clickhouse: ClickHouse, table: Table, key: KeyText) -> tuple[Version, ...]:
    """Return the recent versions of the row with this key, newest first; empty for an unknown key.

    A text that is not a value of the key's type is an unknown key. Cost: one granule of history.
    """
    condition = " AND ".join(
        f"{quoted(column.name)} = accurateCastOrNull({{k{number}:String}}, {{t{number}:String}})"
        for number, column in enumerate(table.key)
    )
    parameters: dict[str, Any] = {f"k{number}": part for number, part in enumerate(key)}
    parameters |= {f"t{number}": column.type.clickhouse for number, column in enumerate(table.key)}
    columns = ", ".join(
        f"left(toString({quoted(column.name)}), {_LONGEST})" for column in table.columns
    )
    versions = clickhouse.execute(
        f"SELECT _version, _is_deleted, _committed_at, _ingested_at, {columns}\n"
        f"FROM cdc.{quoted(table.history)} FINAL\nWHERE {condition}\n"
        f"ORDER BY _version DESC LIMIT {VERSIONS + 1}",
        **parameters,
    )
    names = [column.name for column in table.columns]
    rows = [(row[:4], dict(zip(names, row[4:], strict=True))) for row in versions]
    previous = [values for _, values in rows[1:]] + [{}]
    return tuple(
        Version(
            lsn=format_lsn(unpack(version).major),
            deleted=bool(deleted),
            committed_at=committed,
            ingested_at=ingested,
            values=values,
            changed=tuple(name for name in names if before and before[name] != values[name]),
        )
        for ((version, deleted, committed, ingested), values), before in zip(
            rows[:VERSIONS], previous, strict=False
        )
    )
