"""Changed models, maintenance and backfill on two shards: what one server gives."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.clients.clickhouse import ClickHouse
from sluice.settings import Settings
from store_api.demo import load
from tests.cluster.comparison import assert_same
from tests.cluster.servers import Servers
from tests.support.evolutions import inits_are_killed, models_change, rollups_change
from tests.support.oracle import change, facts, joined
from tests.support.pipeline import CATALOG, checked

pytestmark = pytest.mark.services

FACT = "fact_order_item"
LONG_AGO = "now64(3) - INTERVAL 40 DAY"


def test_changed_models_are_applied_to_both_shards_and_planned_where_not_safe(
    two: Settings, tmp_path: Path
) -> None:
    models_change(two, tmp_path)


@pytest.mark.parametrize("after", [0, 2, 5])
def test_an_init_killed_between_two_servers_is_made_whole_by_the_next(
    two: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    inits_are_killed(two, tmp_path, monkeypatch, after)


def test_a_rollup_that_changed_is_summed_anew_on_two_shards(
    two: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollups_change(two, tmp_path, monkeypatch)


def everywhere(settings: Settings, *statements: str) -> None:
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        for statement in statements:
            clickhouse.everywhere(statement)


def stored(settings: Settings, name: str) -> str:
    """The table that holds a server's own rows."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        if name != FACT:
            return clickhouse.cluster.local(name)
        ((local,),) = clickhouse.execute(
            "SELECT if(engine = 'Distributed', extract(engine_full, 'cdc., .([^,]+).,'), name)"
            " FROM system.tables WHERE database = 'cdc' AND name = {name:String}",
            name=name,
        )
        return str(local)


def age(settings: Settings) -> None:
    """Merge what can be, and let all that was done have been done long ago."""
    now = "SETTINGS mutations_sync = 1"
    for table in CATALOG.tables:
        local = stored(settings, table.storage)
        everywhere(
            settings,
            f"OPTIMIZE TABLE cdc.{local} FINAL",
            f"ALTER TABLE cdc.{local} UPDATE _ingested_at = {LONG_AGO} WHERE 1 {now}",
        )
    everywhere(settings, f"OPTIMIZE TABLE cdc.{stored(settings, FACT)} FINAL")
    rebuilds = f"ALTER TABLE cdc.rebuilds UPDATE finished_at = {LONG_AGO} WHERE 1 {now}"
    wiring.query(settings, rebuilds)


def markers(settings: Settings, name: str) -> int:
    """Delete markers of a table, on all shards."""
    query = f"SELECT countIf(_is_deleted = 1) FROM cdc.{name}"
    return int(wiring.query(settings, query)[1][0][0])


def test_maintenance_removes_the_markers_of_both_shards_and_nothing_comes_back(
    one: Settings, two: Settings, engine: Engine
) -> None:
    load(one, customers=40, orders=120, seed=3)
    assert_same(one, two, engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM order_items WHERE id % 5 = 0"))
    assert_same(one, two, engine)
    done = []
    for settings in (one, two):
        age(settings)
        deleted = markers(settings, "src_order_item")
        assert deleted > 10
        report = wiring.maintain(settings)
        assert report.alarms == ()
        assert f"cdc.src_order_item: {deleted} old delete markers removed" in report.done
        assert markers(settings, "src_order_item") == 0
        done.append([line for line in report.done if line.startswith(("cdc.src", "cdc.dim"))])
    assert done[0] == done[1]
    change(engine, random.Random(5), 100)
    assert_same(one, two, engine)
    for settings in (one, two):
        assert wiring.rebuild(settings, FACT, full=True).rows == len(joined(engine))
        assert checked(settings, deep=True).passed


def test_a_marker_stays_while_an_older_row_is_in_another_part_of_its_shard(
    two: Settings, servers: Servers, engine: Engine
) -> None:
    load(two, customers=1, orders=1, seed=6)
    assert checked(two).passed
    ((key,),) = wiring.query(two, "SELECT max(id) FROM cdc.src_order_item FINAL")[1]
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM order_items WHERE id = :key"), {"key": key})
    assert checked(two).passed
    age(two)
    local, tiny = stored(two, "src_order_item"), "max_bytes_to_merge_at_max_space_in_pool"
    everywhere(two, f"ALTER TABLE cdc.{local} MODIFY SETTING {tiny} = 1")
    try:
        old = f"INSERT INTO cdc.src_order_item (id, quantity, _version) VALUES ({key}, 1, 1)"
        wiring.query(two, old)
        wiring.maintain(two)
        found = f"SELECT count() FROM cdc.src_order_item WHERE id = {key} AND _is_deleted"
        assert wiring.query(two, found)[1] == [(1,)]
    finally:
        everywhere(two, f"ALTER TABLE cdc.{local} RESET SETTING {tiny}")
    assert checked(two).passed


def test_a_backfill_redoes_its_days_alone_and_every_server_reads_them(
    one: Settings, two: Settings, servers: Servers, engine: Engine
) -> None:
    load(one, customers=10, orders=40, seed=4)
    with engine.begin() as connection:
        earlier = "UPDATE orders SET order_date = order_date - INTERVAL '3 days' WHERE id % 2 = 0"
        connection.execute(text(earlier))
    assert_same(one, two, engine)
    days = wiring.query(
        two,
        "SELECT toDate(order_date) AS day FROM olap.fact_order_item GROUP BY day"
        " ORDER BY count() DESC LIMIT 2",
    )[1]
    assert len(days) == 2
    # An order's row of before may still lie there with the later day: it leads to the earlier one.
    (first,), (second,) = sorted(days)
    other = replace(two, clickhouse=servers.settings(1))
    wrongs = []
    for settings in (one, two):
        spoil(settings, first)
        spoil(settings, second)
        wiring.backfill(settings, FACT, first, first)
        wrong = "SELECT DISTINCT toDate(order_date) FROM olap.fact_order_item"
        wrongs.append(wiring.query(settings, f"{wrong} WHERE product_name = 'wrong'")[1])
        wiring.backfill(settings, FACT, min(first, second), max(first, second))
        assert facts(settings) == joined(engine)
    assert wrongs == [[(second,)]] * 2
    assert facts(other) == joined(engine)


def spoil(settings: Settings, day: date) -> None:
    """Let the facts of a day have a wrong name, as a rebuild of wrong rows would."""
    wiring.query(
        settings,
        "INSERT INTO cdc.fact_order_item SELECT * REPLACE ('wrong' AS product_name,"
        " (SELECT max(_version) FROM cdc.fact_order_item) AS _version)"
        f" FROM cdc.fact_order_item FINAL WHERE toDate(order_date) = '{day}'",
    )


def test_history_past_its_ttl_goes_from_both_shards(two: Settings) -> None:
    everywhere(two, "SYSTEM STOP TTL MERGES cdc.history_orders__local")
    try:
        wiring.query(
            two,
            "INSERT INTO cdc.history_orders (id, _version, _ingested_at)"
            " SELECT number, 1, now64(3) - INTERVAL 100 DAY FROM numbers(50)",
        )
        count = "SELECT count() FROM cdc.history_orders WHERE _version = 1"
        assert wiring.query(two, count)[1] == [(50,)]
        done = wiring.maintain(two).done
        assert "cdc.history_orders: rows older than its TTL removed" in done
        assert wiring.query(two, count)[1] == [(0,)]
    finally:
        everywhere(two, "SYSTEM START TTL MERGES cdc.history_orders__local")
