"""First copies and added tables in bulk, cut short between any two effects, beside writes."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture import initial_copy, table_copy
from sluice.cli import first_facts
from sluice.clients.clickhouse_http import insertion
from sluice.clients.topics import Topics
from sluice.drain import bulk_load
from sluice.embedded.stack import Stack
from sluice.errors import NotReady
from sluice.settings import Settings
from sluice.wiring.bulk import first_loads
from store_api.database import make_engine
from store_api.demo import load
from tests.integration.stock import ITEMS, restock
from tests.support import pipeline, processes
from tests.support.background import repeating
from tests.support.oracle import change
from tests.support.pipeline import CATALOG, assert_fact_equals_join, relaying
from tests.support.services import own_services
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.clickhouse_may_crash]
services = own_services  # its servers are killed
TOPICS = [table.topic for table in CATALOG.tables]
MODULE = "tests.integration.interrupted_copy"
BY_TOPIC = "rows go through the topic"


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=50, orders=300, seed=1)
    yield made
    made.dispose()


@pytest.fixture(autouse=True)
def small(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items in several inserts, and the smallest table in bulk."""
    restock(engine)
    monkeypatch.setattr(table_copy, "_FEWEST_PAGES", 0)
    monkeypatch.setattr(table_copy, "_PAGES_IN_A_RANGE", 1)
    monkeypatch.setattr(table_copy, "_RANGES_IN_AN_INSERT", 2)


def spoil(settings: Settings) -> None:
    """A wrong quantity of each item, and an item that PostgreSQL lacks, also in the fact."""
    wiring.query(
        settings,
        "INSERT INTO cdc.src_order_item SELECT * REPLACE (quantity + 100 AS quantity,"
        " _version + 1 AS _version) FROM cdc.src_order_item FINAL",
    )
    wiring.query(
        settings,
        "INSERT INTO cdc.src_order_item SELECT * REPLACE (123456 AS id)"
        " FROM cdc.src_order_item FINAL LIMIT 1",
    )
    wiring.rebuild(settings, "fact_order_item", full=True)


def hooked(monkeypatch: pytest.MonkeyPatch, name: str, reached: Callable[[str], object]) -> None:
    """Call this at each failpoint of `take` or `add`."""
    step = partial(getattr(initial_copy, name), reached=reached)
    monkeypatch.setattr(initial_copy, name, step)


def equal(settings: Settings, engine: Engine) -> None:
    assert_fact_equals_join(settings, engine)
    assert wiring.quality(settings, deep=True, restart=True).passed


def drained(settings: Settings) -> bool:
    wiring.drain_all(settings).require()
    return True


def events(settings: Settings) -> dict[str, int]:
    return Topics(settings.kafka).ends(TOPICS)


