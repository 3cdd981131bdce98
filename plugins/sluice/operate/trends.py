"""Reads trends of the pipeline, aggregated over intervals of equal length."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice.clients.clickhouse import ClickHouse

# Range -> (its length, its interval), in seconds.
RANGES: dict[str, tuple[int, int]] = {
    "1h": (3600, 60),
    "6h": (6 * 3600, 300),
    "24h": (24 * 3600, 1200),
    "7d": (7 * 86400, 2 * 3600),
    "30d": (30 * 86400, 8 * 3600),
}
DEFAULT_RANGE = "1h"
_MINUTE = 60


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
    """All trends of a range.

    Attributes:
        step_s: the length of an interval in seconds.
        times: the starts of the intervals, seconds since 1970.
    """

    range: str
    step_s: int
    times: tuple[int, ...]
    trends: tuple[Trend, ...]


def read_trends(
    clickhouse: ClickHouse, queries: Mapping[str, str], reach: str, slot: str, table: str = ""
) -> Trends:
    """Return the trends of a range.

    Args:
        reach: a key of RANGES.
        table: the source table; empty for all, which adds the slot's lag and the facts' rebuilds.
    """
    seconds, step = RANGES[reach]
    last = int(time.time()) // step * step
    times = tuple(range(last - seconds + step, last + step, step))

    def execute(query: str, **values: Any) -> list[tuple[Any, ...]]:
        return clickhouse.execute(queries[query], start=times[0], step=step, **values)

    trends = _drains(times, execute("drain_trend", table=table), step)
    if not table:
        trends.append(_lag(times, execute("slot_trend", slot=slot)))
        trends.append(_rebuilds(times, execute("rebuild_trend")))
    trends.append(_checks(times, execute("check_trend", table=table)))
    return Trends(range=reach, step_s=step, times=times, trends=tuple(trends))


def _drains(times: Sequence[int], rows: Sequence[Sequence[Any]], step: int) -> list[Trend]:
    fresh = _lines(times, [row[:3] for row in rows], ("p50", "p95"))
    rates = [(row[0], row[3] / (step / _MINUTE)) for row in rows]
    backlogs = [(row[0], row[4]) for row in rows]
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
