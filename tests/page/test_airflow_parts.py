"""Services and Airflow's programs on the page: whether they answer, or what its health says."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with")
AT = "2026-01-01T00:00:00+00:00"


def health(scheduler: str, triggerer: str | None, processor: str | None) -> dict[str, Any]:
    return {
        "metadatabase": {"status": "healthy"},
        "scheduler": {"status": scheduler, "latest_scheduler_heartbeat": AT},
        "triggerer": {"status": triggerer, "latest_triggerer_heartbeat": None},
        "dag_processor": {"status": processor, "latest_dag_processor_heartbeat": AT},
    }


def test_a_program_that_never_ran_is_no_fault_and_a_silent_one_is_named() -> None:
    from sluice_airflow.page.airflow_parts import parts_of

    found = parts_of(health("unhealthy", None, "healthy"))
    assert [(part.name, part.runs) for part in found] == [
        ("Airflow's scheduler", False),
        ("Airflow's dag processor", True),
    ]
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert [part.heard_at for part in found] == [at, at]


def test_the_page_names_the_silent_program_and_its_last_heartbeat() -> None:
    from sluice.operate.trends import latest
    from sluice_airflow.page.airflow_parts import parts_of
    from sluice_airflow.page.listing import Choice
    from sluice_airflow.page.pages import overview_values, render
    from tests.page.overviews import pipeline

    shared = {"root": "/sluice", "airflow": "", "period": latest("1h"), "ranges": ["1h"]}
    parts = parts_of(health("unhealthy", "healthy", None))
    values = overview_values(pipeline(), Choice(period=latest("1h")), None, parts)
    html = render("overview.html", {**shared, **values})
    services = html[html.index('id="services"') : html.index('id="charts-title"')]
    assert "Airflow&#39;s scheduler does not run" in services
    assert 'datetime="2026-01-01T00:00:00+00:00"' in services
    assert "Airflow&#39;s triggerer runs" in services
    assert "relay reads slot sluice" in services
    assert "processor" not in services


def test_a_service_has_its_address_and_a_silent_one_why_and_what_to_do() -> None:
    from sluice.operate.overview import Service
    from sluice.operate.trends import latest
    from sluice_airflow.page.listing import Choice
    from sluice_airflow.page.pages import overview_values, render
    from tests.page.overviews import pipeline

    silent = Service(
        name="broker",
        answers=False,
        error="broker a.example:9092 refuses the login: <b>",
        remedy="fix sasl.password",
        address="a.example:9092",
    )
    source = Service(name="PostgreSQL", answers=True, error="", address="b.example:5432")
    shared = {"root": "/sluice", "airflow": "", "period": latest("1h"), "ranges": ["1h"]}
    of = pipeline(services=(source, silent))
    values = overview_values(of, Choice(period=latest("1h")), None, ())
    html = render("overview.html", {**shared, **values})
    services = html[html.index('id="services"') : html.index('id="charts-title"')]
    listed = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", services))
    assert "PostgreSQL answers b.example:5432 " in listed
    assert "broker does not answer broker a.example:9092 refuses" in listed
    assert "the login: &lt;b&gt; fix sasl.password" in listed
