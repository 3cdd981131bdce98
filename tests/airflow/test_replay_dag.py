"""The DAGs of dead letters as Airflow runs them, on real services, with what the CDC page sends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from sluice import wiring
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.errors import PoisonedTopic
from sluice.settings import Settings
from tests.support.services import own_services

pytestmark = [pytest.mark.airflow, pytest.mark.services]
services = own_services  # customers are emptied

Run = Callable[..., str]
# Which customers came, and whether their letters are marked.
STARTED_BY = "dag_test"  # the user that DAG.test names
CAME = "SELECT id FROM olap.dim_customer WHERE id > 990000 ORDER BY id"
OPEN = "SELECT offset FROM cdc.dead_letters FINAL WHERE state = 'open' ORDER BY offset"


def letter(offset: int, customer: int, name: object) -> dict[str, object]:
    """A rejected insert; a name that is no text is still invalid."""
    value = {
        "metadata": {
            "source": "relay",
            "table": "customers",
            "operation": "insert",
            "lsn": "0/1",
            "commit_lsn": "0/2",
            "ordinal": offset,
            "commit_ts_ms": 1730000000000,
        },
        "payload": {
            "id": customer,
            "email": f"{customer}@example.org",
            "name": name,
            "country": "DE",
            "city": "Bonn",
            "created_at": "2026-01-01T00:00:00Z",
        },
        "before": None,
    }
    return {
        "source_table": "customers",
        "broker_epoch": "e",
        "offset": offset,
        "key": json.dumps({"id": customer}),
        "value": json.dumps(value),
        "reason": "was too narrow",
        "schema_version": "s",
        "epoch": 1,
    }


@pytest.fixture(autouse=True)
def letters(services: Settings) -> Iterator[None]:
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        empty(clickhouse)
        for offset, customer, name in ((1, 990001, "Ada"), (2, 990002, "Bo"), (3, 990003, [])):
            clickhouse.insert_row("cdc.dead_letters", letter(offset, customer, name))
        yield
        empty(clickhouse)


def empty(clickhouse: ClickHouse) -> None:
    """No customers and no checkpoint: its truncations would take the letters' rows."""
    for table in ("dead_letters", "dead_letter_dismissals", "dim_customer", "history_customers"):
        clickhouse.execute(f"TRUNCATE TABLE cdc.{table}")
    clickhouse.execute("DELETE FROM cdc.checkpoints WHERE source_table = 'customers'")


@pytest.fixture
def run(run_dag: Run) -> Run:
    """Run a DAG, the replay by default, with values of its form; return its log."""
    return lambda dag="sluice_replay", **form: run_dag(dag, **form)


def test_what_the_models_take_goes_in_and_the_run_names_what_is_still_invalid(
    services: Settings, run: Run
) -> None:
    log = run(table="customers", where=["offset=2"])
    assert "state: success" in log, log[-3000:]
    assert "customers: 1 dead letters replayed" in log
    assert wiring.query(services, CAME)[1] == [(990002,)]
    kept = "SELECT offset, replayed_by FROM cdc.dead_letters FINAL WHERE replayed_at IS NOT NULL"
    assert wiring.query(services, kept)[1] == [(2, STARTED_BY)]
    log = run(table="customers", where=None)
    assert "state: failed" in log, log[-3000:]
    assert "1 dead letters replayed, 1 still invalid, first at offset 3: " in log
    assert wiring.query(services, CAME)[1] == [(990001,), (990002,)]
    assert wiring.query(services, OPEN)[1] == [(3,)]


@pytest.fixture
def poisoned(services: Settings) -> Iterator[int]:
    """How many invalid events wait on the topic, and good ones behind them; a topic of its own."""
    many = 150
    made_again(services)
    producer = Producer({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})
    for number in range(1, many + 2):
        row = letter(number, 990100 + number, [] if number <= many else "Cy")
        producer.produce("cdc.customers", key=str(row["key"]), value=str(row["value"]))
    producer.flush()
    yield many
    made_again(services)


def made_again(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap, **settings.kafka.options})
    for future in admin.delete_topics(["cdc.customers"]).values():
        future.result()
    Topics(settings.kafka).ensure(["cdc.customers"])


def test_invalid_events_that_are_let_pass_become_dead_letters_and_what_follows_is_drained(
    services: Settings, run: Run, poisoned: int
) -> None:
    with pytest.raises(PoisonedTopic):
        wiring.drain(services, "customers")
    log = run(table="customers", pass_rejects=True)
    assert "state: success" in log, log[-3000:]
    assert re.search(rf"customers: {poisoned + 1} events in \S+ s, {poisoned} rejected", log), log
    assert "they go to the dead letters" in log
    last = 990100 + poisoned + 1
    assert wiring.query(services, CAME)[1] == [(last,)]  # nothing is replayed
    assert wiring.drain(services, "customers").caught_up
    kept = "SELECT count() FROM cdc.dead_letters FINAL WHERE state = 'open' AND broker_epoch != 'e'"
    assert wiring.query(services, kept)[1] == [(poisoned,)]


def test_what_is_no_condition_is_refused_and_changes_nothing(services: Settings, run: Run) -> None:
    log = run(table="customers", where=["1=1; DROP"])
    assert "state: failed" in log, log[-3000:]
    assert "is not a condition on dead letters" in log
    assert wiring.query(services, CAME)[1] == []


def test_what_is_dismissed_is_open_no_longer_and_who_and_why_are_kept(
    services: Settings, run: Run
) -> None:
    log = run("sluice_dismiss", table="customers", where=["offset<=2"], reason="")
    assert "state: failed" in log, log[-3000:]
    assert "dismissed for a reason" in log
    log = run("sluice_dismiss", table="customers", where=["offset<=2"], reason="test rows")
    assert "customers: 2 dead letters dismissed" in log, log[-3000:]
    assert wiring.query(services, OPEN)[1] == [(3,)]
    kept = "SELECT offset, reason, rejected_for, dismissed_by FROM cdc.dead_letter_dismissals"
    assert wiring.query(services, f"{kept} ORDER BY offset")[1] == [
        (1, "test rows", "was too narrow", STARTED_BY),
        (2, "test rows", "was too narrow", STARTED_BY),
    ]
