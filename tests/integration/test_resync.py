"""Resync: what ClickHouse lost or kept too long comes right, and newer changes stay."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from sluice import wiring
from sluice.capture import exported_snapshot
from sluice.capture import fenced_snapshot as reading
from sluice.clients.topics import Topics
from sluice.errors import NotReady, Retryable, TopicGap, WrongUsage
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.damage import corrupt, make_again
from tests.support.pipeline import assert_fact_equals_join, checked, relaying
from tests.support.waiting import until

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=50, orders=200, seed=1)
    with relaying(services):
        checked(services)
        yield made
    made.dispose()


def test_a_table_that_was_corrupted_equals_postgres_again(
    services: Settings, engine: Engine
) -> None:
    corrupt(services)
    report = wiring.quality(services)
    assert not report.passed
    (found,) = [c for c in report.checks if (c.table, c.check) == ("order_items", "row_count")]
    assert (found.advice, found.follows) == ("run: sluice resync order_items --diff", ())
    done = wiring.resync(services, "order_items")
    assert done.deleted == 1
    with engine.connect() as connection:
        assert done.rows == connection.scalar(text("SELECT count(*) FROM order_items"))
    assert_fact_equals_join(services, engine)
    newest = "ORDER BY finished_at DESC LIMIT 1"
    kept = wiring.query(services, f"SELECT source_table, rows, deleted FROM cdc.resyncs {newest}")[
        1
    ]
    assert kept == [("order_items", done.rows, 1)]


def test_a_server_without_a_free_slot_is_told(services: Settings, engine: Engine) -> None:
    made = set[str]()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            with suppress(OperationalError):  # all are in use
                for number in range(1000):
                    take = text("SELECT slot_name FROM pg_create_physical_replication_slot(:name)")
                    made.add(str(connection.scalar(take, {"name": f"taken_{number}"})))
            assert len(made) < 1000
            with pytest.raises(NotReady, match="no replication slot left"):
                wiring.resync(services, "order_items")
        finally:
            for name in made:
                connection.execute(text("SELECT pg_drop_replication_slot(:name)"), {"name": name})


def test_a_range_and_single_keys_are_read_again_and_the_rest_is_left(
    services: Settings, engine: Engine
) -> None:
    with engine.connect() as connection:
        ids = connection.scalars(text("SELECT id FROM customers ORDER BY id LIMIT 6")).all()
    listed = ", ".join(map(str, ids))
    wiring.query(services, f"DELETE FROM cdc.dim_customer WHERE id IN ({listed})")
    assert wiring.resync(services, "customers", lower=str(ids[0]), upper=str(ids[1])).rows == 2
    assert wiring.resync(services, "customers", keys=[str(ids[3]), str(ids[4])]).rows == 2
    found = wiring.query(services, f"SELECT id FROM olap.dim_customer WHERE id IN ({listed})")[1]
    assert {row[0] for row in found} == {ids[0], ids[1], ids[3], ids[4]}
    assert wiring.resync(services, "customers").rows > 6
    assert_fact_equals_join(services, engine)


def test_a_topic_that_was_made_again_is_a_gap_that_a_resync_closes(
    services: Settings, engine: Engine
) -> None:
    assert_fact_equals_join(services, engine)
    make_again(services, "cdc.customers")
    with engine.begin() as connection:
        connection.execute(text("UPDATE customers SET city = 'Ulm' WHERE id % 7 = 0"))
    with pytest.raises(TopicGap) as caught:
        wiring.drain(services, "customers")
    assert caught.value.remedy == "read the table again: sluice resync customers"
    wiring.resync(services, "customers")
    assert_fact_equals_join(services, engine)


def test_a_topic_that_was_made_again_with_changes_in_it_does_not_hold_the_slot(
    services: Settings, engine: Engine
) -> None:
    """Nobody will drain what the old topic had, and the slot must not wait for it."""
    assert_fact_equals_join(services, engine)
    topics, topic = Topics(services.kafka), "cdc.customers"
    before = topics.ends([topic])[topic]
    with engine.begin() as connection:
        rows = connection.execute(text("UPDATE customers SET city = 'Bern'")).rowcount
    until(lambda: topics.ends([topic])[topic] >= before + rows, "the changes are on the topic")
    make_again(services, topic)
    wiring.resync(services, "customers")
    assert_fact_equals_join(services, engine)


def test_a_topic_that_was_made_again_and_has_outgrown_the_checkpoint_is_a_gap_too(
    services: Settings, engine: Engine
) -> None:
    with engine.begin() as connection:  # so that its checkpoint is of the present broker
        connection.execute(text("UPDATE products SET category = 'before'"))
    assert_fact_equals_join(services, engine)
    query = "SELECT argMax(next_offset, generation) FROM cdc.checkpoints"
    ((drained,),) = wiring.query(services, f"{query} WHERE source_table = 'products'")[1]
    make_again(services, "cdc.products")
    with engine.begin() as connection:  # other modules may have drained any number of messages
        updates = int(drained) // connection.scalar(text("SELECT count(*) FROM products")) + 2
        for update in range(updates):
            connection.execute(text("UPDATE products SET category = :c"), {"c": f"c{update}"})
    topics = Topics(services.kafka)

    def outgrown() -> bool:
        return topics.ends(["cdc.products"])["cdc.products"] > int(drained)

    until(outgrown, "the topic has outgrown the checkpoint")
    with pytest.raises(TopicGap, match="recreated") as caught:
        wiring.drain(services, "products")
    assert caught.value.remedy == "read the table again: sluice resync products"
    wiring.resync(services, "products")
    assert_fact_equals_join(services, engine)


@pytest.mark.parametrize("keys", [{"lower": "1,2"}, {"keys": ["1", "2,3"]}])
def test_a_key_of_another_shape_is_wrong_usage(services: Settings, keys: Any) -> None:
    with pytest.raises(WrongUsage, match="a key is: id"):
        wiring.resync(services, "customers", **keys)


def test_changes_after_the_fence_win_whenever_they_arrive(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the fence and the rows: an update, a delete, an insert and a key change."""
    read = reading.FencedReading.read
    with engine.connect() as connection:
        ids = connection.scalars(text("SELECT id FROM order_items ORDER BY id LIMIT 3")).all()

    def late(self: Any, *given: Any) -> int:
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE order_items SET quantity = 77 WHERE id = :id"), {"id": ids[0]}
            )
            connection.execute(text("DELETE FROM order_items WHERE id = :id"), {"id": ids[1]})
            connection.execute(
                text("UPDATE order_items SET id = id + 5000000 WHERE id = :id"), {"id": ids[2]}
            )
            connection.execute(
                text(
                    "INSERT INTO order_items (id, order_id, product_id, quantity, price)"
                    " SELECT 6000000, order_id, product_id, 1, 1 FROM order_items LIMIT 1"
                )
            )
        checked(services)  # they are drained before the rows are read
        return read(self, *given)

    monkeypatch.setattr(reading.FencedReading, "read", late)
    wiring.resync(services, "order_items")
    monkeypatch.undo()
    assert_fact_equals_join(services, engine)


