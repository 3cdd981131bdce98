"""Planted secrets, and what a stack in trouble leaves behind: they are nowhere in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import httpx
import psutil
import psycopg2
import pytest
from confluent_kafka import Producer

from sluice import wiring
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import connection_options
from sluice.embedded.stack import Stack
from tests.e2e.running import Running
from tests.support.canaries import files_with
from tests.support.permissions import open_to_others
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

# Where the stack keeps what it made, readable by its owner alone.
OWN_FILES = ("secrets.json", "airflow/passwords.json", "run/kafka.properties")
PLACES = ("webhook", "Slack", "e-mail")
COMMANDS = (
    ("status", "--json"),
    ("status",),
    ("quality", "--json"),
    ("doctor", "--json"),
    ("drain",),
    ("dead-letters", "list"),
    ("dead-letters", "show"),
    ("sql", "SELECT * FROM system.settings WHERE changed"),
)


def in_logs(stack: Running, *words: str) -> bool:
    """Whether a log of the stack holds a line with all words."""
    for path in (stack.home / "airflow" / "logs").rglob("*.log"):
        for line in path.read_text(errors="replace").splitlines():
            if all(word in line for word in words):
                return True
    return False


@pytest.fixture(scope="module")
def troubled(stack: Running) -> Running:
    """The stack after findings, alerts that fail and a service that was gone."""
    settings = stack.settings
    with stack.lines.watched():
        producer = Producer(
            {"bootstrap.servers": settings.kafka.bootstrap, **settings.kafka.options}
        )
        producer.produce("cdc.orders", key=b'{"id": 1}', value=b"not an event")
        assert producer.flush(30) == 0
        wiring.query(settings, "DELETE FROM cdc.dim_order WHERE id % 2 = 0")
        programs = Stack(settings)
        airflow = programs.airflow(seconds=60)
        airflow.trigger("sluice_drain")  # the next minute is not waited for
        for words in (["orders: row_count fail"], *(["alert by", place] for place in PLACES)):
            until(partial(in_logs, stack, *words), f"a log has {words}", 300, pause=1)
        until(
            lambda: bool(wiring.dead_letters(settings, "orders", 1)),
            "orders has a dead letter",
            300,
            pause=1,
        )
        resync(stack)
        for command in COMMANDS:
            stack.sluice(*command)
        programs.halt(["clickhouse"])
        airflow.trigger("sluice_drain")
        until(
            lambda: in_logs(stack, "ClickHouse", "does not answer"),
            "a log says that ClickHouse does not answer",
            300,
            pause=1,
        )
        stack.sluice("status", "--json")
        programs.start(["clickhouse"], lambda _: None)
    return stack


def test_no_file_of_the_stack_holds_a_secret_but_its_owners(troubled: Running) -> None:
    """Logs of every process and task, the supervisor's files, what the databases keep."""
    found = files_with(troubled.canaries, troubled.home)
    assert sorted(found) == sorted(OWN_FILES), found
    for name in OWN_FILES:
        assert (troubled.home / name).stat().st_mode & 0o777 == 0o600
    assert open_to_others(troubled.home) == {}
    logs = {path.stem for path in (troubled.home / "logs").glob("*.log")}
    assert logs >= set(Stack(troubled.settings).programs)


def test_no_process_shows_a_secret_on_its_command_line(troubled: Running) -> None:
    lines = troubled.lines.seen
    for program in Stack(troubled.settings).programs.values():
        assert any(program.command[-1].encode() in line for line in lines), program.name
    assert any(b"initdb" in line for line in lines)
    assert [line for line in lines if troubled.canaries.within(line)] == []


def test_no_command_prints_a_secret(troubled: Running) -> None:
    started, *printed = troubled.printed
    # `up` ends with the pages' addresses and passwords, for whoever sits at the terminal.
    assert troubled.canaries.within(started) == {"airflow", "clickhouse"}
    assert [text for text in printed if troubled.canaries.within(text)] == []


def test_env_prints_the_passwords_that_its_clients_need_and_no_other(stack: Running) -> None:
    printed = stack.sluice("env").stdout
    stack.printed[-2:] = []
    assert stack.canaries.within(printed) == {"postgres", "kafka", "clickhouse", "airflow"}


