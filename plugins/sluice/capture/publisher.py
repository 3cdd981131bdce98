"""The producer: events onto topics in order, and their acknowledgements.

Python handles one acknowledgement for each bundle of messages. This is safe: the producer is
idempotent, so a topic's partition stores messages in order, and with `enable.gapless.guarantee` the
first refused message is a fatal error. So the last message of a bundle is stored only after the
others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sluice.clients.broker import Broker
from sluice.events.event import TOO_LARGE
from sluice.settings import KafkaSettings

log = logging.getLogger(__name__)

Report = Callable[[KafkaError | None, Message], None]

# Most messages and bytes of a bundle.
_BUNDLE = 500
_BUNDLE_BYTES = 1_000_000
# Wait for the report of a refused message, after which the producer accepts no other.
_REPORT_SECONDS = 2.0
_OPTIONS: dict[str, Any] = {
    "enable.idempotence": True,
    "message.max.bytes": 67_108_864,
    # Below the broker's default limit (1,048,588): see Publisher._alone.
    "batch.size": 1_000_000,
    "compression.type": "zstd",
    "compression.level": 1,  # cheaper than sending uncompressed JSON
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 65_536,
    "linger.ms": 20,  # drains run once a minute; a broker works by batches
    "delivery.timeout.ms": 2_147_483_647,  # retry for ever: no row is dropped silently
}
# Ends an envelope without its row; nothing before the payload contains this text.
_PAYLOAD = b',"payload":'
_NO_ROW = _PAYLOAD + b'null,"before":null}'


@dataclass(slots=True, kw_only=True)
class Batch:
    """Messages that are confirmed together.

    Attributes:
        end_lsn: LSN to confirm to PostgreSQL when they are durable. Default: 0, for none yet.
        commit_ms: commit time of the first, milliseconds since 1970. Default: None, of a snapshot.
        messages: number of messages.
        undelivered: number of bundles that the broker has not acknowledged.
        offsets: topic -> offset of the batch's last message.
    """

    end_lsn: int = 0
    commit_ms: int | None = None
    messages: int = 0
    undelivered: int = 0
    offsets: dict[str, int] = field(default_factory=dict)


def joined(batch: Batch, *following: Batch) -> Batch:
    """Join consecutive delivered batches into one."""
    for later in following:
        batch = replace(
            later,
            commit_ms=batch.commit_ms or later.commit_ms,
            messages=batch.messages + later.messages,
            offsets={**batch.offsets, **later.offsets},
        )
    return batch


class Sizes(NamedTuple):
    """Largest messages of the producer, in bytes.

    Attributes:
        batch: of a request with several messages; one that the broker refuses stops the relay.
        message: of a row, before compression. A larger one becomes a dead letter.
    """

    batch: int
    message: int


def sizes(settings: KafkaSettings) -> Sizes:
    """Return the sizes that a producer with these settings sends."""
    options = {**_OPTIONS, **settings.options}
    return Sizes(int(options["batch.size"]), int(options["message.max.bytes"]))


class Publisher:
    """An idempotent producer; `wait` is called while the broker accepts nothing.

    The settings' options override its own, so that a cluster's `message.max.bytes` can be set.
    Published messages are held until a bundle is full or `flush` is called.

    Attributes:
        published: number of published messages.
        failed: the first error; from then on no message counts as durable. None without one.
    """

    def __init__(self, settings: KafkaSettings, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.published = 0
        self.failed: KafkaError | None = None
        self._broker = Broker(settings)
        self._large = min(sizes(settings))
        self._held: dict[str, list[dict[str, Any]]] = {}
        self._bytes = self._count = 0
        gapless = {"enable.gapless.guarantee": True, **_OPTIONS}
        self._producer = self._broker.client(Producer, defaults=gapless)
        self._single: Producer | None = None

    def publish(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Queue a message; a row that is refused for its size is sent without the row."""
        self.published += 1
        batch.messages += 1
        size = len(value) + len(key or b"")
        if size > self._large:
            self._alone(topic, key, value, batch)
            return
        held = self._held.get(topic)
        if held is None:
            held = self._held[topic] = []
            batch.undelivered += 1
        held.append({"key": key, "value": value})
        self._count += 1
        self._bytes += size
        if self._count >= _BUNDLE or self._bytes >= _BUNDLE_BYTES:
            self.flush(batch)

    def flush(self, batch: Batch) -> None:
        """Hand the held messages, all of this batch, to the producer."""
        held, self._held = self._held, {}
        self._bytes = self._count = 0
        for topic, messages in held.items():
            messages[-1]["callback"] = self._report(topic, batch)
            self._send(topic, messages)
        self.poll()

    def reject(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Publish the envelope of a too large row without the row; it becomes a dead letter."""
        shown = (key or b"").decode(errors="replace")
        log.warning("%s: %s: %s; it becomes a dead letter", topic, shown, TOO_LARGE)
        self.publish(topic, key, value, batch)

    def poll(self, seconds: float = 0) -> None:
        """Handle acknowledgements; raise Unreachable where a message was refused."""
        self._poll(self._producer, seconds)
        self.require_working()

    def require_working(self) -> None:
        """Raise Unreachable where a message was refused."""
        if self.failed is not None:
            raise self._broker.failure(self.failed)

    def abandon(self) -> None:
        """Discard unsent messages; PostgreSQL sends their changes again."""
        self._held.clear()
        for producer in filter(None, (self._producer, self._single)):
            producer.purge()
            self._poll(producer, 0)

    def _send(self, topic: str, messages: list[dict[str, Any]]) -> None:
        """Hand messages to the producer in order, waiting while it is full."""
        while messages:
            taken = self._producer.produce_batch(topic, messages, partition=0)
            messages = messages[taken:]
            if messages:
                self._refused(messages[0]["_error"])
                for message in messages:
                    del message["_error"]

    def _refused(self, error: KafkaError) -> None:
        """Wait for room in a full producer; raise any other error."""
        if error.code() == KafkaError._QUEUE_FULL:
            self.poll(0.1)
            self.wait()
            return
        deadline = time.monotonic() + _REPORT_SECONDS
        while self.failed is None and time.monotonic() < deadline:
            self._poll(self._producer, 0.1)
        self.failed = self.failed or error
        self.require_working()

    def _report(self, topic: str, batch: Batch) -> Report:
        def delivered(error: KafkaError | None, message: Message) -> None:
            self.failed = self.failed or error
            if self.failed is None:
                batch.undelivered -= 1
                batch.offsets[topic] = message.offset() or 0

        return delivered

    def _poll(self, producer: Producer, seconds: float) -> None:
        try:
            producer.poll(seconds)
        except KafkaException as fatal:  # a gap, or an error from the broker
            self.failed = self.failed or fatal.args[0]

    def _alone(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Send a large message in a request of its own, after all before it are delivered.

        It goes through a separate producer, for which a refusal is not fatal.
        """
        self.flush(batch)
        while len(self._producer):
            self.poll(0.05)
            self.wait()
        if self._single is None:
            self._single = self._broker.client(Producer, defaults=_OPTIONS)
        answers: list[tuple[KafkaError | None, int | None]] = []
        try:
            self._single.produce(
                topic,
                key=key,
                value=value,
                partition=0,
                on_delivery=lambda error, message: answers.append((error, message.offset())),
            )
        except KafkaException as refused:
            answers.append((refused.args[0], None))
        while not answers:
            self._poll(self._single, 0.05)
            self.require_working()
            self.wait()
        error, offset = answers[0]
        if error is None:
            batch.offsets[topic] = offset or 0
        elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            self.reject(topic, key, value.partition(_PAYLOAD)[0] + _NO_ROW, batch)
        else:
            self.failed = error
            self.require_working()