def test_rows_go_past_the_topics_and_the_next_rebuild_reads_them(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[str] = []
    shown: set[tuple[object, ...]] = set()

    def reached(point: str) -> None:
        passed.append(point)
        if point == "rows stored":
            shown.add(first_facts._progress(services))

    with relaying(services, snapshot=True):
        pass
    spoil(services)
    before = events(services)
    hooked(monkeypatch, "take", reached)
    with relaying(services, snapshot=True):
        equal(services, engine)
    assert events(services) == {topic: count + 1 for topic, count in before.items()}
    assert list(dict.fromkeys(passed)) == list(initial_copy.POINTS)
    assert passed.count("rows stored") > len(TOPICS)
    assert len(shown) > 1  # which `sluice up` waits for


def test_rows_that_do_not_fit_become_dead_letters_and_stop_no_drain(
    services: Settings, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE order_items SET price = 'NaN' WHERE id <= 150"))
    with relaying(services, snapshot=True):
        letters = wiring.dead_letters(services, ITEMS.name, 1000)
        assert len(letters) == 150
        with engine.begin() as connection:
            connection.execute(text("UPDATE order_items SET price = 5 WHERE id <= 150"))
        equal(services, engine)
    assert wiring.dead_letters(services, ITEMS.name, 1000) == []


def test_drains_beside_a_copy_accept_the_rows_that_do_not_fit_also_where_it_was_cut_short(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are on the first pages, so at first they are all that was read."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE order_items SET price = 'NaN' WHERE id <= 150"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CLUSTER order_items USING order_items_pkey"))
    monkeypatch.setattr(table_copy, "_RANGES_IN_AN_INSERT", 1)
    copied: list[str] = []

    def drain_and_fail_once(point: str) -> None:
        drained(services)
        if point == "table copied":
            copied.append(point)
            if len(copied) == len(TOPICS):
                raise NotReady("cut short")

    hooked(monkeypatch, "take", drain_and_fail_once)
    with relaying(services, snapshot=True):
        assert len(copied) == 2 * len(TOPICS)
        with engine.begin() as connection:
            connection.execute(text("UPDATE order_items SET price = 5 WHERE id <= 150"))
        equal(services, engine)


def test_what_is_written_during_the_copy_is_neither_lost_nor_overwritten(
    services: Settings, engine: Engine
) -> None:
    chance = random.Random(5)

    def write() -> None:
        change(engine, chance, 60)
        restock(engine)  # with a TRUNCATE

    with repeating(write), relaying(services, snapshot=True):
        pass
    with relaying(services):
        equal(services, engine)


def test_a_copy_that_is_killed_at_any_point_starts_again_and_leaves_nothing_stale(
    services: Settings, engine: Engine
) -> None:
    for number, point in enumerate(initial_copy.POINTS):
        times = 3 if point.startswith("rows s") else 1  # an insert in the midst of a table
        # Without a drain, for which the copy would wait.
        processes.killed(services, MODULE, point, times, SLUICE_RELAY_ACK="broker")
        with engine.begin() as connection:
            connection.execute(
                text("DELETE FROM order_items WHERE id % 10 = :number"), {"number": number}
            )
            connection.execute(text("UPDATE order_items SET quantity = quantity + 1"))
    with relaying(services, snapshot=True):
        equal(services, engine)


@pytest.mark.parametrize("program", ["clickhouse", "postgres", "broker"])
def test_a_server_that_is_killed_lets_the_copy_start_again(
    services: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
) -> None:
    first = Stack(services).states()[program].pid
    assert first
    killed: list[int] = []

    def kill(passed: str) -> None:
        if passed == "rows sent" and not killed:
            killed.append(first)
            os.kill(first, signal.SIGKILL)

    hooked(monkeypatch, "take", kill)
    with relaying(services, snapshot=True):
        assert killed
        equal(services, engine)
    engine.dispose()  # its sessions ended with the server


def test_an_added_table_is_copied_beside_the_stream(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relaying(services, snapshot=True):
        pass
    spoil(services)
    topics, passed = Topics(services.kafka), list[str]()
    noted = topics.slot_note(services.relay.slot)
    assert noted
    del noted["publication"]["tables"][ITEMS.name]  # as if the models had it only now
    topics.note_slot({name: value for name, value in noted.items() if name != "epoch"})
    before = events(services)
    hooked(monkeypatch, "add", passed.append)
    with relaying(services):
        until(lambda: drained(services) and "snapshot noted" in passed, "the table is added")
        assert events(services) == {**before, ITEMS.topic: before[ITEMS.topic] + 1}
        assert "rows stored" in passed
        equal(services, engine)


@pytest.fixture
def elsewhere(services: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay does not reach ClickHouse."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    closed = replace(services.clickhouse, port=port, http_port=port, account=None)
    loads = partial(first_loads, replace(services, clickhouse=closed))
    monkeypatch.setattr(pipeline, "first_loads", lambda _: loads())


def test_without_clickhouse_rows_go_through_the_topics(
    services: Settings, engine: Engine, elsewhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    before = events(services)
    with relaying(services, snapshot=True):
        assert events(services)[ITEMS.topic] == before[ITEMS.topic] + 420 + 1
        assert caplog.text.count(BY_TOPIC) == len(TOPICS)
        equal(services, engine)


def test_the_insert_of_a_killed_copy_is_awaited(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows would be stored after the truncate that has to hide them."""
    monkeypatch.setattr(bulk_load, "_ENDED_SECONDS", 0.0)
    with relaying(services, snapshot=True):
        pass
    with first_loads(services) as loads:
        copy = loads(ITEMS)
        assert isinstance(copy, bulk_load.BulkLoad)
        statement = f"INSERT INTO cdc.{ITEMS.storage} (id) FORMAT TabSeparated\n"
        with (
            suppress(ZeroDivisionError),
            insertion(services.clickhouse, statement, lambda _: None, f"{copy.alone}1") as body,
        ):
            body.write(b"1\n" * 200_000)  # ClickHouse begins when it has the longest statement
            body.flush()
            until(lambda: running(services, copy.alone), "ClickHouse runs the insert")
            with pytest.raises(NotReady, match="of an earlier copy has not ended"):
                copy.begin(1)
            raise ZeroDivisionError
        until(lambda: not running(services, copy.alone), "ClickHouse has ended the insert")
        copy.begin(1)


def running(settings: Settings, prefix: str) -> bool:
    query = f"SELECT 1 FROM system.processes WHERE startsWith(query_id, '{prefix}')"
    return bool(wiring.query(settings, query)[1])
