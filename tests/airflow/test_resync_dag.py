"""The resync DAG as Airflow runs it, on the real services: each way that its form offers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import assert_fact_equals_join, checked, relaying
from tests.support.services import drop_slot

pytestmark = [pytest.mark.airflow, pytest.mark.services]

Run = Callable[..., str]


@pytest.fixture(scope="module")
def relay(services: Settings) -> Iterator[threading.Event]:
    load(services, customers=20, orders=80, seed=2)
    with relaying(services) as stop:
        checked(services)
        yield stop


@pytest.fixture(scope="module")
def engine(services: Settings, relay: threading.Event) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    yield made
    made.dispose()


@pytest.fixture
def run(run_dag: Run, engine: Engine) -> Run:
    """Run the DAG, which ends so, with values of the form; return its log."""

    def run(ends: str = "success", **form: object) -> str:
        log = run_dag("sluice_resync", **form)
        assert f"state: {ends}" in log, log[-3000:]
        return log

    return run


@pytest.fixture(autouse=True)
def lost(services: Settings, engine: Engine) -> tuple[int, int]:
    """Two orders that ClickHouse has lost."""
    with engine.connect() as connection:
        first, *_, last = connection.scalars(text("SELECT id FROM orders ORDER BY id LIMIT 40"))
    wiring.query(services, f"DELETE FROM cdc.dim_order WHERE id IN ({first}, {last})")
    return first, last


def test_a_dry_run_says_what_would_change_and_changes_nothing(services: Settings, run: Run) -> None:
    counted = "SELECT count() FROM cdc.dim_order FINAL"
    before = wiring.query(services, counted)
    log = run(tables=["orders", "customers"], dry_run=True)
    assert re.search(r"orders: 2 rows would change: ", log), log
    assert "customers: nothing differs as of " in log
    assert wiring.query(services, counted) == before


def test_by_difference_only_what_differs_is_read(
    services: Settings, engine: Engine, run: Run
) -> None:
    log = run(tables=["orders", "customers"])
    assert re.search(r"orders: 2 rows read again as of \S+ \(2 keys\), 0 deleted, in ", log), log
    assert "customers: nothing differs as of " in log
    assert_fact_equals_join(services, engine)


def test_all_rows_of_several_tables_are_read(services: Settings, engine: Engine, run: Run) -> None:
    log = run(tables=["orders", "customers"], diff=False, readers=3)
    assert "orders: 1 of 1 ranges are to be read" in log
    assert re.search(r"orders: \d+ rows read again as of \S+ \(all rows\), 0 deleted, in ", log)
    assert re.search(r"customers: \d+ rows read again as of \S+ \(all rows\), 0 deleted", log)
    assert_fact_equals_join(services, engine)


def test_rows_that_cannot_be_stored_fail_the_task_of_their_table_alone_after_it_did_the_rest(
    services: Settings, engine: Engine, run: Run
) -> None:
    bad = "UPDATE orders SET total = 'NaN' WHERE id % 20 = 7"
    with engine.begin() as connection:
        kept = connection.execute(text("SELECT id, total FROM orders WHERE id % 20 = 7")).all()
        connection.execute(text(bad))
    log = run("failed", tables=["orders", "customers"], diff=False, readers=3)
    told = f"{len(kept)} rows could not be stored and keep their last good version: "
    assert f"orders: {told}" in log
    assert re.search(r"NaN has no value in ClickHouse's Decimal\(10, 2\)", log), log
    assert "sluice dead-letters list --table orders" in log
    assert "orders: 1 of 1 ranges are to be read" in log
    assert re.search(r"customers: \d+ rows read again as of \S+ \(all rows\), 0 deleted", log)
    stored = "SELECT id, total FROM olap.dim_order WHERE id % 20 = 7 ORDER BY id"
    assert wiring.query(services, stored)[1] == [tuple(row) for row in sorted(kept)]
    with engine.begin() as connection:
        for key, total in kept:
            connection.execute(
                text("UPDATE orders SET total = :total WHERE id = :key"),
                {"key": key, "total": total},
            )
    assert_fact_equals_join(services, engine)


def test_keys_and_ranges_of_keys_are_read(
    services: Settings, engine: Engine, run: Run, lost: tuple[int, int]
) -> None:
    first, last = lost
    log = run(tables=["orders"], keys=[str(first)])
    assert re.search(r"orders: 1 rows read again as of \S+ \(1 keys\), 0 deleted", log)
    log = run(tables=["orders"], from_key=str(first + 1), to_key=str(last))
    asked = rf"\(keys from {first + 1} to {last}\), 0 deleted"
    assert re.search(rf"orders: 39 rows read again as of \S+ {asked}", log)
    assert_fact_equals_join(services, engine)


def test_a_recovery_where_the_relay_goes_on_reads_what_differs_in_all_tables(
    services: Settings, engine: Engine, run: Run
) -> None:
    log = run(recover=True)
    assert re.search(r"orders: 2 rows read again as of \S+ \(2 keys\), 0 deleted, in ", log), log
    assert "products: nothing differs as of " in log
    assert_fact_equals_join(services, engine)


def test_after_a_lost_slot_one_run_brings_all_tables_back_and_makes_another(
    services: Settings, engine: Engine, run: Run, relay: threading.Event
) -> None:
    """The last: the relay ends with it."""
    relay.set()
    drop_slot(services)
    with engine.begin() as connection:
        connection.execute(text("UPDATE customers SET city = 'Graz' WHERE id % 4 = 0"))
    log = run(recover=True, check=False)  # checks would wait for the relay
    assert "replication slot 'sluice' is gone" in log
    assert "start the relay: sluice up" in log
    with relaying(services):
        assert_fact_equals_join(services, engine)
