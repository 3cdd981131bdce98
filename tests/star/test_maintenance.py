"""Maintenance: old delete markers go, and nothing comes back to life."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from sluice.errors import QualityFailed, WrongUsage
from sluice.generate.sql_files import read_statements
from sluice.settings import PROJECT, ClickHouseSettings
from sluice.warehouse.maintenance import Maintenance
from tests.star.store import CATALOG, Pipeline, seeded

pytestmark = pytest.mark.services

QUERIES = read_statements(PROJECT / "sql/clickhouse/maintenance.sql")
AGED = "40 DAY"


@pytest.fixture
def pipeline(warehouse: ClickHouseSettings) -> Iterator[Pipeline]:
    made = Pipeline(warehouse, seeded())
    made.settle()
    with closing(made):
        yield made


def maintenance(pipeline: Pipeline) -> Maintenance:
    return Maintenance(clickhouse=pipeline.clickhouse, catalog=CATALOG, queries=QUERIES)


def delete_some(pipeline: Pipeline, *, merged: bool) -> None:
    for key in (1, 2, 3):
        pipeline.store.delete("order_items", key)
    pipeline.settle()
    if merged:
        for table in ("src_order_item", "fact_order_item"):
            pipeline.clickhouse.execute(f"OPTIMIZE TABLE cdc.{table} FINAL")


def age(pipeline: Pipeline) -> None:
    """Let all that was done have been done long ago."""
    execute, now = pipeline.clickhouse.execute, "SETTINGS mutations_sync = 1"
    for table in CATALOG.tables:
        execute(
            f"ALTER TABLE cdc.{table.storage} UPDATE _ingested_at = now64(3) - INTERVAL {AGED}"
            f" WHERE 1 {now}"
        )
    execute(
        f"ALTER TABLE cdc.rebuilds UPDATE finished_at = now64(3) - INTERVAL {AGED} WHERE 1 {now}"
    )


def markers(pipeline: Pipeline, table: str) -> int:
    query = f"SELECT countIf(_is_deleted = 1) FROM cdc.{table}"
    return int(pipeline.clickhouse.execute(query)[0][0])


def test_old_delete_markers_go_and_the_fact_stays_as_it_is(pipeline: Pipeline) -> None:
    delete_some(pipeline, merged=True)
    age(pipeline)
    pipeline.store.write("order_items", 900, order_id=4, product_id=1, quantity=1, price="1")
    pipeline.settle()
    pipeline.clickhouse.execute("OPTIMIZE TABLE cdc.fact_order_item FINAL")
    report = maintenance(pipeline).run()
    assert report.alarms == ()
    assert markers(pipeline, "src_order_item") == 0
    assert markers(pipeline, "fact_order_item") <= 3
    pipeline.require_equal()
    assert pipeline.rebuild().run(full=True).rows == len(pipeline.store.rows["order_items"])
    pipeline.require_equal()


def test_a_marker_stays_while_an_older_row_of_its_key_is_in_another_part(
    pipeline: Pipeline,
) -> None:
    delete_some(pipeline, merged=True)
    age(pipeline)
    execute, tiny = pipeline.clickhouse.execute, "max_bytes_to_merge_at_max_space_in_pool"
    execute(f"ALTER TABLE cdc.src_order_item MODIFY SETTING {tiny} = 1")
    try:
        execute("INSERT INTO cdc.src_order_item (id, quantity, _version) VALUES (1, 1, 1)")
        maintenance(pipeline).run()
        assert markers(pipeline, "src_order_item") == 1
        assert execute("SELECT count() FROM cdc.src_order_item FINAL WHERE id = 1") == [(0,)]
    finally:
        execute(f"ALTER TABLE cdc.src_order_item RESET SETTING {tiny}")
    pipeline.require_equal()


def test_young_markers_stay(pipeline: Pipeline) -> None:
    delete_some(pipeline, merged=True)
    maintenance(pipeline).run()
    assert markers(pipeline, "src_order_item") == 3
    with pytest.raises(WrongUsage):
        replace(maintenance(pipeline), guard=timedelta(hours=1)).run()


def test_markers_stay_while_a_table_to_roll_back_to_has_not_seen_them(pipeline: Pipeline) -> None:
    pipeline.rebuild().run(full=True)
    delete_some(pipeline, merged=True)
    age(pipeline)
    maintenance(pipeline).run()
    assert markers(pipeline, "src_order_item") == 3
    pipeline.rebuild().rollback()
    pipeline.require_equal()


def test_markers_stay_while_a_rejected_event_from_before_them_can_be_replayed(
    pipeline: Pipeline,
) -> None:
    pipeline.clickhouse.execute(
        "INSERT INTO cdc.dead_letters (source_table, offset, reason, rejected_at)"
        " VALUES ('order_items', 1, 'x', now64(3) - INTERVAL 50 DAY)"
    )
    delete_some(pipeline, merged=True)
    age(pipeline)
    maintenance(pipeline).run()
    assert markers(pipeline, "src_order_item") == 3


def test_what_the_views_read_is_one_part_after_the_night(pipeline: Pipeline) -> None:
    parts = (
        "SELECT count(), min(level) > 0 FROM system.parts WHERE database = 'cdc' AND active"
        " AND table IN ('fact_order_item', 'src_order_item', 'dim_order', 'dim_customer',"
        " 'dim_product', 'revenue_by_day') GROUP BY table"
    )
    for key in (1, 2):
        pipeline.store.write("order_items", key, order_id=4, product_id=1, quantity=9, price="1")
        pipeline.settle()
    report = maintenance(pipeline).run()
    assert {"cdc.fact_order_item: merged", "cdc.revenue_by_day: merged"} <= {*report.done}
    assert pipeline.clickhouse.execute(parts) == [(1, 1)] * 6
    pipeline.require_equal()
    assert not [line for line in maintenance(pipeline).run().done if "merged" in line]


def test_history_past_its_ttl_goes(pipeline: Pipeline) -> None:
    execute = pipeline.clickhouse.execute
    execute("SYSTEM STOP TTL MERGES cdc.history_orders")
    try:
        execute(
            "INSERT INTO cdc.history_orders (id, _version, _ingested_at)"
            " VALUES (1, 1, now64(3) - INTERVAL 60 DAY)"
        )
        before = execute("SELECT count() FROM cdc.history_orders WHERE _version = 1")
        assert before == [(1,)]
        report = maintenance(pipeline).run()
        assert "history_orders" in " ".join(report.done)
        left = execute("SELECT count() FROM cdc.history_orders WHERE _version = 1")
        assert left == [(0,)]
    finally:
        execute("SYSTEM START TTL MERGES cdc.history_orders")


def test_parts_that_pile_up_and_a_full_disk_are_alarms(pipeline: Pipeline) -> None:
    crowded = "SELECT 'dim_order' AS table, toUInt64(200), toUInt64(300)"
    full = "SELECT 'default', toUInt64(5), toUInt64(100)"
    queries = {**QUERIES, "parts": crowded, "disks": full}
    report = replace(maintenance(pipeline), queries=queries).run()
    assert len(report.alarms) == 2
    with pytest.raises(QualityFailed, match="dim_order"):
        report.require_calm()
