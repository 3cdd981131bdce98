"""What the page reads stays a few rows, however long the history behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.operate.monitor import Monitor
from sluice.operate.table_history import read_runs
from sluice.operate.trends import RANGES, latest, read_trends
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


def plan(clickhouse: ClickHouse, monitor: Monitor, query: str, **values: Any) -> str:
    """How ClickHouse would run one of the monitor's queries."""
    lines = clickhouse.execute(f"EXPLAIN {monitor.queries[query]}", **values)
    return "\n".join(line for (line,) in lines)


# Steps of many tables and a tenth as many facts, in a moment of each hour of a week.
TABLES, MOMENTS = 300, 7 * 24
STEPS = {
    "drains (source_table, finished_at, events, seconds, freshness_s)": "name, at, number % 50, 1,"
    " if(number % 7 = 0, NULL, number % 61 / 8) FROM tables",
    "rebuilds (fact, storage, version, mode, rows, deleted, seconds, finished_at)": "name,"
    " toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0'), number, 'incremental', 5, 2,"
    " number % 61 / 8, at FROM facts",
    "quality_checks (run, source_table, check, status, checked_at)": "'r', name, 'row_count',"
    " multiIf(number % 97 = 0, 'fail', number % 89 = 0, 'unsettled', 'pass'), at FROM tables",
}


@pytest.fixture
def steps(clickhouse: ClickHouse) -> None:
    """A week of steps of many tables and facts."""
    for table, values in STEPS.items():
        clickhouse.execute(
            f"INSERT INTO cdc.{table} WITH tables AS ("
            f"SELECT number, concat('t', toString(number % {TABLES})) AS name,"
            f" now64(3) - toIntervalHour(intDiv(number, {TABLES})) AS at"
            f" FROM numbers({TABLES * MOMENTS})),"
            f" facts AS (SELECT * FROM tables WHERE number % 10 = 0) SELECT {values}"
        )


class Counting(ClickHouse):
    """A session that counts what it asks, and the rows that were read for it."""

    asked: list[Any]
    rows: int

    def execute(self, query: str, /, *args: Any, **values: Any) -> list[tuple[Any, ...]]:
        """Run a query."""
        answer = super().execute(query, *args, **values)
        self.asked.append((query, sorted(values.items())))
        self.rows += self._client.last_query.progress.rows
        return answer


@pytest.fixture
def counting(services: Settings) -> Iterator[Counting]:
    with closing(Counting(services.clickhouse)) as session:
        session.asked, session.rows = [], 0
        yield session


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


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("reach", RANGES)
def test_charts_of_all_tables_are_read_from_fewer_rows_than_the_steps_wrote(
    reach: str, monitor: Monitor, counting: Counting, services: Settings
) -> None:
    period = latest(reach)
    trends = read_trends(counting, monitor.queries, period, monitor.slot)
    written = TABLES * MOMENTS * 2.1
    assert counting.rows < (written / 10 if period.step > 3600 else written / 2)
    options = {"settings": {"optimize_use_projections": 0}}
    with closing(ClickHouse(replace(services.clickhouse, options=options))) as plain:
        assert read_trends(plain, monitor.queries, period, monitor.slot) == trends
    assert any(value for trend in trends.trends for line in trend.lines for value in line.values)


@pytest.mark.usefixtures("steps")
def test_an_overview_of_many_tables_asks_for_nothing_twice_and_reads_few_rows(
    monitor: Monitor, counting: Counting, services: Settings
) -> None:
    counted = replace(monitor, clickhouse=counting)
    counted.overview()
    assert counting.rows < TABLES * MOMENTS
    table = monitor.catalog.tables[0]
    read_trends(counting, monitor.queries, latest("30d"), monitor.slot, table.name)
    read_runs(counting, monitor.queries, table)
    assert [one for one in counting.asked if counting.asked.count(one) > 1] == []
    assert len([query for query, _ in counting.asked if "cdc.checkpoints" in query]) == 1


def test_freshness_in_the_overview_is_that_of_the_checks(
    clickhouse: ClickHouse, monitor: Monitor
) -> None:
    note(clickhouse, "pass", 9, minutes=3)
    note(clickhouse, "fail", 8, minutes=1)
    known = dict(clickhouse.execute(monitor.queries["freshness"]))
    now = datetime.now(timezone.utc).timestamp()
    for state in monitor.overview().tables:
        at = known.get(state.name)
        assert (state.freshness_s is None) is (not at)
        if at:
            assert state.freshness_s == pytest.approx(now - at / 1000, abs=5)


def test_an_overview_connects_to_the_broker_once(
    monitor: Monitor, broker_clients: list[object]
) -> None:
    monitor.overview()
    assert len(broker_clients) == 1


def test_the_newest_result_counts_whatever_its_status(
    clickhouse: ClickHouse, monitor: Monitor
) -> None:
    for status, rows, minutes in (("fail", 8, 3), ("pass", 9, 2), ("unsettled", 7, 1)):
        note(clickhouse, status, rows, minutes)
        (result,) = (state.last_check for state in monitor.overview().tables if state.last_check)
        assert (result.status, result.postgres, result.clickhouse) == (status, 9, rows)


@pytest.mark.parametrize(
    ("table", "projection"),
    [
        ("drains", "by_time"),
        ("drains", "by_two_hours"),
        ("quality_checks", "by_second"),
    ],
)
@pytest.mark.usefixtures("steps")
def test_rows_of_before_get_the_projections_of_charts(
    table: str, projection: str, clickhouse: ClickHouse
) -> None:
    clickhouse.execute(f"ALTER TABLE cdc.{table} DROP PROJECTION {projection}")
    warehouse.create_warehouse(clickhouse, load_catalog("models"))
    there = (
        "SELECT count() FROM system.projection_parts WHERE database = 'cdc' AND active"
        " AND table = {table:String} AND name = {name:String}"
    )
    until(
        lambda: clickhouse.execute(there, table=table, name=projection) != [(0,)],
        "a part of before has the projection",
    )


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
