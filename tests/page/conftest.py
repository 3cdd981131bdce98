"""Airflow's own application with the plugin in it, and people of each role who call it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.settings import Settings
from sluice_airflow.page.limits import KEPT_S
from tests.page.history import fill, forget
from tests.support.airflow import airflow_environment, api_server


@pytest.fixture(scope="session")
def environment(
    tmp_path_factory: pytest.TempPathFactory, services: Settings, metadata: Path
) -> dict[str, str]:
    home = tmp_path_factory.mktemp("airflow")
    shutil.copy(metadata, home / "airflow.db")
    return airflow_environment(home, services)


@pytest.fixture(scope="session")
def server(environment: dict[str, str]) -> Iterator[str]:
    with api_server(environment) as address:
        yield address


@pytest.fixture(scope="session")
def dags(environment: dict[str, str], server: str) -> None:
    """The DAGs, known to the server."""
    command = [sys.executable, "-m", "airflow", "dags", "reserialize"]
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)


@pytest.fixture(scope="session")
def person(server: str) -> Iterator[Callable[[str], httpx.Client]]:
    """Role -> a client logged in as its user; `nobody` is not."""
    clients: dict[str, httpx.Client] = {}

    def client(role: str) -> httpx.Client:
        if role not in clients:
            clients[role] = httpx.Client(base_url=server, timeout=30)
            if role != "nobody":
                answer = clients[role].post(
                    "/auth/token", json={"username": role, "password": role}
                )
                token = answer.json()["access_token"]
                clients[role].headers["Authorization"] = f"Bearer {token}"
        return clients[role]

    yield client
    for one in clients.values():
        one.close()


@pytest.fixture(scope="module")
def kept(services: Settings) -> Iterator[None]:
    """The history of tests/page/history.py."""
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        forget(clickhouse)
        fill(clickhouse)
        time.sleep(KEPT_S)  # what the page shares between requests is as old by then
        yield
        forget(clickhouse)
