"""The drain: a closed range of a table's topic into its current state, then a checkpoint.

Every effect can be repeated: rows carry the version of their change, so reading a range again
writes the same rows again. Only the checkpoint moves progress, and it is written last. Two
drains of one table at once are harmless; the slower one is told so (StaleCheckpoint).
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from sluice.catalog import Table
from sluice.decoding import Columns, Decoded, Decoder
from sluice.errors import PoisonedTopic, SourceChanged, TopicGap
from sluice.events import (
    UNCHANGED,
    Change,
    FullRow,
    Key,
    KeyDeleted,
    PartialRow,
    Record,
    Reject,
    Truncated,
)
from sluice.ports import ChangeLog, Checkpoint, DrainReport, StateStore
from sluice.settings import DrainSettings

log = logging.getLogger(__name__)

# Where the machine columns stand, from the end; see StateStore.append.
_VERSION, _DELETED, _SEQ = -4, -3, -2

# Fewer rejects than this are dead letters whatever their share.
FEW_REJECTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Drains tables from a change log into a state store, within limits."""

    changes: ChangeLog
    store: StateStore
    limits: DrainSettings

    def run(self, decoder: Decoder) -> DrainReport:
        """Drain one table until its topic's end or a limit is reached.

        Raises:
            StaleCheckpoint: another drain advanced this table; nothing is lost.
            SourceChanged, TopicGap, TopicPartitioned, PoisonedTopic: a person decides.
            Unreachable, NotReady: the same call may succeed later.
        """
        table, started = decoder.table, time.monotonic()
        first = checkpoint = self._resume(table)
        events = rejected = 0
        caught_up = False
        with ThreadPoolExecutor(1) as writer, _collector_off():
            writing: Future[tuple[Checkpoint, int]] | None = None
            for records in self._read(table, checkpoint):
                if not records:
                    caught_up = True
                    break
                decoded = decoder.decode(records, epoch=first.epoch, base_seq=first.base_seq)
                if writing is not None:  # one chunk is written while the next is read
                    checkpoint, rejects = writing.result()
                    rejected += rejects
                writing = writer.submit(self._advance, decoder, checkpoint, records, decoded)
                events += len(records)
                if events >= self.limits.events:
                    break
            if writing is not None:
                checkpoint, rejects = writing.result()
                rejected += rejects
        report = DrainReport(
            table=table.name,
            events=events,
            rejected=rejected,
            first_offset=first.next_offset,
            next_offset=checkpoint.next_offset,
            seconds=time.monotonic() - started,
            freshness_s=_age(checkpoint.committed_at) if events else None,
            caught_up=caught_up,
        )
        if events:
            self.store.record(report, checkpoint.broker_epoch)
        elif checkpoint.next_offset:  # a drain may have been killed before it told the group
            self.changes.commit(table.topic, checkpoint.next_offset)
        return report

    def skip_gap(self, table: Table) -> None:
        """Go on at the topic's first message; what was lost before it has to be read again.

        Raises:
            StaleCheckpoint: another drain advanced this table meanwhile.
        """
        present = self.store.checkpoint(table.name) or Checkpoint(source_table=table.name)
        first = self.changes.first(table.topic)
        following = replace(
            present,
            generation=present.generation + 1,
            writer=uuid4().hex,
            broker_epoch=self.changes.epoch(),
            topic_id=self.changes.topic_id(table.topic),
            next_offset=first,
            base_seq=max(0, present.last_seq - first),
        )
        self.store.advance(following)
        self.changes.commit(table.topic, first)

    def replay(self, decoder: Decoder, records: Sequence[Record], epoch: int) -> list[Reject]:
        """Put records that were rejected in at their original positions.

        Args:
            records: in the order of their offsets.
            epoch: the epoch of positions when they were rejected.

        Returns:
            Those that are still invalid.

        Raises:
            StaleCheckpoint: a drain advanced this table meanwhile; do it again.
        """
        table = decoder.table
        present = self.store.checkpoint(table.name) or Checkpoint(source_table=table.name)
        decoded = decoder.decode(records, epoch=epoch, base_seq=0)
        # Rebuilds have gone past the original numbers: one that is new makes them look again.
        renumbered = _renumbered(decoded, present.last_seq + 1)
        unresolved, truncated = self._store(table, renumbered, present.truncated)
        if decoded.rows or decoded.changes:
            self.store.advance(
                replace(
                    present,
                    generation=present.generation + 1,
                    writer=uuid4().hex,
                    base_seq=present.base_seq + 1,
                    truncated=truncated,
                )
            )
        return decoded.rejects + unresolved

    def _resume(self, table: Table) -> Checkpoint:
        """The checkpoint, moved to the topic's start when the broker is another incarnation."""
        checkpoint = self.store.checkpoint(table.name) or Checkpoint(source_table=table.name)
        epoch, topic_id = self.changes.epoch(), self.changes.topic_id(table.topic)
        if checkpoint.broker_epoch != epoch:
            if checkpoint.broker_epoch:
                log.warning("%s: the broker is new; reading its topic from the start", table.name)
            return replace(
                checkpoint,
                broker_epoch=epoch,
                topic_id=topic_id,
                next_offset=0,
                base_seq=checkpoint.last_seq,
            )
        if topic_id and checkpoint.topic_id not in {"", topic_id}:
            # What was on the former topic behind the checkpoint is gone, and nobody knows it.
            raise TopicGap(
                f"{table.topic} was deleted and made again after {checkpoint.next_offset} messages"
                " of it were drained",
                remedy=f"read the table again: sluice resync {table.name}",
            )
        return replace(checkpoint, topic_id=topic_id)

    def _read(self, table: Table, checkpoint: Checkpoint) -> Iterator[list[Record]]:
        return self.changes.read(
            table.topic, checkpoint.next_offset, self.limits.chunk, self.limits.seconds
        )

    def _advance(
        self,
        decoder: Decoder,
        checkpoint: Checkpoint,
        records: Sequence[Record],
        decoded: Decoded,
    ) -> tuple[Checkpoint, int]:
        """Store one chunk, then its checkpoint, then tell the group; and the rejects' number."""
        table = decoder.table
        source = _one_source(table, checkpoint, decoded)
        self._refuse_poison(table, len(records), decoded.rejects)
        unresolved, truncated = self._store(table, decoded, checkpoint.truncated)
        rejects = decoded.rejects + unresolved
        if rejects:
            self._keep_rejects(decoder, checkpoint, rejects)
        following = replace(
            checkpoint,
            generation=checkpoint.generation + 1,
            writer=uuid4().hex,
            source=source,
            next_offset=records[-1].offset + 1,
            truncated=truncated,
            committed_at=max([checkpoint.committed_at, *decoded.committed_at()]),
        )
        self.store.advance(following)
        self.changes.commit(table.topic, following.next_offset)
        return following, len(rejects)

    def _refuse_poison(self, table: Table, events: int, rejects: list[Reject]) -> None:
        if len(rejects) < FEW_REJECTS or len(rejects) <= events * self.limits.reject_ratio:
            return
        raise PoisonedTopic(
            f"{table.topic}: {len(rejects)} of {events} events are invalid, first at offset"
            f" {rejects[0].record.offset}: {rejects[0].reason}",
            remedy="nothing was drained past them; mend the models (make generate, sluice init)"
            " or the producer, then run: sluice drain " + table.name,
        )

    def _keep_rejects(
        self, decoder: Decoder, checkpoint: Checkpoint, rejects: list[Reject]
    ) -> None:
        name = decoder.table.name
        for reject in rejects[:3]:
            log.warning("%s: offset %d rejected: %s", name, reject.record.offset, reject.reason)
        self.store.reject(checkpoint, decoder.schema_version, rejects)
        self.changes.publish_dead_letters(name, rejects)

    def _store(self, table: Table, decoded: Decoded, truncated: int) -> tuple[list[Reject], int]:
        """Write rows and changes; what could not be completed, and the newest truncation."""
        changes: Sequence[Change] = decoded.changes
        rejects: list[Reject] = []
        if any(isinstance(change, PartialRow) for change in changes):
            changes, rejects = self._complete(table, changes)
        truncations = [change for change in changes if isinstance(change, Truncated)]
        blank = _Blank(table)
        rows = [blank.stored(change) for change in changes if not isinstance(change, Truncated)]
        columns = _joined(decoded.rows, rows)
        if columns:
            _mark_truncated(columns, truncated)
            self.store.append(table, columns)
        for change in truncations:  # after the rows: it takes those that are older, and no other
            self.store.truncate(table, change)
        return rejects, max([truncated, *(change.version for change in truncations)])

    def _complete(
        self, table: Table, changes: Sequence[Change]
    ) -> tuple[list[Change], list[Reject]]:
        """Fill in values that Postgres left out because an update did not change them."""
        partial = [change for change in changes if isinstance(change, PartialRow)]
        current = self.store.current(table, [change.former_key for change in partial])
        known = {key: row for key, (_, row) in current.items() if row is not None}
        key_of = _Blank(table).key_of
        complete: list[Change] = []
        rejects: list[Reject] = []
        for change in changes:
            row = change
            if isinstance(change, PartialRow):
                version, _ = current.get(change.former_key, (0, None))
                if version >= change.version:
                    continue  # read again: what came later is in the table already
                if change.former_key not in known:
                    rejects.append(_without_base(change))
                    continue
                row = _filled(change, known[change.former_key])
            if isinstance(row, FullRow):
                known[key_of(row.values)] = row.values
            elif isinstance(row, KeyDeleted):
                known.pop(row.key, None)
            complete.append(row)
        return complete, rejects


