"""The protocols by which the drain reaches the broker and ClickHouse.

Each has a real and an in-memory implementation, and one contract suite runs on both.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import uuid4

from sluice.catalog import Table
from sluice.events.event import Change, Key, Record, Reject

# Random bits of a generation, so that two concurrent writers never have the same.
_RANDOM_BITS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The progress of a table's drain; see the column comments of cdc.checkpoints.

    Attributes:
        generation: higher than that of every earlier checkpoint; the highest counts.
        previous: generation of the checkpoint that it follows; not stored.
    """

    source_table: str
    generation: int = 0
    writer: str = ""
    source: str = ""
    epoch: int = 0
    broker_epoch: str = ""
    next_offset: int = 0
    base_seq: int = 0
    truncated: int = 0
    committed_at: int = 0
    topic_id: str = ""
    server: str = ""
    previous: int = field(default=0, compare=False)

    @property
    def last_seq(self) -> int:
        """Return the `_seq` of the newest drained event."""
        return self.base_seq + self.next_offset

    def following(self, **changed: Any) -> Checkpoint:
        """Return the next checkpoint, by a new writer, with fields replaced."""
        number = (self.generation >> _RANDOM_BITS) + 1
        return replace(
            self,
            generation=number << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS),
            previous=self.generation,
            writer=uuid4().hex,
            **changed,
        )

    def precedes(self, present: Checkpoint | None) -> bool:
        """Whether the present checkpoint is this one, or one of drains that resumed from it."""
        return (
            present is not None
            and present.generation >= self.generation
            and present.next_offset >= self.next_offset
            and present.last_seq >= self.last_seq
            and (present.source, present.epoch, present.topic_id)
            == (self.source, self.epoch, self.topic_id)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPosition:
    """A topic and how far it is drained.

    Attributes:
        id: changes when the topic is recreated; empty where the broker has none.
        partitions: number of partitions.
        end: offset after the last message.
        committed: the drain group's offset; 0 without one.
    """

    id: str
    partitions: int
    end: int
    committed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The state of a table's drain when it begins.

    Attributes:
        checkpoint: the current one; None before the first drain.
        broker_epoch: the broker's incarnation.
        topic_id: id of the topic's incarnation; empty where the broker has none.
        end: offset after the topic's last message.
        rejecting: whether the table may have open dead letters, which a newer row may resolve.
    """

    checkpoint: Checkpoint | None
    broker_epoch: str
    topic_id: str
    end: int
    rejecting: bool = True


@dataclass(frozen=True, slots=True)
class Chunk:
    """The amount read at a time.

    Attributes:
        events: the most events.
        size: the approximate bytes of values; 32 MiB by default.
    """

    events: int
    size: int = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """The result of one run of a table's drain.

    Attributes:
        broker_epoch: the broker's incarnation that the offsets belong to.
        seconds: the duration.
        freshness_s: age in seconds of the newest stored change; None when no newer one was stored.
        caught_up: whether the run reached an end that the topic had after the drain began.
        waiting: events left on the topic.
    """

    table: str
    broker_epoch: str
    events: int
    rejected: int
    first_offset: int
    next_offset: int
    seconds: float
    freshness_s: float | None
    caught_up: bool
    waiting: int = 0

    def sentence(self) -> str:
        """Return the result as one line."""
        text = f"{self.table}: {self.events:,} events in {self.seconds:.1f} s"
        if self.rejected:
            text += f", {self.rejected} rejected"
        if self.freshness_s is not None:
            text += f", fresh to {self.freshness_s:.1f} s"
        return text if self.caught_up else f"{text}; {self.waiting:,} more are waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReject:
    """A rejected record that is neither replayed nor resolved nor dismissed.

    Attributes:
        broker_epoch: the broker incarnation that `offset` belongs to.
        epoch: the epoch of positions when it was rejected.
        metadata: the event's metadata as JSON; empty where the record is not an event.
    """

    broker_epoch: str
    epoch: int
    offset: int
    key: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A record to skip.

    Attributes:
        record: without key and value where it cannot be read.
        next_offset: the offset after it; for an unreadable record, after its whole batch.
        unreadable: why it cannot be read; empty where it can.
    """

    record: Record
    next_offset: int
    unreadable: str = ""


class ChangeLog(Protocol):
    """The topics that hold change events, one partition each."""

    def epoch(self) -> str:
        """Return the broker's incarnation.

        Raises:
            NotReady: the topics are not set up.
        """

    def read(self, topic: str, offset: int, chunk: Chunk, seconds: float) -> Iterator[list[Record]]:
        """Yield chunks of records from `offset` on, up to the topic's end or for `seconds`.

        The end is one that the topic has after the call, since it may grow meanwhile. The last
        chunk is empty exactly when the end was reached. Use topic_id to see whether a topic exists.

        Raises:
            TopicGap: the offset has expired or is past the end.
            RecordUnreadable: a record cannot be decompressed.
        """

    def one(self, topic: str, offset: int) -> Passed | None:
        """Return the first record at or after the offset; None at the topic's end."""

    def after_markers(self, topic: str, offset: int) -> int:
        """Return the topic's end if no record is at or after `offset`; otherwise `offset`.

        A broker ends a transaction with a marker, which has an offset and is no record.
        """

    def topic_id(self, topic: str) -> str:
        """Return the id that changes when a topic is recreated; empty where the broker has none.

        Raises:
            NotReady: the topic does not exist.
            TopicPartitioned: it has more than one partition.
        """

    def positions(self, topics: Sequence[str]) -> Mapping[str, TopicPosition]:
        """Return the position of each topic that exists, by a few requests for all of them."""

    def first(self, topic: str) -> int:
        """Return the earliest offset on the topic."""

    def end(self, topic: str) -> int:
        """Return the offset after the topic's last message."""

    def commit(self, offsets: Mapping[str, int]) -> None:
        """Commit the drain group's next offsets, for the relay and tools that watch the lag."""

    def publish_dead_letters(self, table: str, rejects: Sequence[Reject]) -> None:
        """Publish rejected records to the dead-letter topic, large ones cut; see letters.kept."""


class StateStore(Protocol):
    """The current-state tables and the checkpoints."""

    def checkpoint(self, table: str) -> Checkpoint | None:
        """Return the current checkpoint; None before the first drain."""

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """Return the current checkpoints of all tables by one query."""

    def advance(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint.

        Raises:
            StaleCheckpoint: the current checkpoint is not the previous one, or is newer by now.
        """

    def append(self, table: Table, columns: Sequence[Sequence[Any]]) -> None:
        """Insert row versions: the table's columns, then version, deleted, seq, committed_at."""

    def truncate(self, table: Table, change: Change) -> None:
        """Write a delete marker at the change's version for each live row below it."""

    def current(self, table: Table, keys: Sequence[Key]) -> Mapping[Key, tuple[int, Key | None]]:
        """Return version and driver values, in catalog order, of the newest row of each key.

        The values of a deleted row are None; keys that were never stored are absent.
        """

    def reject(
        self, checkpoint: Checkpoint, schema_version: str, rejects: Sequence[Reject]
    ) -> None:
        """Keep records rejected after this checkpoint, large values cut; idempotent."""

    def open_rejects(self, table: str) -> Sequence[OpenReject]:
        """Return the newest open rejects of a table, 10,000 at most."""

    def rejecting(self) -> Collection[str]:
        """Return the tables that have open rejects, by one query."""

    def resolve(self, table: str, rejects: Sequence[OpenReject]) -> None:
        """Mark rejects of a table as resolved."""

    def unstored(
        self, table: str, place: str, *, first: int = 0, below: int | None = None
    ) -> Mapping[str, int]:
        """Return the number of open rejects of a snapshot or resync, by reason.

        Args:
            place: the position of its rows; see event.place_of.
            first, below: the topic offsets at which they begin and end. Default: all.
        """

    def rows_between(self, table: Table, lowest: int, highest: int) -> int:
        """Return the number of stored rows of these versions, which may have newer ones."""

    def resyncing(self, table: str) -> bool:
        """Whether a resync of the table is running, or was interrupted and may be resumed."""

    def record(self, reports: Sequence[DrainReport]) -> None:
        """Record the results of drains."""
