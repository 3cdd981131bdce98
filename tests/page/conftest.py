"""Airflow's own application with the plugin in it, and people of each role who call it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.settings import PROJECT, Settings
from sluice_airflow.page.limits import KEPT_S
from tests.page.history import fill, forget
from tests.support import tiers
from tests.support.processes import stop
from tests.support.services import free_ports

ROLES = ("viewer", "user", "op", "admin")


def airflow_environment(home: Path, settings: Settings | None = None) -> dict[str, str]:
    """Variables of an Airflow with a SQLite database below `home` and one user of each role."""
    tiers.require("airflow")
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({role: role for role in ROLES}))
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{role}:{role}" for role in ROLES),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests, long enough for HS512: "
        + "0" * 32,
        "AIRFLOW__API__SECRET_KEY": "another secret of the tests",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "plugins"), *sys.path[1:]]),
        **(connections(settings) if settings else {}),
    }


def connections(settings: Settings) -> dict[str, str]:
    """Airflow's connections to these services."""
    postgres, clickhouse = settings.postgres, settings.clickhouse
    found: dict[str, Any] = {
        "SLUICE_POSTGRES": {
            "conn_type": "postgres",
            "host": postgres.host,
            "port": postgres.port,
            "login": postgres.user,
            "password": postgres.password.get_secret_value(),
            "schema": postgres.database,
        },
        "SLUICE_REDPANDA": {
            "conn_type": "kafka",
            "extra": {"bootstrap.servers": settings.kafka.bootstrap},
        },
        "SLUICE_CLICKHOUSE": {
            "conn_type": "generic",
            "host": clickhouse.host,
            "port": clickhouse.port,
            "login": clickhouse.user,
            "password": clickhouse.password.get_secret_value(),
            "extra": {"http_port": clickhouse.http_port},
        },
    }
    return {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in found.items()}


@contextmanager
def api_server(environment: dict[str, str]) -> Iterator[str]:
    """A real api-server on a free port, for a home with a metadata database; its address."""
    environment = {**os.environ, **environment}
    (port,) = free_ports(1)
    address, log = f"http://127.0.0.1:{port}", Path(environment["AIRFLOW_HOME"]) / "server.log"
    command = [sys.executable, "-m", "airflow", "api-server", "--apps", "core"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 300
        while not _answers(address):
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        yield address
    finally:
        stop(server)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/api/v2/version", timeout=10).is_success
    except httpx.TransportError:
        return False


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