class _Blank:
    """Changes as stored rows: a deleted key stands among zero values."""

    def __init__(self, table: Table) -> None:
        self._zeros = [None if column.nullable else column.type.zero for column in table.columns]
        names = [column.name for column in table.columns]
        self._key_at = [names.index(column.name) for column in table.key]

    def key_of(self, values: Sequence[Any]) -> Key:
        return tuple(values[index] for index in self._key_at)

    def stored(self, change: Change) -> tuple[Any, ...]:
        deleted = int(isinstance(change, KeyDeleted))
        if isinstance(change, FullRow):
            values = change.values
        else:
            assert isinstance(change, KeyDeleted)
            zeros = list(self._zeros)
            for index, value in zip(self._key_at, change.key, strict=True):
                zeros[index] = value
            values = tuple(zeros)
        return (*values, change.version, deleted, change.seq, change.committed_at)


def _joined(columns: Columns, rows: list[tuple[Any, ...]]) -> Columns:
    """The columns with these rows below."""
    if not rows:
        return columns
    more = map(list, zip(*rows, strict=True))
    return [one + other for one, other in zip(columns, more, strict=True)] if columns else [*more]


def _mark_truncated(columns: Columns, truncated: int) -> None:
    """Rows that a truncation came after are gone, however late they arrive."""
    versions = columns[_VERSION]
    if min(versions) < truncated:
        pairs = zip(columns[_DELETED], versions, strict=True)
        columns[_DELETED] = [int(deleted or version < truncated) for deleted, version in pairs]


