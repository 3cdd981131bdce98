"""A producer with write access to the topics: what it sends costs at most itself.

And a table whose state is wrong already says so, with a command that brings it right.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from sluice import wiring
from sluice.adapters.clickhouse import ClickHouse
from sluice.catalog import load_catalog
from sluice.cli import app
from sluice.contention import until_done
from sluice.errors import Retryable, RowsRejected
from sluice.quality import Check
from sluice.relay import reading
from sluice.settings import Settings
from sluice.wiring.drains import draining, make_decoder
from store_api.database import make_engine
from store_api.demo import load
from tests.conftest import running_services, temporary_home
from tests.integration.test_loop import checked, relaying

pytestmark = pytest.mark.services

TABLE, TOPIC = "products", "cdc.products"
ROWS = "SELECT id, name, category, price::text FROM products ORDER BY id"
STORED = "SELECT id, name, category, toDecimalString(price, 2) FROM olap.dim_product ORDER BY id"
LAST = "FFFFFFFF/FFFFFFF0"


@pytest.fixture(scope="module")
def services() -> Iterator[Settings]:
    """Services of its own: tables end in other epochs than they begin."""
    with temporary_home() as home, running_services(home) as settings:
        yield settings


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=5, orders=10, seed=19)
    with relaying(services):
        assert not checked(services).failures
        yield made
    made.dispose()


def event(operation: str, payload: Any, **metadata: Any) -> bytes:
    place = {"lsn": "0/1", "commit_lsn": "0/10", "ordinal": 1, "commit_ts_ms": 1}
    head = {"source": "relay", "table": TABLE, "operation": operation, **place, **metadata}
    return json.dumps({"metadata": head, "payload": payload, "before": None}).encode()


def product(key: int, name: str = "forged") -> dict[str, Any]:
    created = "2026-01-01T00:00:00Z"
    return {"id": key, "name": name, "category": "c", "price": "1.00", "created_at": created}


def send(settings: Settings, *values: bytes | None, **options: Any) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap, **options})
    for value in values:
        producer.produce(TOPIC, value=value, key=b'{"id":1}')
    assert producer.flush(30) == 0


def in_postgres(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(ROWS))]


def stored(settings: Settings) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in wiring.query(settings, STORED)[1]]


def honest(settings: Settings, engine: Engine, *, equal: bool = True) -> None:
    """Change every product in PostgreSQL, and drain until ClickHouse has it."""
    name = f"name {time.monotonic_ns()}"
    with engine.begin() as connection:
        connection.execute(text("UPDATE products SET name = :name"), {"name": name})
    deadline = time.monotonic() + 30
    while stored(settings) != in_postgres(engine) if equal else not drained(settings, name):
        assert time.monotonic() < deadline, wiring.dead_letters(settings, TABLE, 5)
        wiring.drain(settings, TABLE)


def drained(settings: Settings, name: str) -> bool:
    """Whether a change has come to the history, whatever hides it in the current state."""
    query = f"SELECT count() FROM cdc.history_products WHERE name = '{name}' OR _is_deleted"
    found = wiring.query(settings, f"{query} AND _seq > 0")[1]
    return bool(found[0][0])


def check(settings: Settings, name: str) -> Check:
    """A check of the minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            report = wiring.quality(settings, [TABLE])
            (found,) = [one for one in report.checks if (one.table, one.check) == (TABLE, name)]
            return found
        except Retryable:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def run(settings: Settings, *arguments: str) -> Result:
    """A command of `sluice`."""
    environment = {
        **os.environ,
        "SLUICE_HOME": str(settings.home),
        "SLUICE_KAFKA_PORT": settings.kafka.bootstrap.rpartition(":")[2],
        "SLUICE_POSTGRES_PORT": str(settings.postgres.port),
        "SLUICE_CLICKHOUSE_PORT": str(settings.clickhouse.port),
    }
    return CliRunner().invoke(app, list(arguments), env=environment)


def advised(settings: Settings, found: Check) -> Result:
    """Run the command that a check names."""
    command = found.repair.removeprefix("run: ")
    assert command.startswith("sluice "), found
    done = run(settings, *shlex.split(command)[1:])
    assert done.exit_code == 0, (done.output, done.exception)
    return done


