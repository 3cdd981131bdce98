"""What a ChangeLog promises, on the twin and on the broker.

`SLUICE_TEST_BROKER` puts another broker in the embedded one's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from sluice.clients.topics import Topics
from sluice.drain.in_memory import MemoryLog
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import ChangeLog, Chunk
from sluice.errors import NotReady, TopicGap, TopicPartitioned
from sluice.events.event import DEAD_LETTER_TOPIC, Record, Reject
from sluice.settings import KafkaSettings, Settings
from tests.support.background import repeating
from tests.support.messages import transaction
from tests.support.outside_broker import outside
from tests.support.waiting import until

Dead = tuple[bytes | None, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A log, a topic of its own with one partition and one with two, and a view from outside."""

    log: ChangeLog
    topic: str
    wide_topic: str
    produce: Callable[[bytes | None, bytes | None], None]
    transaction: Callable[[bytes], None]
    committed: Callable[[], int]
    dead_letters: Callable[[], list[Dead]]
    make_again: Callable[[], None]

    def read(self, offset: int, chunk: int = 100) -> list[list[Record]]:
        return list(self.log.read(self.topic, offset, Chunk(chunk), 20))


@pytest.fixture(params=["memory", pytest.param("broker", marks=pytest.mark.services)])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "memory":
        yield in_memory()
        return
    settings = outside() or request.getfixturevalue("services").kafka
    with closing(KafkaLog(settings)) as log:
        yield on_broker(settings, log)


def in_memory() -> Subject:
    log = MemoryLog(["cdc.one", "cdc.wide"], partitions={"cdc.wide": 2})

    def committed(value: bytes) -> None:
        log.produce("cdc.one", value)
        log.end_transaction("cdc.one")

    return Subject(
        log=log,
        topic="cdc.one",
        wide_topic="cdc.wide",
        produce=lambda value, key: log.produce("cdc.one", value, key),
        transaction=committed,
        committed=lambda: log.committed["cdc.one"],
        dead_letters=lambda: [(r.record.key, r.record.value) for _, r in log.dead_letters],
        make_again=lambda: log.recreate("cdc.one"),
    )


def on_broker(settings: KafkaSettings, log: KafkaLog) -> Subject:
    topic, wide = f"cdc.one-{uuid4().hex}", f"cdc.wide-{uuid4().hex}"
    topics = Topics(settings)
    topics.ensure([topic, DEAD_LETTER_TOPIC])
    admin = AdminClient({"bootstrap.servers": settings.bootstrap, **settings.options})
    for future in admin.create_topics([NewTopic(wide, 2, 1)]).values():
        future.result()
    producer = Producer({"bootstrap.servers": settings.bootstrap, **settings.options})

    def produce(value: bytes | None, key: bytes | None) -> None:
        producer.produce(topic, value=value, key=key)
        assert producer.flush(10) == 0

    def committed(value: bytes) -> None:
        with transaction(settings, topic, value) as open_one:
            open_one.commit_transaction(30)

    def make_again() -> None:
        for future in admin.delete_topics([topic]).values():
            future.result()
        topics.ensure([topic])

    begin = topics.ends([DEAD_LETTER_TOPIC])[DEAD_LETTER_TOPIC]
    return Subject(
        log=log,
        topic=topic,
        wide_topic=wide,
        produce=produce,
        transaction=committed,
        committed=lambda: topics.committed([topic])[topic],
        dead_letters=lambda: [
            (record.key, record.value)
            for chunk in log.read(DEAD_LETTER_TOPIC, begin, Chunk(100), 20)
            for record in chunk
        ],
        make_again=make_again,
    )


def test_a_chunk_ends_where_its_bytes_are_full(subject: Subject) -> None:
    for _ in range(250):
        subject.produce(b"x" * 300, None)
    chunks = list(subject.log.read(subject.topic, 0, Chunk(1000, 30_000), 20))
    assert [len(chunk) for chunk in chunks] == [100, 100, 50, 0]


def test_a_topic_is_read_in_chunks_to_its_end(subject: Subject) -> None:
    assert subject.read(0) == [[]]
    for number in range(5):
        subject.produce(b"v%d" % number, b"k%d" % number)
    chunks = subject.read(0, chunk=2)
    assert [len(chunk) for chunk in chunks] == [2, 2, 1, 0]
    records = [record for chunk in chunks for record in chunk]
    assert records == [Record(offset=n, key=b"k%d" % n, value=b"v%d" % n) for n in range(5)]
    assert [r.offset for chunk in subject.read(3) for r in chunk] == [3, 4]
    assert subject.read(5) == [[]]


def test_messages_without_key_or_value_arrive_as_they_are(subject: Subject) -> None:
    subject.produce(None, b"tombstone")
    subject.produce(b"", None)
    assert [(r.key, r.value or None) for chunk in subject.read(0) for r in chunk] == [
        (b"tombstone", None),
        (None, None),
    ]


def test_an_offset_past_the_end_is_a_gap(subject: Subject) -> None:
    subject.produce(b"v", None)
    with pytest.raises(TopicGap):
        subject.read(7)


def test_a_topic_that_is_not_there_or_has_two_partitions_is_refused(subject: Subject) -> None:
    with pytest.raises(NotReady, match="sluice init"):
        subject.log.topic_id("cdc.nowhere")
    with pytest.raises(TopicPartitioned):
        subject.log.topic_id(subject.wide_topic)


def test_a_topic_that_is_made_again_has_another_id(subject: Subject) -> None:
    before = subject.log.topic_id(subject.topic)
    subject.produce(b"v", None)
    assert subject.log.topic_id(subject.topic) == before != ""
    subject.make_again()
    assert subject.log.topic_id(subject.topic) not in {before, ""}


