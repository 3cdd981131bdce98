"""The producer side: events onto topics in order, and what became durable of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sluice.adapters.topics import client_options
from sluice.events import DEAD_LETTER_TOPIC
from sluice.settings import KafkaSettings

log = logging.getLogger(__name__)

Report = Callable[[KafkaError | None, Message], None]


@dataclass(slots=True, kw_only=True)
class Batch:
    """Messages that become durable together: those of one transaction.

    Attributes:
        end_lsn: what may be confirmed to Postgres once they are.
        commit_ms: when it was committed, milliseconds since 1970; None for a snapshot.
        undelivered: how many the broker has not acknowledged.
        offsets: topic -> offset of the batch's last message.
        reports: topic -> what takes in the broker's acknowledgements.
    """

    end_lsn: int = 0
    commit_ms: int | None = None
    undelivered: int = 0
    offsets: dict[str, int] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)


class Publisher:
    """An idempotent producer; `wait` is called while the broker takes nothing.

    The settings' options go before its own, so that a cluster's `message.max.bytes` can be set.
    """

    def __init__(self, settings: KafkaSettings, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.published = 0
        self.failed: KafkaError | None = None
        self._too_large: list[tuple[str, bytes | str | None, Batch]] = []
        self._producer = Producer(
            {
                "enable.idempotence": True,
                "message.max.bytes": 67_108_864,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 262_144,
                "linger.ms": 5,
                "delivery.timeout.ms": 2_147_483_647,  # a row is sent or the relay says why
                **client_options(settings),
            }
        )

    def publish(self, topic: str, key: str | bytes | None, value: bytes, batch: Batch) -> None:
        """Queue a message; a row refused for its size becomes a dead letter with its key."""
        report = batch.reports.get(topic)
        if report is None:
            report = batch.reports[topic] = self._report(topic, batch)
        batch.undelivered += 1
        self.published += 1
        while True:
            try:
                self._producer.produce(topic, key=key, value=value, on_delivery=report)
                return
            except BufferError:
                self._producer.poll(0.1)
                self.wait()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                self._dead_letter(topic, key, batch)
                return

    def poll(self, seconds: float = 0) -> None:
        """Take in acknowledgements."""
        self._producer.poll(seconds)
        while self._too_large:
            self._dead_letter(*self._too_large.pop())

    def abandon(self) -> None:
        """Forget what was not sent; Postgres sends it again."""
        self._producer.purge()
        self._producer.poll(0)

    def _report(self, topic: str, batch: Batch) -> Report:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                batch.undelivered -= 1
                batch.offsets[topic] = message.offset() or 0
            elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                self._too_large.append((topic, message.key(), batch))
            else:
                self.failed = error

        return delivered

    def _dead_letter(self, topic: str, key: bytes | str | None, batch: Batch) -> None:
        """In place of a message of the batch; the row itself cannot be kept."""
        shown = key.decode(errors="replace") if isinstance(key, bytes) else key
        log.warning("%s: row %s is too large for the broker; it is a dead letter", topic, shown)

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                batch.undelivered -= 1
            else:
                self.failed = error

        headers: dict[str, str | bytes | None] = {
            "table": topic.partition(".")[2],
            "reason": "the row is too large",
        }
        while True:
            try:
                self._producer.produce(
                    DEAD_LETTER_TOPIC, key=key, value=b"", headers=headers, on_delivery=delivered
                )
                return
            except BufferError:
                self._producer.poll(0.1)
                self.wait()
