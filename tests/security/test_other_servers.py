"""Somebody else's server on a port of the stack's: no password is sent to it."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.clients.listeners import listening_account
from sluice.embedded.stack import Stack
from sluice.errors import NotReady, Unreachable
from sluice.settings import Settings, read_secrets
from tests.support.processes import SLUICE, command_environment
from tests.support.services import free_ports

pytestmark = pytest.mark.services

CLEAR_TEXT = b"R\x00\x00\x00\x08\x00\x00\x00\x03"  # PostgreSQL: AuthenticationCleartextPassword
HTTP = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"access_token": ""}'
# Answers every connection, and prints what it was sent.
SERVER = """
import os, socket, sys, threading
os.setuid(int(sys.argv[3]))
answer = bytes.fromhex(sys.argv[2])
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
def talk(connection):
    connection.settimeout(2)
    try:
        while heard := connection.recv(65536):
            print(heard.hex(), flush=True)
            connection.sendall(b"N" if len(heard) == 8 else answer)  # 8: PostgreSQL asks for TLS
    except OSError:
        pass
    connection.close()
while True:
    threading.Thread(target=talk, args=server.accept()[:1], daemon=True).start()
"""


@contextmanager
def listening(port: int, answer: bytes, user: str | None) -> Iterator[list[bytes]]:
    """A server of that user's; the list holds what it was sent."""
    account = str(pwd.getpwnam(user).pw_uid if user else os.geteuid())
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port), answer.hex(), account],
        stdout=subprocess.PIPE,
        text=True,
    )
    heard: list[bytes] = []
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    lines = server.stdout

    def read() -> None:
        heard.extend(bytes.fromhex(line) for line in lines)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield heard
    finally:
        server.kill()
        server.wait()
        reader.join()
        lines.close()


# Setting -> what a server on that port says, and whose it is.
PORTS = {
    "SLUICE_AIRFLOW_PORT": (HTTP, None),
    "SLUICE_POSTGRES_PORT": (CLEAR_TEXT, None),
    "SLUICE_CLICKHOUSE_PORT": (b"", "nobody"),
}


@pytest.mark.parametrize("setting", PORTS)
@pytest.mark.parametrize("command", [("status", "--json"), ("status",), ("sql", "SELECT 1")])
def test_no_command_sends_a_password_to_whoever_holds_the_port(
    services: Settings, setting: str, command: tuple[str, ...]
) -> None:
    answer, user = PORTS[setting]
    if user and os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    (port,) = free_ports(1)
    with listening(port, answer, user) as heard:
        done = subprocess.run(
            [SLUICE, *command],
            env=command_environment(services, **{setting: str(port)}),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    said = b"".join(heard)
    secrets = read_secrets(services.home)
    assert [name for name, value in secrets.items() if value.encode() in said] == []
    if command[0] == "status" or setting == "SLUICE_CLICKHOUSE_PORT":
        assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    if command == ("status", "--json"):
        error = json.loads(done.stdout)["error"]
        assert str(port) in error
        assert setting == "SLUICE_POSTGRES_PORT" or "listens on" in error or "is on" in error


@contextmanager
def forwarding(port: int, to: int) -> Iterator[None]:
    """A server of this user's that passes everything on; its connections end with it."""
    ends: list[socket.socket] = []

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def accept(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                pair = (server.accept()[0], socket.create_connection(("127.0.0.1", to)))
                ends.extend(pair)
                for way in (pair, pair[::-1]):
                    threading.Thread(target=copy, args=way, daemon=True).start()

    server = socket.create_server(("127.0.0.1", port))
    threading.Thread(target=accept, args=(server,), daemon=True).start()
    try:
        yield
    finally:
        for end in (server, *ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_a_session_that_lost_its_server_sends_no_password_to_another(services: Settings) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    (port,) = free_ports(1)
    moved = replace(services.clickhouse, port=port, account=os.geteuid())
    with closing(ClickHouse(moved)) as session:
        with forwarding(port, services.clickhouse.port):
            assert session.execute("SELECT 1") == [(1,)]
        with listening(port, b"", "nobody") as heard, pytest.raises(Unreachable, match="another"):
            session.execute("SELECT 1")
        assert heard == []
        with forwarding(port, services.clickhouse.port):
            assert session.execute("SELECT 1") == [(1,)]


def test_a_program_that_runs_is_told_from_another_on_its_port(services: Settings) -> None:
    stack = Stack(services)
    stack.require_own("clickhouse")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        moved = replace(services, clickhouse=replace(services.clickhouse, port=port))
        with pytest.raises(NotReady, match=f"on port {port}"):
            Stack(moved).require_own("clickhouse")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="this system does not tell")
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_the_account_that_listens_is_known(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.create_server((address, 0), family=family) as server:
        assert listening_account(server.getsockname()[1]) == os.geteuid()
    (port,) = free_ports(1)
    assert listening_account(port) is None


def test_a_planted_socket_of_the_supervisor_is_not_believed(services: Settings) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a socket away")
    stack = Stack(replace(services, home=services.home / ("long" * 30)))
    stack._home.mkdir()
    path = stack._socket()
    assert path.parent != stack._home / "run"
    with socket.socket(socket.AF_UNIX) as planted:
        planted.bind(str(path))
        try:
            os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
            assert not stack.running()
            with pytest.raises(NotReady, match="belongs to another user"):
                stack.halt(["relay"])
        finally:
            path.unlink()
            stack._home.rmdir()
