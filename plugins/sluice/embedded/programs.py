"""The programs of the stack: command, address and readiness of each."""

from __future__ import annotations

import socket
import sys
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError

from sluice.clients.postgres import PostgresSource
from sluice.embedded import kafka, postgres
from sluice.embedded.airflow_service import SCHEDULER_HEALTH, AirflowApi
from sluice.embedded.clickhouse_users import CONFIGURATION
from sluice.errors import NotReady, SluiceError, WrongUsage
from sluice.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A supervised program.

    Attributes:
        command: argument list; without secrets, as other users can read it.
        address: where it answers, or a description.
        ports: each port that has to be free before it starts, with its setting.
        ready: returns whether it answers. Default: None, where it only has to run.
        user: the system user that it runs as. Default: None, for the present one.
        stop_signal: the signal that stops it. Default: TERM.
        stop_seconds: after which it is killed.
    """

    name: str
    command: list[str]
    address: str
    ports: tuple[tuple[int, str], ...]
    ready: Callable[[], bool] | None = None
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 20


_HEALTH_S = 10
STORES = ("postgres", "broker", "clickhouse")
PIPELINE = ("relay", "api")
AIRFLOW = (
    "airflow-api-server",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
)


def programs(settings: Settings) -> dict[str, Program]:
    """Return all programs by name, in the order in which they start."""
    listed = [*_stores(settings), *_pipeline(settings), *_airflow(settings)]
    return {program.name: program for program in listed}


def busy_ports(wanted: dict[str, Program]) -> None:
    """Require that the programs' ports are free, and that no two have the same.

    Raises:
        NotReady: ports are taken; it names all of them.
        WrongUsage: ports are set for two programs.
    """
    users: dict[int, list[tuple[str, str]]] = {}
    for program in wanted.values():
        for port, setting in program.ports:
            users.setdefault(port, []).append((program.name, setting))
    twice = {port: known for port, known in users.items() if len(known) > 1}
    if twice:
        clashes = [
            f"{port} for {' and '.join(dict.fromkeys(name for name, _ in known))}"
            for port, known in twice.items()
        ]
        raise WrongUsage(
            f"ports are set twice: {', '.join(clashes)}",
            remedy=f"set others: {_settings(twice.values())}",
        )
    refused = {port: reason for port in users if (reason := _refusal(port))}
    if refused:
        reasons = [f"{port} for {users[port][0][0]} ({why})" for port, why in refused.items()]
        raise NotReady(
            f"ports cannot be used: {', '.join(reasons)}",
            remedy="stop the programs that use them, or set free ports:"
            f" {_settings(users[port] for port in refused)}",
        )


def _settings(users: Iterable[Sequence[tuple[str, str]]]) -> str:
    """Return the settings of ports, each once."""
    return ", ".join(dict.fromkeys(setting for known in users for _, setting in known))


def _refusal(port: int) -> str:
    """Return why a program could not listen on a port; empty where it could."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def set_ports(wanted: Iterable[Program]) -> dict[str, int]:
    """Return the value of each setting of a port that these programs have."""
    ports: dict[str, int] = {}
    for program in wanted:
        for port, setting in program.ports:  # those that follow from a setting are higher
            ports[setting] = min(port, ports.get(setting, port))
    return ports


def _stores(settings: Settings) -> list[Program]:
    """Return the stores that are not somebody else's; PostgreSQL always, for Airflow's metadata."""
    home, clickhouse = settings.home, settings.clickhouse
    own = settings.metadata
    source, server = PostgresSource(own), settings.postgres.embedded
    setting = "SLUICE_POSTGRES_PORT" if server else "SLUICE_AIRFLOW_PORT"
    stores = [
        Program(
            name="postgres",
            command=postgres.command(home / "postgres", own.port),
            address=f"127.0.0.1:{own.port}",
            ports=((own.port, setting),),
            ready=lambda: _answers(source.ping),
            user=postgres.system_user(),
            stop_signal="INT",  # fast shutdown: ends sessions, loses nothing
        ),
        *_broker(settings),
        Program(
            name="clickhouse",
            command=[
                *(sys.executable, "-m", "sluice.embedded.clickhouse"),
                *("--path", str(home / "clickhouse")),
                *("--tcp-port", str(clickhouse.port), "--http-port", str(clickhouse.http_port)),
                *("--config-file", str(home / "run" / CONFIGURATION)),
            ],
            address=f"127.0.0.1:{clickhouse.port}, http://127.0.0.1:{clickhouse.http_port}",
            ports=(
                (clickhouse.port, "SLUICE_CLICKHOUSE_PORT"),
                (clickhouse.http_port, "SLUICE_CLICKHOUSE_HTTP_PORT"),
            ),
            # By HTTP, as a failed native handshake crashes this server.
            ready=lambda: _gets(f"http://127.0.0.1:{clickhouse.http_port}/ping"),
        ),
    ]
    return [store for store in stores if store.name != "clickhouse" or clickhouse.embedded]


