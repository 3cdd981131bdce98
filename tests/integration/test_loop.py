"""Postgres to fact on the real services, with Postgres' own join as the oracle."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.clients.topics import Topics
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.oracle import change
from tests.support.pipeline import assert_fact_equals_join, checked, relaying
from tests.support.waiting import until

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def relay(services: Settings) -> Iterator[threading.Event]:
    with relaying(services) as stop:
        yield stop


def test_the_snapshot_and_the_stream_give_the_join_postgres_gives(
    services: Settings, engine: Engine, relay: threading.Event
) -> None:
    load(services, customers=50, orders=200, seed=1)
    assert_fact_equals_join(services, engine)


def test_thousands_of_random_changes_and_key_changes_give_the_join_postgres_gives(
    services: Settings, engine: Engine, relay: threading.Event
) -> None:
    chance = random.Random(7)
    for _ in range(3):
        change(engine, chance, 1000)
        wiring.drain(services, "order_items")
    assert_fact_equals_join(services, engine)


def test_a_large_value_that_an_update_left_out_is_kept(
    services: Settings, engine: Engine, relay: threading.Event
) -> None:
    large = "".join(map(chr, random.Random(3).choices(range(33, 123), k=200)))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE customers ALTER name TYPE text"))
        connection.execute(text("ALTER TABLE customers ALTER name SET STORAGE EXTERNAL"))
        wide = large * 200
        connection.execute(text("UPDATE customers SET name = :wide WHERE id = 1"), {"wide": wide})
    with engine.begin() as connection:
        connection.execute(text("UPDATE customers SET city = 'Bonn' WHERE id = 1"))
    checked(services)
    _, rows = wiring.query(services, "SELECT name, city FROM olap.dim_customer WHERE id = 1")
    assert rows == [(wide, "Bonn")]
    with engine.begin() as connection:
        connection.execute(text("UPDATE customers SET name = 'Ada' WHERE id = 1"))
        connection.execute(text("ALTER TABLE customers ALTER name TYPE varchar(255)"))


def test_truncate_empties_the_fact_and_a_full_rebuild_equals_the_incremental_one(
    services: Settings, engine: Engine, relay: threading.Event
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMP TABLE kept AS SELECT * FROM order_items LIMIT 50"))
        connection.execute(text("TRUNCATE order_items"))
        connection.execute(text("INSERT INTO order_items SELECT * FROM kept"))
    assert_fact_equals_join(services, engine)
    assert wiring.rebuild(services, "fact_order_item", full=True).mode == "full"
    assert_fact_equals_join(services, engine)


def test_the_row_that_is_true_at_the_end_wins_although_its_record_lsn_is_smaller(
    services: Settings, engine: Engine, relay: threading.Event
) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO products VALUES (2000000900, 'first', 'x', 1, now())"))
    one, two = engine.connect(), engine.connect()
    one.execute(text("DELETE FROM products WHERE id = 2000000900"))
    insert = text("INSERT INTO products VALUES (2000000900, 'second', 'x', 2, now())")

    def insert_and_commit() -> None:
        two.execute(insert)
        two.commit()

    waiting = threading.Thread(target=insert_and_commit)
    waiting.start()
    with engine.connect() as watcher:
        blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        until(lambda: watcher.scalar(blocked), "the insert waits for the delete")
    one.execute(text("INSERT INTO products VALUES (2000000901, 'other', 'x', 3, now())"))
    one.commit()
    waiting.join()
    one.close()
    two.close()
    checked(services)
    _, rows = wiring.query(services, "SELECT name FROM olap.dim_product WHERE id = 2000000900")
    assert rows == [("second",)]


def test_foreign_and_malformed_messages_become_dead_letters_and_lose_nothing(
    services: Settings, engine: Engine, relay: threading.Event
) -> None:
    wiring.query(services, "TRUNCATE TABLE cdc.dead_letters")  # which other modules have left
    producer = Producer({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})
    for value in (b"", b"not json", b'{"metadata": {}}', b"\xff\xfe", None):
        producer.produce("cdc.products", value=value, key=b"k")
    assert producer.flush(10) == 0
    report = wiring.drain(services, "products")
    assert report.rejected == 5
    letters = wiring.dead_letters(services, "products", 50)
    assert len(letters) == 5
    assert all(letter.reason for letter in letters)
    assert_fact_equals_join(services, engine)


def test_a_missing_row_in_clickhouse_is_found(
    services: Settings, engine: Engine, relay: threading.Event
) -> None:
    checked(services)
    _, rows = wiring.query(services, "SELECT max(order_item_id) FROM olap.fact_order_item")
    wiring.query(services, f"DELETE FROM cdc.src_order_item WHERE id = {rows[0][0]}")
    report = wiring.quality(services)
    assert not report.passed
    failed = {check.table for check in report.checks if check.status == "fail"}
    assert "order_items" in failed
    wiring.resync(services, "order_items")
    assert_fact_equals_join(services, engine)


def test_the_slot_moves_on_when_everything_is_drained(
    services: Settings, relay: threading.Event
) -> None:
    checked(services)
    status = wiring.status(services)
    assert status["slot"]["wal_status"] == "reserved"
    assert all(table["pending_events"] == 0 for table in status["tables"].values())
    assert all(table["freshness_s"] < 60 for table in status["tables"].values())
    assert status["fact"]["rows"] == status["facts"]["fact_order_item"]["rows"] > 0
    assert Topics(services.kafka).slot_note() is not None
