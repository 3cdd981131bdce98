"""Rebuilds that are killed, run at once, read meanwhile, taken back, and done for some days."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import QualityFailed, StaleRebuild, WrongUsage
from sluice.settings import PROJECT, ClickHouseSettings
from sluice.star.rebuild import POINTS
from tests.star.rebuilds import KilledError, run
from tests.star.store import (
    CATALOG,
    FACT,
    FEW,
    Pipeline,
    customer,
    day,
    item,
    order,
    product,
    seeded,
)

pytestmark = pytest.mark.services

# Each kind of rebuild with the points that it passes; sums are added to after one range alone, by
# rebuilds of what changed.
REWRITE = ("keys found", "rows staged", "rows written")
KINDS = {
    "days": (*REWRITE, "groups noted", "rollups summed"),
    "full": (
        "shadow made",
        *REWRITE[1:],
        "verified",
        "rollups summed",
        "recorded",
        "exchanged",
        "kept",
    ),
    "incremental": (*REWRITE, "groups noted", "rollups summed", "recorded"),
    "rollback": (*REWRITE, "rollups summed", "exchanged"),
}
ENDS = [
    (kind, point, rows)
    for kind in KINDS
    for point in KINDS[kind]
    for rows in ((FEW, 1000) if kind in {"days", "incremental"} else (FEW,))
]


@pytest.fixture
def pipeline(warehouse: ClickHouseSettings) -> Iterator[Pipeline]:
    made = Pipeline(warehouse, seeded())
    made.settle()
    with closing(made):
        yield made


def change(pipeline: Pipeline) -> None:
    """Something for every way by which a fact can change."""
    store = pipeline.store
    store.write("customers", 1, **customer(91, 0))
    store.write("products", 2, **product(92, 1))
    store.write("orders", 3, **order(1, 8, 93))
    store.write("order_items", 200, **item(4, 1, 7))
    store.delete("order_items", 5)
    store.move("order_items", 6, 600)
    store.delete("products", 3)
    for table in CATALOG.tables:
        pipeline.drain(table.name)


def kill_at(pipeline: Pipeline, kind: str, point: str) -> bool:
    """Whether a rebuild in a process of its own was killed there."""
    settings = pipeline.settings
    environment = {
        **os.environ,
        "SLUICE_CLICKHOUSE_PORT": str(settings.port),
        "SLUICE_CLICKHOUSE_HTTP_PORT": str(settings.http_port),
        "SLUICE_CLICKHOUSE_USER": settings.user,
        "SLUICE_CLICKHOUSE_PASSWORD": settings.password.get_secret_value(),
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'plugins'}",
    }
    command = [sys.executable, "-m", "tests.star.killed", kind, point]
    done = subprocess.run(command, env=environment, cwd=PROJECT, check=False, capture_output=True)
    assert done.returncode in {0, -9}, done.stderr.decode()
    return done.returncode == -9


@pytest.mark.parametrize(
    ("kind", "point", "range_rows"), [*ENDS, ("incremental", "sums read", 1000)]
)
def test_a_rebuild_that_ends_at_any_point_leaves_nothing_that_the_next_does_not_mend(
    pipeline: Pipeline, kind: str, point: str, range_rows: int
) -> None:
    if kind == "rollback":
        pipeline.rebuild().run(full=True)
    change(pipeline)

    def reached(name: str) -> None:
        if name == point:
            raise KilledError

    with closing(ClickHouse(pipeline.settings)) as clickhouse, pytest.raises(KilledError):
        run(pipeline.rebuild(clickhouse, reached=reached, range_rows=range_rows), kind)
    pipeline.require_possible()
    pipeline.settle()
    pipeline.require_equal()


@pytest.mark.clickhouse_may_crash
@pytest.mark.parametrize(
    ("kind", "point"),
    [
        ("full", "shadow made"),
        ("full", "verified"),
        ("full", "recorded"),
        ("full", "exchanged"),
        ("full", "kept"),
        ("incremental", "keys found"),
        ("incremental", "rows staged"),
        ("incremental", "groups noted"),
        ("incremental", "rows written"),
        ("incremental", "rollups summed"),
    ],
)
def test_a_rebuild_whose_process_is_killed_is_mended_by_the_next(
    pipeline: Pipeline, kind: str, point: str
) -> None:
    change(pipeline)
    assert kill_at(pipeline, kind, point)
    pipeline.require_possible()
    pipeline.settle()
    pipeline.require_equal()


def test_every_point_is_reached(pipeline: Pipeline) -> None:
    change(pipeline)
    passed: list[str] = []
    rebuild = pipeline.rebuild(reached=passed.append)
    rebuild.run()
    rebuild.run(full=True)
    change(pipeline)
    pipeline.rebuild(reached=passed.append, range_rows=1000).run()
    assert set(passed) == set(POINTS)


@contextmanager
def readers(pipeline: Pipeline, seen: set[tuple[int, int]], count: int = 2) -> Iterator[None]:
    """Readers that ask for rows and distinct keys, over and over."""
    stop, asked = threading.Event(), threading.Barrier(count + 1)
    query = "SELECT count(), uniqExact(order_item_id) FROM olap.fact_order_item"

    def read() -> None:
        with closing(ClickHouse(pipeline.settings)) as clickhouse:
            seen.add(clickhouse.execute(query)[0])
            asked.wait(30)
            while not stop.is_set():
                seen.add(clickhouse.execute(query)[0])

    threads = [threading.Thread(target=read) for _ in range(count)]
    for thread in threads:
        thread.start()
    asked.wait(30)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_readers_never_see_zero_or_double_rows_while_full_rebuilds_and_rollbacks_run(
    pipeline: Pipeline,
) -> None:
    seen: set[tuple[int, int]] = set()
    rows = len(pipeline.store.rows["order_items"])
    with readers(pipeline, seen):
        for _ in range(5):
            pipeline.rebuild().run(full=True)
            pipeline.rebuild().rollback()
    assert seen == {(rows, rows)}


def test_a_changed_key_is_never_seen_twice_or_not_at_all(pipeline: Pipeline) -> None:
    seen: set[tuple[int, int]] = set()
    rows = len(pipeline.store.rows["order_items"])
    with readers(pipeline, seen):
        for number in range(20):
            pipeline.store.move("order_items", 7 + 1000 * number, 7 + 1000 * (number + 1))
            pipeline.drain("order_items")
            pipeline.rebuild(range_rows=1000).run()
    assert seen == {(rows, rows)}


def test_rebuilds_of_every_kind_at_once_give_the_join(pipeline: Pipeline) -> None:
    errors: list[BaseException] = []

    def repeat(kind: str) -> None:
        with closing(ClickHouse(pipeline.settings)) as clickhouse:
            for _ in range(4):
                try:
                    run(pipeline.rebuild(clickhouse), kind)
                except BaseException as error:  # noqa: BLE001 - told by the test
                    errors.append(error)

    kinds = ["incremental", "full", "full", "days", "days"]
    threads = [threading.Thread(target=repeat, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for number in range(10):
        pipeline.store.write("products", 1, **product(number, number))
        pipeline.store.write("orders", 2, **order(3, number % 5, number))
        pipeline.drain("products")
        pipeline.drain("orders")
    for thread in threads:
        thread.join(120)
    assert errors == []
    pipeline.settle()
    pipeline.require_equal()


def test_a_full_rebuild_that_misses_or_alters_a_row_is_refused(pipeline: Pipeline) -> None:
    def spoil(*statements: str) -> None:
        def reached(point: str) -> None:
            if point == "rows staged":
                for statement in statements:
                    pipeline.clickhouse.execute(statement)

        before = pipeline.facts()
        with pytest.raises(QualityFailed):
            pipeline.rebuild(reached=reached).run(full=True)
        assert pipeline.facts() == before

    spoil("TRUNCATE TABLE staged_fact")
    spoil(
        "CREATE TEMPORARY TABLE right_rows AS SELECT * FROM staged_fact",
        "TRUNCATE TABLE staged_fact",
        "INSERT INTO staged_fact SELECT * REPLACE (quantity + 1 AS quantity) FROM right_rows",
        "DROP TEMPORARY TABLE right_rows",
    )


def test_a_rollback_brings_back_the_table_before_and_what_changed_since(
    pipeline: Pipeline,
) -> None:
    with pytest.raises(WrongUsage):
        pipeline.rebuild().rollback()
    execute = pipeline.clickhouse.execute
    before = execute("SELECT uuid FROM system.tables WHERE name = 'fact_order_item'")
    pipeline.rebuild().run(full=True)
    change(pipeline)
    assert execute("SELECT uuid FROM system.tables WHERE name = 'fact_order_item'") != before
    assert pipeline.rebuild().rollback().mode == "rollback"
    assert execute("SELECT uuid FROM system.tables WHERE name = 'fact_order_item'") == before
    pipeline.require_equal()


def test_a_stale_incremental_rebuild_is_told_so(pipeline: Pipeline) -> None:
    change(pipeline)

    def reached(point: str) -> None:
        if point == "rows written":
            with closing(ClickHouse(pipeline.settings)) as clickhouse:
                pipeline.rebuild(clickhouse).run(full=True)

    with pytest.raises(StaleRebuild), closing(ClickHouse(pipeline.settings)) as clickhouse:
        pipeline.rebuild(clickhouse, reached=reached, range_rows=1000).run()
    pipeline.require_equal()


def test_a_full_rebuild_beside_drains_that_never_rest_is_no_finding(pipeline: Pipeline) -> None:
    quantities = iter(range(1, 1000))

    def reached(point: str) -> None:
        if point == "rows written":
            pipeline.store.write("order_items", 1, **item(1, 1, next(quantities)))
            pipeline.drain("order_items")

    with closing(ClickHouse(pipeline.settings)) as clickhouse:
        rebuild = pipeline.rebuild(clickhouse, reached=reached, range_rows=1000)
        assert rebuild.run(full=True).mode == "full"
    pipeline.settle()
    pipeline.require_equal()


def spoiled(pipeline: Pipeline, offset: int) -> None:
    """One day's facts wrong in the fact, as a bug might have left them, and one ghost."""
    version = "(SELECT max(_version) FROM cdc.fact_order_item)"
    pipeline.clickhouse.execute(
        "INSERT INTO cdc.fact_order_item SELECT * REPLACE ('wrong' AS product_name,"
        f" {version} AS _version) FROM cdc.fact_order_item FINAL"
        " WHERE toDate(order_date) = {day:Date}",
        day=day(offset),
    )
    pipeline.clickhouse.execute(
        "INSERT INTO cdc.fact_order_item (order_item_id, order_date, _version)"
        f" SELECT 9000 + {offset}, toDateTime64({{day:Date}}, 6, 'UTC'), {version}",
        day=day(offset),
    )


