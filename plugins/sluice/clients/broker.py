"""Clients of one broker; librdkafka's errors are translated here.

librdkafka retries in the background: a call ends with "transport failure" or "timed out". The cause
(a refused password, a certificate, an unknown host name) goes to the error callback, and a
connection closed by the peer only to the log. So every client reports both here, and an error is
raised with the gravest report.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from sluice.clients.broker_options import require_allowed
from sluice.errors import Unreachable, WrongUsage, own_log
from sluice.settings import KafkaSettings

C = TypeVar("C")
_NONE: Mapping[str, Any] = {}
# A transaction that its producer left open hides what others send after it from consumers that
# read only committed messages. Sluice's sources use no transactions.
_READ_ALL: Mapping[str, Any] = {"isolation.level": "read_uncommitted"}
_NO_SECRET = 5  # characters; longer values may be a secret
_RECENT_S, _POLL_S, _CONNECT_S = 60.0, 0.5, 2.0
_INFORMATION = 6
_WHERE = "SLUICE_KAFKA_OPTIONS, or in the extra of the connection sluice_redpanda"
_LOGIN = f"fix sasl.mechanisms, sasl.username or sasl.password in {_WHERE}"
_TLS = f"fix security.protocol or ssl.ca.location in {_WHERE}"
_ADDRESS = "fix SLUICE_KAFKA_BOOTSTRAP, or bootstrap.servers of the connection sluice_redpanda"
_PROTOCOL = f"{_ADDRESS}; if the port is one for TLS, security.protocol in {_WHERE}"
_RIGHTS = "give its user the rights that docs/services/kafka.md lists"
_SIZE = "raise the topics' max.message.bytes, or set a batch.size below it in SLUICE_KAFKA_OPTIONS"
_SPEAKER = re.compile(r"^\S+/(bootstrap|\d+): ")  # the broker that reports
# The peer closed the connection in the handshake: it may speak TLS, or not Kafka.
_CLOSED = re.compile("security.protocol|Disconnected.*(APIVERSION_QUERY|SSL_HANDSHAKE|AUTH_)")
_LOG = own_log("broker")
_THEIRS = f"see that it runs and that this machine reaches it, or {_ADDRESS}"
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE})
_AUTHENTICATION = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)


class _Kind(NamedTuple):
    """Message and remedy of errors with certain codes, or with certain words in their text."""

    codes: frozenset[int]
    words: str
    what: str
    remedy: str

    def fits(self, error: KafkaError) -> bool:
        return error.code() in self.codes or bool(self.words and self.words in error.str())


# The gravest first.
_KINDS = (
    _Kind(_AUTHENTICATION, "", "refuses the login", _LOGIN),
    _Kind(frozenset({KafkaError._SSL}), "", "does not agree on TLS", _TLS),
    _Kind(_FORBIDDEN, "authorization failed", "does not let the user do that", _RIGHTS),
    _Kind(_TOO_LARGE, "Message size too large", "takes no message of this size", _SIZE),
    _Kind(frozenset({KafkaError._RESOLVE}), "", "has a name that is not known", _ADDRESS),
    _Kind(frozenset(), "Invalid response size", "gives no answer of Kafka's protocol", _PROTOCOL),
)


class Broker:
    """Creates clients of one broker.

    Attributes:
        address: the bootstrap servers.
        options: configuration of every librdkafka client.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.address = settings.bootstrap
        self._log = _LOG if settings.embedded else _THEIRS  # where its owner looks
        self._chosen = frozenset(settings.options)
        self.options: dict[str, Any] = {
            "bootstrap.servers": settings.bootstrap,
            "allow.auto.create.topics": False,
            "log_level": _INFORMATION,  # not printed: see `log`
            **settings.options,
        }
        self._lock = threading.Lock()
        self._keeping = 0  # contexts that have not ended
        self._kept: dict[Hashable, list[Any]] = defaultdict(list)
        self._reports: deque[tuple[float, KafkaError]] = deque(maxlen=50)

    def log(self, _level: int, _form: str, kind: str, _client: str, text: str) -> None:
        """Record a line of librdkafka's log, which calls this method of its `logger`."""
        if kind == "FAIL":
            self._report(KafkaError(KafkaError._TRANSPORT, text.partition("]: ")[2] or text))

    def client(
        self,
        kind: Callable[[dict[str, Any]], C],
        options: Mapping[str, Any] = _NONE,
        *,
        defaults: Mapping[str, Any] = _NONE,
    ) -> C:
        """Create a client of librdkafka.

        Args:
            options: override the broker's options, which override `defaults`.

        Raises:
            WrongUsage: librdkafka rejects an option, or the settings may not choose it; the
                message contains no option's value.
        """
        require_allowed(self._chosen)
        reading = _READ_ALL if kind is Consumer else _NONE
        together = {**defaults, **self.options, **reading, **options}
        try:
            return kind({**together, "error_cb": self._report, "logger": self})
        except (KafkaException, TypeError, ValueError) as error:
            reason = error.args[0] if error.args else ""
            text = reason.str() if isinstance(reason, KafkaError) else str(reason)
            for value in map(str, together.values()):
                text = text.replace(value, "...") if len(value) > _NO_SECRET else text
            raise WrongUsage(
                f"the broker's options are not librdkafka's: {text[:300]}",
                remedy="fix SLUICE_KAFKA_OPTIONS, or the extra of the connection sluice_redpanda",
            ) from None

    @contextmanager
    def opened(
        self, kind: Callable[[dict[str, Any]], C], options: Mapping[str, Any] = _NONE
    ) -> Iterator[C]:
        """Create a client, translate its errors, and close it at the end of the context.

        It is not left to Python's garbage collector: answers to an admin client are read on one of
        its own threads, and librdkafka ends the process when the client is destroyed there.
        """
        name = (kind, *sorted(options.items()))
        client = self._take(name)
        if client is None:  # an admin client with nothing to send is false
            client = self.client(kind, options)
        try:
            with self.translated(client):
                yield client
        except BaseException:
            _close(client)
            raise
        if isinstance(client, Consumer):
            client.unassign()
        if isinstance(client, Producer) or not self._keep(name, client):
            _close(client)

    def _take(self, name: Hashable) -> Any:
        with self._lock:
            kept = self._kept.get(name)
            return kept.pop() if kept else None

    def _keep(self, name: Hashable, client: Any) -> bool:
        with self._lock:
            if self._keeping:
                self._kept[name].append(client)
            return bool(self._keeping)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep clients from one call to the next, until all such contexts have ended.

        Threads may share them. Connecting and logging in cost more than most requests.
        """
        with self._lock:
            self._keeping += 1
        try:
            yield
        finally:
            with self._lock:
                self._keeping -= 1
                kept = {} if self._keeping else self._kept.copy()
                if kept:
                    self._kept.clear()
            for client in chain.from_iterable(kept.values()):
                _close(client)

    @contextmanager
    def translated(self, client: Any) -> Iterator[None]:
        """Translate the client's errors into Sluice's, in one line."""
        try:
            yield
        except KafkaException as error:
            reason = error.args[0]
            if not isinstance(reason, KafkaError):
                raise self._error("does not answer", str(reason), self._log) from error
            self._listen(client)
            raise self.failure(reason) from error

    def require_listening(self) -> None:
        """Require that a program listens on one of the addresses.

        librdkafka keeps on connecting until a request's time is over, which suits a step of the
        pipeline, and not somebody who waits for a report.

        Raises:
            Unreachable: each of them refuses the connection.
        """
        for address in self.address.split(","):
            host, _, port = address.rpartition("://")[2].strip().rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
            except ConnectionRefusedError:
                continue
            except (OSError, ValueError):  # librdkafka says why
                pass
            return
        raise self._error("does not answer", "connection refused", self._log)

    def failure(self, reason: KafkaError) -> Unreachable:
        """Return the error of `reason`, or of the gravest recent report where it is unspecific."""
        reports = [reason] if reason.code() > 0 else [*self._recent(), reason]
        for kind in _KINDS:
            if report := next(filter(kind.fits, reports), None):
                return self._error(kind.what, report.str(), kind.remedy)
        if reason.code() > 0:  # an answer of the broker itself
            return self._error("refuses", reason.str(), self._log)
        text = reports[0].str()
        return self._error("does not answer", text, _TLS if _CLOSED.search(text) else self._log)

    def _recent(self) -> list[KafkaError]:
        """Return the recent reports, newest first."""
        now = time.monotonic()
        recent = [error for at, error in reversed(list(self._reports)) if now - at < _RECENT_S]
        return [error for error in recent if error.code() != KafkaError._ALL_BROKERS_DOWN]

    def silent(self, client: Any, what: str) -> Unreachable:
        """Return the error of a broker that did not answer: its cause if reported, else `what`."""
        self._listen(client)
        if self._recent():
            return self.failure(_TIMED_OUT)
        return Unreachable(f"broker {self.address} {what}", remedy=self._log)

    def _report(self, error: KafkaError) -> None:
        self._reports.append((time.monotonic(), error))

    def _listen(self, client: Any) -> None:
        """Poll the client for a while, as it reports errors only then."""
        deadline = time.monotonic() + _POLL_S
        with suppress(RuntimeError, KafkaException):  # a closed client, or a fatal error
            while time.monotonic() < deadline:
                client.poll(0.05)

    def _error(self, what: str, text: str, remedy: str) -> Unreachable:
        cause = _SPEAKER.sub("", text)[:300]
        return Unreachable(f"broker {self.address} {what}: {cause}", remedy=remedy)


def _close(client: Any) -> None:
    if not isinstance(client, Producer):  # which would wait for what it has not sent
        client.__exit__(None, None, None)


_TIMED_OUT = KafkaError(KafkaError._TIMED_OUT)
