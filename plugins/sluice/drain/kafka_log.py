"""Implements the change log on a Kafka-protocol broker with confluent-kafka (librdkafka)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from sluice.clients.broker import Broker
from sluice.clients.topics import UNREADABLE, Topics, committed_by, first_after, partitioned
from sluice.drain.letters import kept
from sluice.drain.ports import Chunk, Passed, TopicPosition
from sluice.errors import NotReady, RecordUnreadable, TopicGap, Unreachable
from sluice.events.event import DEAD_LETTER_TOPIC, DRAIN_GROUP, Record, Reject
from sluice.settings import KafkaSettings

_PATIENCE = 10.0  # seconds
_FIRST, _AT_ONCE = 100, 5_000  # messages per call before their size is known, and after

# By default librdkafka pauses for a second when its queue is full. The queue is held in memory.
_CONSUMER_OPTIONS = {
    "group.id": DRAIN_GROUP,
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "queued.min.messages": 100_000,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 20,  # the topic's end is reported only after a fetch that waited
    "fetch.message.max.bytes": 8_388_608,  # a larger message still arrives, alone
}


class KafkaLog:
    """A ChangeLog on Kafka; the caller closes it.

    Args:
        ahead: the most bytes read ahead. Default: 32 MiB.
        topics: the topics, where the caller has them. Default: None, for its own.
    """

    def __init__(
        self, settings: KafkaSettings, ahead: int = 32 << 20, topics: Topics | None = None
    ) -> None:
        options = {**_CONSUMER_OPTIONS, "queued.max.messages.kbytes": max(1, ahead >> 10)}
        self._broker = Broker(settings)
        self._topics = topics or Topics(settings)
        self._consumer = self._broker.client(Consumer, options)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def epoch(self) -> str:
        """See ports.ChangeLog."""
        epoch = self._topics.epoch()
        if epoch is None:
            raise NotReady(
                f"broker {self._broker.address}: the topics are not set up",
                remedy="run: sluice init",
            )
        return epoch

    def read(self, topic: str, offset: int, chunk: Chunk, seconds: float) -> Iterator[list[Record]]:
        """See ports.ChangeLog."""
        deadline = time.monotonic() + seconds
        with self._translated():  # otherwise librdkafka looks up the topic's leader late
            self._consumer.list_topics(topic, timeout=_PATIENCE)
        end = self._watermarks(topic)[1]
        self._consumer.assign([TopicPartition(topic, 0, offset)])
        try:
            ended = False
            while not ended and time.monotonic() < deadline:
                records, ended = self._chunk(topic, offset, chunk, deadline, end)
                if records:
                    offset = records[-1].offset + 1
                    yield records
            if ended:
                yield []
        except Unreachable:
            self._require_within(topic, offset)
            raise
        finally:
            self._consumer.unassign()

    def _require_within(self, topic: str, offset: int) -> None:
        """Raise TopicGap if the topic ends before `offset`: a broker may not answer there."""
        end = self.end(topic)
        if offset > end:
            raise TopicGap(
                f"{topic} ends at {end}, but {offset} of its messages were drained: it was"
                " recreated",
                remedy=f"read the table again: sluice resync {topic.partition('.')[2]}",
            )

    def _chunk(
        self, topic: str, offset: int, chunk: Chunk, deadline: float, end: int
    ) -> tuple[list[Record], bool]:
        """Return at most a chunk of records, and whether they reach the end."""
        records: list[Record] = []
        taken = 0
        quiet_until = time.monotonic() + _PATIENCE
        while len(records) < chunk.events and taken < chunk.size and time.monotonic() < deadline:
            first = self._consumer.poll(0.5)
            if first is None:
                if time.monotonic() > quiet_until:
                    raise self._broker.silent(self._consumer, f"does not answer for {topic}")
                continue
            # The number that fits if messages keep their average size.
            room = (chunk.size - taken) * len(records) // taken if taken else _FIRST
            more = min(chunk.events - len(records), _AT_ONCE, room) - 1
            for message in [first, *(self._consumer.consume(more, 0) if more > 0 else ())]:
                error, at = message.error(), message.offset()
                next_offset = records[-1].offset + 1 if records else offset
                if error is None and at is not None:
                    value = message.value()
                    records.append(Record(at, message.key(), value))
                    taken += len(value) if value else 0
                elif error is None:
                    continue
                elif error.code() == KafkaError._PARTITION_EOF:
                    return records, True
                elif error.code() in UNREADABLE and records:
                    return records, False  # drain the records before it first
                else:
                    self._fail(topic, error, next_offset)
            quiet_until = time.monotonic() + _PATIENCE
            if records and records[-1].offset + 1 >= end:
                return records, True
        return records, False

    def _fail(self, topic: str, error: KafkaError, offset: int) -> None:
        if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:
            raise TopicGap(
                f"{topic}: the next offset to drain is not on the topic any more ({error.str()})",
                remedy=f"read the table again: sluice resync {topic.partition('.')[2]}",
            )
        if error.code() in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}:
            raise _no_topic(topic)
        if error.code() in UNREADABLE:
            raise _unreadable(topic, offset, error)
        if error.code() not in {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}:
            with self._translated():
                raise KafkaException(error)

    def _translated(self) -> AbstractContextManager[None]:
        return self._broker.translated(self._consumer)

    def one(self, topic: str, offset: int) -> Passed | None:
        """See ports.ChangeLog."""
        try:
            for records in self.read(topic, offset, Chunk(1), _PATIENCE):
                record = next(iter(records), None)
                return record and Passed(record=record, next_offset=record.offset + 1)
        except RecordUnreadable as error:
            record = Record(offset, None, None)
            end = first_after(offset, partial(self._readable, topic))
            return Passed(record=record, next_offset=end, unreadable=error.what)
        raise self._broker.silent(self._consumer, f"does not answer for {topic}")

    def _readable(self, topic: str, offset: int) -> bool:
        """Whether the record at the offset can be read, or the topic ends before it."""
        try:
            next(self.read(topic, offset, Chunk(1), _PATIENCE), None)
        except RecordUnreadable:
            return False
        except TopicGap:
            pass
        return True

    def after_markers(self, topic: str, offset: int) -> int:
        """See ports.ChangeLog."""
        self._consumer.assign([TopicPartition(topic, 0, offset)])
        deadline = time.monotonic() + _PATIENCE
        try:
            while (message := self._consumer.poll(0.5)) is None and time.monotonic() < deadline:
                pass
        finally:
            self._consumer.unassign()
        error = message and message.error()
        at_end = error and error.code() == KafkaError._PARTITION_EOF
        return message.offset() or offset if message and at_end else offset

    def topic_id(self, topic: str) -> str:
        """See ports.ChangeLog."""
        description = self._topics.states([topic]).get(topic)
        if description is None:
            raise _no_topic(topic)
        if description.partitions > 1:
            raise partitioned(topic, description.partitions)
        return description.id

    def positions(self, topics: Sequence[str]) -> Mapping[str, TopicPosition]:
        """See ports.ChangeLog."""
        states = self._topics.states(topics)
        with self._translated():
            committed = committed_by(self._consumer, states, _PATIENCE)
        ends = self._topics.ends(states)
        return {
            topic: TopicPosition(
                id=state.id,
                partitions=state.partitions,
                end=ends[topic],
                committed=committed[topic],
            )
            for topic, state in states.items()
            if topic in ends
        }

    def first(self, topic: str) -> int:
        """See ports.ChangeLog."""
        return self._watermarks(topic)[0]

    def _watermarks(self, topic: str) -> tuple[int, int]:
        with self._translated():
            place = TopicPartition(topic, 0)
            return self._consumer.get_watermark_offsets(place, timeout=_PATIENCE)

    def end(self, topic: str) -> int:
        """See ports.ChangeLog."""
        return self._topics.ends([topic]).get(topic, 0)

    def commit(self, offsets: Mapping[str, int]) -> None:
        """See ports.ChangeLog."""
        positions = [TopicPartition(topic, 0, offset) for topic, offset in offsets.items()]
        if positions:
            with self._translated():
                self._consumer.commit(offsets=positions, asynchronous=False)

    def publish_dead_letters(self, table: str, rejects: Sequence[Reject]) -> None:
        """See ports.ChangeLog."""
        failures: list[KafkaError] = []
        producer = self._broker.client(Producer, defaults={"compression.type": "zstd"})
        for reject in rejects:
            letter = kept(reject.record)
            with self._broker.translated(producer):
                producer.produce(
                    DEAD_LETTER_TOPIC,
                    key=letter.key,
                    value=letter.value,
                    headers={
                        "table": table,
                        "offset": str(reject.record.offset),
                        "reason": reject.reason,
                        "size": str(letter.size),
                        "sha256": letter.sha256,
                    },
                    on_delivery=lambda error, _: failures.append(error) if error else None,
                )
            producer.poll(0)
        if producer.flush(_PATIENCE):
            raise self._broker.silent(producer, f"did not accept {table}'s dead letters")
        if failures:
            raise self._broker.failure(failures[0])


def _unreadable(topic: str, offset: int, error: KafkaError) -> RecordUnreadable:
    table = topic.partition(".")[2]
    return RecordUnreadable(
        f"{topic}: offset {offset} cannot be read: {error.str()}",
        remedy=f"run: sluice drain {table} --skip {offset}, then: sluice resync {table}",
    )


def _no_topic(topic: str) -> NotReady:
    return NotReady(f"topic {topic} does not exist", remedy="run: sluice init")
