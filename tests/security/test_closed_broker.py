"""The embedded broker as others on the machine try it: topics steer deletes."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sluice.clients.topics import Topics
from sluice.embedded import kafka
from sluice.embedded.stack import Stack
from sluice.errors import Unreachable
from sluice.settings import KafkaSettings, Settings, read_secrets
from tests.support.outside_broker import require_embedded
from tests.support.processes import process_of
from tests.support.services import own_services

pytestmark = pytest.mark.services
services = own_services

TOPIC = "cdc.orders"


@pytest.fixture(scope="module", autouse=True)
def embedded() -> None:
    require_embedded("these tests are of the embedded broker's login")


PLAINTEXT: Mapping[str, str] = {"security.protocol": "PLAINTEXT"}


def login(password: str, mechanism: str = "SCRAM-SHA-256", user: str = "sluice") -> dict[str, str]:
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": mechanism,
        "sasl.username": user,
        "sasl.password": password,
    }


WRONG = [
    PLAINTEXT,
    login("guessed"),
    login("guessed", "PLAIN"),
    login("controller", "PLAIN", "controller"),
    login("guessed", user="ANONYMOUS"),
    login("guessed", user="User:sluice"),
]


def ports(services: Settings) -> tuple[int, int]:
    port = int(services.kafka.bootstrap.rpartition(":")[2])
    return port, port + kafka.CONTROLLER


@pytest.fixture
def unchanged(services: Settings) -> Iterator[None]:
    """Require that a test changes nothing on the broker, which runs on."""
    topics, stack = Topics(services.kafka), Stack(services)
    before = topics.partitions(), topics.ends([TOPIC]), stack.states()["broker"].pid
    yield
    assert (topics.partitions(), topics.ends([TOPIC]), stack.states()["broker"].pid) == before


@pytest.mark.parametrize("options", WRONG, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("port", [0, 1], ids=["clients", "controller"])
@pytest.mark.usefixtures("unchanged")
def test_nobody_without_the_password_is_answered(
    services: Settings, options: Mapping[str, str], port: int
) -> None:
    stranger = KafkaSettings(bootstrap=f"127.0.0.1:{ports(services)[port]}", options=options)
    with pytest.raises(Unreachable):
        Topics(stranger, seconds=2).partitions()


@pytest.mark.usefixtures("unchanged")
def test_the_controller_does_not_take_the_clients_password(services: Settings) -> None:
    password = read_secrets(services.home)["kafka"]
    for mechanism in ("SCRAM-SHA-256", "PLAIN"):
        options = login(password, mechanism)
        client = KafkaSettings(bootstrap=f"127.0.0.1:{ports(services)[1]}", options=options)
        with pytest.raises(Unreachable):
            Topics(client, seconds=2).partitions()


def test_a_wrong_password_is_named_with_what_fixes_it(services: Settings) -> None:
    wrong = replace(services.kafka, options=login("guessed-at-random"))
    with pytest.raises(Unreachable, match="refuses the login") as caught:
        Topics(wrong, seconds=3).partitions()
    assert "sasl.password" in (caught.value.remedy or "")
    assert "guessed-at-random" not in str(caught.value)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("port", [0, 1], ids=["clients", "controller"])
def test_a_page_in_a_browser_gets_no_answer(services: Settings, port: int) -> None:
    """A browser can only send HTTP; Kafka takes its first four bytes as a length."""
    request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"
    with closing(socket.create_connection(("127.0.0.1", ports(services)[port]), 5)) as page:
        page.sendall(request)
        page.settimeout(10)
        with suppress(ConnectionResetError):
            assert page.recv(100) == b""


def test_it_listens_on_this_machine_alone(services: Settings) -> None:
    broker = process_of(Stack(services).states()["broker"].pid)
    listening = [c.laddr for c in broker.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert {address.port for address in listening} == set(ports(services))
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_its_passwords_are_in_no_argument(services: Settings) -> None:
    password = read_secrets(services.home)["kafka"]
    broker = process_of(Stack(services).states()["broker"].pid)
    assert password not in " ".join(broker.cmdline())
    for folder in ("logs", "run"):
        found = [p for p in (services.home / folder).rglob("*") if p.is_file() and has(p, password)]
        assert [path.name for path in found] == (["kafka.properties"] if folder == "run" else [])


def has(path: Path, text: str) -> bool:
    return text.encode() in path.read_bytes()