def _broker(settings: Settings) -> list[Program]:
    """Return the embedded broker, unless there is another."""
    if not settings.kafka.embedded:
        return []
    address = settings.kafka.bootstrap
    port = int(address.rpartition(":")[2])
    return [
        Program(
            name="broker",
            command=[
                *(sys.executable, "-m", "sluice.embedded.kafka"),
                *("--home", str(settings.home), "--port", str(port)),
            ],
            address=address,
            ports=tuple((own, "SLUICE_KAFKA_PORT") for own in (port, port + kafka.CONTROLLER)),
            ready=lambda: kafka.listens(port),
        )
    ]


def is_example(settings: Settings) -> bool:
    """Whether the models are those of the repository's example, with which its store comes."""
    own = settings.models == "models" and settings.postgres.embedded
    return own and find_spec("store_api") is not None


def _pipeline(settings: Settings) -> list[Program]:
    """Return the relay and, in the repository with its example, the store API."""
    url = f"http://127.0.0.1:{settings.api_port}"
    command = [sys.executable, "-m", "uvicorn", "--factory", "store_api.app:app_from_environment"]
    relay = Program(
        name="relay",
        command=[_script("sluice"), "relay"],
        address=f"slot {settings.relay.slot}",
        ports=(),
    )
    if not is_example(settings):
        return [relay]
    return [
        relay,
        Program(
            name="api",
            command=[*command, "--host", "127.0.0.1", "--port", str(settings.api_port)],
            address=url,
            ports=((settings.api_port, "SLUICE_API_PORT"),),
            ready=lambda: _gets(f"{url}/health"),
        ),
    ]


def _airflow(settings: Settings) -> list[Program]:
    script, port = _script("airflow"), settings.airflow_port
    return [
        Program(
            name="airflow-api-server",
            command=[script, "api-server"],
            address=f"http://127.0.0.1:{port}",
            ports=((port, "SLUICE_AIRFLOW_PORT"),),
            ready=lambda: _gets(f"http://127.0.0.1:{port}/api/v2/monitor/health"),
            stop_seconds=2,  # its last answer is sent by then; it would free memory for 8 s
        ),
        Program(
            name="airflow-scheduler",
            # Its log server listens on every address; the UI reads the log files themselves.
            command=[script, "scheduler", "--skip-serve-logs"],
            address=f"http://127.0.0.1:{port + SCHEDULER_HEALTH}/health",
            ports=((port + SCHEDULER_HEALTH, "SLUICE_AIRFLOW_PORT"),),
            ready=lambda: _gets(f"http://127.0.0.1:{port + SCHEDULER_HEALTH}/health"),
        ),
        Program(
            name="airflow-dag-processor",
            command=[script, "dag-processor"],
            address="parses dags/",
            ports=(),
            ready=lambda: _healthy(port, "metadatabase", "scheduler", "dag_processor"),
        ),
        Program(
            # No task of Sluice defers, but Airflow's home shows a missing triggerer as a failure.
            name="airflow-triggerer",
            command=[script, "triggerer", "--skip-serve-logs"],
            address="waits for deferred tasks",
            ports=(),
            ready=lambda: _healthy(port, "triggerer"),
            stop_seconds=3,  # another one would take up its triggers; it often waits for 10 s
        ),
    ]


def _healthy(port: int, *parts: str) -> bool:
    """Whether these parts of Airflow are up; this needs no login, so no secret is sent."""
    return AirflowApi(port, "", _HEALTH_S, lambda: None).healthy(parts)


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _answers(call: Callable[[], None]) -> bool:
    try:
        call()
    except SluiceError:
        return False
    return True


def _gets(url: str, seconds: float = 3) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except HTTPError as error:
        error.close()
        return False
    except (OSError, HTTPException, ValueError):  # the last two: not HTTP, or invalid
        return False
