"""Computes the coordinates and texts of SVG charts, which the templates render."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from sluice.operate.trends import Trend, Trends
from sluice_airflow.page.figures import amount

WIDTH, HEIGHT = 400.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 4.0, 8.0, 22.0
_HOUR, _DAY = 3600, 86400
_HALF_TICK = 16.0  # half the width of a tick's text, which must not exceed the chart
_TICK_STEPS = (600, _HOUR, 4 * _HOUR, _DAY, 5 * _DAY)  # seconds between ticks of the time axis
BARS = frozenset({"events", "backlog", "checks"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar, or one part of a stack."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A line's path and its isolated points, or its bars; `number` selects its style."""

    number: int
    name: str
    path: str
    dots: tuple[tuple[float, float], ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One interval of time: its beginning, in seconds and in words, and its values."""

    at: int
    when: str
    values: tuple[str, ...]
    empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The chart of a trend; `summary` describes it for screen readers.

    Attributes:
        start, end, step: its period and the length of an interval, in seconds since 1970.
        x_ticks: place, text in UTC, seconds since 1970, and `time` or `day`, as the text shows.
    """

    name: str
    title: str
    unit: str
    summary: str
    start: int
    end: int
    step: int
    lines: tuple[Drawn, ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str, int, str], ...]
    stretches: tuple[Stretch, ...]


def draw(trends: Trends) -> list[Chart]:
    """Return the charts of all trends."""
    return [_chart(trend, trends) for trend in trends.trends]


def _chart(trend: Trend, of: Trends) -> Chart:
    stacked = trend.name in BARS
    columns = list(zip(*(line.values for line in trend.lines), strict=True))
    heights = [
        sum(v or 0 for v in column) if stacked else max((v or 0) for v in column)
        for column in columns
    ]
    top, ticks = _scale(max(heights, default=0.0))
    lines = _bars(trend, top) if stacked else _paths(trend, top)
    return Chart(
        name=trend.name,
        title=trend.title,
        unit=trend.unit,
        summary=_summary(trend),
        start=of.times[0],
        end=of.times[-1] + of.step_s,
        step=of.step_s,
        lines=lines,
        y_ticks=tuple((_y(tick, top), amount(tick, trend.unit)) for tick in ticks),
        x_ticks=_x_ticks(of),
        stretches=tuple(_stretches(trend, of)),
    )


def _scale(highest: float) -> tuple[float, list[float]]:
    """Return the end and the ticks of an axis, in steps of 1, 2 or 5 times a power of ten."""
    if highest <= 0:
        return 1.0, [0.0, 1.0]
    rough = highest / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    count = math.ceil(highest / step - 1e-9)
    return step * count, [step * at for at in range(count + 1)]


def _x(index: float, count: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * index / count, 1)


def _y(value: float, top: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top), 1)


def _paths(trend: Trend, top: float) -> tuple[Drawn, ...]:
    return tuple(
        Drawn(number=at, name=line.name, bars=(), **_path(line.values, top))  # type: ignore[arg-type]
        for at, line in enumerate(trend.lines)
    )


def _path(values: Sequence[float | None], top: float) -> dict[str, object]:
    """Return the line through adjacent points, and the isolated points."""
    points = [
        None if value is None else (_x(at + 0.5, len(values)), _y(value, top))
        for at, value in enumerate(values)
    ]
    path, dots = [], []
    for at, point in enumerate(points):
        if point is None:
            continue
        before = points[at - 1] if at else None
        after = points[at + 1] if at + 1 < len(points) else None
        if before is None and after is None:
            dots.append(point)
        else:
            path.append(f"{'L' if before else 'M'}{point[0]} {point[1]}")
    return {"path": "".join(path), "dots": tuple(dots)}


def _bars(trend: Trend, top: float) -> tuple[Drawn, ...]:
    count = len(trend.lines[0].values)
    width = round((_x(1, count) - _x(0, count)) * 0.8, 2)
    floors = [0.0] * count
    lines = []
    for at, line in enumerate(trend.lines):
        bars = []
        for index, value in enumerate(line.values):
            if value:
                low, floors[index] = floors[index], floors[index] + value
                y = _y(floors[index], top)
                height = round(max(1.0, _y(low, top) - y), 1)
                bars.append(Bar(x=_x(index + 0.1, count), y=y, width=width, height=height))
        lines.append(Drawn(number=at, name=line.name, path="", dots=(), bars=tuple(bars)))
    return tuple(lines)


def _x_ticks(of: Trends) -> tuple[tuple[float, str, int, str], ...]:
    """Return ticks at round times, seven at most."""
    count = len(of.times)
    tick = next(step for step in _TICK_STEPS if count * of.step_s <= 7 * step)
    days = tick >= _DAY
    return tuple(
        (
            _x(at, count),
            f"{moment:%d %b}" if days else f"{moment:%H:%M}",
            begins,
            "day" if days else "time",
        )
        for at, begins in enumerate(of.times)
        if begins % tick == 0 and at > 0 and _x(at, count) < WIDTH - _HALF_TICK
        for moment in [datetime.fromtimestamp(begins, timezone.utc)]
    )


def _stretches(trend: Trend, of: Trends) -> Iterator[Stretch]:
    for at, begins in enumerate(of.times):
        values = tuple(line.values[at] for line in trend.lines)
        yield Stretch(
            at=begins,
            when=f"{datetime.fromtimestamp(begins, timezone.utc):%d %b %H:%M}",
            values=tuple(amount(value, trend.unit) for value in values),
            empty=not any(values),
        )


def _summary(trend: Trend) -> str:
    """Return a description of the chart."""
    parts = []
    for line in trend.lines:
        known = [value for value in line.values if value is not None]
        if not known:
            parts.append(f"{line.name}: no values")
            continue
        least, most, last = (amount(v, trend.unit) for v in (min(known), max(known), known[-1]))
        parts.append(f"{line.name}: {least} to {most}, last {last}")
    return f"{trend.title}, {trend.unit}. {'; '.join(parts)}."
