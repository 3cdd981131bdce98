"""A table whose changes cannot be sent is left out, said so, and brought back by one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from unittest.mock import patch

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.adapters.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.parked import Hole
from sluice.resync import Resync
from sluice.settings import Settings
from sluice.wiring.parked import holes_in
from store_api.database import make_engine
from store_api.demo import load
from tests.faults.source import until
from tests.integration.test_loop import checked, relaying
from tests.oracle import facts, joined

pytestmark = pytest.mark.services

TABLE = "order_items"
KEY = "ALTER TABLE order_items DROP CONSTRAINT order_items_pkey, ADD PRIMARY KEY"
# What happens to the table -> and what its owner does about it; without, `sluice init` does.
CAUSES: dict[str, tuple[list[str], list[str]]] = {
    "no replica identity": (
        ["ALTER TABLE order_items REPLICA IDENTITY NOTHING"],
        ["ALTER TABLE order_items REPLICA IDENTITY DEFAULT"],
    ),
    "another key": ([f"{KEY} (id, order_id)"], [f"{KEY} (id)"]),
    "renamed": (
        ["ALTER TABLE order_items RENAME TO moved"],
        ["ALTER TABLE moved RENAME TO order_items"],
    ),
    "swapped": (
        [
            "CREATE TABLE other (LIKE order_items INCLUDING ALL)",
            "INSERT INTO other SELECT * FROM order_items WHERE id % 2 = 0",
            "ALTER TABLE order_items RENAME TO former",
            "ALTER TABLE other RENAME TO order_items",
        ],
        [],
    ),
    "not in the publication": (["ALTER PUBLICATION {} DROP TABLE order_items"], []),
}


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=10, orders=30, seed=11)
    with relaying(services):
        assert not checked(services).failures
    yield made
    made.dispose()


def run(engine: Engine, settings: Settings, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement.format(settings.relay.publication)))


def open_holes(settings: Settings) -> list[Hole]:
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return holes_in(clickhouse).open()


def customers_arrive(settings: Settings, engine: Engine, name: str) -> None:
    run(
        engine,
        settings,
        "INSERT INTO customers (email, name, country, city, created_at)"
        f" VALUES ('{name}@example.com', '{name}', 'USA', 'NYC', now())",
    )

    def arrived() -> bool:
        wiring.drain(settings, "customers")
        query = f"SELECT count() FROM olap.dim_customer WHERE name = '{name}'"
        return wiring.query(settings, query)[1] == [(1,)]

    until(arrived)


@pytest.mark.parametrize("cause", CAUSES)
def test_one_table_is_parked_and_brought_back_while_the_others_go_on(
    services: Settings, engine: Engine, cause: str
) -> None:
    change, repair = CAUSES[cause]
    name, number = cause.replace(" ", "_"), list(CAUSES).index(cause)
    with relaying(services):
        customers_arrive(services, engine, f"{name}_before")
        run(engine, services, *change)
        until(lambda: [hole.table for hole in open_holes(services)] == [TABLE])
        customers_arrive(services, engine, f"{name}_parked")
    (parked,) = open_holes(services)
    assert parked.sent is None
    assert "sluice resync order_items" in parked.repair()
    with relaying(services):
        customers_arrive(services, engine, f"{name}_restarted")
        assert open_holes(services) == [parked]
        with pytest.raises(SluiceError) as refused:
            wiring.resync(services, TABLE)
        assert refused.value.remedy
        place = "moved" if cause == "renamed" else TABLE
        run(
            engine,
            services,
            f"INSERT INTO {place} SELECT id + 1000000 + {number}000, order_id, product_id,"
            f" quantity, price FROM {place} WHERE id % 3 = 0 AND id < 1000000",
        )
        if not repair:
            wiring.initialise(services)
        run(engine, services, *repair, f"DELETE FROM {TABLE} WHERE id % 4 = 0 AND id > 1000000")
        wiring.resync(services, TABLE)
        assert open_holes(services) == []
        report = wiring.quality(services, deep=True)
        assert report.passed, report.failures
        assert facts(services) == joined(engine)


def test_a_table_that_was_parked_stays_a_finding_until_a_whole_resync_is_done(
    services: Settings, engine: Engine
) -> None:
    with relaying(services):
        customers_arrive(services, engine, "found")
        run(engine, services, "ALTER TABLE order_items REPLICA IDENTITY NOTHING")
        until(lambda: bool(open_holes(services)))
        (found,) = [c for c in wiring.quality(services).checks if (c.table, c.check) == FOUND]
        assert found.status == "fail"
        assert "REPLICA IDENTITY DEFAULT" in found.repair
        run(engine, services, "ALTER TABLE order_items REPLICA IDENTITY DEFAULT")
        until(lambda: open_holes(services)[0].sent is not None)
        wiring.resync(services, TABLE, keys=["1"])
        assert open_holes(services)
        for point in ("fence taken", "rows published", "rows drained"):
            with pytest.raises(Killed), killed_at(point):
                wiring.resync(services, TABLE)
            assert open_holes(services)
        assert any(
            (c.table, c.check, c.status) == (*FOUND, "fail")
            for c in wiring.quality(services).checks
        )
        wiring.resync(services, TABLE)
        assert wiring.quality(services, deep=True).passed


FOUND = (TABLE, "parked")


class Killed(Exception):
    """The process ended."""


@contextmanager
def killed_at(point: str) -> Iterator[None]:
    def reached(now: str) -> None:
        if now == point:
            raise Killed

    with patch.object(wiring.resyncs, "Resync", partial(Resync, reached=reached)):
        yield
