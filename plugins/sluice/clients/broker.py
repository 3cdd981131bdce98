"""Clients of one broker, and why it does not answer; librdkafka's errors end here.

librdkafka tries again behind the call's back: a call ends with "transport failure" or "timed out",
and the refused password, the certificate or the name that no server has is told to the error
callback, a connection that the other side closes to the log alone. So every client reports both
here, and an error is told with the gravest report.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException

from sluice.clients.broker_options import require_allowed
from sluice.errors import Unreachable, WrongUsage
from sluice.settings import KafkaSettings

C = TypeVar("C")
_NONE: Mapping[str, Any] = {}
_TELLING = 5  # longer values than this may be a secret
_RECENT_S, _LOOK_S = 60.0, 0.5
_INFORMATION = 6
_WHERE = "SLUICE_KAFKA_OPTIONS, or in the extra of the connection sluice_redpanda"
_LOGIN = f"mend sasl.mechanisms, sasl.username or sasl.password in {_WHERE}"
_TLS = f"mend security.protocol or ssl.ca.location in {_WHERE}"
_ADDRESS = "mend SLUICE_KAFKA_BOOTSTRAP, or bootstrap.servers of the connection sluice_redpanda"
_RIGHTS = "give its user the rights that docs/services/kafka.md lists"
_SIZE = "raise the topics' max.message.bytes, or set a batch.size below it in SLUICE_KAFKA_OPTIONS"
_SPEAKER = re.compile(r"^\S+/(bootstrap|\d+): ")  # which broker it is of
# The other side closes the connection at its first words: it may speak TLS, or no Kafka.
_CLOSED = re.compile("security.protocol|Disconnected.*(APIVERSION_QUERY|SSL_HANDSHAKE|AUTH_)")
_LOG = "see: sluice status, sluice logs broker"
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
    """What errors of some codes, or with some words within another error's, say and advise."""

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
)


class Broker:
    """Makes clients of one broker.

    Attributes:
        address: the bootstrap servers.
        options: what every librdkafka client is configured with.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.address = settings.bootstrap
        self._chosen = frozenset(settings.options)
        self.options: dict[str, Any] = {
            "bootstrap.servers": settings.bootstrap,
            "allow.auto.create.topics": False,
            "log_level": _INFORMATION,  # not printed: see `log`
            **settings.options,
        }
        self._reports: deque[tuple[float, KafkaError]] = deque(maxlen=50)

    def log(self, _level: int, _form: str, kind: str, _client: str, text: str) -> None:
        """Take in a line of librdkafka's log; it calls this of its `logger`."""
        if kind == "FAIL":
            self._report(KafkaError(KafkaError._TRANSPORT, text.partition("]: ")[2] or text))

    def client(
        self,
        kind: Callable[[dict[str, Any]], C],
        options: Mapping[str, Any] = _NONE,
        *,
        defaults: Mapping[str, Any] = _NONE,
    ) -> C:
        """A client of librdkafka.

        Args:
            options: win over the broker's, which win over `defaults`.

        Raises:
            WrongUsage: it does not take them, or the settings name one that they may not choose;
                the message holds no option's value.
        """
        require_allowed(self._chosen)
        together = {**defaults, **self.options, **options}
        try:
            return kind({**together, "error_cb": self._report, "logger": self})
        except (KafkaException, TypeError, ValueError) as error:
            reason = error.args[0] if error.args else ""
            text = reason.str() if isinstance(reason, KafkaError) else str(reason)
            for value in map(str, together.values()):
                text = text.replace(value, "...") if len(value) > _TELLING else text
            raise WrongUsage(
                f"the broker's options are not librdkafka's: {text[:300]}",
                remedy="mend SLUICE_KAFKA_OPTIONS, or the extra of the connection sluice_redpanda",
            ) from None

    @contextmanager
    def asked(
        self, kind: Callable[[dict[str, Any]], C], options: Mapping[str, Any] = _NONE
    ) -> Iterator[C]:
        """A client for the context; it is closed at its end, and its errors are ours."""
        made = self.client(kind, options)
        try:
            with self.translated(made):
                yield made
        finally:
            if isinstance(made, Consumer):
                made.close()

    @contextmanager
    def translated(self, client: Any) -> Iterator[None]:
        """The client's errors as ours, in one line."""
        try:
            yield
        except KafkaException as error:
            reason = error.args[0]
            if not isinstance(reason, KafkaError):
                raise self._error("does not answer", str(reason), _LOG) from error
            self._listen(client)
            raise self.failure(reason) from error

    def failure(self, reason: KafkaError) -> Unreachable:
        """What `reason` is, by the gravest of what was reported where it says little itself."""
        known = [reason] if reason.code() > 0 else [*self._recent(), reason]
        for kind in _KINDS:
            if found := next(filter(kind.fits, known), None):
                return self._error(kind.what, found.str(), kind.remedy)
        if reason.code() > 0:  # the broker's own word
            return self._error("refuses", reason.str(), _LOG)
        text = known[0].str()
        return self._error("does not answer", text, _TLS if _CLOSED.search(text) else _LOG)

    def _recent(self) -> list[KafkaError]:
        """What was reported lately, the newest first."""
        now = time.monotonic()
        recent = [one for at, one in reversed(self._reports) if now - at < _RECENT_S]
        return [one for one in recent if one.code() != KafkaError._ALL_BROKERS_DOWN]

    def silent(self, client: Any, what: str) -> Unreachable:
        """That nothing came of `what`, a sentence about the broker; or why."""
        self._listen(client)
        if self._recent():
            return self.failure(_TIMED_OUT)
        return Unreachable(f"broker {self.address} {what}", remedy=_LOG)

    def _report(self, error: KafkaError) -> None:
        self._reports.append((time.monotonic(), error))

    def _listen(self, client: Any) -> None:
        """Take in what the client has to report: it does so while it is polled."""
        deadline = time.monotonic() + _LOOK_S
        with suppress(RuntimeError, KafkaException):  # it is closed, or ended for good
            while time.monotonic() < deadline:
                client.poll(0.05)

    def _error(self, what: str, text: str, remedy: str) -> Unreachable:
        said = _SPEAKER.sub("", text)[:300]
        return Unreachable(f"broker {self.address} {what}: {said}", remedy=remedy)


_TIMED_OUT = KafkaError(KafkaError._TIMED_OUT)
