"""Airflow's environment in the embedded stack, and its REST API."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sluice.errors import NotReady, Unreachable
from sluice.settings import PROJECT, Settings

USER = "admin"
SCHEDULER_HEALTH = 1  # its port comes after the UI's


def environment(settings: Settings, secrets: dict[str, str]) -> dict[str, str]:
    """What every Airflow process of the stack is started with."""
    home, port = settings.home / "airflow", settings.airflow_port
    postgres = settings.postgres
    database = (
        f"postgresql+psycopg2://{postgres.user}:{quote(secrets['postgres'])}"
        f"@{postgres.host}:{postgres.port}/airflow"
    )
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__FERNET_KEY": secrets["fernet_key"],
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__SECRET_KEY": secrets["api_secret_key"],
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets["jwt_secret"],
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "True",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(port + SCHEDULER_HEALTH),
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        **_connections(settings, secrets),
    }


def _connections(settings: Settings, secrets: dict[str, str]) -> dict[str, str]:
    postgres, clickhouse = settings.postgres, settings.clickhouse
    connections = {
        "SLUICE_POSTGRES": {
            "conn_type": "postgres",
            "host": postgres.host,
            "port": postgres.port,
            "login": postgres.user,
            "password": secrets["postgres"],
            "schema": postgres.database,
            **({"extra": postgres.options} if postgres.options else {}),
        },
        "SLUICE_REDPANDA": {
            "conn_type": "kafka",
            "extra": {**settings.kafka.options, "bootstrap.servers": settings.kafka.bootstrap},
        },
        "SLUICE_CLICKHOUSE": {
            "conn_type": "generic",
            "host": clickhouse.host,
            "port": clickhouse.port,
            "login": clickhouse.user,
            "password": clickhouse.password.get_secret_value(),
            "extra": {**clickhouse.options, "http_port": clickhouse.http_port},
        },
    }
    return {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()}


def write_passwords(settings: Settings, secrets: dict[str, str]) -> None:
    """Write the UI's password before the first start, so that none is made into a log."""
    path = settings.home / "airflow" / "passwords.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps({USER: secrets["airflow"]}))


class AirflowApi:
    """Airflow's REST API, version 2; an answer is waited for `seconds`."""

    def __init__(self, port: int, password: str, seconds: float) -> None:
        self._seconds = seconds
        self._base = f"http://127.0.0.1:{port}"
        self._password = password
        self._token = ""

    def healthy(self) -> bool:
        """Whether scheduler and dag-processor are up."""
        try:
            health = self._call("GET", "/api/v2/monitor/health")
        except Unreachable:
            return False
        parts = ("metadatabase", "scheduler", "dag_processor")
        return all(health.get(part, {}).get("status") == "healthy" for part in parts)

    def dag_ids(self) -> set[str]:
        """The DAGs that are parsed."""
        found = self._authorised("GET", "/api/v2/dags?limit=100")
        return {dag["dag_id"] for dag in found["dags"]}

    def ensure_pool(self, name: str, slots: int) -> None:
        """Create a pool where there is none of this name."""
        if self._authorised("GET", f"/api/v2/pools?pool_name_pattern={name}")["total_entries"]:
            return
        self._authorised("POST", "/api/v2/pools", {"name": name, "slots": slots})

    def trigger(self, dag_id: str) -> None:
        """Start a run now."""
        self._authorised("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})

    def last_run(self, dag_id: str) -> dict[str, Any] | None:
        """The newest run of a DAG."""
        path = f"/api/v2/dags/{dag_id}/dagRuns?limit=1&order_by=-run_after"
        runs = self._authorised("GET", path)["dag_runs"]
        return runs[0] if runs else None

    def _authorised(self, method: str, path: str, body: Any = None) -> Any:
        if not self._token:
            user = {"username": USER, "password": self._password}
            self._token = self._call("POST", "/auth/token", user)["access_token"]
        return self._call(method, path, body, {"Authorization": f"Bearer {self._token}"})

    def _call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self._base + path, data, sent, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self._seconds) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise NotReady(f"Airflow answers {error.code} to {method} {path}") from error
        except (OSError, ValueError) as error:
            raise Unreachable(
                f"Airflow {self._base} does not answer",
                remedy="see: sluice logs airflow-api-server",
            ) from error


def migrate_command(scripts: Path) -> list[str]:
    """Brings the metadata database to this Airflow's version."""
    return [str(scripts / "airflow"), "db", "migrate"]
