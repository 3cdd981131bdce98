"""Clocks that jump and zones of their own: versions and values do not know them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone

import pytest

from tests.drain.table import DrainedTable
from tests.support.local_time import in_zone
from tests.support.products import TABLE, event, row

pytestmark = pytest.mark.services


@pytest.fixture
def table(environment: dict[str, str]) -> Iterator[DrainedTable]:
    made = DrainedTable(environment)
    with closing(made.clickhouse):
        yield made


def stored(table: DrainedTable) -> list[tuple[object, ...]]:
    """Every row version, with all that decides between them."""
    return table.clickhouse.execute(
        f"SELECT id, name, _version, _is_deleted, _seq FROM cdc.{TABLE.history} FINAL ORDER BY ALL"
    )


def test_a_clock_that_jumps_by_an_hour_changes_neither_rows_nor_their_order(
    table: DrainedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.begin()
    table.drain()
    straight = stored(table)
    assert straight
    hours = iter([1, -1] * 1000)
    real, offset = time.time, [0]

    def jump(_: str) -> None:
        offset[0] += 3600 * next(hours)

    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    table.begin()
    report = table.drain(jump)
    assert report.freshness_s is not None
    assert report.freshness_s >= 0
    assert stored(table) == straight
    table.require_converged()


@pytest.fixture
def berlin() -> Iterator[None]:
    """The time of a place where clocks skip an hour in spring and repeat one in autumn."""
    with in_zone("Europe/Berlin"):
        assert time.localtime(datetime(2026, 7, 1, tzinfo=timezone.utc).timestamp()).tm_hour == 2
        yield


# 02:30 was no time of Berlin's on the first day, and was there twice on the second.
MOMENTS = {
    1: "2026-03-29T02:30:00Z",
    2: "2026-03-29T02:30:00",
    3: "2026-10-25T02:30:00.5Z",
    4: "2026-10-25T02:30:00.5",
    5: "2026-10-25T04:30:00.5+02:00",
}


def test_a_time_without_a_zone_is_utc_in_a_place_with_summer_time(
    table: DrainedTable, berlin: None
) -> None:
    table.begin(steps=0)
    rows = [{**row(key, f"n{key}"), "created_at": moment} for key, moment in MOMENTS.items()]
    table.produce([event("insert", fields, number, None) for number, fields in enumerate(rows)])
    table.drain()
    found = table.clickhouse.execute(
        f"SELECT id, toUnixTimestamp64Micro(created_at) FROM cdc.{TABLE.storage} FINAL ORDER BY id"
    )
    spring = datetime(2026, 3, 29, 2, 30, tzinfo=timezone.utc)
    autumn = datetime(2026, 10, 25, 2, 30, 0, 500_000, tzinfo=timezone.utc)
    wanted = {1: spring, 2: spring, 3: autumn, 4: autumn, 5: autumn}
    assert found == [(key, int(at.timestamp() * 1_000_000)) for key, at in wanted.items()]
