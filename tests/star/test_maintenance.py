"""Maintenance: old delete markers go, and nothing comes back to life."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.dead_letters import DeadLetter, DeadLetters
from sluice.drain.ports import Checkpoint, OpenReject
from sluice.errors import NeedsPerson, QualityFailed, WrongUsage
from sluice.events.event import Record, Reject, place_of
from sluice.generate.sql_files import read_statements
from sluice.settings import PROJECT, ClickHouseSettings
from sluice.star.create import make_rebuild
from sluice.warehouse.maintenance import Maintenance
from tests.star.store import CATALOG, FACT, Pipeline, seeded

pytestmark = pytest.mark.services

QUERIES = read_statements(PROJECT / "plugins/sluice/sql/maintenance.sql")
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


PERSON = "jo@example.com"
ROW = (
    '{"metadata":{"source":"relay","table":"customers","operation":"read",'
    f'{place_of(17)},"ordinal":1,"commit_ts_ms":1}},"payload":{{"email":"{PERSON}"}}}}'
)
# Offset -> the state that the letter is brought to.
STATES = ["replayed", "dismissed", "resolved", "open", "open", "open", "open"]
VALUES = [f'{{"email":"{PERSON}"}}'] * 4 + [ROW, PERSON * 100_000, ""]


def reject(pipeline: Pipeline) -> None:
    """Letters in every state, as the drain keeps and a person closes them."""
    store = ClickHouseStore(pipeline.clickhouse)
    rejects = [
        Reject(record=Record(offset, PERSON.encode(), value.encode()), reason="x")
        for offset, value in enumerate(VALUES)
    ]
    store.reject(Checkpoint(source_table="customers", broker_epoch="b"), "1", rejects)


def close(pipeline: Pipeline) -> None:
    letters = {letter.offset: letter for letter in every(pipeline)}
    for offset, state in enumerate(STATES):
        if state == "resolved":
            resolved = OpenReject(broker_epoch="b", epoch=0, offset=offset, key=b"", metadata=b"")
            ClickHouseStore(pipeline.clickhouse).resolve("customers", [resolved])
        elif state != "open":
            DeadLetters(clickhouse=pipeline.clickhouse).mark([letters[offset]], state)


def every(pipeline: Pipeline) -> list[DeadLetter]:
    letters = DeadLetters(clickhouse=pipeline.clickhouse)
    return letters.newest("customers", [], every=True, limit=100)


def rejected_long_ago(pipeline: Pipeline) -> None:
    pipeline.clickhouse.execute(
        f"ALTER TABLE cdc.dead_letters UPDATE rejected_at = now64(3) - INTERVAL {AGED}"
        " WHERE source_table = 'customers' SETTINGS mutations_sync = 1"
    )


def rows(pipeline: Pipeline) -> int:
    ((count,),) = pipeline.clickhouse.execute("SELECT count() FROM cdc.dead_letters")
    return int(count)


def with_person(pipeline: Pipeline) -> int:
    """Rows in any part, older versions among them, that hold what is personal."""
    query = (
        "SELECT count() FROM cdc.dead_letters WHERE position(concat(key, value), {person:String})"
    )
    ((count,),) = pipeline.clickhouse.execute(query, person=PERSON)
    return int(count)


def test_letters_older_than_they_are_kept_go_and_of_open_ones_what_is_personal(
    pipeline: Pipeline,
) -> None:
    execute = pipeline.clickhouse.execute
    execute("TRUNCATE TABLE cdc.dead_letters")
    tiny = "max_bytes_to_merge_at_max_space_in_pool"
    execute(f"ALTER TABLE cdc.dead_letters MODIFY SETTING {tiny} = 1")  # older versions stay
    try:
        reject(pipeline)
        close(pipeline)
        letters = every(pipeline)
        assert len(letters) < rows(pipeline)
        kept = replace(maintenance(pipeline), letters_kept=timedelta(days=30))
        assert [line for line in kept.run().done if "letters" in line] == []
        rejected_long_ago(pipeline)
        assert [line for line in maintenance(pipeline).run().done if "letters" in line] == []
        assert {letter.value for letter in every(pipeline)} == {one.value for one in letters}
        done = [line for line in kept.run().done if "letters" in line]
        assert done == [
            "3 closed dead letters deleted, older than 30 days",
            "4 dead letters: key and value deleted, older than 30 days",
        ]
        left = {letter.offset: letter for letter in every(pipeline)}
        assert {letter.state for letter in left.values()} == {"open"}
        assert sorted(left) == [3, 4, 5, 6]
        assert with_person(pipeline) == 0
        assert len(left) == rows(pipeline)
        assert [left[at].size for at in sorted(left)] == [len(value) for value in VALUES[3:]]
        assert [left[at].whole for at in sorted(left)] == [False, False, False, True]
        store = ClickHouseStore(pipeline.clickhouse)
        assert store.unstored("customers", place_of(17)) == {"x": 1}
        assert store.unstored("customers", place_of(18)) == {}
        assert [line for line in kept.run().done if "letters" in line] == []
    finally:
        execute(f"ALTER TABLE cdc.dead_letters RESET SETTING {tiny}")
        execute("TRUNCATE TABLE cdc.dead_letters")


def test_a_rejected_event_that_cannot_be_replayed_keeps_no_marker(pipeline: Pipeline) -> None:
    pipeline.clickhouse.execute(
        "INSERT INTO cdc.dead_letters (source_table, offset, reason, size, rejected_at)"
        " VALUES ('order_items', 1, 'x', 100, now64(3) - INTERVAL 50 DAY)"
    )
    delete_some(pipeline, merged=True)
    age(pipeline)
    maintenance(pipeline).run()
    assert markers(pipeline, "src_order_item") == 0


def test_tables_over_the_servers_limit_are_dropped(
    pipeline: Pipeline, warehouse: ClickHouseSettings
) -> None:
    pipeline.clickhouse.execute(
        "CREATE TABLE cdc.large ENGINE = MergeTree ORDER BY n AS SELECT number AS n FROM numbers(9)"
    )
    careful = replace(warehouse, options={"settings": {"max_table_size_to_drop": 1}})  # byte
    with closing(ClickHouse(careful)) as clickhouse:
        with pytest.raises(NeedsPerson, match="was not dropped"):
            clickhouse.execute("DROP TABLE cdc.large SYNC")
        for _ in range(2):
            make_rebuild(clickhouse, FACT).run(full=True)
        clickhouse.drop("large")
        assert clickhouse.execute("EXISTS cdc.large") == [(0,)]
    pipeline.require_equal()


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
