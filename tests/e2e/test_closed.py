"""Every port and process of a stack, as another account and as hostile web pages try them."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2
import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException
from playwright.sync_api import Page
from psycopg2.extras import LogicalReplicationConnection
from sqlalchemy import text

from sluice.embedded.private import UMASK
from sluice.embedded.stack import Stack
from sluice.settings import PROJECT, read_secrets
from store_api.database import make_engine
from tests.e2e.running import Running
from tests.support.browser import chromium, log_in

pytestmark = pytest.mark.e2e

Attack = Callable[[Running, int], None]
REBOUND = "rebound.example"  # a domain of somebody else's that resolves to this machine
HTTP = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://other.example\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)


def answered(port: int, sent: bytes = HTTP) -> bytes:
    """What a server sends to bytes that any program can send."""
    with closing(socket.create_connection(("127.0.0.1", port), 5)) as stranger:
        stranger.sendall(sent)
        stranger.settimeout(10)
        with suppress(ConnectionResetError):
            return stranger.recv(1000)
    return b""


def nothing(_: Running, port: int) -> None:
    assert answered(port) == b""


def postgres(_: Running, port: int) -> None:
    nothing(_, port)
    place = {"host": "127.0.0.1", "port": port, "dbname": "postgres", "connect_timeout": 10}
    for login in (
        {"user": "postgres"},
        {"user": "postgres", "password": "postgres"},
        {"user": "embedded_postgres"},
        {"user": "postgres", "connection_factory": LogicalReplicationConnection},
    ):
        refusal = "no password supplied|authentication failed"
        with pytest.raises(psycopg2.OperationalError, match=refusal):
            psycopg2.connect(**place, **login)


def clickhouse_native(_: Running, port: int) -> None:
    assert b"is for clickhouse-client program" in answered(port)
    with pytest.raises(ServerException, match=r"Quota|Not enough privileges"):
        Client("127.0.0.1", port).execute("SYSTEM STOP LISTEN TCP")


def clickhouse(_: Running, port: int) -> None:
    """See test_closed_clickhouse.py for all that it refuses."""
    address = f"http://127.0.0.1:{port}/"
    for statement in ("SELECT * FROM cdc.checkpoints", "SYSTEM STOP LISTEN HTTP"):
        assert not httpx.post(address, content=statement, timeout=60).is_success, statement


def store(_: Running, port: int) -> None:
    """The example's API, which has no users; nothing else is behind it."""
    described = httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()["paths"]
    assert {path.split("/")[1] for path in described} == {"api", "health"}
    for host in (REBOUND, f"{REBOUND}:{port}", "127.0.0.1.nip.io"):
        answer = httpx.get(f"http://127.0.0.1:{port}/api/customers", headers={"Host": host})
        assert (answer.status_code, "email" in answer.text) == (421, False)


# Route of Airflow's -> what it tells without a login.
PUBLIC = {
    "/api/v2/monitor/health",
    "/api/v2/version",
    "/api/v2/auth/login",  # leads to the form
    "/api/v2/auth/logout",
    "/auth/token",  # takes the password
    "/auth/token/cli",
    "/execution/health",
    "/execution/health/ping",
}


def airflow(_: Running, port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        versions = re.findall(r"\d{4}-\d\d-\d\d", client.get("/execution/docs").text)
        described = {
            f"{place}{path}": methods
            for place, version in (("", ""), ("/auth", ""), ("/execution", max(versions)))
            for path, methods in client.get(f"{place}/openapi.json", params={"version": version})
            .raise_for_status()
            .json()["paths"]
            .items()
        }
        open_ones = {
            path
            for path, methods in described.items()
            for method in methods
            if client.request(method, re.sub(r"\{\w+\}", "1", path), json={}).status_code
            not in {401, 403}
        }
        assert open_ones == PUBLIC
        assert len(described) > 100


def scheduler(_: Running, port: int) -> None:
    assert httpx.get(f"http://127.0.0.1:{port}/health").content == b""
    assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 404


# Program -> what tries each of its ports, in their order.
PORTS: dict[str, tuple[Attack, ...]] = {
    "postgres": (postgres,),
    "broker": (nothing, nothing),  # see test_closed_broker.py
    "clickhouse": (clickhouse_native, clickhouse),
    "api": (store,),
    "airflow-api-server": (airflow,),
    "airflow-scheduler": (scheduler,),
}


def processes(stack: Running) -> dict[str, list[psutil.Process]]:
    """Program -> its processes."""
    states = Stack(stack.settings).states().items()
    first = {name: psutil.Process(state.pid) for name, state in states if state.pid}
    return {name: [one, *one.children(recursive=True)] for name, one in first.items()}


def test_every_port_that_is_open_is_tried(stack: Running) -> None:
    found = {
        (name, place.laddr.ip, place.laddr.port)
        for name, several in processes(stack).items()
        for place in connections(several)
        if place.status in {psutil.CONN_LISTEN, psutil.CONN_NONE}
    }
    programs = Stack(stack.settings).programs
    known = {
        (name, "127.0.0.1", port)
        for name, attacks in PORTS.items()
        for (port, _), _ in zip(programs[name].ports, attacks, strict=True)
    }
    assert found == known
    assert {name for name, program in programs.items() if program.ports} == set(PORTS)


def connections(several: list[psutil.Process], kind: str = "inet") -> Iterator[Any]:
    """TCP and UDP of processes; those that end meanwhile are left out."""
    for one in several:
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            yield from one.net_connections(kind)


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, those in PORTS.items() for n in range(len(those))]
)
def test_a_stranger_on_a_port_gets_what_is_promised(stack: Running, name: str, number: int) -> None:
    port, _ = Stack(stack.settings).programs[name].ports[number]
    before = Stack(stack.settings).states()[name].pid
    PORTS[name][number](stack, port)
    assert Stack(stack.settings).states()[name].pid == before


