"""Everything below /sluice is closed to whoever Airflow does not know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from sluice.settings import Settings
from tests.page.history import ACCEPTED, CUSTOMER, PERSON
from tests.page.messages import TOPIC, send_hostile
from tests.page.routes import OF_ROWS
from tests.support.airflow import ROLES, airflow_environment

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
VALUES = {
    "{table}": "orders",
    "{fact}": "fact_order_item",
    "{relation}": "dim_customer",
    "{topic}": TOPIC,
    "{name}": "page.css",
}
PARAMETERS = {path: {"key": "1"} for path in OF_ROWS}


def run(script: str, environment: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script))],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def routes(environment: dict[str, str]) -> list[tuple[str, str]]:
    found = [(method, path) for method, path in run("list_routes.py", environment)]
    assert ("GET", "/sluice/metrics") in found
    assert ("GET", "/sluice/openapi.json") in found
    assert ("GET", "/sluice/static/{name}") in found
    return found


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    address = path
    for name, value in VALUES.items():
        address = address.replace(name, value)
    assert "{" not in address, "give the parameter a value in VALUES"
    return client.request(method, address, params=PARAMETERS.get(path))


def test_nobody_sees_anything(routes: list[tuple[str, str]], person: Person) -> None:
    for method, path in routes:
        answer = ask(person("nobody"), method, path)
        assert answer.status_code == 401, (method, path)
        assert "customers" not in answer.text


@pytest.mark.parametrize("role", ROLES)
def test_whoever_is_logged_in_may_read_and_rows_who_may_repair_them(
    role: str, routes: list[tuple[str, str]], person: Person
) -> None:
    for method, path in routes:
        answer = ask(person(role), method, path)
        refused = role == "viewer" and path in OF_ROWS
        assert answer.status_code == (403 if refused else 200), (method, path, answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def everything(
    client: httpx.Client, routes: list[tuple[str, str]], messages: int
) -> dict[str, str]:
    """What every route answers, of every table and with every parameter that takes one."""
    answers = {}
    for method, path in routes:
        for table in ("orders", "customers"):
            address = path.replace("{table}", table)
            for name, value in VALUES.items():
                address = address.replace(name, value)
            asked = {"table": table, "key": str(CUSTOMER), "range": "24h", "letter": str(ACCEPTED)}
            asked["last"] = str(messages)
            answer = client.request(method, address, params=asked)
            answers[f"{method} {address} {table}"] = f"{answer.text} {answer.headers}"
    return answers


def test_a_viewer_gets_no_value_and_no_key_of_a_row_from_any_route(
    kept: None, routes: list[tuple[str, str]], services: Settings, person: Person
) -> None:
    messages = send_hostile(services)
    shown = everything(person("user"), routes, messages)
    telling = {path for path, text in shown.items() if PERSON in text}
    assert {path.split("/sluice")[1] for path in telling} >= {
        "/ orders",
        "/tables/orders orders",
        "/tables/customers customers",
        "/facts/fact_order_item orders",
        "/api/v1/overview orders",
        "/api/v1/findings orders",
        "/api/v1/dead-letters orders",
        "/api/v1/tables/orders/runs orders",
        "/api/v1/tables/customers/versions customers",
        "/topics/cdc.control orders",
        "/api/v1/topics/cdc.control/messages orders",
    }
    for path, text in everything(person("viewer"), routes, messages).items():
        for personal in (PERSON, quote(PERSON), "--key", "x" * 50):
            assert personal not in text, path


def test_a_forged_token_is_refused(routes: list[tuple[str, str]], server: str) -> None:
    forged = httpx.Client(base_url=server, headers={"Authorization": "Bearer e30.e30.e30"})
    with forged:
        for method, path in routes:
            assert ask(forged, method, path).status_code == 403, (method, path)


def test_nothing_writes(routes: list[tuple[str, str]]) -> None:
    assert {method for method, _ in routes} <= {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["docs", "redoc", "docs/oauth2-redirect", "static", "static/"])
def test_what_fastapi_would_serve_by_itself_is_not_there(path: str, person: Person) -> None:
    answer = person("nobody").get(f"/sluice/{path}")
    assert answer.status_code in {401, 404}


def test_without_airflows_security_everything_is_refused(
    tmp_path: Path,
) -> None:
    found = run("without_security.py", airflow_environment(tmp_path))
    assert len(found) == 6
    assert set(found.values()) == {503}, found
