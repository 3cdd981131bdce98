"""How the pipeline did over time, in stretches of equal length."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice.clients.clickhouse import ClickHouse

# What people may ask for -> (seconds it reaches back, seconds of one stretch).
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
    """Values in the order of the trend's times; None where nothing ran."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Lines of one unit."""

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trends:
    """All trends; `times` (seconds since 1970) begin stretches that are `step_s` long."""

    range: str
    step_s: int
    times: tuple[int, ...]
    trends: tuple[Trend, ...]


def read_trends(
    clickhouse: ClickHouse, queries: Mapping[str, str], reach: str, slot: str, table: str = ""
) -> Trends:
    """The trends of a range, of one source table or of all.

    A table has no trend of rebuilds, which are the facts', nor one of the slot's lag.

    Args:
        reach: a key of RANGES.
    """
    seconds, step = RANGES[reach]
    last = int(time.time()) // step * step
    times = tuple(range(last - seconds + step, last + step, step))

    def asked(query: str, **of: Any) -> list[tuple[Any, ...]]:
        return clickhouse.execute(queries[query], start=times[0], step=step, **of)

    trends = _drains(times, asked("drain_trend", table=table), step)
    if not table:
        trends.append(_lag(times, asked("slot_trend", slot=slot)))
        trends.append(_rebuilds(times, asked("rebuild_trend")))
    trends.append(_checks(times, asked("check_trend", table=table)))
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
            title="Most for one drain",
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
    """Rows of (time, value, ...) as lines; `nothing` where there is no row."""
    found = {row[0]: row[1:] for row in rows}
    return tuple(
        Line(name=name, values=tuple(_value(found.get(at), index, nothing) for at in times))
        for index, name in enumerate(names)
    )


def _value(row: Sequence[Any] | None, index: int, nothing: float | None) -> float | None:
    if row is None or row[index] is None:
        return nothing
    return round(float(row[index]), 3)