def test_processes_keep_what_they_write_and_where_they_listen_to_their_owner(
    stack: Running,
) -> None:
    home = stack.home.resolve()
    written, masks = set(), set()
    for several in processes(stack).values():
        for one in several:
            with suppress(psutil.NoSuchProcess):
                files = one.open_files()
                written |= {file.path for file in files if set(file.mode) & set("wa+")}
                status = Path(f"/proc/{one.pid}/status").read_text()
                masks.add(int(re.findall(r"^Umask:\s*(\d+)", status, re.M)[0], 8))
        written |= {place.laddr for place in connections(several, "unix") if place.laddr}
    outside = {path for path in written if not Path(path).resolve().is_relative_to(home)}
    assert outside == set()
    assert masks == {UMASK}


def test_the_supervisors_socket_is_its_owners(stack: Running) -> None:
    path = Stack(stack.settings)._socket()
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


# What a page of another site sends to a server that it knows: (path, method, body, type).
Attempt = tuple[str, str, str | None, str]
TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "application/json")
PERSON = json.dumps({"email": "page@example.com", "name": "P", "country": "Chile", "city": "Arica"})
RUN = json.dumps({"logical_date": None, "conf": {}})
POOL = json.dumps({"name": "planted", "slots": 1})


def attempts(name: str) -> Iterator[Attempt]:
    reads = {
        "api": ["/api/customers?limit=1", "/openapi.json", "/health"],
        "airflow-api-server": ["/api/v2/dags", "/sluice/api/v1/overview", "/sluice/", "/ui/config"],
        "airflow-scheduler": ["/health"],
        "clickhouse": ["/?query=SELECT+42", "/?user=default&query=SELECT+42", "/ping"],
    }
    for path in reads.get(name, ["/"]):
        yield path, "GET", None, ""
    writes = {
        "api": [("/api/customers", "POST", PERSON)],
        "airflow-api-server": [
            ("/api/v2/dags/sluice_maintenance/dagRuns", "POST", RUN),
            ("/api/v2/pools", "POST", POOL),
            ("/auth/token", "POST", json.dumps({"username": "admin", "password": "admin"})),
        ],
        "clickhouse": [
            ("/", "POST", "CREATE TABLE cdc.planted (x UInt8) ENGINE = Memory"),
            ("/?user=default", "POST", "SYSTEM STOP LISTEN HTTP"),
            ("/?user=default", "POST", "SYSTEM STOP LISTEN TCP"),
        ],
    }
    for path, method, body in writes.get(name, [("/", "POST", "{}")]):
        for kind in TYPES:
            yield path, method, body, kind
    yield (
        {"api": "/api/customers/1", "airflow-api-server": "/api/v2/dags/sluice_drain"}.get(
            name, "/"
        ),
        "DELETE",
        None,
        "",
    )
    yield "/api/v2/dags/sluice_drain", "PATCH", json.dumps({"is_paused": True}), "application/json"


SCRIPT = """async (attempts) => {
  const told = [];
  for (const [url, method, content, type] of attempts) {
    for (const mode of ["cors", "no-cors"]) {
      const headers = type ? {"Content-Type": type} : {};
      const body = content === null ? undefined : type ? content : new Blob([content]);
      const signal = AbortSignal.timeout(2000);
      try {
        const options = {method, headers, body, mode, signal, credentials: "include"};
        const answer = await fetch(url, options);
        if (answer.type !== "opaque") told.push(`${method} ${url}: ${await answer.text()}`);
      } catch {}
    }
  }
  return told;
}"""


