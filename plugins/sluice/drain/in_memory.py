"""In-memory implementations of the ports, under the same contract tests as the real ones."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sluice.catalog import Table
from sluice.drain.letters import kept
from sluice.drain.ports import Checkpoint, Chunk, DrainReport, OpenReject, Passed, TopicPosition
from sluice.errors import NotReady, StaleCheckpoint, TopicGap, TopicPartitioned
from sluice.events.event import Change, Key, Record, Reject, is_row_of


class MemoryLog:
    """A ChangeLog whose topics are lists; `wipe` turns it into another broker incarnation."""

    def __init__(
        self, topics: Sequence[str], epoch: str = "1", partitions: Mapping[str, int] | None = None
    ) -> None:
        self._epoch = epoch
        self._partitions = partitions or {}
        self._topics: dict[str, list[Record]] = {topic: [] for topic in topics}
        self._starts, self._ends = dict.fromkeys(topics, 0), dict.fromkeys(topics, 0)
        self._incarnations = dict.fromkeys(topics, 1)
        self.committed: dict[str, int] = {}
        self.dead_letters: list[tuple[str, Reject]] = []

    def produce(self, topic: str, value: bytes | None, key: bytes | None = None) -> None:
        """Append a message to the topic."""
        self._topics[topic].append(Record(offset=self._ends[topic], key=key, value=value))
        self._ends[topic] += 1

    def end_transaction(self, topic: str) -> None:
        """Append a marker, which has an offset and is no message."""
        self._ends[topic] += 1

    def expire(self, topic: str, offset: int) -> None:
        """Lose the messages before an offset."""
        self._starts[topic] = offset
        self._topics[topic] = [r for r in self._topics[topic] if r.offset >= offset]

    def recreate(self, topic: str) -> None:
        """Delete and recreate a topic."""
        self._incarnations[topic] += 1
        self._clear(topic)

    def wipe(self, epoch: str) -> None:
        """Lose all messages and offsets, as a broker without a disk when it is killed."""
        self._epoch = epoch
        self.committed.clear()
        for topic in self._topics:
            self._clear(topic)

    def _clear(self, topic: str) -> None:
        self._topics[topic] = []
        self._starts[topic] = self._ends[topic] = 0

    def epoch(self) -> str:
        """See ports.ChangeLog."""
        return self._epoch

    def read(self, topic: str, offset: int, chunk: Chunk, seconds: float) -> Iterator[list[Record]]:
        """See ports.ChangeLog."""
        records = self._there(topic)
        if not self._starts[topic] <= offset <= self.end(topic):
            raise TopicGap(f"{topic}: offset {offset} is not on the topic")
        portion: list[Record] = []
        taken = 0
        for record in (record for record in records if record.offset >= offset):
            portion.append(record)
            taken += len(record.value or b"")
            if len(portion) == chunk.events or taken >= chunk.size:
                yield portion
                portion, taken = [], 0
        if portion:
            yield portion
        yield []

    def one(self, topic: str, offset: int) -> Passed | None:
        """See ports.ChangeLog."""
        record = next((r for r in self._there(topic) if r.offset >= offset), None)
        return record and Passed(record=record, next_offset=record.offset + 1)

    def after_markers(self, topic: str, offset: int) -> int:
        """See ports.ChangeLog."""
        return offset if self.one(topic, offset) else max(offset, self.end(topic))

    def topic_id(self, topic: str) -> str:
        """See ports.ChangeLog."""
        self._there(topic)
        if self._partitions.get(topic, 1) > 1:
            raise TopicPartitioned()
        return f"{self._epoch}-{self._incarnations[topic]}"

    def _there(self, topic: str) -> list[Record]:
        if topic not in self._topics:
            raise NotReady(f"topic {topic} does not exist", remedy="run: sluice init")
        return self._topics[topic]

    def positions(self, topics: Sequence[str]) -> Mapping[str, TopicPosition]:
        """See ports.ChangeLog."""
        return {
            topic: TopicPosition(
                id=f"{self._epoch}-{self._incarnations[topic]}",
                partitions=self._partitions.get(topic, 1),
                end=self.end(topic),
                committed=self.committed.get(topic, 0),
            )
            for topic in topics
            if topic in self._topics
        }

    def first(self, topic: str) -> int:
        """See ports.ChangeLog."""
        return self._starts[topic]

    def end(self, topic: str) -> int:
        """See ports.ChangeLog."""
        return self._ends[topic]

    def commit(self, offsets: Mapping[str, int]) -> None:
        """See ports.ChangeLog."""
        self.committed.update(offsets)

    def publish_dead_letters(self, table: str, rejects: Sequence[Reject]) -> None:
        """See ports.ChangeLog."""
        self.dead_letters += [(table, _cut(reject)) for reject in rejects]


class MemoryStore:
    """A StateStore that keeps the row of the highest version for each key."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Key, tuple[Any, ...]]] = defaultdict(dict)
        self._checkpoints: dict[str, Checkpoint] = {}
        self.rejected: dict[tuple[str, str, int], Reject] = {}
        self.epochs: dict[tuple[str, str, int], int] = {}
        self.resolved: set[tuple[str, str, int]] = set()
        self.resyncs: set[str] = set()
        self.reports: list[DrainReport] = []

    def live(self, table: Table) -> dict[Key, tuple[Any, ...]]:
        """Return the values of rows that are not deleted, by key."""
        width = len(table.columns)
        rows = self._rows[table.name].items()
        return {key: row[:width] for key, row in rows if not row[width + 1]}

    def checkpoint(self, table: str) -> Checkpoint | None:
        """See ports.StateStore."""
        return self._checkpoints.get(table)

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """See ports.StateStore."""
        return dict(self._checkpoints)

    def advance(self, checkpoint: Checkpoint) -> None:
        """See ports.StateStore."""
        present = self._checkpoints.get(checkpoint.source_table)
        if checkpoint.previous != (present.generation if present else 0):
            raise StaleCheckpoint()
        self._checkpoints[checkpoint.source_table] = checkpoint

    def append(self, table: Table, columns: Sequence[Sequence[Any]]) -> None:
        """See ports.StateStore."""
        for row in zip(*columns, strict=True):
            self._put(table, row)

    def truncate(self, table: Table, change: Change) -> None:
        """See ports.StateStore."""
        width = len(table.columns)
        for row in list(self._rows[table.name].values()):
            if not row[width + 1] and row[width] < change.version:
                values = row[:width]
                self._put(table, (*values, change.version, 1, change.seq, change.committed_at))

    def current(self, table: Table, keys: Sequence[Key]) -> Mapping[Key, tuple[int, Key | None]]:
        """See ports.StateStore."""
        width, rows = len(table.columns), self._rows[table.name]
        live = self.live(table)
        return {key: (rows[key][width], live.get(key)) for key in set(keys) if key in rows}

    def reject(
        self, checkpoint: Checkpoint, schema_version: str, rejects: Sequence[Reject]
    ) -> None:
        """See ports.StateStore."""
        table, broker_epoch = checkpoint.source_table, checkpoint.broker_epoch
        for reject in rejects:
            letter = replace(_cut(reject), reason=f"{reject.reason} [{schema_version}]")
            self.rejected[table, broker_epoch, reject.record.offset] = letter
            self.epochs[table, broker_epoch, reject.record.offset] = checkpoint.epoch

    def open_rejects(self, table: str) -> Sequence[OpenReject]:
        """See ports.StateStore."""
        return [
            OpenReject(
                broker_epoch=broker_epoch,
                epoch=self.epochs[name, broker_epoch, offset],
                offset=offset,
                key=reject.record.key or b"",
                metadata=_metadata(reject.record.value or b""),
            )
            for (name, broker_epoch, offset), reject in self.rejected.items()
            if name == table and (name, broker_epoch, offset) not in self.resolved
        ]

    def rejecting(self) -> Collection[str]:
        """See ports.StateStore."""
        return {table for table, *_ in self.rejected.keys() - self.resolved}

    def resolve(self, table: str, rejects: Sequence[OpenReject]) -> None:
        """See ports.StateStore."""
        self.resolved |= {(table, reject.broker_epoch, reject.offset) for reject in rejects}

    def unstored(
        self, table: str, place: str, *, first: int = 0, below: int | None = None
    ) -> Mapping[str, int]:
        """See ports.StateStore."""
        return Counter(
            reject.reason
            for (name, broker_epoch, at), reject in self.rejected.items()
            if name == table
            and at >= first
            and (below is None or at < below)
            and (name, broker_epoch, at) not in self.resolved
            and is_row_of(reject.record.value or b"", place)
        )

    def rows_between(self, table: Table, lowest: int, highest: int) -> int:
        """See ports.StateStore."""
        width = len(table.columns)
        return sum(lowest <= row[width] <= highest for row in self._rows[table.name].values())

    def resyncing(self, table: str) -> bool:
        """See ports.StateStore."""
        return table in self.resyncs

    def record(self, reports: Sequence[DrainReport]) -> None:
        """See ports.StateStore."""
        self.reports += reports

    def _put(self, table: Table, row: tuple[Any, ...]) -> None:
        width = len(table.columns)
        names = [column.name for column in table.columns]
        key = tuple(row[names.index(column.name)] for column in table.key)
        present = self._rows[table.name].get(key)
        if present is None or present[width] <= row[width]:
            self._rows[table.name][key] = row


def _cut(reject: Reject) -> Reject:
    letter = kept(reject.record)
    return replace(reject, record=reject.record._replace(key=letter.key, value=letter.value))


def _metadata(value: bytes) -> bytes:
    """Return an event's metadata; empty where the value is not an event."""
    try:
        return json.dumps(json.loads(value)["metadata"]).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return b""
