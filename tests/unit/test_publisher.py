"""What the relay takes as delivered when a broker refuses, on librdkafka's own mock broker."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from sluice.capture.publisher import Batch, Publisher
from sluice.errors import Unreachable
from sluice.events.event import DEAD_LETTER_TOPIC
from sluice.settings import KafkaSettings
from tests.support.librdkafka import librdkafka
from tests.support.waiting import until

PRODUCE = 0  # the API key of the protocol


class MockBroker:
    """A broker within librdkafka, reached by TCP as any other; it answers what it is told to."""

    def __init__(self) -> None:
        self._library = librdkafka()
        for name in ("rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p(self._library.rd_kafka_new(0, None, None, 0))
        cluster = self._library.rd_kafka_mock_cluster_new(self._handle, 1)
        self._cluster = ctypes.c_void_p(cluster)
        for topic in ("cdc.0", "cdc.1", "cdc.t", DEAD_LETTER_TOPIC):
            self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), 1, 1)
        self.address = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def refuse(self, *codes: int) -> None:
        """Answer the next produce requests with these errors; 0 is none."""
        errors = [ctypes.c_int(code) for code in codes]
        count = ctypes.c_size_t(len(codes))
        push = self._library.rd_kafka_mock_push_request_errors
        push(self._cluster, ctypes.c_int16(PRODUCE), count, *errors)

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)


@pytest.fixture
def broker() -> Iterator[MockBroker]:
    with closing(MockBroker()) as made:
        yield made


@pytest.fixture
def publisher(broker: MockBroker) -> Iterator[Publisher]:
    made = Publisher(KafkaSettings(bootstrap=broker.address), lambda: None)
    yield made
    made.abandon()


def delivered(publisher: Publisher, batch: Batch) -> None:
    def polled() -> bool:
        publisher.poll(0.05)
        return not batch.undelivered

    until(polled, "the batch is delivered", pause=0)


def messages(broker: MockBroker, topic: str, count: int) -> list[tuple[bytes | None, bytes | None]]:
    with closing(Consumer({"bootstrap.servers": broker.address, "group.id": "t"})) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[tuple[bytes | None, bytes | None]] = []
        while len(found) < count:
            arrived = consumer.consume(1, 30)
            assert arrived, "not in time"
            found += [(message.key(), message.value()) for message in arrived]
    return found


def test_a_batch_is_delivered_with_the_last_message_of_each_topic(
    broker: MockBroker, publisher: Publisher
) -> None:
    batch = Batch()
    for number in range(1200):
        publisher.publish(f"cdc.{number % 2}", b"%d" % number, b"v", batch)
    assert batch.undelivered
    publisher.flush(batch)
    delivered(publisher, batch)
    assert batch.offsets == {"cdc.0": 599, "cdc.1": 599}
    keys = [key for key, _ in messages(broker, "cdc.1", 600)]
    assert keys == [b"%d" % number for number in range(1, 1200, 2)]


def go_on(publisher: Publisher, batch: Batch) -> None:
    """Publish for some seconds."""
    for number in range(200):
        publisher.publish("cdc.t", b"%d" % number, b"v", batch)
        publisher.flush(batch)
        publisher.poll(0.05)


@pytest.mark.parametrize(
    ("code", "said", "advised"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, "takes no message of this size", "max.message.bytes"),
        (
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            "does not let the user do that",
            "docs/services/kafka.md",
        ),
    ],
)
def test_nothing_behind_a_refused_message_is_taken_as_delivered(
    broker: MockBroker, publisher: Publisher, code: int, said: str, advised: str
) -> None:
    before, refused, behind = Batch(), Batch(), Batch()
    publisher.publish("cdc.t", b"1", b"v", before)
    publisher.flush(before)
    delivered(publisher, before)
    broker.refuse(code, 0, 0)
    publisher.publish("cdc.t", b"2", b"v", refused)
    publisher.publish("cdc.t", b"3", b"v", refused)
    publisher.flush(refused)
    with pytest.raises(Unreachable, match=said) as caught:
        go_on(publisher, behind)
    assert advised in (caught.value.remedy or "")
    with pytest.raises(Unreachable):
        publisher.poll(0.5)
    assert refused.undelivered
    assert behind.undelivered


def test_a_large_message_that_is_refused_is_a_dead_letter_and_the_rest_goes_on(
    broker: MockBroker, publisher: Publisher
) -> None:
    batch = Batch()
    publisher.publish("cdc.t", b"before", b"v", batch)
    publisher.flush(batch)
    delivered(publisher, batch)
    broker.refuse(KafkaError.MSG_SIZE_TOO_LARGE)
    large = b'{"metadata":{"table":"t"},"payload":{"v":"%b"},"before":null}' % (b"v" * 1_500_000)
    publisher.publish("cdc.t", b"large", large, batch)
    publisher.publish("cdc.t", b"fits", b"v" * 1_500_000, batch)
    publisher.publish("cdc.t", b"behind", b"v", batch)
    publisher.flush(batch)
    delivered(publisher, batch)
    assert batch.offsets == {"cdc.t": 3}  # the large one is there without its row
    found = messages(broker, "cdc.t", 4)
    assert [key for key, _ in found] == [b"before", b"large", b"fits", b"behind"]
    assert found[1][1] == b'{"metadata":{"table":"t"},"payload":null,"before":null}'


def test_what_the_broker_takes_late_is_waited_for(broker: MockBroker, publisher: Publisher) -> None:
    broker.refuse(KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.REQUEST_TIMED_OUT)
    batch = Batch()
    publisher.publish("cdc.t", b"1", b"v", batch)
    publisher.flush(batch)
    delivered(publisher, batch)
    assert batch.offsets == {"cdc.t": 0}
