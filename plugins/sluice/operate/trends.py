"""Reads trends of the pipeline, aggregated over intervals of equal length."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sluice.clients.clickhouse import ClickHouse

# Range -> (its length, its interval), in seconds.
RANGES: dict[str, tuple[int, int]] = {
    "30m": (1800, 60),
    "1h": (3600, 60),
    "6h": (6 * 3600, 300),
    "24h": (24 * 3600, 1200),
    "7d": (7 * 86400, 2 * 3600),
    "30d": (30 * 86400, 8 * 3600),
}
DEFAULT_RANGE = "1h"
# The interval of the projections in bookkeeping.sql that have sums, in seconds.
_SUMMED = 7200
_MINUTE = 60
_SHORTEST, _LONGEST = RANGES["30m"][0], RANGES["30d"][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A period of time, in seconds since 1970; it ends before `end`.

    Attributes:
        range: a key of RANGES; empty for a chosen period.
        step: the length of an interval.
    """

    range: str
    start: int
    end: int
    step: int

    @property
    def times(self) -> tuple[int, ...]:
        """Return the starts of the intervals."""
        return tuple(range(self.start, self.end, self.step))


# No bound.
ALWAYS = Period(range="", start=0, end=(1 << 32) - 1, step=1)


def latest(reach: str) -> Period:
    """Return the period of a range, which ends with the present interval."""
    seconds, step = RANGES[reach]
    end = int(time.time()) // step * step + step
    return Period(range=reach, start=end - seconds, end=end, step=step)


def chosen(start: datetime | None, end: datetime | None) -> Period:
    """Return the period between two moments, of 30 minutes to 30 days, and not in the future.

    Args:
        start: Default: None, for an hour before the end.
        end: Default: None, for now.
    """
    now = time.time()
    last = min(now, max(_LONGEST, end.timestamp())) if end else now
    first = start.timestamp() if start else last - RANGES[DEFAULT_RANGE][0]
    seconds = min(_LONGEST, max(_SHORTEST, last - first))
    step = next(step for length, step in RANGES.values() if seconds <= length)
    start_at = int(last - seconds) // step * step
    end_at = -int(-last // step) * step
    return Period(range="", start=start_at, end=end_at, step=step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Values in the order of `Trends.times`; None where nothing ran."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Lines of one chart, in the same unit."""

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trends:
    """All trends of a period.

    Attributes:
        range: its name; empty for a chosen period.
        step_s: the length of an interval in seconds.
        times: the starts of the intervals, seconds since 1970.
    """

    range: str
    step_s: int
    times: tuple[int, ...]
    trends: tuple[Trend, ...]


def read_trends(
    clickhouse: ClickHouse, queries: Mapping[str, str], period: Period, slot: str, table: str = ""
) -> Trends:
    """Return the trends of a period.

    Args:
        table: the source table; empty for all, which adds the slot's lag and the facts' rebuilds.
    """
    times, step = period.times, period.step
    grain = 1 if step % _SUMMED else _SUMMED

    def execute(query: str, **values: Any) -> list[tuple[Any, ...]]:
        start, end = period.start, period.end
        return clickhouse.execute(queries[query], start=start, end=end, step=step, **values)

    trends = _drains(times, execute("drain_trend", table=table, grain=grain), step)
    if not table:
        trends.append(_lag(times, execute("slot_trend", slot=slot)))
        trends.append(_rebuilds(times, execute("rebuild_trend")))
    trends.append(_checks(times, execute("check_trend", table=table)))
    return Trends(range=period.range, step_s=step, times=times, trends=tuple(trends))


def _drains(times: Sequence[int], rows: Sequence[Sequence[Any]], step: int) -> list[Trend]:
    fresh = _lines(times, [(at, *shares) for at, shares, *_ in rows], ("p50", "p95"))
    rates = [(at, events / (step / _MINUTE)) for at, _, events, _ in rows]
    backlogs = [(at, most) for at, *_, most in rows]
    return [
        Trend(name="freshness", title="Freshness", unit="seconds", lines=fresh),
        Trend(
            name="events",
            title="Events",
            unit="events per minute",
            lines=_lines(times, rates, ("events",), nothing=0.0),
        ),
        Trend(
            name="backlog",
            title="Largest drain",
            unit="events",
            lines=_lines(times, backlogs, ("backlog",), nothing=0.0),
        ),
    ]


def _lag(times: Sequence[int], rows: Sequence[Sequence[Any]]) -> Trend:
    lines = _lines(times, rows, ("most",))
    return Trend(name="lag", title="Slot lag", unit="bytes", lines=lines)


def _rebuilds(times: Sequence[int], rows: Sequence[Sequence[Any]]) -> Trend:
    lines = _lines(times, rows, ("median", "longest"))
    return Trend(name="rebuilds", title="Rebuilds", unit="seconds", lines=lines)


def _checks(times: Sequence[int], rows: Sequence[Sequence[Any]]) -> Trend:
    lines = _lines(times, rows, ("pass", "fail", "other"), nothing=0.0)
    return Trend(name="checks", title="Check results", unit="results", lines=lines)


def _lines(
    times: Sequence[int],
    rows: Sequence[Sequence[Any]],
    names: Sequence[str],
    nothing: float | None = None,
) -> tuple[Line, ...]:
    """Return rows of (time, value, ...) as lines, with `nothing` where there is no row."""
    by_time = {row[0]: row[1:] for row in rows}
    return tuple(
        Line(name=name, values=tuple(_value(by_time.get(at), index, nothing) for at in times))
        for index, name in enumerate(names)
    )


def _value(row: Sequence[Any] | None, index: int, nothing: float | None) -> float | None:
    if row is None or row[index] is None:
        return nothing
    return round(float(row[index]), 3)