def test_days_are_redone_in_any_order_again_and_several_at_once(pipeline: Pipeline) -> None:
    for offset in range(4):
        spoiled(pipeline, offset)
    assert pipeline.facts() != pipeline.store.join()

    def redo(offset: int) -> None:
        with closing(ClickHouse(pipeline.settings)) as clickhouse:
            pipeline.rebuild(clickhouse).backfill(day(offset), day(offset))

    threads = [threading.Thread(target=redo, args=(offset,)) for offset in (3, 1, 1, 2, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    pipeline.require_equal()


def test_a_sum_read_before_a_backfill_and_written_after_it_does_not_show(
    pipeline: Pipeline,
) -> None:
    spoiled(pipeline, 0)
    version = sum(pipeline.rebuild().drained().values()) << 64
    pipeline.clickhouse.execute(
        "CREATE TEMPORARY TABLE late AS SELECT toDate32(order_date) AS day, customer_country,"
        " product_category, 1 AS facts, {version:UInt128} + toUnixTimestamp64Nano(now64(9))"
        " FROM cdc.fact_order_item WHERE order_item_id = 9000",
        version=version,
    )
    pipeline.rebuild().backfill(day(0), day(0))
    pipeline.clickhouse.execute(
        "INSERT INTO cdc.revenue_by_day (day, country, category, facts, _version)"
        " SELECT * FROM late"
    )
    pipeline.require_equal()


def test_a_backfill_leaves_other_days_alone_and_refuses_days_that_end_before_they_begin(
    pipeline: Pipeline,
) -> None:
    spoiled(pipeline, 0)
    spoiled(pipeline, 3)
    pipeline.rebuild().backfill(day(0), day(2))
    _, wrong = pipeline.clickhouse.table(
        "SELECT DISTINCT toDate(order_date) FROM olap.fact_order_item"
        " WHERE product_name = 'wrong' OR order_item_id > 9000"
    )
    assert wrong == [(day(3),)]
    with pytest.raises(WrongUsage):
        pipeline.rebuild().backfill(day(1), day(1) - timedelta(days=1))


def test_a_full_rebuild_shows_its_progress(pipeline: Pipeline) -> None:
    lines: list[str] = []
    rows = pipeline.rebuild(progress=lines.append).run(full=True).rows
    *ranges, merging = lines
    assert ranges[-1].startswith(f"{FACT.name}: range {len(ranges)} of {len(ranges)}, {rows} rows")
    assert merging == f"{FACT.name}: available to readers; merging its parts"


def test_a_full_rebuild_merges_what_it_filled_when_readers_have_it_and_not_before(
    pipeline: Pipeline,
) -> None:
    execute, held = pipeline.clickhouse.execute, []

    def reached(point: str) -> None:
        if point == "verified":
            held.extend(
                execute(
                    "SELECT create_table_query LIKE '%min_parts_to_merge_at_once%'"
                    " FROM system.tables WHERE database = 'cdc' AND name LIKE '%shadow%'"
                )
            )

    pipeline.rebuild(reached=reached, range_rows=FEW).run(full=True)
    assert held == [(1,)]
    assert execute(
        "SELECT table, count(), min(level) > 0 FROM system.parts WHERE database = 'cdc' AND active"
        " AND table IN ('fact_order_item', 'revenue_by_day') GROUP BY table ORDER BY table"
    ) == [("fact_order_item", 1, 1), ("revenue_by_day", 1, 1)]
    ((made,),) = execute(
        "SELECT create_table_query FROM system.tables"
        " WHERE database = 'cdc' AND name = 'fact_order_item'"
    )
    assert "min_parts_to_merge_at_once" not in made
    pipeline.require_equal()


def test_a_full_rebuild_that_cannot_merge_is_done_all_the_same(pipeline: Pipeline) -> None:
    lines: list[str] = []
    change(pipeline)
    pipeline.clickhouse.execute("SYSTEM STOP MERGES")
    try:
        assert pipeline.rebuild(progress=lines.append).run(full=True).mode == "full"
    finally:
        pipeline.clickhouse.execute("SYSTEM START MERGES")
    assert "left to the nightly maintenance" in lines[-1]
    pipeline.require_equal()


def test_a_rollup_that_came_to_the_models_later_is_summed_by_the_next_rebuild(
    pipeline: Pipeline,
) -> None:
    pipeline.clickhouse.execute("TRUNCATE TABLE cdc.revenue_by_day")
    assert pipeline.rebuild().run().mode == "none"
    pipeline.require_equal()
