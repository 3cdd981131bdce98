"""What people query: right to any client and query shape, and filters prune."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.settings import ClickHouseSettings
from tests.star.store import Pipeline, Store, day, seeded

pytestmark = pytest.mark.services

ROWS = 200_000
FILTERS = [
    "order_item_id = 1234",
    "order_item_id IN (5, 150000)",
    "order_id = 777",
    "order_date >= '2026-02-01' AND order_date < '2026-02-02'",
    "toDate(order_date) = '2026-02-01'",
]
# Each is true of a row as it was before it changed.
STALE = ["quantity = 1", "order_status = 'old'", "product_name = 'before'", "order_id = 1"]


@pytest.fixture(scope="module")
def large(warehouse: ClickHouseSettings) -> Iterator[ClickHouse]:
    """A fact in which ids follow dates, as a shop's do, and some rows changed since."""
    pipeline = Pipeline(warehouse, Store())
    listed = "order_item_id, order_id, product_id, quantity, price, order_date, order_status"
    listed += ", product_name, _version, _is_deleted"
    dated = "toDateTime64('2026-01-01 00:00:00', 6, 'UTC') + number * 30"
    pipeline.clickhouse.execute(
        f"INSERT INTO cdc.fact_order_item ({listed})\n"
        f"SELECT number, intDiv(number, 4), number % 100, 1, 1, {dated}, 'old', 'before', 1, 0"
        f" FROM numbers({ROWS})"
    )
    pipeline.clickhouse.execute(
        f"INSERT INTO cdc.fact_order_item ({listed})\n"
        f"SELECT number, 900000, number % 100, 2, 1, {dated} + 86400 * 400, 'new', 'after', 2,"
        f" number % 2 FROM numbers({ROWS}) WHERE number % 1000 = 0 OR number < 8"
    )
    with closing(pipeline):
        yield pipeline.clickhouse


def granules(clickhouse: ClickHouse, where: str) -> tuple[int, int]:
    """Granules that a filter on the view reads, and all there are."""
    query = f"SELECT sum(quantity) FROM olap.fact_order_item WHERE {where}"
    lines = [row[0] for row in clickhouse.execute(f"EXPLAIN indexes = 1 {query}")]
    found = [re.search(r"Granules: (\d+)(?:/(\d+))?", line) for line in lines]
    counts = [match for match in found if match]
    total = max(int(match[2]) for match in counts if match[2])
    return int(counts[0][1]), total


@pytest.mark.parametrize("where", FILTERS)
def test_a_filter_on_key_or_date_reads_few_granules(large: ClickHouse, where: str) -> None:
    read, total = granules(large, where)
    assert total >= ROWS // 2048
    assert read <= total / 4


def test_an_order_is_looked_for_where_the_ranges_of_the_granules_have_it(large: ClickHouse) -> None:
    """Before the bloom filter, which takes one granule of forty for another's."""
    query = "SELECT * FROM olap.fact_order_item WHERE order_id = 777"
    told = "\n".join(row[0] for row in large.execute(f"EXPLAIN indexes = 1 {query}"))
    found = re.search(r"Name: order_id_within\n.*\n.*\n *Parts: .*\n *Granules: (\d+)/\d+", told)
    assert found, told
    assert int(found[1]) <= 2  # one of those that were filled, and one that changed since


@pytest.mark.parametrize("where", FILTERS + STALE)
def test_a_filter_never_finds_a_row_that_is_no_longer(large: ClickHouse, where: str) -> None:
    """Indexes and filters must not hide the newer version of a row from FINAL."""
    expected = large.execute(
        "SELECT count(), sum(order_item_id) FROM (\n"
        "    SELECT * FROM cdc.fact_order_item ORDER BY _version DESC LIMIT 1 BY order_item_id\n"
        f") WHERE _is_deleted = 0 AND {where}"
    )
    query = f"SELECT count(), sum(order_item_id) FROM olap.fact_order_item WHERE {where}"
    assert large.execute(query) == expected
    for setting in ("optimize_move_to_prewhere_if_final", "query_plan_optimize_prewhere"):
        for value in (0, 1):
            assert large.execute(f"{query} SETTINGS {setting} = {value}") == expected


def test_a_client_that_asks_for_unsafe_settings_gets_the_right_rows(large: ClickHouse) -> None:
    """The view pins what decides about rightness; its settings are stronger than the client's."""
    query = "SELECT count() FROM olap.fact_order_item WHERE order_status = 'old'"
    expected = large.execute(query)
    for setting in (
        "use_skip_indexes_if_final_exact_mode = 0",
        "do_not_merge_across_partitions_select_final = 1",
        "optimize_move_to_prewhere_if_final = 1",
    ):
        assert large.execute(f"{query} SETTINGS {setting}") == expected
    for where in ("toDate(order_date) = '2026-01-01'", "order_id = 0"):
        query = f"SELECT count() FROM olap.fact_order_item WHERE {where}"
        unsafe = f"{query} SETTINGS use_skip_indexes_if_final_exact_mode = 0"
        assert large.execute(unsafe) == large.execute(query)


def test_prewhere_on_the_view_is_refused_and_on_the_storage_would_be_wrong(
    large: ClickHouse,
) -> None:
    stale = "SELECT count() FROM cdc.fact_order_item FINAL PREWHERE quantity = 1"
    live = "SELECT count() FROM olap.fact_order_item WHERE quantity = 1"
    assert large.execute(stale) != large.execute(live)
    with pytest.raises(SluiceError, match="PREWHERE"):
        large.execute("SELECT count() FROM olap.fact_order_item PREWHERE quantity = 1")


def test_groups_joins_and_limits_see_each_fact_once(warehouse: ClickHouseSettings) -> None:
    store = seeded()
    with closing(Pipeline(warehouse, store)) as pipeline:
        pipeline.settle()
        pipeline.rebuild().backfill(day(0), day(1))
        rows = len(store.rows["order_items"])
        for query in (
            "SELECT sum(n) FROM (SELECT customer_id, count() AS n FROM olap.fact_order_item"
            " GROUP BY customer_id)",
            "SELECT count() FROM olap.fact_order_item AS f"
            " JOIN olap.dim_customer AS c ON c.id = f.customer_id",
            "SELECT count() FROM (SELECT * FROM olap.fact_order_item ORDER BY order_date"
            " LIMIT 100000)",
            "SELECT count() FROM (SELECT DISTINCT * FROM olap.fact_order_item)",
            "SELECT sum(facts) FROM olap.revenue_by_day",
        ):
            assert pipeline.clickhouse.execute(query) == [(rows,)], query
