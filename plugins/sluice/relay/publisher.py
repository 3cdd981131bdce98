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


@dataclass(slots=True, kw_only=True)
class Batch:
    """Messages that become durable together: those of one transaction.

    Attributes:
        end_lsn: what may be confirmed to Postgres once they are.
        undelivered: how many the broker has not acknowledged.
        offsets: topic -> offset of the batch's last message.
    """

    end_lsn: int = 0
    undelivered: int = 0
    offsets: dict[str, int] = field(default_factory=dict)


class Publisher:
    """An idempotent producer; `wait` is called while the broker takes nothing."""

    def __init__(self, settings: KafkaSettings, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.failed: KafkaError | None = None
        self._producer = Producer(
            {
                **client_options(settings),
                "enable.idempotence": True,
                "message.max.bytes": 67_108_864,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 262_144,
                "linger.ms": 5,
                "delivery.timeout.ms": 2_147_483_647,  # a row is sent or the relay says why
            }
        )

    def publish(self, topic: str, key: str | None, value: bytes, batch: Batch) -> None:
        """Queue a message; a row the producer refuses for its size goes to the dead letters."""

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failed = error
                return
            batch.undelivered -= 1
            if topic != DEAD_LETTER_TOPIC:
                batch.offsets[topic] = message.offset() or 0

        batch.undelivered += 1
        while True:
            try:
                self._producer.produce(topic, key=key, value=value, on_delivery=delivered)
                break
            except BufferError:
                self._producer.poll(0.1)
                self.wait()
            except KafkaException as error:
                batch.undelivered -= 1
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE or value == b"":
                    raise
                log.warning("%s: row %s is too large; it is a dead letter", topic, key)
                self.publish(DEAD_LETTER_TOPIC, key, b"", batch)
                break

    def poll(self, seconds: float = 0) -> None:
        """Take in acknowledgements."""
        self._producer.poll(seconds)

    def abandon(self) -> None:
        """Forget what was not sent; Postgres sends it again."""
        self._producer.purge()
        self._producer.poll(0)
