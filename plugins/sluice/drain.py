"""The drain: a closed range of a table's topic into its current state, then a checkpoint.

Every effect can be repeated: rows carry the version of their change, so reading a range again
writes the same rows again. Only the checkpoint moves progress, and it is written last. Two
drains of one table at once are harmless; the slower one is told so (StaleCheckpoint).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from sluice.catalog import Table
from sluice.decoding import CONNECT, SOURCES, Decoded, Decoder
from sluice.errors import NotReady, PoisonedTopic, SourceChanged, WrongUsage
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
        for records in self._read(table, checkpoint):
            if not records:
                caught_up = True
                break
            checkpoint, rejects = self._advance(decoder, checkpoint, records)
            events += len(records)
            rejected += rejects
            if events >= self.limits.events:
                break
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
            next_offset=first,
            base_seq=max(0, present.last_seq - first),
        )
        self.store.advance(following)
        self.changes.commit(table.topic, first)

    def change_source(self, table: Table, source: str) -> bool:
        """Take the events that come from now on as another source's, in a new epoch.

        Returns:
            False when they were that source's already.

        Raises:
            WrongUsage: there is no such source.
            NotReady: events of the present source are not drained yet.
            StaleCheckpoint: another drain advanced this table meanwhile.
        """
        if source not in SOURCES:
            raise WrongUsage(f"no change source {source!r} (known: {', '.join(SOURCES)})")
        present = self._resume(table)
        if present.source == source:
            return False
        if any(records for records in self._read(table, present)):
            raise NotReady(
                f"{table.topic} has events that are not drained, or its source still runs",
                remedy=f"stop it, run: sluice drain --until-empty, then: sluice source {source}",
            )
        following = replace(
            present,
            generation=present.generation + 1,
            writer=uuid4().hex,
            source=source,
            epoch=present.epoch + 1,
        )
        self.store.advance(following)
        return True

    def _resume(self, table: Table) -> Checkpoint:
        """The checkpoint, moved to the topic's start when the broker is another incarnation."""
        checkpoint = self.store.checkpoint(table.name) or Checkpoint(source_table=table.name)
        epoch = self.changes.epoch()
        if checkpoint.broker_epoch == epoch:
            return checkpoint
        if checkpoint.broker_epoch:
            log.warning("%s: the broker is new; reading its topic from the start", table.name)
        # Connect's positions are offsets, which begin anew.
        raised = int(checkpoint.source == CONNECT and checkpoint.broker_epoch != "")
        return replace(
            checkpoint,
            epoch=checkpoint.epoch + raised,
            broker_epoch=epoch,
            next_offset=0,
            base_seq=checkpoint.last_seq,
        )

    def _read(self, table: Table, checkpoint: Checkpoint) -> Iterator[list[Record]]:
        return self.changes.read(
            table.topic, checkpoint.next_offset, self.limits.chunk, self.limits.seconds
        )

    def _advance(
        self, decoder: Decoder, checkpoint: Checkpoint, records: list[Record]
    ) -> tuple[Checkpoint, int]:
        """Store one chunk, then its checkpoint, then tell the group; and the rejects' number."""
        table = decoder.table
        decoded = decoder.decode(records, epoch=checkpoint.epoch, base_seq=checkpoint.base_seq)
        source = _one_source(table, checkpoint, decoded)
        self._refuse_poison(table, len(records), decoded.rejects)
        unresolved, truncated = self._store(table, decoded.changes, checkpoint.truncated)
        rejects = decoded.rejects + unresolved
        if rejects:
            self._keep_rejects(decoder, checkpoint.broker_epoch, rejects)
        following = replace(
            checkpoint,
            generation=checkpoint.generation + 1,
            writer=uuid4().hex,
            source=source,
            next_offset=records[-1].offset + 1,
            truncated=truncated,
            committed_at=max(
                [checkpoint.committed_at, *(change.committed_at for change in decoded.changes)]
            ),
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

    def _keep_rejects(self, decoder: Decoder, broker_epoch: str, rejects: list[Reject]) -> None:
        name = decoder.table.name
        for reject in rejects[:3]:
            log.warning("%s: offset %d rejected: %s", name, reject.record.offset, reject.reason)
        self.store.reject(name, broker_epoch, decoder.schema_version, rejects)
        self.changes.publish_dead_letters(name, rejects)

    def _store(
        self, table: Table, changes: Sequence[Change], truncated: int
    ) -> tuple[list[Reject], int]:
        """Write changes in order; what could not be completed, and the newest truncation."""
        rejects: list[Reject] = []
        start = 0
        for index, change in enumerate(changes):
            if isinstance(change, Truncated):
                rejects += self._append(table, changes[start:index], truncated)
                self.store.truncate(table, change)
                truncated = max(truncated, change.version)
                start = index + 1
        rejects += self._append(table, changes[start:], truncated)
        return rejects, truncated

    def _append(self, table: Table, changes: Sequence[Change], truncated: int) -> list[Reject]:
        rejects: list[Reject] = []
        if any(isinstance(change, PartialRow) for change in changes):
            changes, rejects = self._complete(table, changes)
        if changes:
            blank = _Blank(table)
            rows = [blank.stored(change, truncated) for change in changes]
            self.store.append(table, list(zip(*rows, strict=True)))
        return rejects

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

    def stored(self, change: Change, truncated: int) -> tuple[Any, ...]:
        deleted = int(isinstance(change, KeyDeleted) or change.version < truncated)
        if isinstance(change, FullRow):
            values = change.values
        else:
            assert isinstance(change, KeyDeleted)
            zeros = list(self._zeros)
            for index, value in zip(self._key_at, change.key, strict=True):
                zeros[index] = value
            values = tuple(zeros)
        return (*values, change.version, deleted, change.seq, change.committed_at)


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
            remedy="positions of two sources cannot be compared. Let one of them write; to change"
            " from one to the other see docs/sources.md and: sluice source",
        )
    return next(iter(sources), "")


def _age(committed_at: int) -> float | None:
    return max(0.0, time.time() - committed_at / 1000) if committed_at else None
