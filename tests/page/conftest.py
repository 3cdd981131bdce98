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
from typing import Any

import httpx
import pytest

from sluice.clients.broker import Broker
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


@pytest.fixture
def broker_clients(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The kinds of all clients of the broker that this process makes from now on."""
    kinds: list[object] = []
    client = Broker.client

    def counted(self: Broker, kind: Any, *args: Any, **options: Any) -> Any:
        kinds.append(kind)
        return client(self, kind, *args, **options)

    monkeypatch.setattr(Broker, "client", counted)
    return kinds


@pytest.fixture(scope="module")
def kept(services: Settings) -> Iterator[None]:
    """The history of tests/page/history.py."""
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        forget(clickhouse)
        fill(clickhouse)
        time.sleep(KEPT_S)  # what the page shares between requests is as old by then
        yield
        forget(clickhouse)
