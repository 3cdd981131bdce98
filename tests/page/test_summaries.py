"""What the page reads stays a few rows, however long the history behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from uuid import UUID

import pytest

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.operate.monitor import Monitor
from sluice.settings import Settings
from sluice.star import create as warehouse
from tests.page.history import forget
from tests.support.waiting import until

pytestmark = pytest.mark.services
LATEST, OLD_PART = "ReadFromMergeTree (latest)", "ReadFromMergeTree (cdc.quality_checks)"


@pytest.fixture
def clickhouse(services: Settings) -> Iterator[ClickHouse]:
    with closing(ClickHouse(services.clickhouse)) as found:
        forget(found)
        yield found
        forget(found)


@pytest.fixture
def monitor(services: Settings) -> Iterator[Monitor]:
    with wiring.monitor(services) as found:
        yield found


def note(clickhouse: ClickHouse, status: str, rows: int, minutes: int) -> None:
    """A result of the row count of orders, so many minutes ago."""
    at = datetime.now(timezone.utc) - timedelta(minutes=minutes)
    check = {"run": "r", "checked_at": at, "source_table": "orders", "check": "row_count"}
    check |= {"status": status, "fence": "0/1", "postgres": 9, "clickhouse": rows}
    clickhouse.insert_row("cdc.quality_checks", {**check, "keys": [], "repair": ""})


def plan(clickhouse: ClickHouse, monitor: Monitor, query: str) -> str:
    """How ClickHouse would run one of the monitor's queries."""
    return "\n".join(line for (line,) in clickhouse.execute(f"EXPLAIN {monitor.queries[query]}"))


@pytest.mark.parametrize("query", ["last_checks", "freshness"])
def test_last_results_are_read_from_the_few_rows_that_each_part_keeps_of_them(
    query: str, clickhouse: ClickHouse, monitor: Monitor
) -> None:
    note(clickhouse, "pass", 9, minutes=1)
    found = plan(clickhouse, monitor, query)
    assert LATEST in found
    assert OLD_PART not in found


def test_the_last_drain_and_rebuild_are_read_from_such_rows_too(
    clickhouse: ClickHouse, monitor: Monitor
) -> None:
    drain = {"source_table": "orders", "broker_epoch": "e", "first_offset": 0, "next_offset": 5}
    drain |= {"events": 5, "rejected": 0, "seconds": 1.0, "freshness_s": None}
    rebuild = {"fact": "fact_order_item", "storage": UUID(int=1), "version": 1, "seen": {}}
    rebuild |= {"mode": "incremental", "rows": 7, "deleted": 0, "seconds": 0.5}
    now = datetime.now(timezone.utc)
    for events, minutes in ((500, 10), (15, 2)):
        earlier = {"events": events, "finished_at": now - timedelta(minutes=minutes)}
        clickhouse.insert_row("cdc.drains", drain | earlier)
    clickhouse.insert_row("cdc.drains", drain)
    clickhouse.insert_row("cdc.rebuilds", rebuild)
    for query, table in (("last_drains", "drains"), ("last_rebuilds", "rebuilds")):
        found = plan(clickhouse, monitor, query)
        assert LATEST in found
        assert f"ReadFromMergeTree (cdc.{table})" not in found
    overview = monitor.overview()
    last = next(state.last_drain for state in overview.tables if state.name == "orders")
    assert last is not None
    assert (last.events, last.freshness_s) == (5, None)
    (fact,) = overview.facts
    assert fact.last_rebuild is not None
    assert (fact.last_rebuild.mode, fact.last_rebuild.rows) == ("incremental", 7)
    assert (overview.drained_per_minute, overview.rebuilt_per_minute) == ((15 + 5) / 5, 7 / 5)


def test_the_newest_result_counts_whatever_its_status(
    clickhouse: ClickHouse, monitor: Monitor
) -> None:
    for status, rows, minutes in (("fail", 8, 3), ("pass", 9, 2), ("unsettled", 7, 1)):
        note(clickhouse, status, rows, minutes)
        (result,) = (state.last_check for state in monitor.overview().tables if state.last_check)
        assert (result.status, result.postgres, result.clickhouse) == (status, 9, rows)


def test_a_warehouse_of_before_is_brought_along(clickhouse: ClickHouse, monitor: Monitor) -> None:
    clickhouse.execute("ALTER TABLE cdc.quality_checks DROP PROJECTION latest")
    note(clickhouse, "fail", 8, minutes=2)
    warehouse.create_warehouse(clickhouse, load_catalog("models"))
    note(clickhouse, "pass", 9, minutes=1)
    until(
        lambda: OLD_PART not in plan(clickhouse, monitor, "last_checks"),
        "no part of before is read",
    )
    (result,) = (state.last_check for state in monitor.overview().tables if state.last_check)
    assert (result.status, result.clickhouse) == ("pass", 9)
