"""The pages of Sluice's tasks link to what they work on, before a task has run."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from sluice import wiring
from sluice.settings import Settings

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]


@pytest.fixture(scope="module")
def links(dags: None, person: Person) -> Callable[[str, str], Any]:
    """DAG and task -> the links that Airflow shows on the page of a run's task."""
    runs: dict[str, str] = {}

    def shown(dag: str, task: str) -> Any:
        if dag not in runs:
            made = person("admin").post(
                f"/api/v2/dags/{dag}/dagRuns", json={"logical_date": "2026-01-01T00:00:00Z"}
            )
            runs[dag] = made.raise_for_status().json()["dag_run_id"]
        path = f"/api/v2/dags/{dag}/dagRuns/{runs[dag]}/taskInstances/{task}/links"
        return person("viewer").get(path).raise_for_status().json()["extra_links"]

    return shown


@pytest.mark.parametrize(
    ("dag", "task", "relation"),
    [
        ("sluice_drain", "drain", ""),
        ("sluice_rebuild", "rebuild", ""),
        ("sluice_fact_backfill", "backfill_fact_order_item", "olap.fact_order_item"),
        ("sluice_quality", "compare", ""),
    ],
)
def test_a_task_links_to_its_page_and_to_a_query_on_what_it_writes(
    dag: str,
    task: str,
    relation: str,
    links: Callable[[str, str], Any],
    services: Settings,
    person: Person,
) -> None:
    shown = links(dag, task)
    assert shown["CDC page"] == "/sluice/"
    assert person("viewer").get("/sluice/").status_code == 200
    play = urlsplit(shown["ClickHouse play"])
    assert play.netloc == f"127.0.0.1:{services.clickhouse.http_port}"
    assert httpx.get(play._replace(fragment="").geturl()).status_code == 200
    query = b64decode(play.fragment).decode()
    assert query == (f"SELECT * FROM {relation} LIMIT 100" if relation else "")
    if query:
        assert wiring.query(services, query)[0]


def test_tasks_of_other_dags_have_no_link_of_ours() -> None:
    from sluice_airflow.links import CdcPageLink, PlayLink

    other = SimpleNamespace(dag_id="other", task_id="drain_orders")
    assert CdcPageLink().get_link(None, ti_key=other) == ""
    assert PlayLink().get_link(None, ti_key=other) == ""


def test_the_links_go_where_browsers_find_both(monkeypatch: pytest.MonkeyPatch) -> None:
    from sluice_airflow.connections import settings_from_connections
    from sluice_airflow.links import CdcPageLink, PlayLink

    monkeypatch.setenv("AIRFLOW_CONN_SLUICE_POSTGRES", '{"conn_type": "postgres"}')
    monkeypatch.setenv("AIRFLOW_CONN_SLUICE_REDPANDA", '{"conn_type": "kafka"}')
    extra = '{"conn_type": "generic", "host": "clickhouse", "extra": {"play": "https://ch/play"}}'
    monkeypatch.setenv("AIRFLOW_CONN_SLUICE_CLICKHOUSE", extra)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/below/")
    ours = SimpleNamespace(dag_id="sluice_quality", task_id="compare")
    assert PlayLink().get_link(None, ti_key=ours) == "https://ch/play"
    assert not settings_from_connections().clickhouse.options
    page = CdcPageLink().get_link(None, ti_key=ours)
    assert page == "https://airflow.example/below/sluice/"
