"""Determines where a table's drain resumes: at its checkpoint, or in a new epoch.

A broker that lost its topics is another incarnation, and its topics are read from the start. A
single topic that was recreated, or that lost undrained messages, is a gap: a person has to decide.
An epoch separates the positions of two sources, or of before and after a failover.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sluice.catalog import Table
from sluice.drain.ports import ChangeLog, Checkpoint, Chunk, Standing, StateStore
from sluice.errors import NeedsPerson, NotReady, StaleCheckpoint, TopicGap, WrongUsage
from sluice.events.event import CONNECT, SOURCES, Record
from sluice.events.positions import MOST_EPOCH, pack
from sluice.settings import DrainSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """Moves checkpoints without draining.

    Attributes:
        settle: seconds after which a move is confirmed; see `_move`. Default: 0.
    """

    changes: ChangeLog
    store: StateStore
    limits: DrainSettings
    settle: float = 0.0

    def skip_gap(self, table: Table) -> None:
        """Move the checkpoint to the topic's first message; the caller resyncs what was lost.

        Raises:
            StaleCheckpoint: another drain advanced this table meanwhile.
        """
        present = self.store.checkpoint(table.name) or Checkpoint(source_table=table.name)
        first = self.changes.first(table.topic)
        following = present.following(
            epoch=_epoch(table, present, present.source == CONNECT),  # offsets may restart at 0
            broker_epoch=self.changes.epoch(),
            topic_id=self.changes.topic_id(table.topic),
            next_offset=first,
            base_seq=max(0, present.last_seq - first),
        )
        self._move(following)
        self.changes.commit({table.topic: first})

    def change_source(self, table: Table, source: str) -> bool:
        """Accept events of another source from now on, in a new epoch.

        Returns:
            False when it is the current source already.

        Raises:
            WrongUsage: there is no such source.
            NotReady: events of the current source are not drained yet.
            StaleCheckpoint: another drain advanced this table meanwhile.
        """
        if source not in SOURCES:
            raise WrongUsage(f"no change source {source!r} (known: {', '.join(SOURCES)})")
        present = self._resume(table)
        if present.source == source:
            return False
        if any(self._read(table, present)):
            raise NotReady(
                f"{table.topic} has undrained events, or its source is still running",
                remedy=f"stop it, run: sluice drain --until-empty, then: sluice source {source}",
            )
        self._move(present.following(source=source, epoch=_epoch(table, present), server=""))
        return True

    def raise_epoch(self, table: Table, *, truncated: bool = True) -> None:
        """Begin a new epoch, which orders all later changes after all earlier ones.

        Args:
            truncated: whether the newest truncation stays in force.

        Raises:
            StaleCheckpoint: another drain advanced this table meanwhile.
        """
        present = self._resume(table)
        epoch = _epoch(table, present)
        kept = present.truncated if truncated and present.truncated < pack(epoch, 0, 0) else 0
        self._move(present.following(epoch=epoch, server="", truncated=kept))

    def present(self, table: Table) -> Checkpoint:
        """Return the checkpoint at which the next drain resumes."""
        return self._resume(table)

    def publish(self, table: Table, seq: int, epoch: int) -> bool:
        """Count rows written at a `_seq` above all drained ones as drained, for rebuilds.

        Returns:
            False where others have come as far since: a rebuild may have passed the rows unseen.

        Raises:
            StaleCheckpoint: a drain advanced this table meanwhile.
            NotReady: an epoch began meanwhile, to which the rows' versions do not belong.
        """
        present = self._resume(table)
        if present.epoch != epoch:
            raise NotReady(
                f"{table.name}: a new epoch of positions began while rows were copied",
                remedy="run it again",
            )
        if present.last_seq >= seq:
            return False
        self._move(present.following(base_seq=seq - present.next_offset))
        return True

    def _move(self, checkpoint: Checkpoint) -> None:
        """Advance, and confirm that no drain that began before has won over it meanwhile.

        Raises:
            StaleCheckpoint: a drain has.
        """
        self.store.advance(checkpoint)
        time.sleep(self.settle)
        if not checkpoint.precedes(self.store.checkpoint(checkpoint.source_table)):
            raise StaleCheckpoint

    def _resume(self, table: Table, standing: Standing | None = None) -> Checkpoint:
        """Return the checkpoint, moved to the topic's start for another broker incarnation.

        Args:
            standing: the state of the drain, if it was read before. Default: read it now.
        """
        standing = standing or self._standing(table)
        checkpoint = standing.checkpoint or Checkpoint(source_table=table.name)
        epoch, topic_id = standing.broker_epoch, standing.topic_id
        if checkpoint.broker_epoch != epoch:
            if checkpoint.broker_epoch:
                log.warning("%s: the broker is new; reading its topic from the start", table.name)
            # Connect's positions are offsets, which restart at 0.
            raised = checkpoint.source == CONNECT and checkpoint.broker_epoch != ""
            return replace(
                checkpoint,
                epoch=_epoch(table, checkpoint, raised),
                broker_epoch=epoch,
                topic_id=topic_id,
                next_offset=0,
                base_seq=checkpoint.last_seq,
            )
        if topic_id and checkpoint.topic_id not in {"", topic_id}:
            # Undrained messages of the former topic are lost, and unknown.
            raise TopicGap(
                f"{table.topic} was deleted and recreated after {checkpoint.next_offset} messages"
                " of it were drained",
                remedy=f"read the table again: sluice resync {table.name}",
            )
        return replace(checkpoint, topic_id=topic_id)

    def _standing(self, table: Table) -> Standing:
        return Standing(
            checkpoint=self.store.checkpoint(table.name),
            broker_epoch=self.changes.epoch(),
            topic_id=self.changes.topic_id(table.topic),
            end=self.changes.end(table.topic),
        )

    def _read(self, table: Table, checkpoint: Checkpoint) -> Iterator[list[Record]]:
        """Yield the table's undrained records.

        Raises:
            TopicGap: some are not on the topic any more.
            StaleCheckpoint: the same, but the table was advanced meanwhile: others drained them,
                and the broker deletes what is drained.
        """
        try:
            yield from self.changes.read(
                table.topic,
                checkpoint.next_offset,
                Chunk(self.limits.chunk, self.limits.chunk_bytes),
                self.limits.seconds,
            )
        except TopicGap:
            present = self.store.checkpoint(table.name)
            if present and present.generation > checkpoint.generation:
                raise StaleCheckpoint from None
            raise


def _epoch(table: Table, present: Checkpoint, raised: bool = True) -> int:
    """Return the current epoch, or the next one when it is raised."""
    if raised and present.epoch >= MOST_EPOCH:
        raise NeedsPerson(
            f"{table.name}: the epoch of positions cannot exceed {present.epoch}",
            remedy=f"drop cdc.{table.storage} and the table's rows of cdc.checkpoints in"
            f" ClickHouse, then run: sluice init; sluice resync {table.name}",
        )
    return present.epoch + raised
