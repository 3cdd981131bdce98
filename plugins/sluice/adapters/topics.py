"""Topics of the pipeline: creating them, their ends, the drain group's offsets, the broker's epoch.

The broker's epoch is the first message of `cdc.broker_epoch`, a random id that is written when
the topic is empty. A broker that lost its topics has another epoch, so nobody takes offsets of
one incarnation for those of another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from sluice.errors import TopicPartitioned, Unreachable
from sluice.events import DRAIN_GROUP
from sluice.settings import KafkaSettings

EPOCH_TOPIC = "cdc.broker_epoch"
_SECONDS = 10.0


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every librdkafka client is configured with."""
    return {
        "bootstrap.servers": settings.bootstrap,
        "allow.auto.create.topics": False,
        "log_level": 0,
        **settings.options,
    }


@contextmanager
def translated(bootstrap: str) -> Iterator[None]:
    """librdkafka's errors as ours, in one line."""
    try:
        yield
    except KafkaException as error:
        reason = error.args[0]
        text = reason.str() if isinstance(reason, KafkaError) else str(reason)
        raise Unreachable(
            f"broker {bootstrap} does not answer: {text}",
            remedy="see: sluice status, sluice logs broker",
        ) from error


class Topics:
    """The topics of one broker; every call opens and closes what it needs."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._bootstrap = settings.bootstrap
        self._options = client_options(settings)

    def ensure(self, names: Iterable[str]) -> str:
        """Create what is missing, with one partition each; the broker's epoch.

        Raises:
            TopicPartitioned: a topic has more than one partition.
            Unreachable: the broker does not answer.
        """
        wanted = [*names, EPOCH_TOPIC]
        with translated(self._bootstrap):
            admin = AdminClient(self._options)
            present = admin.list_topics(timeout=_SECONDS).topics
            for name in wanted:
                if name in present and len(present[name].partitions) > 1:
                    raise TopicPartitioned(
                        f"topic {name} has {len(present[name].partitions)} partitions;"
                        " order per table needs one",
                        remedy="recreate the topic with one partition, then run: sluice init",
                    )
            missing = [NewTopic(name, 1, 1) for name in wanted if name not in present]
            futures = admin.create_topics(missing).values() if missing else []
            for future in futures:
                _created(future)
        return self.epoch() or self._write_epoch()

    def partitions(self) -> dict[str, int]:
        """How many partitions each topic of the broker has."""
        with translated(self._bootstrap):
            present = AdminClient(self._options).list_topics(timeout=_SECONDS).topics
        return {name: len(topic.partitions) for name, topic in present.items()}

    def epoch(self) -> str | None:
        """The broker's incarnation; None where its topics are not set up."""
        notes = self._notes()
        return str(notes[0]["epoch"]) if notes else None

    def slot_note(self, slot: str | None = None) -> dict[str, Any] | None:
        """What was noted last of the slot, or of any slot, on this broker; None without it.

        Its `consistent_point` is None while a new snapshot is wanted.
        """
        notes = (note for note in reversed(self._notes()) if "slot" in note)
        return next((note for note in notes if slot in (None, note["slot"])), None)

    def note_slot(self, note: dict[str, Any]) -> None:
        """Note a snapshot: slot, system_identifier, consistent_point, publication."""
        self._produce({"epoch": self.epoch(), **note})

    def ends(self, names: Iterable[str]) -> dict[str, int]:
        """Topic -> the offset after its last message; topics that are not there are left out.

        Read to the end, because the embedded broker's watermarks count a batch as one message.
        """
        return {name: end for name in names if (end := self._end(name)) is not None}

    def committed(self, names: Iterable[str]) -> dict[str, int]:
        """Topic -> the drain group's next offset, 0 where it has none."""
        with translated(self._bootstrap), self._consumer(DRAIN_GROUP) as consumer:
            wanted = [TopicPartition(name, 0) for name in names]
            found = consumer.committed(wanted, timeout=_SECONDS)
        return {position.topic: max(0, position.offset) for position in found}

    def _write_epoch(self) -> str:
        self._produce({"epoch": uuid4().hex})
        epoch = self.epoch()  # of two that write at once, the first message counts
        if epoch is None:
            raise Unreachable(f"broker {self._bootstrap} lost its epoch at once")
        return epoch

    def _produce(self, note: dict[str, Any]) -> None:
        producer = Producer({**self._options, "acks": "all"})
        producer.produce(EPOCH_TOPIC, value=json.dumps(note).encode())
        if producer.flush(_SECONDS):
            raise Unreachable(f"broker {self._bootstrap} took no message")

    def _notes(self) -> list[dict[str, Any]]:
        messages = self._read(EPOCH_TOPIC, 0)
        return [json.loads(value) for _, value in messages or []]

    def _end(self, name: str) -> int | None:
        with translated(self._bootstrap), self._consumer("sluice-ends") as consumer:
            low, high = 0, 0
            try:
                low, high = consumer.get_watermark_offsets(TopicPartition(name, 0), timeout=5)
            except KafkaException:
                return None
        messages = self._read(name, max(low, high - 1, 0))
        if messages is None:
            return None
        return messages[-1][0] + 1 if messages else high

    def _read(self, name: str, offset: int) -> list[tuple[int, bytes]] | None:
        """(offset, value) from `offset` to the end; None where there is no such topic."""
        messages: list[tuple[int, bytes]] = []
        with translated(self._bootstrap), self._consumer("sluice-notes") as consumer:
            if name not in consumer.list_topics(timeout=_SECONDS).topics:
                return None
            consumer.assign([TopicPartition(name, 0, offset)])
            deadline = time.monotonic() + _SECONDS
            while time.monotonic() < deadline:
                message = consumer.poll(0.2)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    messages.append((message.offset() or 0, message.value() or b""))
                elif error.code() == KafkaError._PARTITION_EOF:
                    return messages
        raise Unreachable(
            f"broker {self._bootstrap} does not answer for {name}",
            remedy="see: sluice status, sluice logs broker",
        )

    @contextmanager
    def _consumer(self, group: str) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                **self._options,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()


def _created(future: Any) -> None:
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