def test_a_truncate_after_the_fence_wins(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reading.FencedReading.read
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept_items AS SELECT * FROM order_items LIMIT 40"))

    def late(self: Any, *given: Any) -> int:
        rows = read(self, *given)
        with engine.begin() as connection:
            # TRUNCATE would wait for the snapshot's lock; its transaction ends first.
            self._rows._cursor.execute("COMMIT")
            connection.execute(text("TRUNCATE order_items"))
            connection.execute(text("INSERT INTO order_items SELECT * FROM kept_items LIMIT 9"))
        self._rows._cursor.execute("BEGIN; SAVEPOINT apart")
        checked(services)
        return rows

    monkeypatch.setattr(reading.FencedReading, "read", late)
    wiring.resync(services, "order_items")
    monkeypatch.undo()
    assert_fact_equals_join(services, engine)


def test_a_transaction_that_stays_open_is_named_in_time(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported_snapshot, "PATIENCE", 1.0)
    with engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE held (id int)"))
        connection.execute(text("UPDATE customers SET city = city WHERE id = 1"))
        with pytest.raises(NotReady, match="a transaction is open: pid"):
            wiring.resync(services, "customers")
        connection.rollback()


def test_resyncs_beside_a_busy_store_leave_both_sides_equal(
    services: Settings, engine: Engine
) -> None:
    from store_api.demo import run

    busy = threading.Thread(
        target=run, args=(services,), kwargs={"rate": 60, "seconds": 8, "seed": 3}
    )
    busy.start()
    while busy.is_alive():
        for table in ("order_items", "orders"):
            try:
                wiring.resync(services, table)
            except Retryable:
                time.sleep(0.1)
    busy.join()
    assert_fact_equals_join(services, engine)
