"""Airflow in the embedded stack: its environment and its REST API."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sluice.embedded import private
from sluice.errors import NotReady, Retryable, Unreachable, own_log
from sluice.settings import OWN_POSTGRES, PACKAGE, WRITER, Settings, own_broker

T = TypeVar("T")
USER = "admin"
_LOG = own_log("airflow-api-server")
SCHEDULER_HEALTH = 1  # offset of its port from the UI's


def dags_folder(settings: Settings) -> Path:
    """Return the project's folder of DAGs, or Sluice's own if the project has none."""
    own = settings.project / "dags"
    return own if own.is_dir() else PACKAGE.parent / "sluice_airflow" / "dags"


def code_open_to_all(settings: Settings) -> list[Path]:
    """Return what every account of this machine may change of the code that Airflow runs."""
    models = settings.project / settings.models.partition(".")[0]
    folders = (dags_folder(settings), settings.project / "plugins", models)
    return list(private.open_to_all((*folders, models.with_suffix(".py"))))


def environment(settings: Settings, secrets: dict[str, str]) -> dict[str, str]:
    """Return the environment of every Airflow process of the stack."""
    home, port = settings.home / "airflow", settings.airflow_port
    postgres = settings.metadata
    database = (
        f"postgresql+psycopg2://{postgres.user}:{quote(secrets['postgres'])}"
        f"@{postgres.address}/airflow?require_auth=scram-sha-256"
    )
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": "sluice_airflow.executor.PreloadedExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder(settings)),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(settings.project / "plugins"),
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
        # Files that changed are read at the next refresh; the others change with the models only.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        **_connections(settings, secrets),
    }


def _connections(settings: Settings, secrets: dict[str, str]) -> dict[str, str]:
    postgres, clickhouse = settings.postgres, settings.clickhouse
    user, password = clickhouse.user, clickhouse.password.get_secret_value()
    source = postgres.password.get_secret_value()
    if postgres.embedded:
        source = secrets["postgres"]
    if clickhouse.embedded:  # the settings may have been read before its password existed
        user, password = WRITER, secrets["clickhouse"]
    broker = own_broker(secrets.get("kafka", "")) if settings.kafka.embedded else {}
    connections = {
        "SLUICE_POSTGRES": {
            "conn_type": "postgres",
            "host": postgres.host,
            "port": postgres.port,
            "login": postgres.user,
            "password": source,
            "schema": postgres.database,
            "extra": {**(OWN_POSTGRES if postgres.embedded else {}), **postgres.options},
        },
        "SLUICE_REDPANDA": {
            "conn_type": "kafka",
            "extra": {
                **broker,
                **settings.kafka.options,
                "bootstrap.servers": settings.kafka.bootstrap,
            },
        },
        "SLUICE_CLICKHOUSE": {
            "conn_type": "generic",
            "host": clickhouse.host,
            "port": clickhouse.port,
            "login": user,
            "password": password,
            "extra": {
                **clickhouse.options,
                "http_port": clickhouse.http_port,
                "play": f"http://127.0.0.1:{clickhouse.http_port}/play?user={user}",
            },
        },
    }
    return {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()}


def write_passwords(settings: Settings, secrets: dict[str, str]) -> None:
    """Write the UI's password before the first start, as Airflow would log a generated one."""
    path = settings.home / "airflow" / "passwords.json"
    private.write(path, json.dumps({USER: secrets["airflow"]}))


class AirflowApi:
    """Airflow's REST API, version 2, on this machine.

    Args:
        seconds: how long to wait for an answer.
        verify: raises where the port is not Airflow's; called before a secret is sent.
    """

    def __init__(
        self, port: int, password: str, seconds: float, verify: Callable[[], None]
    ) -> None:
        self._seconds = seconds
        self._port = port
        self._password = password
        self._verify = verify
        self._token = ""

    def healthy(self, parts: Collection[str]) -> bool:
        """Whether these parts are up, as `scheduler`."""
        try:
            return self._call(
                "GET",
                "/api/v2/monitor/health",
                lambda health: all(health[part]["status"] == "healthy" for part in parts),
            )
        except Retryable:
            return False

    def dags(self) -> dict[str, bool]:
        """Return parsed DAG -> whether it has a schedule."""
        path = "/api/v2/dags?limit=100"
        return self._authorised(
            "GET",
            path,
            lambda page: {
                dag["dag_id"]: dag["timetable_summary"] not in {None, "None"}
                for dag in page["dags"]
            },
        )

    def ensure_pool(self, name: str, slots: int) -> None:
        """Create a pool unless it exists."""
        path = f"/api/v2/pools?pool_name_pattern={name}"
        if not self._authorised("GET", path, lambda page: int(page["total_entries"])):
            self._authorised("POST", "/api/v2/pools", _whole, {"name": name, "slots": slots})

    def trigger(self, dag_id: str) -> None:
        """Start a run now."""
        path = f"/api/v2/dags/{dag_id}/dagRuns"
        self._authorised("POST", path, _whole, {"logical_date": None})

    def last_run(self, dag_id: str) -> dict[str, Any] | None:
        """Return the newest run of a DAG; None without one."""
        path = f"/api/v2/dags/{dag_id}/dagRuns?limit=1&order_by=-run_after"
        return self._authorised("GET", path, lambda page: next(iter(page["dag_runs"]), None))

    def _authorised(self, method: str, path: str, read: Callable[[Any], T], body: Any = None) -> T:
        if not self._token:
            user = {"username": USER, "password": self._password}
            token = self._call(
                "POST", "/auth/token", lambda answer: answer["access_token"], user, secret=True
            )
            self._token = str(token)
        return self._call(method, path, read, body, secret=True)

    def _call(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        body: Any = None,
        *,
        secret: bool = False,
    ) -> T:
        """Send a request; return what `read` extracts from the answer.

        Follows no redirection and uses no proxy, as they could lead to another server.

        Args:
            secret: whether the password or the token is sent. Default: false.

        Raises:
            Unreachable: no server answers, or another than Airflow.
            NotReady: Airflow refuses, or another server is on its port.
        """
        base = f"http://127.0.0.1:{self._port}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            with closing(HTTPConnection("127.0.0.1", self._port, timeout=self._seconds)) as server:
                server.connect()
                if secret:
                    self._verify()
                server.request(method, path, data, headers)
                with server.getresponse() as answer:
                    if not 200 <= answer.status < 300:
                        status = answer.status
                        raise NotReady(
                            f"Airflow {base} answers {status} to {method} {path}", remedy=_LOG
                        )
                    return read(json.load(answer))
        except OSError as error:
            raise Unreachable(f"Airflow {base} does not answer", remedy=_LOG) from error
        except (HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
            raise Unreachable(
                f"{base} does not answer as Airflow does: {type(error).__name__}",
                remedy=f"stop what uses the port, or set SLUICE_AIRFLOW_PORT; {_LOG}",
            ) from error


def _whole(answer: Any) -> Any:
    return answer


def migrate_command(scripts: Path) -> list[str]:
    """Return the command that migrates the metadata database to this Airflow's version."""
    return [str(scripts / "airflow"), "db", "migrate"]
