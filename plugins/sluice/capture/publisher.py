"""The producer side: events onto topics in order, and what became durable of them.

Acknowledgements come to Python for each bundle of messages instead of each message. That is as
safe: the producer is idempotent, so a topic's one partition takes messages in their order, and
`enable.gapless.guarantee` ends it for good at the first message that is refused. So the last
message of a bundle can only arrive when all before it have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sluice.clients.broker import Broker
from sluice.events.event import TOO_LARGE
from sluice.settings import KafkaSettings

log = logging.getLogger(__name__)

Report = Callable[[KafkaError | None, Message], None]

# Messages and bytes that go to the producer at once.
_BUNDLE = 500
_BUNDLE_BYTES = 1_000_000
# Once a message is refused the producer takes no other; the report that says why may come later.
_REPORT_SECONDS = 2.0
_OPTIONS: dict[str, Any] = {
    "enable.idempotence": True,
    "message.max.bytes": 67_108_864,
    # No more than what the broker refuses by default (1,048,588): see Publisher._alone.
    "batch.size": 1_000_000,
    "compression.type": "zstd",
    "compression.level": 1,  # JSON shrinks to a fifth for less than what sending it costs
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 65_536,
    "linger.ms": 20,  # a drain comes once a minute; a broker's work is by the batch
    "delivery.timeout.ms": 2_147_483_647,  # a row is sent or the relay says why
}
# Ends an envelope without its row; nothing before the payload has this text in it.
_PAYLOAD = b',"payload":'
_NO_ROW = _PAYLOAD + b'null,"before":null}'


@dataclass(slots=True, kw_only=True)
class Batch:
    """Messages that become durable together.

    Attributes:
        end_lsn: what may be confirmed to Postgres once they are; 0 for nothing yet.
        commit_ms: when the first was committed, milliseconds since 1970; None for a snapshot.
        messages: how many.
        undelivered: bundles of them that the broker has not acknowledged.
        offsets: topic -> offset of the batch's last message.
    """

    end_lsn: int = 0
    commit_ms: int | None = None
    messages: int = 0
    undelivered: int = 0
    offsets: dict[str, int] = field(default_factory=dict)


def joined(batch: Batch, *following: Batch) -> Batch:
    """Delivered batches, one after the other, as one."""
    for later in following:
        batch = replace(
            later,
            commit_ms=batch.commit_ms or later.commit_ms,
            messages=batch.messages + later.messages,
            offsets={**batch.offsets, **later.offsets},
        )
    return batch


class Publisher:
    """An idempotent producer; `wait` is called while the broker takes nothing.

    The settings' options go before its own, so that a cluster's `message.max.bytes` can be set.
    What is published stays here until there is a bundle of it or `flush` is called.

    Attributes:
        failed: why no more is delivered; from then on nothing may be taken as durable.
    """

    def __init__(self, settings: KafkaSettings, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.published = 0
        self.failed: KafkaError | None = None
        self._broker = Broker(settings)
        options = {**_OPTIONS, **self._broker.options}
        self._large = min(int(options[name]) for name in ("batch.size", "message.max.bytes"))
        self._held: dict[str, list[dict[str, Any]]] = {}
        self._bytes = self._count = 0
        gapless = {"enable.gapless.guarantee": True, **_OPTIONS}
        self._producer = self._broker.client(Producer, defaults=gapless)
        self._single: Producer | None = None

    def publish(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Queue a message; of a row refused for its size all but the row is sent."""
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
        """Give what was published to the producer; all of it is of this batch."""
        held, self._held = self._held, {}
        self._bytes = self._count = 0
        for topic, messages in held.items():
            messages[-1]["callback"] = self._report(topic, batch)
            self._send(topic, messages)
        self.poll()

    def reject(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Publish an envelope without its row, which is too large; the drain's dead letter."""
        shown = (key or b"").decode(errors="replace")
        log.warning("%s: %s: %s; it becomes a dead letter", topic, shown, TOO_LARGE)
        self.publish(topic, key, value, batch)

    def poll(self, seconds: float = 0) -> None:
        """Take in acknowledgements; raise Unreachable where one is a refusal."""
        self._served(self._producer, seconds)
        self.require_working()

    def require_working(self) -> None:
        """Raise Unreachable when a message was not taken."""
        if self.failed is not None:
            raise self._broker.failure(self.failed)

    def abandon(self) -> None:
        """Forget what was not sent; Postgres sends it again."""
        self._held.clear()
        for producer in filter(None, (self._producer, self._single)):
            producer.purge()
            self._served(producer, 0)

    def _send(self, topic: str, messages: list[dict[str, Any]]) -> None:
        """Hand over messages in their order, waiting while the producer is full."""
        while messages:
            taken = self._producer.produce_batch(topic, messages, partition=0)
            messages = messages[taken:]
            if messages:
                self._refused(messages[0]["_error"])
                for message in messages:
                    del message["_error"]

    def _refused(self, error: KafkaError) -> None:
        """Wait for room in the producer, if that is what was lacking."""
        if error.code() == KafkaError._QUEUE_FULL:
            self.poll(0.1)
            self.wait()
            return
        deadline = time.monotonic() + _REPORT_SECONDS
        while self.failed is None and time.monotonic() < deadline:
            self._served(self._producer, 0.1)
        self.failed = self.failed or error
        self.require_working()

    def _report(self, topic: str, batch: Batch) -> Report:
        def delivered(error: KafkaError | None, message: Message) -> None:
            self.failed = self.failed or error
            if self.failed is None:
                batch.undelivered -= 1
                batch.offsets[topic] = message.offset() or 0

        return delivered

    def _served(self, producer: Producer, seconds: float) -> None:
        try:
            producer.poll(seconds)
        except KafkaException as ended:  # it ended for good, by a gap or by the broker's word
            self.failed = self.failed or ended.args[0]

    def _alone(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Send a message that fills a request of its own, when all before it are delivered.

        A producer of its own gets it, which a refusal does not end.
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
            self._served(self._single, 0.05)
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
