"""Topics of the pipeline: creation, end offsets, the drain group's offsets, the broker's epoch.

The broker's epoch is the first message of `cdc.broker_epoch`, a random id written when the topic is
empty. A broker that lost its topics has another epoch, so that offsets of two incarnations are not
confused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic

from sluice.clients.broker import Broker
from sluice.errors import TopicPartitioned, Unreachable
from sluice.events.event import CONTROL_TOPIC, DEAD_LETTER_TOPIC, DRAIN_GROUP
from sluice.events.positions import is_lsn
from sluice.settings import KafkaSettings

EPOCH_TOPIC = "cdc.broker_epoch"
T = TypeVar("T")
_SECONDS = 10.0
_READER = "sluice-reader"  # the group of consumers that commit nothing
_NO_OPTIONS: Mapping[str, Any] = {}
_READABLE_S = 1.0  # to decompress a message, or to fail to
# librdkafka's errors of messages that it cannot decompress, or that are too large decompressed.
UNREADABLE = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError.INVALID_MSG})
# Of a topic that was just created, or a broker that has just started.
_NO_LEADER = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
)
# Of a topic that does not exist, or of which the user may not know.
_ABSENT = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED})
_LEADER_S = 0.02
# Of notes the newest count. A producer can send any number of messages to their topic.
_MOST_NOTES = 1000
_NO_TOPIC_ID = "A" * 22  # zeros, of brokers without topic ids
# The least fields of a snapshot's note.
_SNAPSHOT = frozenset({"slot", "system_identifier", "consistent_point"})
# Of drained messages, those that can still be looked at; as many are deleted at least.
_DRAINED_KEPT = 1000
# The epoch is a message; if it expired, the broker would seem to be another one.
_REPLICAS = -1  # the broker's default
_FOR_EVER = {"retention.ms": "-1", "retention.bytes": "-1"}
_DAY_MS = 86_400_000
# Topics whose committed offsets hold a slot's mark; its group reads none of them.
_MARK_TOPICS = (EPOCH_TOPIC, CONTROL_TOPIC, DEAD_LETTER_TOPIC)


class SlotMark(NamedTuple):
    """State of a slot and its server, by which a later session recognizes them.

    Attributes:
        wal: end of the server's WAL.
        transactions: transactions that the server counts as decoded for the slot.
        counted_since: when the server began to count, milliseconds since 1970.
    """

    wal: int = 0
    transactions: int = 0
    counted_since: int = 0


class _Unreadable(Exception):
    """What comes next on the topic cannot be unpacked."""


class TopicState(NamedTuple):
    """A topic's id, "" on brokers without topic ids (before KIP-516), and its partition count."""

    id: str
    partitions: int


def described(admin: AdminClient, names: Iterable[str], seconds: float) -> dict[str, TopicState]:
    """Return topic -> state, without topics that do not exist."""
    states = {}
    answers = admin.describe_topics(TopicCollection(list(names)), request_timeout=seconds)
    for name, answer in answers.items():
        try:
            topic = answer.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            continue
        known = str(topic.topic_id)
        states[name] = TopicState("" if known == _NO_TOPIC_ID else known, len(topic.partitions))
    return states


def committed_by(consumer: Consumer, names: Iterable[str], seconds: float) -> dict[str, int]:
    """Return topic -> the offset that the consumer's group has committed, or 0."""
    positions = [TopicPartition(name, 0) for name in names]
    committed = consumer.committed(positions, timeout=seconds)
    return {position.topic: max(0, position.offset) for position in committed}


def retention(period: timedelta) -> dict[str, str]:
    """The options of a topic whose messages are kept for so long."""
    milliseconds = int(period.total_seconds() * 1000)
    return {"retention.ms": str(milliseconds), "segment.ms": str(_DAY_MS)}


