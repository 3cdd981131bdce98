"""What the pipeline needs of the outside, as protocols.

Each has a real adapter and an in-memory twin in adapters/, and one contract suite runs on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import uuid4

from sluice.catalog import Table
from sluice.events.event import Change, Key, Record, Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far a table is drained; see the comments of cdc.checkpoints."""

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

    @property
    def last_seq(self) -> int:
        """The `_seq` of the newest drained event."""
        return self.base_seq + self.next_offset

    def following(self, **changed: Any) -> Checkpoint:
        """The one that a writer of its own makes of this."""
        return replace(self, generation=self.generation + 1, writer=uuid4().hex, **changed)


@dataclass(frozen=True, slots=True)
class Chunk:
    """How much is read at a time: at most so many events, and about so many bytes of values."""

    events: int
    size: int = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What one run of a table's drain did.

    Attributes:
        freshness_s: age in seconds of the newest change that it stored; None where it stored none
            that is newer than those before it.
        caught_up: whether the topic's end was reached, one that it had after the drain began.
        waiting: events that it left on the topic.
    """

    table: str
    events: int
    rejected: int
    first_offset: int
    next_offset: int
    seconds: float
    freshness_s: float | None
    caught_up: bool
    waiting: int = 0

    def sentence(self) -> str:
        """The run in one line."""
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
        metadata: what it says of itself, JSON; empty where it is no event.
    """

    broker_epoch: str
    epoch: int
    offset: int
    key: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A record that is to be passed.

    Attributes:
        record: without key and value where it cannot be read.
        next_offset: the offset after it; of an unreadable record, after the batch that it is in.
        unreadable: why it cannot be read.
    """

    record: Record
    next_offset: int
    unreadable: str = ""


class ChangeLog(Protocol):
    """The topics that hold change events, one partition each."""

    def epoch(self) -> str:
        """The broker's incarnation; NotReady when the topics are not set up."""

    def read(self, topic: str, offset: int, chunk: Chunk, seconds: float) -> Iterator[list[Record]]:
        """Records from `offset` on in chunks, until the topic's end or `seconds` have passed.

        The end is one that the topic has after the call; it may grow meanwhile. The last chunk is
        empty exactly when the end was reached. Raises TopicGap when `offset` has expired or is
        past the end, RecordUnreadable when a record cannot be unpacked. Whether there is such a
        topic: ask for its topic_id.
        """

    def one(self, topic: str, offset: int) -> Passed | None:
        """The record at the offset or first after it; None at the topic's end."""

    def topic_id(self, topic: str) -> str:
        """What tells the topic from one of the same name that was made again.

        Empty where the broker has no topic ids. Raises NotReady when there is no such topic and
        TopicPartitioned when it has more than one partition.
        """

    def first(self, topic: str) -> int:
        """The earliest offset that is still on the topic."""

    def end(self, topic: str) -> int:
        """The offset after the topic's last message."""

    def commit(self, topic: str, next_offset: int) -> None:
        """Tell the drain group's committed offset, for lag tools and the relay."""

    def publish_dead_letters(self, table: str, rejects: Sequence[Reject]) -> None:
        """Put rejected records on the dead-letter topic, large values cut; see letters.kept."""


class StateStore(Protocol):
    """The current-state tables and the checkpoints."""

    def checkpoint(self, table: str) -> Checkpoint | None:
        """The present checkpoint; None before the first drain."""

    def advance(self, checkpoint: Checkpoint) -> None:
        """Make this the checkpoint; StaleCheckpoint unless its generation follows the present."""

    def append(self, table: Table, columns: Sequence[Sequence[Any]]) -> None:
        """Insert row versions: the table's columns, then version, deleted, seq, committed_at."""

    def truncate(self, table: Table, change: Change) -> None:
        """Write a delete marker at the change's version for each live row below it."""

    def current(self, table: Table, keys: Sequence[Key]) -> Mapping[Key, tuple[int, Key | None]]:
        """Key -> (version, driver values in catalog order) of the newest rows with these keys.

        The values of a deleted row are None; a key that never was is left out.
        """

    def reject(
        self, checkpoint: Checkpoint, schema_version: str, rejects: Sequence[Reject]
    ) -> None:
        """Keep records that were rejected after this checkpoint, large values cut; keeping one
        twice keeps it once.
        """

    def open_rejects(self, table: str) -> Sequence[OpenReject]:
        """The newest rejects of a table that are open, some thousands at most."""

    def resolve(self, table: str, rejects: Sequence[OpenReject]) -> None:
        """Mark rejects of a table as resolved."""

    def unstored(self, table: str, place: str, offset: int = 0) -> Mapping[str, int]:
        """Rows of a snapshot or resync that were rejected and not replayed: reason -> how many.

        Args:
            place: of its rows; see events.place_of.
            offset: on the topic, at which they begin.
        """

    def resyncing(self, table: str) -> bool:
        """Whether a resync of the table is under way, or was cut short and may be resumed."""

    def record(self, report: DrainReport, broker_epoch: str) -> None:
        """Keep what a drain did."""
