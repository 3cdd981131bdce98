"""Reads topics for people: the offsets and ages of many of them, and single messages.

It commits nothing, and no step of the pipeline depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import methodcaller
from typing import Any, NamedTuple

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import ListOffsetsResultInfo, OffsetSpec

from sluice.clients.broker import Broker
from sluice.clients.topics import (
    UNREADABLE,
    Topics,
    described,
    first_after,
    partitioned,
    until_led,
)
from sluice.errors import NotReady
from sluice.settings import KafkaSettings

_SECONDS = 10.0
_PROBE_S = 1.0
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
# The years that every time zone can show; a producer chooses the time of its messages.
_LAST_MS = 253_370_764_800_000
_HEADERS = methodcaller("headers")
_OPTIONS = {
    "group.id": "sluice-topics",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "earliest",  # messages may be deleted while others are read
    "queued.max.messages.kbytes": 1024,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicOffsets:
    """What the broker knows about a topic's messages.

    Attributes:
        partitions: their number; the offsets are those of the first.
        beginning: the offset of the first message that the broker has.
        end: the offset after the last message.
        oldest_at: the time of the first message; None without any, or without its time.
        since: the first offset of the requested time or later; None without such a message.
        options: the topic's configuration; empty where the broker does not report it.
    """

    partitions: int
    beginning: int
    end: int
    oldest_at: datetime | None
    since: int | None
    options: Mapping[str, str]


class Bounds(NamedTuple):
    """The offset of a topic's first message, and the offset after its last."""

    beginning: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message; `at` is the time that its producer or the broker gave it."""

    offset: int
    at: datetime | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    value: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Messages from `offset` to before `next_offset` that librdkafka cannot unpack."""

    offset: int
    next_offset: int
    reason: str


class TopicReader:
    """Reads the topics of one broker; every call opens and closes what it needs.

    Args:
        seconds: how long the broker may take to answer, and how long messages are read.
    """

    def __init__(self, settings: KafkaSettings, seconds: float = _SECONDS) -> None:
        self._broker = Broker(settings)
        self._topics = Topics(settings, seconds)
        self._seconds = seconds

    def offsets(self, names: Sequence[str], since: datetime) -> dict[str, TopicOffsets]:
        """Return topic -> offsets, without topics that do not exist; a few requests for all."""
        with ThreadPoolExecutor(2) as threads:
            ends = threads.submit(self._topics.ends, names)
            options = threads.submit(self._topics.configured, names)
            with self._broker.opened(AdminClient) as admin:
                states = described(admin, names, self._seconds)
                specs = (
                    _EARLIEST,
                    OffsetSpec.for_timestamp(0),
                    OffsetSpec.for_timestamp(int(since.timestamp() * 1000)),
                )
                beginnings, oldest, later = self._listed(admin, states, specs)
        return {
            name: TopicOffsets(
                partitions=state.partitions,
                beginning=beginnings[name].offset,
                end=end,
                oldest_at=_moment(oldest[name].timestamp) if _within(oldest, name, end) else None,
                since=later[name].offset if _within(later, name, end) else None,
                options=options.result()[name],
            )
            for name, state in states.items()
            if name in beginnings and (end := ends.result().get(name)) is not None
        }

    def bounds(self, name: str) -> Bounds:
        """Return where a topic's messages begin and end.

        Raises:
            NotReady: the topic does not exist.
            TopicPartitioned: it has several partitions.
        """
        with self._broker.opened(AdminClient) as admin:
            state = described(admin, [name], self._seconds).get(name)
            if state is not None and state.partitions > 1:
                raise partitioned(name, state.partitions)
            (beginnings,) = self._listed(admin, [name] if state else [], [_EARLIEST])
        end = self._topics.ends([name] if beginnings else []).get(name)
        if end is None:
            raise NotReady(f"topic {name} does not exist", remedy="run: sluice init")
        return Bounds(beginnings[name].offset, end)

    def _listed(
        self, admin: AdminClient, names: Iterable[str], specs: Sequence[OffsetSpec]
    ) -> list[dict[str, ListOffsetsResultInfo]]:
        """Return, for each spec, topic -> answer, without topics that have no such offset."""
        places = [TopicPartition(name, 0) for name in names]
        if not places:
            return [{} for _ in specs]

        def ask() -> list[dict[str, ListOffsetsResultInfo]]:
            asked = [
                admin.list_offsets(dict.fromkeys(places, spec), request_timeout=self._seconds)
                for spec in specs
            ]
            return [
                {
                    place.topic: found
                    for place, answer in answers.items()
                    if (found := _present(answer)) is not None and found.offset >= 0
                }
                for answers in asked
            ]

        return until_led(ask, self._seconds)

    def messages(self, topic: str, first: int, end: int) -> Iterator[Message | Unreadable]:
        """Yield the messages from offset `first` to before `end`, which the topic has.

        An offset without a message is passed over: compaction and transactions leave some.

        Raises:
            Unreachable: the broker does not answer in time.
        """
        deadline = time.monotonic() + self._seconds
        with self._broker.opened(Consumer, _OPTIONS) as consumer:
            at = _assigned(consumer, topic, first)
            while at < end:
                polled = consumer.poll(0.2)
                error = polled.error() if polled is not None else None
                if polled is None or (error is not None and not _concerns(error)):
                    if time.monotonic() > deadline:
                        raise self._broker.silent(consumer, f"does not answer for {topic}")
                elif error is None:
                    message = _message(polled)
                    at = message.offset + 1
                    if at <= end:
                        yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    return
                else:
                    passed = _after(consumer, topic, at, end, deadline)
                    yield Unreadable(offset=at, next_offset=passed, reason=error.str())
                    at = _assigned(consumer, topic, passed)


