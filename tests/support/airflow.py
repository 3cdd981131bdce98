"""An Airflow of a test's own: its variables, its connections, its api-server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from sluice.settings import PROJECT, Settings
from tests.support import tiers
from tests.support.processes import stop
from tests.support.services import free_ports
from tests.support.waiting import until

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
            "extra": {"bootstrap.servers": settings.kafka.bootstrap, **settings.kafka.options},
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

        def answers() -> bool:
            assert server.poll() is None, log.read_text()[-2000:]
            if not _answers(address):
                raise LookupError(log.read_text()[-2000:])
            return True

        until(answers, "the api-server answers", 300, retry=LookupError)
        yield address
    finally:
        stop(server)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/api/v2/version", timeout=10).is_success
    except httpx.TransportError:
        return False
