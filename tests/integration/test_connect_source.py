"""Redpanda Connect's envelopes on the real services: drained, read again, and the relay back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture import slot as slots
from sluice.clients.topics import Topics
from sluice.embedded import postgres
from sluice.errors import NotReady
from sluice.generate.connect import CONFIGURATION
from sluice.quality.checks import Check
from sluice.settings import PROJECT, Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.background import repeating
from tests.support.damage import make_again
from tests.support.pipeline import checked, relaying
from tests.support.services import (
    drop_slot,
    free_ports,
    own_services,
)
from tests.support.waiting import until

pytestmark = pytest.mark.services

ROWS = "SELECT id, name, category, price::text FROM products ORDER BY id"
RENAME = (
    "UPDATE products SET name = :name WHERE id = :id"
    " RETURNING id, name, category, price::text, to_char(created_at AT TIME ZONE 'UTC',"
    ' \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')'
)
FOUND = (
    "SELECT id, name, category, toDecimalString(price, 2) FROM cdc.dim_product FINAL"
    " WHERE _is_deleted = 0 ORDER BY id"
)


CONNECT = shutil.which("redpanda-connect")
INPUT = """
input:
  file:
    paths: ["{path}"]
  processors:
    - mapping: |
        root = this.message
        meta = this.metadata
"""


def send(settings: Settings, operation: str, row: Any, before: Any = None) -> None:
    """What redpanda-connect.yaml's mapping writes for a change of products."""
    metadata = {"source": "connect", "table": "products", "operation": operation}
    place = {"lsn": "0/1", "commit_ts_ms": 1730000000000}
    value = {"metadata": {**metadata, **place}, "payload": row, "before": before}
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap, **settings.kafka.options})
    producer.produce("cdc.products", key=json.dumps({"id": row["id"]}), value=json.dumps(value))
    assert producer.flush(10) == 0


def product(key: int, name: str) -> dict[str, Any]:
    created = "2026-01-01T00:00:00Z"
    return {"id": key, "name": name, "category": "c", "price": "1.00", "created_at": created}


def drained(settings: Settings) -> list[tuple[Any, ...]]:
    wiring.drain(settings, "products")
    return wiring.query(settings, FOUND)[1]


def in_postgres(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(ROWS))]


# Of its own: they keep Connect as their source.
services = own_services


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=5, orders=10, seed=3)
    with relaying(services):
        checked(services)
        with pytest.raises(NotReady, match="is being read from"):
            wiring.change_source(services, "connect")
    for table in ("customers", "products", "orders", "order_items"):
        while not wiring.drain(services, table).caught_up:
            pass
    changed = until_released(services, "connect")
    assert "products: from here on its changes come from connect" in changed
    yield made
    made.dispose()


def until_released(settings: Settings, source: str) -> list[str]:
    """The change of source, as soon as Postgres has noticed that the relay is gone."""
    changed = until(
        lambda: [wiring.change_source(settings, source)],
        "PostgreSQL has noticed that the relay is gone",
        retry=NotReady,
    )
    return changed[0]


def test_connects_changes_win_over_the_relays_and_follow_their_order(
    services: Settings, engine: Engine
) -> None:
    (first, *_) = in_postgres(engine)
    send(services, "update", {**product(first[0], "of Connect")})
    send(services, "insert", product(700001, "new"))
    send(services, "update", product(700002, "moved"), {"id": 700001})
    found = {row[0]: row[1] for row in drained(services)}
    assert found[first[0]] == "of Connect"
    assert found[700002] == "moved"
    assert 700001 not in found