class Topics:
    """The topics of one broker; every call opens and closes what it needs.

    Args:
        seconds: how long the broker may take to answer a request.

    Attributes:
        deletes_drained: whether drained messages are deleted; another broker than the embedded one
            keeps them as long as its owner wants.
    """

    def __init__(self, settings: KafkaSettings, seconds: float = _SECONDS) -> None:
        self.deletes_drained = settings.embedded
        self._broker = Broker(settings)
        self._seconds = seconds
        self._passed: dict[int, int] = {}  # the offset of an unreadable batch -> the next one

    def keeping(self) -> AbstractContextManager[None]:
        """Keep clients until the context ends; see Broker.keeping."""
        return self._broker.keeping()

    def require_listening(self) -> None:
        """Require that a broker listens; see Broker.require_listening."""
        self._broker.require_listening()

    def ensure(self, names: Iterable[str]) -> str:
        """Create missing topics, with one partition each; return the broker's epoch.

        Raises:
            Unreachable: the broker does not answer.
        """
        wanted = list(dict.fromkeys([*names, EPOCH_TOPIC]))
        with self._broker.opened(AdminClient) as admin:
            present = admin.list_topics(timeout=self._seconds).topics
            missing = [
                NewTopic(name, 1, _REPLICAS, config=_FOR_EVER if name == EPOCH_TOPIC else {})
                for name in wanted
                if name not in present
            ]
            futures = admin.create_topics(missing).values() if missing else []
            for future in futures:
                _created(future)
            deadline = time.monotonic() + self._seconds
            while not self._led(admin, wanted) and time.monotonic() < deadline:
                time.sleep(_LEADER_S)
        return self.epoch() or self._write_epoch()

    def _led(self, admin: AdminClient, names: Iterable[str]) -> bool:
        """Whether the broker leads these topics; one that was just created takes a moment."""
        present = admin.list_topics(timeout=self._seconds).topics
        places = [present[name].partitions if name in present else {} for name in names]
        return all(parts and all(p.leader >= 0 for p in parts.values()) for parts in places)

    def partitions(self) -> dict[str, int]:
        """Return topic -> number of partitions, of all topics of the broker."""
        with self._broker.opened(AdminClient) as admin:
            present = admin.list_topics(timeout=self._seconds).topics
        return {name: len(topic.partitions) for name, topic in present.items()}

    def configured(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return topic -> options; empty where the broker does not report them."""
        wanted = {name: ConfigResource(ConfigResource.Type.TOPIC, name) for name in names}
        configurations: dict[str, dict[str, str]] = {name: {} for name in names}
        if not wanted:
            return configurations
        with self._broker.opened(AdminClient) as admin:
            answers = admin.describe_configs(list(wanted.values()), request_timeout=self._seconds)
            for name, resource in wanted.items():
                with suppress(KafkaException):  # an old broker, or no permission
                    options = answers[resource].result(self._seconds)
                    configurations[name] = {
                        option: entry.value
                        for option, entry in options.items()
                        if entry.value is not None
                    }
        return configurations

    def keep_for(self, name: str, period: timedelta) -> bool:
        """Let the broker delete a topic's messages when they are older than this.

        It deletes whole segments, so a segment ends after a day.

        Returns:
            False when the topic was configured so already.

        Raises:
            Unreachable: the broker does not do it.
        """
        wanted = retention(period)
        if self.configured([name])[name].items() >= wanted.items():
            return False
        entries = [
            ConfigEntry(option, value, incremental_operation=AlterConfigOpType.SET)
            for option, value in wanted.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        with self._broker.opened(AdminClient) as admin:
            altered = admin.incremental_alter_configs([resource], request_timeout=self._seconds)
            altered[resource].result(self._seconds)
        return True

    def forget(self, name: str, below: int) -> str:
        """Let the broker delete a topic's messages below an offset; return why it refuses, or "".

        Raises:
            Unreachable: the broker does not answer, or cannot do it yet.
        """
        with self._broker.opened(AdminClient) as admin:
            deleted = admin.delete_records(
                [TopicPartition(name, 0, below)], request_timeout=self._seconds
            )
            for future in deleted.values():
                try:
                    future.result(self._seconds)
                except KafkaException as error:
                    reason = error.args[0]
                    if reason.code() <= 0 or reason.retriable():  # librdkafka's own, or for now
                        raise
                    return str(reason.str())
        return ""

    def epoch(self) -> str | None:
        """Return the id of the broker's incarnation; None where its topics are not set up."""
        notes = self._notes(first=True)
        return str(notes[0]["epoch"]) if notes else None

    def states(self, names: Iterable[str]) -> dict[str, TopicState]:
        """Return topic -> state, without topics that do not exist."""
        with self._broker.opened(AdminClient) as admin:
            return described(admin, names, self._seconds)

    def incarnation(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the broker's epoch and the topics' ids, which change when one is recreated."""
        states = self.states(names)
        return (self.epoch() or "", *(states[name].id for name in names if name in states))

    def slot_note(self, slot: str | None = None) -> dict[str, Any] | None:
        """Return the last note of the slot, or of any slot, on this broker; None without one.

        Its `consistent_point` is None while a new snapshot is due. A note without the broker's
        epoch was written by someone who cannot read it, and is ignored.
        """
        epoch = self.epoch()
        notes = (
            note for note in reversed(self._notes()) if note["epoch"] == epoch and _is_of_slot(note)
        )
        return next((note for note in notes if slot in (None, note["slot"])), None)

    def note_slot(self, note: dict[str, Any]) -> None:
        """Note a snapshot: slot, system_identifier, timeline, consistent_point, publication.

        The published LSN may be of another server's WAL, and is reset.
        """
        self.note_published(note["slot"], 0)
        self._produce({"epoch": self.epoch(), **note})

    def note_published(self, slot: str, lsn: int) -> None:
        """Note that the topics have everything up to this LSN."""
        self._note(f"sluice-published-{slot}", [TopicPartition(EPOCH_TOPIC, 0, lsn)])

    def published(self, slot: str) -> int:
        """Return the last noted LSN; 0 without one."""
        return self._noted(f"sluice-published-{slot}", [EPOCH_TOPIC])[EPOCH_TOPIC]

    def note_mark(self, slot: str, mark: SlotMark) -> None:
        """Note a slot's mark, as offsets that the slot's own group commits."""
        numbers = zip(_MARK_TOPICS, mark, strict=True)
        positions = [TopicPartition(name, 0, number) for name, number in numbers]
        self._note(f"sluice-relay-{slot}", positions)

    def mark(self, slot: str) -> SlotMark:
        """Return the last noted mark; zeros without one."""
        offsets = self._noted(f"sluice-relay-{slot}", _MARK_TOPICS)
        return SlotMark(*(offsets[name] for name in _MARK_TOPICS))

    def _note(self, group: str, positions: list[TopicPartition]) -> None:
        with self._consumer(group) as consumer:
            consumer.commit(offsets=positions, asynchronous=False)

    def _noted(self, group: str, names: Iterable[str]) -> dict[str, int]:
        """Return topic -> a group's committed offset, or 0."""
        with self._consumer(group) as consumer:
            return committed_by(consumer, names, self._seconds)

    def ends(self, names: Iterable[str]) -> dict[str, int]:
        """Return topic -> end offset, without topics that do not exist."""
        with self._consumer(_READER) as consumer:
            present = consumer.list_topics(timeout=self._seconds).topics
            return self._offsets(consumer, [name for name in names if name in present], OFFSET_END)

    def delete_drained(self, drained: Mapping[str, int]) -> dict[str, int]:
        """Let the broker delete drained messages, except the newest of each topic.

        It deletes whole segments, and returns no message before the deletion any more.

        Args:
            drained: topic -> offset before which all is drained, of topics that exist.

        Returns:
            Topic -> the first offset that is kept, of the topics where enough is drained.
        """
        with self._consumer(_READER) as consumer:
            firsts = self._offsets(consumer, list(drained), OFFSET_BEGINNING)
        kept = {name: offset - _DRAINED_KEPT for name, offset in drained.items()}
        due = {n: first for n, first in kept.items() if first - firsts[n] >= _DRAINED_KEPT}
        if due:
            places = [TopicPartition(name, 0, offset) for name, offset in due.items()]
            with self._broker.opened(AdminClient) as admin:
                for future in admin.delete_records(places, request_timeout=self._seconds).values():
                    future.result(self._seconds)
        return due

    def _offsets(self, consumer: Consumer, names: Sequence[str], place: int) -> dict[str, int]:
        """Return topic -> the offset of a special place, by one request for all topics."""
        asked = [TopicPartition(name, 0, place) for name in names]

        def ask() -> dict[str, int]:
            found = consumer.offsets_for_times(asked, timeout=self._seconds)
            for answer in found:
                if answer.error is not None:
                    raise KafkaException(answer.error)
            return {answer.topic: answer.offset for answer in found}

        return until_led(ask, self._seconds) if asked else {}

    def committed(self, names: Iterable[str]) -> dict[str, int]:
        """Return topic -> the drain group's next offset, or 0."""
        return self._noted(DRAIN_GROUP, names)

    def _write_epoch(self) -> str:
        self._produce({"epoch": uuid4().hex})
        epoch = self.epoch()  # if two write at once, the first message counts
        if epoch is None:
            raise Unreachable(f"broker {self._broker.address} lost the epoch that was just written")
        return epoch

    def _produce(self, note: dict[str, Any]) -> None:
        failures: list[KafkaError] = []
        with self._broker.opened(Producer, {"acks": "all"}) as producer:
            producer.produce(
                EPOCH_TOPIC,
                value=json.dumps(note).encode(),
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
            if producer.flush(self._seconds):
                raise self._broker.silent(producer, "accepted no message")
            if failures:
                raise self._broker.failure(failures[0])

    def _notes(self, *, first: bool = False) -> list[dict[str, Any]]:
        """The notes among the newest messages; with `first` the first note alone."""
        notes: list[dict[str, Any]] = []
        with self._consumer(_READER) as consumer:
            error = consumer.list_topics(EPOCH_TOPIC, self._seconds).topics[EPOCH_TOPIC].error
            if error is not None and error.code() in _ABSENT:
                return notes
            end = self._offsets(consumer, [EPOCH_TOPIC], OFFSET_END)[EPOCH_TOPIC]
            at = 0 if first else max(0, end - _MOST_NOTES)
            while at < end:
                consumer.assign([TopicPartition(EPOCH_TOPIC, 0, at)])
                try:
                    for offset, value in self._until(consumer, end):
                        at = offset + 1
                        if (note := _note(value)) is not None:
                            notes.append(note)
                            if first:
                                return notes
                    return notes
                except _Unreadable:
                    if at not in self._passed:  # to find it costs several attempts to decompress
                        self._passed[at] = first_after(at, self._readable)
                    at = self._passed[at]
        return notes

    def _readable(self, offset: int) -> bool:
        """Whether a note's message can be read there, or the topic ends before."""
        deadline = time.monotonic() + _READABLE_S
        with self._consumer(_READER, {"auto.offset.reset": "error"}) as consumer:
            consumer.assign([TopicPartition(EPOCH_TOPIC, 0, offset)])
            while (message := consumer.poll(0.2)) is None and time.monotonic() < deadline:
                pass
        error = message and message.error()
        return not error or error.code() not in UNREADABLE

    def _until(self, consumer: Consumer, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, value) of the assigned topic's messages before an offset.

        Raises:
            _Unreadable: a message cannot be read.
        """
        deadline = time.monotonic() + self._seconds
        while True:
            if time.monotonic() > deadline:
                raise self._broker.silent(consumer, f"does not answer for {EPOCH_TOPIC}")
            message = consumer.poll(0.2)
            if message is None:
                continue
            deadline = time.monotonic() + self._seconds  # it answers, however slowly
            error, offset = message.error(), message.offset() or 0
            if error is None:
                yield offset, message.value() or b""
            elif error.code() in UNREADABLE:
                raise _Unreadable
            if offset + 1 >= end or (error and error.code() == KafkaError._PARTITION_EOF):
                return

    def _consumer(
        self, group: str, options: Mapping[str, Any] = _NO_OPTIONS
    ) -> AbstractContextManager[Consumer]:
        return self._broker.opened(
            Consumer,
            {
                "group.id": group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,  # a topic's end is reported after a fetch that waited
                "reconnect.backoff.ms": 1,  # else half of all reads wait 50 ms to connect
                "reconnect.backoff.max.ms": 500,  # of a client that is kept over an outage
                **options,
            },
        )


def until_led(ask: Callable[[], T], seconds: float) -> T:
    """Return the answer of the broker, asked again for some time while a topic has no leader."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _NO_LEADER or time.monotonic() > deadline:
                raise
            time.sleep(_LEADER_S)


def first_after(offset: int, readable: Callable[[int], bool]) -> int:
    """The offset after a batch that cannot be read: all of it, or nothing, can be."""
    low, step = offset, 1
    while not readable(low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        if readable(middle):
            high = middle
        else:
            low = middle
    return high


def partitioned(name: str, count: int) -> TopicPartitioned:
    """Return the error of a topic with too many partitions."""
    table = name.partition(".")[2]
    return TopicPartitioned(
        f"topic {name} has {count} partitions; order per table needs one",
        remedy=f"delete the topic, then run: sluice init; sluice resync {table}",
    )


def _note(value: bytes) -> dict[str, Any] | None:
    """Parse a message of the epoch's topic as a note; None where it is none."""
    with suppress(ValueError, RecursionError):
        note = json.loads(value)
        if isinstance(note, dict) and isinstance(note.get("epoch"), str):
            return note
    return None


def _is_of_slot(note: Mapping[str, Any]) -> bool:
    """Whether a note is of a slot, with each part of its kind."""
    if not note.keys() >= _SNAPSHOT:
        return False
    point, timeline, known = note["consistent_point"], note.get("timeline"), note.get("publication")
    return (
        isinstance(note["slot"], str)
        and isinstance(note["system_identifier"], str)
        and (point is None or is_lsn(point))
        and (timeline is None or type(timeline) is int)
        and ("publication" not in note or known == {} or _is_publication(known))
    )


def _is_publication(known: Any) -> bool:
    """Whether a note of a publication has its object id, and its tables' places."""
    return (
        isinstance(known, dict)
        and type(known.get("oid")) is int
        and isinstance(known.get("tables"), dict)
        and all(type(place) in (int, type(None)) for place in known["tables"].values())
    )


def _created(future: Any) -> None:
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