FORGED = {
    "a truncate at the last position": event("truncate", None, commit_lsn=LAST),
    "an update at the last position": event("update", product(1), commit_lsn=LAST),
    "a delete at the last position": event("delete", {"id": 1}, commit_lsn=LAST),
    "a position with a sign": event("truncate", None, commit_lsn="-1/0"),
    "a position with an underscore": event("update", product(1), commit_lsn="1_0/0"),
    "a position with blanks": event("truncate", None, commit_lsn="+1/ 2"),
    "digits of another script": event("truncate", None, commit_lsn="٣/٣"),
    "a position of small letters": event("truncate", None, commit_lsn="f/f"),
    "an ordinal above all": event("update", product(1), ordinal=1 << 48),
    "an ordinal of 500 bits": event("truncate", None, ordinal=1 << 500),
    "another source": event("update", product(1), source="connect"),
    "a fence of another source": event("truncate", None, source="connect", fence=1 << 60),
    "no value": None,
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_event_costs_itself(
    services: Settings, engine: Engine, forged: bytes | None
) -> None:
    before = len(letters(services))
    send(services, forged)
    honest(services, engine)
    assert len(letters(services)) == before + 1
    assert wiring.quality(services, [TABLE]).passed


def letters(settings: Settings) -> list[Any]:
    return wiring.dead_letters(settings, TABLE, 1000, every=True)


def unbounded(settings: Settings) -> None:
    """Drain as it was before positions had a bound."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, draining(settings) as drain:
        decoder = make_decoder(clickhouse, load_catalog("models"), TABLE)
        free = replace(drain, wal_end=None) if hasattr(drain, "wal_end") else drain
        until_done(lambda: free.run(decoder))


def planted_truncate(settings: Settings) -> None:
    send(settings, event("truncate", None, commit_lsn=LAST))
    unbounded(settings)


def planted_rows(settings: Settings) -> None:
    """Of a key that PostgreSQL has, of one that it has not, and the delete of another."""
    forged = [event("update", product(key), commit_lsn=LAST) for key in (1, 990_001)]
    send(settings, *forged, event("delete", {"id": 2}, commit_lsn=LAST))
    unbounded(settings)


def planted_near(settings: Settings) -> None:
    """Ahead by a megabyte, which is no position that anything else takes for impossible."""
    ((end,),) = wiring.query(settings, "SELECT max(_version) FROM cdc.dim_product")[1]
    lsn = (int(end) >> 48 & (1 << 64) - 1) + (1 << 28)
    place = f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
    send(settings, event("update", product(1), commit_lsn=place))
    unbounded(settings)


def planted_markers(settings: Settings) -> None:
    """Straight into ClickHouse: delete markers of an epoch that never began."""
    wiring.query(
        settings,
        "INSERT INTO cdc.dim_product SELECT * REPLACE (1 AS _is_deleted,"
        " bitShiftLeft(toUInt128(65535), 112) AS _version) FROM cdc.dim_product FINAL",
    )


def planted_checkpoint(settings: Settings) -> None:
    wiring.query(
        settings,
        "INSERT INTO cdc.checkpoints SELECT * REPLACE (generation + 1 AS generation,"
        " bitShiftLeft(toUInt128(65535), 112) AS truncated) FROM cdc.checkpoints"
        f" WHERE source_table = '{TABLE}' ORDER BY generation DESC LIMIT 1",
    )


PLANTED = [planted_truncate, planted_rows, planted_near, planted_markers, planted_checkpoint]
REMEDIES: list[Sequence[str]] = [(), ("resync", TABLE), ("resync", "--diff", TABLE), ("recover",)]


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_ahead_already_is_found_and_the_named_command_sets_it_right(
    services: Settings, engine: Engine, plant: Any
) -> None:
    plant(services)
    found = check(services, "ahead")
    assert found.status == "fail"
    assert "ahead of PostgreSQL's WAL" in found.difference
    advised(services, found)
    assert stored(services) == in_postgres(engine)
    assert check(services, "ahead").status == "pass"
    honest(services, engine)


@pytest.mark.parametrize("remedy", REMEDIES[1:], ids=" ".join)
def test_each_command_that_repairs_sets_it_right(
    services: Settings, engine: Engine, remedy: Sequence[str]
) -> None:
    for plant in (planted_rows, planted_truncate, planted_markers):
        plant(services)
    done = run(services, *remedy)
    assert done.exit_code == 0, (done.output, done.exception)
    assert stored(services) == in_postgres(engine)
    honest(services, engine)
    assert wiring.quality(services).passed


def test_a_resync_fails_while_rows_that_it_wrote_are_hidden(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reading.FencedReading.read

    def late(self: Any, selection: Any) -> int:
        planted_markers(services)  # after everything that was there before was put below
        return read(self, selection)

    monkeypatch.setattr(reading.FencedReading, "read", late)
    done = run(services, "resync", TABLE)
    assert isinstance(done.exception, RowsRejected), (done.output, done.exception)
    assert done.exception.exit_code == 1
    assert "ahead of the source hides the row" in str(done.exception)
    monkeypatch.undo()
    assert run(services, "resync", TABLE).exit_code == 0
    assert stored(services) == in_postgres(engine)
