"""Why a broker cannot be used is told by every client of it: login, TLS, name, port, rights."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError

from sluice.capture.publisher import Batch, Publisher
from sluice.clients.topics import Topics
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import Chunk
from sluice.errors import SluiceError, Unreachable, own_log
from sluice.events.event import Record, Reject
from sluice.settings import KafkaSettings
from tests.support.services import free_ports
from tests.support.strangers import stranger
from tests.support.tls import certificate

SECRET = "not-the-password"
SASL = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanisms": "PLAIN",
    "sasl.username": "me",
    "sasl.password": SECRET,
}
VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36
METADATA = 3


class Case(NamedTuple):
    """Where a client goes, and what it is to say and advise."""

    bootstrap: str
    options: dict[str, str]
    said: str
    advised: str


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def answer(key: int, version: int, mechanism: str) -> bytes:
    """What a broker with this mechanism says to a password that is wrong."""
    if key == VERSIONS:  # in its first version, and that newer ones are not known
        ranges = [(VERSIONS, 0, 0), (HANDSHAKE, 0, 1), (AUTHENTICATE, 0, 0), (METADATA, 0, 1)]
        listed = b"".join(struct.pack(">hhh", *one) for one in ranges)
        return struct.pack(">hi", 35 if version else 0, len(ranges)) + listed
    if key == HANDSHAKE:
        code = 0 if mechanism == "PLAIN" else KafkaError.UNSUPPORTED_SASL_MECHANISM
        return struct.pack(">hi", code, 1) + text(mechanism)
    refusal = text("Authentication failed: Invalid username or password")
    return struct.pack(">h", KafkaError.SASL_AUTHENTICATION_FAILED) + refusal + struct.pack(">i", 0)


def converse(connection: socket.socket, mechanism: str) -> None:
    with suppress(OSError, struct.error), connection, connection.makefile("rb") as read:
        while size := read.read(4):
            (length,) = struct.unpack(">i", size)
            if length > 1_000_000:
                return
            request = read.read(length)
            key, version, number = struct.unpack(">hhi", request[:8])
            said = struct.pack(">i", number) + answer(key, version, mechanism)
            connection.sendall(struct.pack(">i", len(said)) + said)


@contextmanager
def listening(mechanism: str = "PLAIN", context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A broker that lets nobody in; its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with suppress(ssl.SSLError):
                    if context is not None:
                        connection = context.wrap_socket(connection, server_side=True)
                    threading.Thread(target=converse, args=(connection, mechanism)).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


def read_log(log: KafkaLog) -> None:
    list(log.read("cdc.t", 0, Chunk(1), 2))


def publish(settings: KafkaSettings) -> None:
    """Until it is said why nothing is delivered: the relay asks beside it."""
    publisher = Publisher(settings, lambda: None)
    try:
        batch = Batch()
        publisher.publish("cdc.t", b"k", b"v", batch)
        publisher.flush(batch)
        for _ in range(80):
            publisher.poll(0.1)
        raise publisher._broker.failure(KafkaError(KafkaError._TIMED_OUT))
    finally:
        publisher.abandon()


def of_log(call: Callable[[KafkaLog], object]) -> Callable[[KafkaSettings], object]:
    def ask(settings: KafkaSettings) -> object:
        with closing(KafkaLog(settings)) as log:
            return call(log)

    return ask


REJECT = Reject(record=Record(0, b"k", b"v"), reason="r")
CLIENTS: dict[str, Callable[[KafkaSettings], object]] = {
    "the epoch": lambda settings: Topics(settings, seconds=6).epoch(),
    "partitions": lambda settings: Topics(settings, seconds=6).partitions(),
    "set-up": lambda settings: Topics(settings, seconds=6).ensure(["cdc.t"]),
    "a note": lambda settings: Topics(settings, seconds=6)._produce({"epoch": "e"}),
    "a mark": lambda settings: Topics(settings, seconds=6).mark("s"),
    "incarnation": lambda settings: Topics(settings, seconds=6).incarnation(["cdc.t"]),
    "a drain's read": of_log(read_log),
    "a drain's topic": of_log(lambda log: log.topic_id("cdc.t")),
    "a drain's rejects": of_log(lambda log: log.publish_dead_letters("t", [REJECT])),
    "the relay": publish,
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Any]]:
    """(Case, client) -> the case and what the client said; all at once, as each is patient."""
    trusted = certificate(tmp_path_factory.mktemp("tls"), "broker")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, trusted.with_suffix(".key"))
    tls = {"security.protocol": "SSL"}
    with ExitStack() as stack, ThreadPoolExecutor(100) as threads:
        plain = stack.enter_context(listening())
        encrypted = stack.enter_context(listening(context=context))
        scram = stack.enter_context(listening("SCRAM-SHA-256"))
        silent = stack.enter_context(stranger("says nothing"))
        (closed,) = free_ports(1)
        login, options, where = "refuses the login", "security.protocol", "KAFKA_BOOTSTRAP"
        cases = {
            "a wrong password": Case(plain, SASL, login, "sasl.password"),
            "another mechanism": Case(scram, SASL, login, "sasl.mechanisms"),
            "an unknown authority": Case(encrypted, tls, "does not agree on TLS", "ssl.ca"),
            "TLS to a plain port": Case(plain, tls, "SSL", options),
            "plain to a TLS port": Case(encrypted, {}, "does not answer", options),
            "an unknown name": Case(
                "nowhere..invalid:9", {}, "name that is not known", "BOOTSTRAP"
            ),
            "a closed port": Case(f"127.0.0.1:{closed}", {}, "does not answer", where),
            "a silent port": Case(f"127.0.0.1:{silent}", {}, "", where),
        }

        def ask(case: Case, client: str) -> BaseException | None:
            try:
                CLIENTS[client](KafkaSettings(bootstrap=case.bootstrap, options=case.options))
            except SluiceError as error:
                return error
            return None

        asked = {
            (name, client): (case, threads.submit(ask, case, client))
            for name, case in cases.items()
            for client in CLIENTS
        }
        yield {place: (case, future.result(90)) for place, (case, future) in asked.items()}


CASES = (
    *("a wrong password", "another mechanism", "an unknown authority", "TLS to a plain port"),
    *("plain to a TLS port", "an unknown name", "a closed port", "a silent port"),
)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_told_with_what_mends_it(
    told: dict[tuple[str, str], Any], name: str, client: str
) -> None:
    case, error = told[name, client]
    assert isinstance(error, Unreachable)
    assert case.bootstrap in error.what
    assert case.said in error.what
    assert case.advised in (error.remedy or "")
    assert SECRET not in str(error)
    assert len(str(error).splitlines()) == 2
    assert "sluice logs" not in (error.remedy or "")


def test_the_log_of_the_embedded_broker_is_named() -> None:
    (closed,) = free_ports(1)
    kafka = KafkaSettings(bootstrap=f"127.0.0.1:{closed}", options={}, embedded=True)
    with pytest.raises(Unreachable) as raised:
        Topics(kafka, seconds=3).partitions()
    assert raised.value.remedy == own_log("broker")


def test_a_report_does_not_wait_for_a_broker_that_nothing_listens_for() -> None:
    first, second = free_ports(2)
    both = f"127.0.0.1:{first}, SASL_PLAINTEXT://localhost:{second}"
    topics = Topics(KafkaSettings(bootstrap=both), seconds=3600)
    with pytest.raises(Unreachable, match="does not answer: connection refused") as caught:
        topics.require_listening()
    assert caught.value.remedy
    with closing(socket.create_server(("127.0.0.1", second))):
        topics.require_listening()


@pytest.mark.parametrize("bootstrap", ["nowhere.invalid:9092", "no port", ""])
def test_what_is_wrong_with_an_address_is_left_to_the_client(bootstrap: str) -> None:
    Topics(KafkaSettings(bootstrap=bootstrap)).require_listening()