def _renumbered(decoded: Decoded, seq: int) -> Decoded:
    """The same with one `_seq` for all of it."""
    rows = list(decoded.rows)
    if rows:
        rows[_SEQ] = [seq] * len(rows[_SEQ])
    changes = [replace(change, seq=seq) for change in decoded.changes]
    return replace(decoded, rows=rows, changes=changes)


@contextmanager
def _collector_off() -> Iterator[None]:
    """Without the cycle collector: events make no cycles, and looking for them takes a sixth of
    the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _filled(change: PartialRow, base: tuple[Any, ...]) -> FullRow:
    values = tuple(
        old if new == UNCHANGED else new for new, old in zip(change.values, base, strict=True)
    )
    return FullRow(
        values=values,
        version=change.version,
        seq=change.seq,
        committed_at=change.committed_at,
    )


def _without_base(change: PartialRow) -> Reject:
    return Reject(
        record=change.record,
        reason=f"an unchanged large value was left out and no row has key {change.former_key}",
    )


def _one_source(table: Table, checkpoint: Checkpoint, decoded: Decoded) -> str:
    """The change source of the topic; positions of two sources cannot be compared."""
    known = {checkpoint.source} - {""}
    sources = decoded.sources | known
    if len(sources) > 1:
        raise SourceChanged(
            f"{table.topic}: events come from {' and '.join(sorted(sources))}",
            remedy="stop one change source; positions of two sources cannot be compared",
        )
    return next(iter(sources), "")


def _age(committed_at: int) -> float | None:
    return max(0.0, time.time() - committed_at / 1000) if committed_at else None
