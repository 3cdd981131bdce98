"""Postgres to fact on two shards: what one server gives, and what Postgres' own join gives."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import Unreachable
from sluice.settings import Settings
from sluice.star import create as warehouse
from store_api.demo import load
from tests.cluster.comparison import VIEWS, assert_same, rows
from tests.cluster.servers import Servers
from tests.support.oracle import change, facts, joined
from tests.support.pipeline import CATALOG, checked

pytestmark = pytest.mark.services


def test_the_snapshot_and_random_changes_give_what_one_server_and_the_join_give(
    one: Settings, two: Settings, engine: Engine
) -> None:
    load(one, customers=50, orders=200, seed=1)
    assert_same(one, two, engine)
    chance = random.Random(7)
    for _ in range(3):
        change(engine, chance, 500)
        wiring.drain(two, "order_items")
    assert_same(one, two, engine)


def test_all_versions_of_a_key_are_on_one_server_and_both_servers_have_some(
    two: Settings, servers: Servers
) -> None:
    for name, key in (("src_order_item", "id"), ("dim_order", "id"), ("history_orders", "id")):
        keys = [_local_keys(servers, at, name, key) for at in range(2)]
        assert all(keys)
        assert not keys[0] & keys[1]


def _local_keys(servers: Servers, at: int, table: str, key: str) -> set[Any]:
    with closing(ClickHouse(servers.settings(at))) as clickhouse:
        return {found for (found,) in clickhouse.execute(f"SELECT {key} FROM cdc.{table}__local")}


def test_readers_of_every_server_see_the_same_and_may_join_and_filter(
    one: Settings, two: Settings, servers: Servers
) -> None:
    query = """
        SELECT count(), sum(f.price), uniq(c.country) FROM olap.fact_order_item AS f
        JOIN olap.dim_customer AS c ON c.id = f.customer_id
        WHERE f.order_id IN (SELECT id FROM olap.dim_order WHERE status != 'x')
    """
    # As anybody's client asks: without the settings of Sluice's own session.
    other = replace(two, clickhouse=servers.shards[1].settings(one.clickhouse.cluster))
    wanted = wiring.query(one, query)[1]
    assert wiring.query(other, query)[1] == wanted
    for view in ("fact_order_item", *VIEWS):
        assert rows(other, view) == rows(one, view)


def test_a_full_rebuild_is_what_every_server_reads_and_a_rollback_too(
    one: Settings, two: Settings, servers: Servers, engine: Engine
) -> None:
    other = replace(two, clickhouse=servers.settings(1))
    for _ in range(2):
        report = wiring.rebuild(two, "fact_order_item", full=True)
        assert (report.mode, report.rows) == ("full", len(joined(engine)))
        assert facts(other) == facts(two) == joined(engine)
    change(engine, random.Random(8), 50)
    assert_same(one, two, engine)
    assert wiring.rollback(two, "fact_order_item").mode == "rollback"
    assert_same(one, two, engine)
    assert facts(other) == joined(engine)
    assert _stored(servers) == [_stored_by(two)] * 2


def _stored_by(settings: Settings) -> set[str]:
    """The local tables that the fact and the one kept for a rollback read."""
    _, found = wiring.query(
        settings,
        "SELECT extract(engine_full, 'cdc., .([^,]+).,') FROM system.tables"
        " WHERE name IN ('fact_order_item', 'fact_order_item__kept') AND engine = 'Distributed'",
    )
    return {name for (name,) in found}


def _stored(servers: Servers) -> list[set[str]]:
    """The fact's local tables on each server."""
    found = []
    for at in range(2):
        with closing(ClickHouse(servers.settings(at))) as clickhouse:
            names = clickhouse.execute(
                "SELECT name FROM system.tables WHERE name LIKE 'fact_order_item%local'"
            )
        found.append({name for (name,) in names})
    return found


def test_a_rebuild_killed_before_the_other_server_followed_is_made_good_by_the_next(
    two: Settings, servers: Servers, engine: Engine
) -> None:
    other = replace(two, clickhouse=servers.settings(1))

    class Killed(BaseException):
        """As a kill: nothing catches it."""

    def kill(point: str) -> None:
        if point == "exchanged":
            raise Killed

    fact = CATALOG.facts[0]
    with closing(ClickHouse(two.clickhouse)) as clickhouse:
        plain = warehouse.make_rebuild(clickhouse, fact)
        with pytest.raises(Killed):
            replace(plain, reached=kill).run(full=True)
    change(engine, random.Random(9), 50)
    assert checked(two).passed
    assert facts(other) == facts(two) == joined(engine)


def test_rows_lost_on_one_shard_are_found_and_read_again(
    one: Settings, two: Settings, servers: Servers, engine: Engine
) -> None:
    assert checked(two, deep=True).passed
    with closing(ClickHouse(servers.settings(1))) as clickhouse:
        ((key,),) = clickhouse.execute("SELECT max(id) FROM cdc.src_order_item__local FINAL")
        clickhouse.execute(f"DELETE FROM cdc.src_order_item__local WHERE id = {key}")
    report = checked(two, deep=True)
    (found,) = [c for c in report.checks if c.check == "rows" and c.table == "order_items"]
    assert found.keys == (str(key),)
    wiring.resync(two, "order_items")
    assert checked(two, deep=True).passed
    assert_same(one, two, engine)


def test_a_truncation_and_the_rows_after_it_are_the_same_on_two_shards(
    one: Settings, two: Settings, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMP TABLE kept AS SELECT * FROM order_items LIMIT 50"))
        connection.execute(text("TRUNCATE order_items"))
        connection.execute(text("INSERT INTO order_items SELECT * FROM kept"))
    assert_same(one, two, engine)


def test_while_a_shard_is_down_nothing_is_drained_and_then_nothing_is_lost(
    one: Settings, two: Settings, servers: Servers, engine: Engine
) -> None:
    change(engine, random.Random(10), 100)
    checked(one)  # the changes are on the topic
    servers.shards[1].kill()
    with pytest.raises(Unreachable, match="cannot reach a shard"):
        wiring.drain(two, "order_items")
    with pytest.raises(Unreachable):
        facts(two)  # not the half that is there
    servers.shards[1].start()
    assert_same(one, two, engine)