def _concerns(error: KafkaError) -> bool:
    """Whether an error is about the messages; librdkafka retries after others."""
    return error.code() == KafkaError._PARTITION_EOF or error.code() in UNREADABLE


def _assigned(consumer: Consumer, topic: str, offset: int) -> int:
    consumer.assign([TopicPartition(topic, 0, offset)])
    return offset


def _after(consumer: Consumer, topic: str, offset: int, end: int, deadline: float) -> int:
    """Return the next offset that can be read; `end` if none is found in time."""

    def readable(at: int) -> bool:
        if at >= end or time.monotonic() > deadline:
            return True
        _assigned(consumer, topic, at)
        until = time.monotonic() + _PROBE_S
        while (polled := consumer.poll(0.2)) is None and time.monotonic() < until:
            pass
        error = polled.error() if polled is not None else None
        return error is None or error.code() not in UNREADABLE

    passed = first_after(offset, readable)
    return end if time.monotonic() > deadline else min(passed, end)


def _within(found: Mapping[str, ListOffsetsResultInfo], name: str, end: int) -> bool:
    """Whether an offset was found for the topic, and a message is there."""
    return name in found and found[name].offset < end


def _present(answer: Future[ListOffsetsResultInfo]) -> ListOffsetsResultInfo | None:
    """Return an answer; None of a topic that was deleted meanwhile."""
    try:
        return answer.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        return None


def _message(polled: Any) -> Message:
    kind, milliseconds = polled.timestamp()
    return Message(
        offset=polled.offset(),
        at=None if kind == TIMESTAMP_NOT_AVAILABLE else _moment(milliseconds),
        key=polled.key(),
        headers=_headers(polled),
        value=polled.value(),
    )


def _headers(polled: Any) -> tuple[tuple[str, bytes | None], ...]:
    """Return a message's headers; one without a name where a name is not UTF-8.

    confluent_kafka returns these and leaves an exception set. Python checks for one in calls from
    C such as methodcaller's, but not in all of its own.
    """
    try:
        return tuple(_HEADERS(polled) or ())
    except (UnicodeDecodeError, SystemError):
        return (("", None),)


def _moment(milliseconds: int) -> datetime | None:
    """Return a message's time; None where it has none that a calendar can show."""
    if not 0 <= milliseconds < _LAST_MS:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
