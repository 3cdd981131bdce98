"""What requests of the page leave of Airflow's own API."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from sluice.embedded.stack import Stack
from sluice.settings import Settings
from sluice_airflow.page.limits import KEPT_S, RUNNING, WAITING
from tests.support.processes import process_of

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
ASKED = 45  # more than the server has threads


@contextmanager
def stopped(settings: Settings, service: str) -> Iterator[None]:
    """The service neither answers nor ends, and no answer of it is kept."""
    process = process_of(Stack(settings).states()[service].pid)
    process.suspend()
    time.sleep(KEPT_S)
    try:
        yield
    finally:
        process.resume()


@pytest.mark.parametrize("service", ["clickhouse", "postgres", "broker"])
def test_airflow_answers_while_the_page_waits_for_a_service(
    service: str, services: Settings, person: Person
) -> None:
    viewer = person("viewer")
    with stopped(services, service), ThreadPoolExecutor(ASKED) as threads:
        path = "/sluice/tables/orders"
        asked = [threads.submit(viewer.get, path, timeout=120) for _ in range(ASKED)]
        own = [viewer.get("/api/v2/dags", params={"limit": 1}) for _ in range(10)]
        waiting = sum(not one.done() for one in asked)
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in own} == {200}
    assert waiting >= RUNNING  # Airflow's answers came before these
    found = Counter(answer.status_code for answer in answers)
    assert found.keys() <= {200, 503}
    for answer in answers:
        if "retry-after" in answer.headers:
            assert answer.status_code == 503
            assert answer.json()["remedy"] == "try again"
    assert viewer.get(path).status_code == 200  # the service is back, and so is the page


def test_more_requests_than_run_and_wait_are_refused_at_once(
    services: Settings, person: Person
) -> None:
    viewer = person("viewer")
    with stopped(services, "clickhouse"), ThreadPoolExecutor(ASKED) as threads:
        asked = [threads.submit(viewer.get, "/sluice/", timeout=120) for _ in range(ASKED)]
        answers = [one.result() for one in asked]
    refused = [answer for answer in answers if "retry-after" in answer.headers]
    assert len(refused) >= ASKED - RUNNING - WAITING
