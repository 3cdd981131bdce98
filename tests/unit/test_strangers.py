"""Whatever else answers on a service's port, what asks it says so in an error of ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.capture import metrics as telemetry
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.clients.topics import Topics
from sluice.embedded import programs
from sluice.embedded.airflow_service import AirflowApi
from sluice.embedded.stack import Stack
from sluice.errors import Retryable
from sluice.settings import Settings, read_settings
from tests.support.strangers import STRANGERS, stranger

# The silent one is waited for by each client's own patience.
PATIENCE = 1.5
KINDS = pytest.mark.parametrize("kind", STRANGERS)


def settings(port: int, home: str = "/nowhere") -> Settings:
    made = read_settings({"SLUICE_HOME": home})
    return replace(
        made,
        postgres=replace(made.postgres, port=port, options={"connect_timeout": "2"}),
        kafka=replace(made.kafka, bootstrap=f"127.0.0.1:{port}"),
        clickhouse=replace(made.clickhouse, port=port, options={"send_receive_timeout": PATIENCE}),
    )


def ask_clickhouse(port: int) -> None:
    with closing(ClickHouse(settings(port).clickhouse)) as clickhouse:
        clickhouse.execute("SELECT 1")


def airflow(port: int) -> AirflowApi:
    return AirflowApi(port, "password", PATIENCE, lambda: None)


ASKING: dict[str, Callable[[int], object]] = {
    "PostgreSQL's ping": lambda port: PostgresSource(settings(port).postgres).ping(),
    "PostgreSQL": lambda port: PostgresSource(settings(port).postgres).find_slot("s"),
    "broker": lambda port: Topics(settings(port).kafka, seconds=PATIENCE).epoch(),
    "ClickHouse": ask_clickhouse,
    "Airflow's DAGs": lambda port: airflow(port).dags(),
    "Airflow's runs": lambda port: airflow(port).last_run("sluice_drain"),
    "Airflow's pools": lambda port: airflow(port).ensure_pool("p", 1),
    "Airflow's trigger": lambda port: airflow(port).trigger("sluice_drain"),
}


@KINDS
def test_what_asks_a_service_says_that_it_does_not_answer(kind: str) -> None:
    """All at once: most of it is waiting."""
    told: dict[str, Exception | None] = {}

    def ask(name: str, port: int) -> None:
        try:
            ASKING[name](port)
            told[name] = None
        except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
            told[name] = error

    with stranger(kind) as port:
        threads = [threading.Thread(target=ask, args=(name, port)) for name in ASKING]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert told.keys() == ASKING.keys()
    unlike = {name: error for name, error in told.items() if not isinstance(error, Retryable)}
    assert unlike == {}
    assert all(len(str(error).splitlines()) <= 2 for error in told.values()), told


@KINDS
def test_a_probe_of_the_stack_is_true_or_false(kind: str) -> None:
    with stranger(kind) as port:
        served = STRANGERS[kind] is not None and STRANGERS[kind].startswith(b"HTTP/1.1 200")  # type: ignore[union-attr]
        assert programs._gets(f"http://127.0.0.1:{port}/ping", PATIENCE) is served
        assert not airflow(port).healthy(("scheduler",))
        assert telemetry.read_status("127.0.0.1", port) == {}


@pytest.mark.parametrize("kind", [kind for kind, words in STRANGERS.items() if words is not None])
def test_a_socket_that_is_not_the_supervisors_is_no_running_stack(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "run" / "supervisor.sock"))
    listener.listen()
    stack = Stack(settings(1, str(tmp_path)))
    with stranger(kind, listener):
        assert not stack.running()
        with pytest.raises(Retryable):
            stack.halt(["relay"])