@contextmanager
def elsewhere() -> Iterator[int]:
    """A server of somebody else's; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def owner(stack: Running) -> Iterator[Page]:
    """A page of the stack's owner, who has logged in."""
    address = f"http://127.0.0.1:{stack.settings.airflow_port}"
    with chromium(f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1") as browser:
        yield log_in(browser, address, "admin", read_secrets(stack.home)["airflow"])


def state(stack: Running) -> tuple[Any, ...]:
    """What pages elsewhere might have changed."""
    engine = make_engine(stack.settings.postgres)
    with engine.connect() as connection:
        people = connection.execute(text("SELECT count(*), min(id) FROM customers")).one()
    engine.dispose()
    tables = stack.query("SELECT count() AS n FROM system.tables WHERE name = 'planted'")
    runs = stack.airflow("GET", "dags/sluice_maintenance/dagRuns")["total_entries"]
    paused = stack.airflow("GET", "dags/sluice_drain")["is_paused"]
    pools = {pool["name"] for pool in stack.airflow("GET", "pools")["pools"]}
    return tuple(people), tables, runs, paused, pools


def running(stack: Running) -> dict[str, int | None]:
    """Program -> its process."""
    return {name: state.pid for name, state in Stack(stack.settings).states().items()}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another site", "the same site"])
def test_a_page_elsewhere_reads_and_changes_nothing_on_any_port(
    owner: Page, stack: Running, host: str
) -> None:
    """Of the same site, as other ports of one host are, it has the owner's cookies."""
    before, pids = state(stack), running(stack)
    programs = Stack(stack.settings).programs
    tried = [
        (f"http://127.0.0.1:{port}{path}", method, body, kind)
        for name in PORTS
        for port, _ in programs[name].ports
        for path, method, body, kind in attempts(name)
    ]
    with elsewhere() as port:
        owner.goto(f"http://{host}:{port}/")
        told = owner.evaluate(SCRIPT, tried)
        assert told == []
        assert framed(owner, f"http://127.0.0.1:{stack.settings.airflow_port}/sluice/") == ""
    Stack(stack.settings).start(["clickhouse"], lambda _: None)  # waits until it answers
    assert state(stack) == before
    # A preflight request to its native port ends it, and the supervisor starts it again.
    assert {**running(stack), "clickhouse": 0} == {**pids, "clickhouse": 0}


def framed(page: Page, address: str) -> str:
    """The text of a page in a frame, as its user sees it; empty where it may not be framed."""
    page.set_content(f"<iframe src='{address}'></iframe>")
    page.wait_for_timeout(3000)
    (frame,) = page.frames[1:]
    return frame.locator("body").inner_text() if frame.url == address else ""


def test_a_page_whose_domain_resolves_to_this_machine_reads_nothing_of_the_owners(
    owner: Page, stack: Running
) -> None:
    begins = {
        "api": "/docs",
        "airflow-api-server": "/api/v2/version",
        "airflow-scheduler": "/health",
        "clickhouse": "/ping",
    }
    for name, begin in begins.items():
        port, _ = Stack(stack.settings).programs[name].ports[-1]
        owner.goto(f"http://{REBOUND}:{port}{begin}")
        told = owner.evaluate(SCRIPT, list(attempts(name)))
        for secret in ("email", "olap", "dag_id", "access_token"):
            assert [line for line in told if secret in line] == [], name


COMMANDS = """
import io, json, os, pwd, sys
from typer.main import get_command
from typer.testing import CliRunner
from sluice.cli import app
import sluice.wiring, sluice.embedded.stack
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
os.chdir("/")
def leaves(command, names=()):
    if not hasattr(command, "commands"):
        yield names, command
        return
    for name, one in command.commands.items():
        yield from leaves(one, (*names, name))
told = {}
for names, command in leaves(get_command(app)):
    given = [a for p in command.params if p.required for a in
             ([p.opts[0], "1"] if p.param_type_name == "option" else ["orders"])]
    done = CliRunner().invoke(app, [*names, *given])
    told[" ".join(names)] = [done.exit_code, type(done.exception).__name__, done.output]
print(json.dumps(told))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_no_command_of_another_account_does_anything_with_the_stack(stack: Running) -> None:
    before = state(stack)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        env=stack.environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert {"status", "drain", "down", "topics show"} <= set(told)
    assert {(code, kind, text) for code, kind, text in told.values()} == {(1, "WrongUsage", "")}
    assert state(stack) == before