def test_the_group_remembers_what_was_committed(subject: Subject) -> None:
    for number in range(3):
        subject.produce(b"%d" % number, None)
    subject.log.commit({subject.topic: 2})
    assert subject.committed() == 2
    subject.log.commit({subject.topic: 3})
    assert subject.committed() == 3


def test_the_positions_of_several_topics_are_read_at_once(subject: Subject) -> None:
    for number in range(3):
        subject.produce(b"%d" % number, None)
    subject.log.commit({subject.topic: 2})
    found = subject.log.positions([subject.topic, subject.wide_topic, "cdc.nowhere"])
    assert found.keys() == {subject.topic, subject.wide_topic}
    one = found[subject.topic]
    assert (one.partitions, one.end, one.committed) == (1, 3, 2)
    assert one.id == subject.log.topic_id(subject.topic)
    assert found[subject.wide_topic].partitions == 2


def test_dead_letters_keep_the_raw_message(subject: Subject) -> None:
    bad = Record(offset=0, key=b"k", value=b"\xff not json")
    subject.log.publish_dead_letters("products", [Reject(record=bad, reason="no")])
    assert (b"k", b"\xff not json") in subject.dead_letters()


def test_the_epoch_stays_while_the_broker_does(subject: Subject) -> None:
    assert subject.log.epoch() == subject.log.epoch() != ""


@pytest.mark.services
def test_the_end_of_a_topic_that_grows_all_the_time_is_told(services: Settings) -> None:
    topics, topic = Topics(services.kafka, seconds=5), f"cdc.busy-{uuid4().hex}"
    topics.ensure([topic])
    with growing(services, topic) as sent:
        for _ in range(3):
            before = len(sent)
            assert topics.ends([topic])[topic] >= before
    assert topics.ends([topic]) == {topic: len(sent)}


@pytest.mark.services
@pytest.mark.parametrize("batch", [1, 7])
def test_a_read_of_a_topic_that_grows_all_the_time_ends_with_what_was_there(
    services: Settings, batch: int
) -> None:
    """No fetch comes back empty."""
    topic = f"cdc.busy-{uuid4().hex}"
    Topics(services.kafka).ensure([topic])
    with growing(services, topic, batch) as sent, closing(KafkaLog(services.kafka)) as log:
        for _ in range(3):
            before = len(sent)
            *chunks, last = log.read(topic, 0, Chunk(1_000_000), 60)
            assert last == []
            assert sum(map(len, chunks)) >= before


@contextmanager
def growing(services: Settings, topic: str, batch: int = 1) -> Iterator[list[int]]:
    """Messages are put on the topic all the time, so many at once; what the broker has."""
    producer = Producer(
        {"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options, "linger.ms": 1}
    )
    sent: list[int] = []

    def produce() -> None:
        for _ in range(batch):
            producer.produce(topic, value=b"value")
        assert producer.flush(10) == 0
        sent.extend([1] * batch)

    with repeating(produce, 0.001):
        yield sent


@pytest.mark.services
def test_a_topic_of_very_many_batches_is_read_to_its_end(services: Settings) -> None:
    name, count = f"cdc.batches_{uuid4().hex[:8]}", 50_000
    admin = AdminClient({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result()
    producer = Producer(
        {
            "bootstrap.servers": services.kafka.bootstrap,
            **services.kafka.options,
            "batch.num.messages": 1,
            "linger.ms": 0,
        }
    )
    for number in range(count):
        producer.produce(name, b"{}")
        if number % 500 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0
    try:
        with closing(KafkaLog(services.kafka)) as log:
            *chunks, last = log.read(name, count - 10, Chunk(100), 60)
        assert [record.offset for chunk in chunks for record in chunk] == [
            *range(count - 10, count)
        ]
        assert last == []
        assert Topics(services.kafka).ends([name]) == {name: count}
    finally:
        admin.delete_topics([name])[name].result()


def test_the_markers_of_transactions_are_passed_at_the_end_of_a_topic(subject: Subject) -> None:
    assert subject.log.after_markers(subject.topic, 0) == 0
    subject.produce(b"first", None)
    subject.transaction(b"second")
    assert [r.offset for chunk in subject.read(0) for r in chunk] == [0, 1]
    until(lambda: subject.log.end(subject.topic) == 3, "the broker has written the marker")
    assert [subject.log.after_markers(subject.topic, at) for at in range(4)] == [0, 1, 3, 3]
    assert subject.read(2) == subject.read(3) == [[]]
    subject.produce(b"third", None)
    assert subject.log.after_markers(subject.topic, 2) == 2
    assert [r.offset for chunk in subject.read(2) for r in chunk] == [3]


def test_one_record_is_given_with_the_offset_after_it_and_none_at_the_end(subject: Subject) -> None:
    for value in (b"first", b"second"):
        subject.produce(value, b"key")
    for offset, value in enumerate((b"first", b"second")):
        passed = subject.log.one(subject.topic, offset)
        assert passed is not None
        assert (passed.record, passed.unreadable) == (Record(offset, b"key", value), "")
        assert passed.next_offset == offset + 1
    assert subject.log.one(subject.topic, 2) is None


def test_of_a_large_record_head_and_tail_are_published(subject: Subject) -> None:
    value, key = b"head" + bytes(5_000_000) + b"tail", b"k" * 100_000
    reject = Reject(record=Record(0, key, value), reason="large")
    subject.log.publish_dead_letters("t", [reject])
    ((shown, kept),) = subject.dead_letters()
    assert shown is not None
    assert kept is not None
    assert kept.startswith(b"head\0")
    assert kept.endswith(b"\0tail")
    assert max(len(kept), len(shown)) < 10_000