def test_state_tables_and_xcoms_hold_no_secret(troubled: Running) -> None:
    settings = troubled.settings
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        for (table,) in clickhouse.execute("SHOW TABLES FROM cdc"):
            rows = clickhouse.execute(f"SELECT * FROM cdc.`{table}`")
            assert troubled.canaries.within(repr(rows)) == set(), table
        assert clickhouse.execute("SELECT count() FROM cdc.dead_letters") != [(0,)]
    with closing(psycopg2.connect(**airflow_database(troubled))) as connection:
        cursor = connection.cursor()
        for table in (
            "xcom",
            "log",
            "asset_event",
            "task_instance",
            "rendered_task_instance_fields",
        ):
            cursor.execute(f"SELECT t::text FROM {table} t")
            rows = cursor.fetchall()
            assert troubled.canaries.within(repr(rows)) == set(), table
            assert rows, f"{table} is empty"


def test_what_airflow_did_is_kept_with_who_started_it(troubled: Running) -> None:
    with closing(ClickHouse(troubled.settings.clickhouse)) as clickhouse:
        newest = "SELECT argMax(done_by, finished_at) FROM cdc.resyncs"
        assert clickhouse.execute(newest) == [("admin",)]
        rebuilds = {name for (name,) in clickhouse.execute("SELECT done_by FROM cdc.rebuilds")}
        assert "Airflow: asset_triggered" in rebuilds


def test_neither_the_page_nor_airflows_api_shows_a_secret(troubled: Running) -> None:
    with owner(troubled) as client:
        described = client.get("/sluice/openapi.json").json()["paths"]
        pages = ["/sluice/", "/sluice/tables/orders", "/sluice/metrics"]
        pages += [f"/sluice{path}" for path in described if "{" not in path]
        parts = {"table": "orders", "relation": "dim_customer", "topic": "cdc.orders"}
        pages += [f"/sluice{path.format(**parts)}" for path in described]
        for page in dict.fromkeys(pages):
            answer = client.get(page, params={"key": "1"})
            assert answer.status_code == 200, (page, answer.text)
            assert troubled.canaries.within(answer.content) == set(), page
        runs = "/api/v2/dags/~/dagRuns/~"
        for path in (
            "/api/v2/connections",
            "/api/v2/config",
            "/api/v2/plugins",
            f"{runs}/taskInstances?limit=1000",
            "/api/v2/eventLogs?limit=1000",
        ):
            assert troubled.canaries.within(client.get(path).content) == set(), path


def test_everything_listens_on_this_machine_alone(stack: Running) -> None:
    states = Stack(stack.settings).states()
    processes = [psutil.Process(state.pid) for state in states.values() if state.pid]
    places = {place for process in processes for place in listening(process)}
    ports = {int(port) for name, port in stack.environment.items() if name.endswith("_PORT")}
    assert ports <= {port for _, port in places}
    assert {address for address, _ in places} == {"127.0.0.1"}


def listening(process: psutil.Process) -> Iterator[tuple[str, int]]:
    """Where a process and its children listen; those that end meanwhile are left out."""
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            for place in one.net_connections("tcp"):
                if place.status == psutil.CONN_LISTEN:
                    yield place.laddr.ip, place.laddr.port


def test_airflow_gives_nobody_a_token_without_the_password(stack: Running) -> None:
    address = f"http://127.0.0.1:{stack.settings.airflow_port}/auth/token"
    wrong = {"username": "admin", "password": "admin"}
    with httpx.Client(timeout=60) as client:
        assert client.get(address).status_code in {401, 403}
        assert client.post(address, json=wrong).status_code == 401


@contextmanager
def owner(stack: Running) -> Iterator[httpx.Client]:
    """The user admin, logged in."""
    address = f"http://127.0.0.1:{stack.settings.airflow_port}"
    user = {"username": "admin", "password": stack.canaries["airflow"]}
    with httpx.Client(base_url=address, timeout=60) as client:
        token = client.post("/auth/token", json=user).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def resync(stack: Running) -> None:
    """A run of the form's DAG, which hands its parts on as XComs."""
    asked = {"logical_date": None, "conf": {"tables": ["orders"]}}
    with owner(stack) as client:
        runs = "/api/v2/dags/sluice_resync/dagRuns"
        run = client.post(runs, json=asked).raise_for_status().json()["dag_run_id"]
        ended = {"success", "failed"}
        until(
            lambda: client.get(f"{runs}/{run}").json()["state"] in ended,
            "the run of sluice_resync has ended",
            300,
            pause=1,
        )


def airflow_database(stack: Running) -> dict[str, Any]:
    """Where Airflow keeps its metadata."""
    return {**connection_options(stack.settings.postgres), "dbname": "airflow"}
