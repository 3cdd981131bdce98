"""Periods of charts and histories: any two moments give one that can be drawn."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis.strategies import datetimes, just, none, one_of

from sluice.operate.trends import RANGES, Line, Trend, Trends, chosen, latest
from sluice_airflow.page.charts import draw
from sluice_airflow.page.figures import minute
from sluice_airflow.page.listing import Choice

MOMENTS = one_of(none(), datetimes(timezones=just(timezone.utc)))
SHORTEST, LONGEST = 1800, 30 * 86400


@given(MOMENTS, MOMENTS)
def test_any_two_moments_give_a_period_of_30_minutes_to_30_days(
    start: datetime | None, end: datetime | None
) -> None:
    period = chosen(start, end)
    length, step = period.end - period.start, period.step
    assert SHORTEST <= length <= LONGEST + 2 * step
    assert 30 <= len(period.times) <= 93
    assert period.start % step == length % step == 0
    assert 0 <= period.start < period.end < 1 << 32
    assert period.start <= time.time()
    line = Line(name="most", values=(1.0,) * len(period.times))
    trend = Trend(name="lag", title="Slot lag", unit="bytes", lines=(line,))
    (chart,) = draw(Trends(range="", step_s=step, times=period.times, trends=(trend,)))
    assert len(chart.stretches) == len(period.times)


@pytest.mark.parametrize(
    ("minutes", "step"), [(30, 60), (45, 60), (90, 300), (1440, 1200), (43200, 28800)]
)
@pytest.mark.parametrize("second", [0.0, 0.4, 59.6])
def test_a_chosen_period_has_what_was_chosen(minutes: int, step: int, second: float) -> None:
    day = datetime.now(timezone.utc) - timedelta(days=1)
    end = day.replace(second=0, microsecond=0) + timedelta(seconds=second)
    start = end - timedelta(minutes=minutes)
    period = chosen(start, end)
    assert period.step == step
    assert 0 <= start.timestamp() - period.start < step
    assert 0 <= period.end - end.timestamp() < step


@pytest.mark.parametrize("name", RANGES)
def test_a_range_ends_now(name: str) -> None:
    period = latest(name)
    assert period.range == name
    assert period.end - period.start == RANGES[name][0]
    assert 0 < period.end - time.time() <= period.step


def test_a_chosen_period_stays_in_the_address_until_a_range_is_chosen() -> None:
    end = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
    choice = Choice(period=chosen(end - timedelta(hours=1), end), q="a", page=2)
    kept: dict[str, Any] = {"from": ["2026-01-02T11:00"], "to": ["2026-01-02T12:00"], "q": ["a"]}
    assert parse_qs(choice.address(sort="name")) == {**kept, "sort": ["name"]}
    assert parse_qs(choice.address(range="7d")) == {"range": ["7d"], "q": ["a"], "page": ["2"]}
    assert minute(choice.period.start) == "2026-01-02T11:00"