@pytest.mark.skipif(CONNECT is None, reason="redpanda-connect is not on PATH")
def test_the_program_itself_writes_what_the_drain_takes_and_the_rest_to_the_control_topic(
    services: Settings, engine: Engine, tmp_path: Path
) -> None:
    """Its mapping and its output; only its licensed input is replaced, by messages of a file."""
    assert CONNECT is not None
    messages: list[Any] = [
        {"metadata": {"table": "products", "operation": "read"}, "message": product(700010, "é")},
        {"metadata": {"table": "", "operation": ""}, "message": None},
        *(
            {
                "metadata": {"table": "products", "operation": "update", "lsn": "0/1"},
                "message": product(700011, f"version {number}"),
            }
            for number in range(3000)
        ),
    ]
    lines = tmp_path / "messages"
    lines.write_text("".join(json.dumps(message) + "\n" for message in messages))
    text = (PROJECT / CONFIGURATION).read_text()
    head, rest = text.split("\ninput:\n")
    _, tail = rest.split("\npipeline:\n")
    file = tmp_path / CONFIGURATION
    file.write_text(f"{head}\n{INPUT.format(path=lines)}\npipeline:\n{tail}")
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": services.kafka.bootstrap,
        "KAFKA_SASL_MECHANISM": services.kafka.options["sasl.mechanisms"],
        "KAFKA_SASL_USERNAME": services.kafka.options["sasl.username"],
        "KAFKA_SASL_PASSWORD": services.kafka.options["sasl.password"],
        "CONNECT_HTTP_ADDRESS": f"127.0.0.1:{free_ports(1)[0]}",
    }
    topics = Topics(services.kafka)
    before = topics.ends(["cdc.control"])["cdc.control"]
    done = subprocess.run(
        [CONNECT, "run", str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row[0]: row[1] for row in drained(services)}
    assert (found[700010], found[700011]) == ("é", "version 2999")
    assert topics.ends(["cdc.control"])["cdc.control"] == before + 1


def test_a_resync_behind_the_topics_end_makes_the_table_equal_and_later_changes_win(
    services: Settings, engine: Engine
) -> None:
    send(services, "insert", product(700003, "a ghost"))
    assert 700003 in {row[0] for row in drained(services)}
    report = wiring.resync(services, "products")
    assert report.deleted >= 1
    assert drained(services) == in_postgres(engine)
    (first, *_) = in_postgres(engine)
    send(services, "update", product(first[0], "after the fence"))
    assert {row[0]: row[1] for row in drained(services)}[first[0]] == "after the fence"


@contextmanager
def confirming(engine: Engine) -> Iterator[None]:
    """What Connect tells PostgreSQL: that it has everything."""
    advance = text(
        "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn())"
        " FROM pg_replication_slots WHERE slot_name = 'sluice'"
    )

    def confirm() -> None:
        with engine.begin() as connection:
            connection.execute(advance)

    with repeating(confirm, 0.1):
        yield


def rename(settings: Settings, engine: Engine, keys: Sequence[int], name: str) -> None:
    """Change rows, of which Connect sends the events."""
    for key in keys:
        with engine.begin() as connection:
            row = connection.execute(text(RENAME), {"id": key, "name": name}).one()
        named = dict(zip(("id", "name", "category", "price", "created_at"), row, strict=True))
        send(settings, "update", named)


def lost(settings: Settings, engine: Engine) -> None:
    """Changes that Connect never sends, and a row that PostgreSQL does not have."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE products SET name = name || '?' WHERE id % 3 = 0"))
        connection.execute(text("UPDATE customers SET city = 'Linz' WHERE id % 3 = 0"))
    send(settings, "insert", product(700005, "a ghost"))


def rows_check(settings: Settings) -> Check:
    report = wiring.quality(settings, ["products"], deep=True)
    (found,) = [check for check in report.checks if check.check == "rows"]
    return found


def test_writes_that_go_on_raise_no_alarm_and_hide_no_row(
    services: Settings, engine: Engine
) -> None:
    wiring.resync(services, "products")
    keys, numbers = [row[0] for row in in_postgres(engine)], count()

    def write() -> None:
        rename(services, engine, keys[1:], f"name {next(numbers)}")

    with confirming(engine):
        with repeating(write, 0.05):
            assert rows_check(services).status == "pass"
            wiring.query(
                services,
                "INSERT INTO cdc.dim_product SELECT * REPLACE ('odd' AS name,"
                f" _version + 1 AS _version) FROM cdc.dim_product FINAL WHERE id = {keys[0]}",
            )
            found = rows_check(services)
        assert (found.status, found.keys) == ("fail", (str(keys[0]),))
        assert found.difference == f"{keys[0]} differs in name"
        wiring.resync(services, "products", keys=found.keys)
        assert rows_check(services).status == "pass"


def test_a_recovery_reads_what_connect_did_not_send(services: Settings, engine: Engine) -> None:
    lost(services, engine)
    with confirming(engine):
        told = list(wiring.recover(services))
        assert not any("new slot" in line for line in told), told
        assert any(line.startswith("customers: ") and " keys), " in line for line in told), told
        assert wiring.quality(services, deep=True).passed
    assert drained(services) == in_postgres(engine)


def test_after_a_lost_slot_a_recovery_makes_one_that_connect_goes_on_from(
    services: Settings, engine: Engine
) -> None:
    drop_slot(services)
    lost(services, engine)
    told = list(wiring.recover(services))
    assert "replication slot 'sluice' is gone" in told[0]
    assert told[-1] == "start Redpanda Connect; it goes on from the new slot"
    assert drained(services) == in_postgres(engine)
    (key, *_) = in_postgres(engine)[0]
    rename(services, engine, [key], "after the recovery")
    with confirming(engine):
        assert wiring.quality(services, deep=True).passed
    assert drained(services) == in_postgres(engine)


def test_after_slot_and_topics_were_lost_offsets_that_begin_anew_win(
    services: Settings, engine: Engine
) -> None:
    drop_slot(services)
    lost(services, engine)
    for name in ("cdc.products", "cdc.customers"):
        make_again(services, name)
    list(wiring.recover(services))
    assert drained(services) == in_postgres(engine)
    (key, *_) = in_postgres(engine)[0]
    rename(services, engine, [key], "on the new topic")
    with confirming(engine):
        assert wiring.quality(services, deep=True).passed


@contextmanager
def another_reader(of: Settings) -> Iterator[None]:
    """A program other than the relay that reads from the slot, as Connect does."""
    server, relay = of.postgres, of.relay
    command = [str(postgres.BINARIES / "pg_recvlogical"), "--start", "--no-loop", "-f", "/dev/null"]
    command += ["-h", server.host, "-p", str(server.port), "-U", server.user, "-d", server.database]
    command += ["-S", relay.slot, "-o", "proto_version=1"]
    command += ["-o", f"publication_names={relay.publication}"]
    environment = {**os.environ, "PGPASSWORD": server.password.get_secret_value()}
    program = subprocess.Popen(command, env=environment)
    try:
        with slots.session(server) as cursor:
            until(
                lambda: slots.reader(cursor, relay.slot) is not None,
                "a session reads from the slot",
            )
            yield
    finally:
        program.terminate()
        program.wait(30)
        with slots.session(server) as cursor:  # its session there ends a little later
            until(
                lambda: slots.reader(cursor, relay.slot) is None, "no session reads from the slot"
            )


def test_with_clickhouse_and_topics_emptied_the_source_is_who_reads_from_the_slot(
    services: Settings, engine: Engine
) -> None:
    for name in ("cdc.products", "cdc.customers", "cdc.orders", "cdc.order_items"):
        make_again(services, name)
    for database in ("olap", "cdc"):
        wiring.query(services, f"DROP DATABASE {database} SYNC")
    wiring.initialise(services)
    with pytest.raises(NotReady, match="nothing says which source") as caught:
        wiring.resync(services, "products")
    assert caught.value.remedy is not None
    assert "sluice source connect" in caught.value.remedy
    with another_reader(services):
        wiring.resync(services, "products")
    wiring.resync(services, "customers")  # by now another table says it
    assert drained(services) == in_postgres(engine)
    sources = "SELECT DISTINCT source FROM cdc.checkpoints WHERE source != ''"
    assert wiring.query(services, sources)[1] == [("connect",)]
    (key, *_) = in_postgres(engine)[0]
    rename(services, engine, [key], "after everything was lost")
    assert drained(services) == in_postgres(engine)
    with confirming(engine):
        assert list(wiring.recover(services))
        assert wiring.quality(services, deep=True).passed


def test_the_relay_takes_over_again_with_a_new_snapshot(services: Settings, engine: Engine) -> None:
    assert until_released(services, "relay")
    assert until_released(services, "relay") == []
    without = replace(services, relay=replace(services.relay, slot="not_there"))
    assert wiring.change_source(without, "relay") == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE products SET name = name || '!' WHERE id % 2 = 0"))
    with relaying(services, snapshot=True):
        report = checked(services)
        assert not report.failures
        assert wiring.quality(services, deep=True).passed
        assert drained(services) == in_postgres(engine)
