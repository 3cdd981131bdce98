"""What the tasks tell OpenLineage: the datasets, and the events of runs where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.settings import PROJECT, Settings, read_settings
from sluice_airflow import lineage
from store_api.demo import load
from tests.support.airflow import airflow_environment
from tests.support.pipeline import relaying
from tests.support.waiting import until

CATALOG = load_catalog("models")
SETTINGS = read_settings({"SLUICE_KAFKA_BOOTSTRAP": "broker-1:9092,broker-2:9092"})


def test_servers_and_tables_have_the_names_that_openlineage_gives_them() -> None:
    orders = CATALOG.table("orders")
    found = [
        (dataset.namespace, dataset.name)
        for dataset in (
            lineage.source(SETTINGS, orders),
            lineage.topic(SETTINGS, orders),
            lineage.current_state(SETTINGS, orders),
        )
    ]
    assert found == [
        ("postgres://127.0.0.1:5434", "store.public.orders"),
        ("kafka://broker-1:9092", "cdc.orders"),
        ("clickhouse://127.0.0.1:9000", "cdc.dim_order"),
    ]
    assert ("total", "Decimal(10, 2)") in lineage.current_state(SETTINGS, orders).columns


def test_without_the_provider_nothing_is_told_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.api", None)
    lineage.drained(SETTINGS, CATALOG.table("orders"))
    lineage.rebuilt(SETTINGS, CATALOG.facts[0])


def events(
    dag: str, told: Path, environment: dict[str, str], conf: str = "{}"
) -> list[dict[str, Any]]:
    """Run a DAG; what its tasks told of datasets."""
    told.unlink(missing_ok=True)
    script, log = Path(__file__).with_name("run_dag.py"), told.with_suffix(".log")
    subprocess.run(
        [sys.executable, script, PROJECT / "dags"],
        env=environment,
        input=json.dumps([dag, json.loads(conf), str(log)]),
        text=True,
        check=True,
    )
    assert "state: success" in log.read_text(), log.read_text()[-3000:]
    assert told.exists(), log.read_text()[-3000:]
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    return [line for line in lines if line.get("inputs") or line.get("outputs")]


def wait_for_changes(settings: Settings) -> None:
    """Until every topic has some: the relay has read the slot."""
    names = [table.topic for table in CATALOG.tables]
    until(
        lambda: all(Topics(settings.kafka).ends(names).get(name) for name in names),
        "every topic has changes",
    )


@pytest.mark.airflow
@pytest.mark.services
@pytest.mark.skipif(
    importlib.util.find_spec("airflow.providers.openlineage") is None,
    reason="apache-airflow-providers-openlineage is not installed",
)
def test_events_lead_from_postgres_by_the_topics_to_the_fact(
    services: Settings, tmp_path: Path, metadata: Path
) -> None:
    shutil.copy(metadata, tmp_path / "airflow.db")
    told = tmp_path / "events.json"
    transport = {"type": "file", "log_file_path": str(told), "append": True}
    environment = {
        **os.environ,
        **airflow_environment(tmp_path, services),
        "SLUICE_HOME": str(services.home),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
    }
    with relaying(services):
        load(services, customers=5, orders=5, seed=1)
        wait_for_changes(services)
        drains = events("sluice_drain", told, environment)
    table = CATALOG.table("orders")
    state = lineage.current_state(services, table).name
    orders = next(one for one in drains if [state] == [out["name"] for out in one["outputs"]])
    for sides, wanted in (
        ("inputs", [lineage.source(services, table), lineage.topic(services, table)]),
        ("outputs", [lineage.current_state(services, table)]),
    ):
        found = [(dataset["namespace"], dataset["name"]) for dataset in orders[sides]]
        assert found == [(dataset.namespace, dataset.name) for dataset in wanted]
    (rebuild,) = events("sluice_rebuild", told, environment)
    assert [one["name"] for one in rebuild["outputs"]] == ["olap.fact_order_item"]
    stored = {one["outputs"][0]["name"] for one in drains}
    assert {one["name"] for one in rebuild["inputs"]} == stored
    fields = rebuild["outputs"][0]["facets"]["schema"]["fields"]
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        described = clickhouse.execute("DESCRIBE TABLE olap.fact_order_item")
    assert [field["name"] for field in fields] == [row[0] for row in described]
