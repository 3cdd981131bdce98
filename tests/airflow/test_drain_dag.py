"""The DAG of the drain as Airflow runs it: tables in trouble are drained apart, by name."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from sluice import wiring
from sluice.clients.topics import Topics
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.oracle import change
from tests.support.pipeline import CATALOG, checked, relaying
from tests.support.services import delete_topics, own_services
from tests.support.waiting import until

pytestmark = [pytest.mark.airflow, pytest.mark.services]
services = own_services  # a topic is recreated

Run = Callable[..., str]


def send(settings: Settings) -> None:
    """Put new events of every table on the topics."""
    topics, names = Topics(settings.kafka), [table.topic for table in CATALOG.tables]
    before = topics.ends(names)
    engine = make_engine(settings.postgres)
    change(engine, random.Random(sum(before.values())), 200)
    engine.dispose()
    until(
        lambda: all(end > before[name] for name, end in topics.ends(names).items()),
        "every topic has new events",
    )


def test_a_table_in_trouble_fails_a_task_that_names_it_and_holds_no_other(
    services: Settings, run_dag: Run
) -> None:
    load(services, customers=5, orders=5, seed=1)
    with relaying(services):
        checked(services)
        send(services)
        log = run_dag("sluice_drain")
        assert "state: success" in log, log[-3000:]
        for table in CATALOG.tables:
            assert re.search(rf"{table.name}: [1-9]\d* events in", log)
        assert "SKIPPED since the map has 0 values to expand" in log
    delete_topics(services, {"cdc.products"})
    Topics(services.kafka).ensure(["cdc.products"])
    with relaying(services):
        send(services)
        log = run_dag("sluice_drain")
        assert "state: failed" in log, log[-3000:]
        reason = "cdc.products was deleted and recreated after"
        assert log.count(f"AirflowFailException: {reason}") == 1, log[-5000:]
        for name in ("customers", "orders", "order_items"):
            assert re.search(rf"{name}: [1-9]\d* events in", log), log[-5000:]
        wiring.resync(services, "products")
        send(services)
        log = run_dag("sluice_drain")
        assert "state: success" in log, log[-3000:]
        assert re.search(r"products: [1-9]\d* events in", log)
        log = run_dag("sluice_rebuild")
        assert "state: success" in log, log[-3000:]
        assert "fact_order_item: incremental rebuild of" in log
        log = run_dag("sluice_rebuild")
        assert "state: success" in log, log[-3000:]
        assert "0 facts rebuilt, 0 in trouble" in log


def test_a_drain_that_fails_as_a_whole_starts_the_checks_all_the_same(
    services: Settings, run_dag: Run
) -> None:
    wiring.query(services, "RENAME TABLE cdc.checkpoints TO cdc.checkpoints_aside")
    try:
        log = run_dag("sluice_drain")
    finally:
        wiring.query(services, "RENAME TABLE cdc.checkpoints_aside TO cdc.checkpoints")
    assert "state: failed" in log, log[-3000:]
    assert "end task task_id=drain_failed" in log, log[-3000:]
