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
from uuid import uuid4

from sluice.catalog import Table
from sluice.completion import Reread, completed
from sluice.decoding import CONNECT, SOURCES, Decoded, Decoder
from sluice.errors import NotReady, PoisonedTopic, SourceChanged, TopicGap, WrongUsage
from sluice.events import (
    Change,
    OutdatedRow,
    PartialRow,
    Record,
    Reject,
    Truncated,
)
from sluice.ports import ChangeLog, Checkpoint, DrainReport, StateStore
from sluice.row_form import RowForm
from sluice.settings import DrainSettings

log = logging.getLogger(__name__)

# Fewer rejects than this are dead letters whatever their share.
FEW_REJECTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Drains tables from a change log into a state store, within limits.

    Attributes:
        reread: asked for rows that their event has not whole; without it those are dead letters.
    """

    changes: ChangeLog
    store: StateStore
    limits: DrainSettings
    reread: Reread | None = None

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
            epoch=present.epoch + int(present.source == CONNECT),  # its offsets may begin anew
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
        changes = [replace(change, seq=present.last_seq + 1) for change in decoded.changes]
        unresolved, truncated = self._store(decoder, changes, present.truncated)
        if changes:
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
        epoch, topic_id = self.changes.epoch(), self.changes.topic_id(table.topic)
        if checkpoint.broker_epoch != epoch:
            if checkpoint.broker_epoch:
                log.warning("%s: the broker is new; reading its topic from the start", table.name)
            # Connect's positions are offsets, which begin anew.
            raised = int(checkpoint.source == CONNECT and checkpoint.broker_epoch != "")
            return replace(
                checkpoint,
                epoch=checkpoint.epoch + raised,
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
        self, decoder: Decoder, checkpoint: Checkpoint, records: list[Record]
    ) -> tuple[Checkpoint, int]:
        """Store one chunk, then its checkpoint, then tell the group; and the rejects' number."""
        table = decoder.table
        decoded = decoder.decode(records, epoch=checkpoint.epoch, base_seq=checkpoint.base_seq)
        source = _one_source(table, checkpoint, decoded)
        self._refuse_poison(table, len(records), decoded.rejects)
        unresolved, truncated = self._store(decoder, decoded.changes, checkpoint.truncated)
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

    def _keep_rejects(
        self, decoder: Decoder, checkpoint: Checkpoint, rejects: list[Reject]
    ) -> None:
        name = decoder.table.name
        for reject in rejects[:3]:
            log.warning("%s: offset %d rejected: %s", name, reject.record.offset, reject.reason)
        self.store.reject(checkpoint, decoder.schema_version, rejects)
        self.changes.publish_dead_letters(name, rejects)

    def _store(
        self, decoder: Decoder, changes: Sequence[Change], truncated: int
    ) -> tuple[list[Reject], int]:
        """Write changes in order; what could not be completed, and the newest truncation."""
        table = decoder.table
        rejects: list[Reject] = []
        start = 0
        for index, change in enumerate(changes):
            if isinstance(change, Truncated):
                rejects += self._append(decoder, changes[start:index], truncated)
                self.store.truncate(table, change)
                truncated = max(truncated, change.version)
                start = index + 1
        rejects += self._append(decoder, changes[start:], truncated)
        return rejects, truncated

    def _append(self, decoder: Decoder, changes: Sequence[Change], truncated: int) -> list[Reject]:
        table = decoder.table
        rejects: list[Reject] = []
        if any(isinstance(change, PartialRow | OutdatedRow) for change in changes):
            changes, rejects = completed(decoder, changes, self.store, self.reread)
        if changes:
            form = RowForm(table)
            rows = [form.stored(change, truncated) for change in changes]
            self.store.append(table, list(zip(*rows, strict=True)))
        return rejects


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
