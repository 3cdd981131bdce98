"""The embedded broker keeps what it acknowledged, over restarts and kills."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from confluent_kafka import Message, Producer

from sluice.clients.broker import Broker
from sluice.clients.topics import EPOCH_TOPIC, Topics
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import Chunk
from sluice.embedded.stack import Stack
from sluice.errors import Unreachable
from sluice.settings import Settings
from tests.support.damage import make_again
from tests.support.outside_broker import require_embedded
from tests.support.processes import connected_to, process_of
from tests.support.services import stack_environment, started, temporary_home
from tests.support.waiting import until

pytestmark = pytest.mark.services

T = TypeVar("T")
KILLS = 4


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Settings, Stack]]:
    """A broker whose home has characters that its settings give a meaning."""
    require_embedded("these tests kill the broker")
    with temporary_home() as folder:
        home = folder / "a home, one = another"
        home.mkdir()
        with started(stack_environment(home), ("broker",)) as (settings, stack):
            yield settings, stack


def everything(settings: Settings, topic: str) -> dict[int, bytes | None]:
    """Offset -> value of all messages."""
    with closing(KafkaLog(settings.kafka)) as log:
        chunks = log.read(topic, 0, Chunk(100_000), 60)
        return {record.offset: record.value for chunk in chunks for record in chunk}


def killed(stack: Stack) -> None:
    """Kill the broker, and wait until the supervisor's next one answers."""
    before = stack.states()["broker"].pid
    process_of(before).kill()
    until(lambda: stack.states()["broker"].pid not in {before, None}, "another broker is started")
    stack.start(("broker",), lambda _: None)


def test_what_was_acknowledged_survives_kills_under_load(
    running: tuple[Settings, Stack],
) -> None:
    settings, stack = running
    topic = f"cdc.kept_{uuid4().hex[:8]}"
    Topics(settings.kafka).ensure([topic])
    stored: dict[int, bytes | None] = {}

    def delivered(error: object, message: Message) -> None:
        if error is None:
            stored[message.offset() or 0] = message.value()

    producer = Producer(
        {**Broker(settings.kafka).options, "enable.idempotence": True, "linger.ms": 1}
    )
    stop = threading.Event()

    def produce() -> None:
        number = 0
        while not stop.is_set():
            producer.poll(0.0005)
            if len(producer) < 10_000:
                producer.produce(topic, b"%d" % number, on_delivery=delivered)
                number += 1

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        for _ in range(KILLS):
            many = len(stored) + 500
            until(lambda most=many: len(stored) > most, "messages are acknowledged")  # type: ignore[misc]
            killed(stack)
    finally:
        stop.set()
        thread.join()
    assert producer.flush(60) == 0
    found = everything(settings, topic)
    assert {offset: found.get(offset) for offset in stored} == stored
    assert [int(value or b"-1") for value in found.values()] == list(range(len(found)))


def test_topics_offsets_and_incarnation_survive_a_restart_and_a_kill(
    running: tuple[Settings, Stack],
) -> None:
    settings, stack = running
    topics, name = Topics(settings.kafka), f"cdc.kept_{uuid4().hex[:8]}"
    topics.ensure([name])
    topics.note_published("kept", 42)
    with closing(KafkaLog(settings.kafka)) as log:
        log.commit({name: 7})

    def state() -> object:
        committed, published = topics.committed([name]), topics.published("kept")
        return topics.incarnation([name]), committed, published

    before = state()
    stack.restart(["broker"], lambda _: None)
    assert state() == before
    killed(stack)
    assert state() == before


def test_kept_clients_outlive_a_restart_and_a_kill_of_the_broker(
    running: tuple[Settings, Stack],
) -> None:
    settings, stack = running
    topics, name = Topics(settings.kafka), f"cdc.kept_{uuid4().hex[:8]}"
    topics.ensure([name])

    def state() -> object:
        return topics.incarnation([name]), topics.published("kept"), topics.ends([name])

    with topics.keeping():
        topics.note_published("kept", 1)
        before = state()
        clients = connections(stack)
        assert state() == before
        assert clients & connections(stack)
        stack.restart(["broker"], lambda _: None)
        assert state() == before
        killed(stack)
        assert state() == before
        topics.note_published("kept", 2)
        assert topics.published("kept") == 2
    until(lambda: not connections(stack), "the clients are closed")


def test_topics_that_were_made_again_cost_kept_clients_one_call_at_most(
    running: tuple[Settings, Stack],
) -> None:
    """librdkafka may keep on asking for the topic of before; the next call has another client."""
    settings, _ = running
    topics, name = Topics(settings.kafka, seconds=5), f"cdc.again_{uuid4().hex[:8]}"
    topics.ensure([name])

    def once_more(ask: Callable[[], T]) -> T:
        with suppress(Unreachable):
            return ask()
        return ask()

    with topics.keeping():
        for _ in range(3):
            producer = Producer(Broker(settings.kafka).options)
            producer.produce(name, b"value")
            assert producer.flush(30) == 0
            topics.note_published("again", 1)
            before = topics.incarnation([name])
            assert topics.ends([name]) == {name: 1}
            make_again(settings, name)
            make_again(settings, EPOCH_TOPIC)
            after = once_more(lambda: topics.incarnation([name]))
            assert set(after).isdisjoint(before)
            assert once_more(lambda: topics.ends([name])) == {name: 0}
            assert once_more(lambda: topics.published("again")) == 0


def connections(stack: Stack) -> set[int]:
    """The ports of this process's connections to the broker."""
    port = int(stack.programs["broker"].address.rpartition(":")[2])
    return connected_to(port)


def test_a_start_that_was_killed_while_it_formatted_is_begun_again(tmp_path: Path) -> None:
    with temporary_home() as home:
        environment = stack_environment(home)
        (home / "broker.draft").mkdir()
        (home / "broker.draft" / "meta.properties").write_text("half of")
        with started(environment, ("broker",)) as (settings, _):
            assert Topics(settings.kafka).ensure([])
            assert not (home / "broker.draft").exists()


def test_java_leaves_no_files_behind_a_kill(running: tuple[Settings, Stack]) -> None:
    """Libraries are unpacked below the home, and go with the next start."""
    settings, stack = running
    name = f"cdc.packed_{uuid4().hex[:8]}"
    Topics(settings.kafka).ensure([name])
    producer = Producer({**Broker(settings.kafka).options, "compression.type": "zstd"})
    producer.produce(name, b"x" * 10_000)
    assert producer.flush(20) == 0
    folder = settings.home / "run" / "broker"
    unpacked = {path.name for path in folder.iterdir()}
    killed(stack)
    assert not unpacked & {path.name for path in folder.iterdir()}
