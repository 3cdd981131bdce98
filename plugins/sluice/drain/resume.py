"""Where a table's drain goes on: at its checkpoint, or where positions or offsets begin anew.

A broker that lost its topics is another incarnation, and its topics are read from the start. A
topic that was made again alone, or that lost messages before they were drained, is a gap: a person
decides. Positions of two sources, or of before and after a failover, are told apart by an epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sluice.catalog import Table
from sluice.drain.ports import ChangeLog, Checkpoint, Chunk, StateStore
from sluice.errors import NeedsPerson, NotReady, TopicGap, WrongUsage
from sluice.events.event import CONNECT, SOURCES, Record
from sluice.events.positions import MOST_EPOCH, pack
from sluice.settings import DrainSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """Moves checkpoints without draining."""

    changes: ChangeLog
    store: StateStore
    limits: DrainSettings

    def skip_gap(self, table: Table) -> None:
        """Go on at the topic's first message; what was lost before it has to be read again.

        Raises:
            StaleCheckpoint: another drain advanced this table meanwhile.
        """
        present = self.store.checkpoint(table.name) or Checkpoint(source_table=table.name)
        first = self.changes.first(table.topic)
        following = present.following(
            epoch=_epoch(table, present, present.source == CONNECT),  # offsets may begin anew
            broker_epoch=self.changes.epoch(),
            topic_id=self.changes.topic_id(table.topic),
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
        if any(self._read(table, present)):
            raise NotReady(
                f"{table.topic} has events that are not drained, or its source still runs",
                remedy=f"stop it, run: sluice drain --until-empty, then: sluice source {source}",
            )
        self.store.advance(
            present.following(source=source, epoch=_epoch(table, present), server="")
        )
        return True

    def raise_epoch(self, table: Table, *, truncated: bool = True) -> None:
        """Order everything that comes from now on after all that came until now.

        Args:
            truncated: whether rows of before stay gone below the newest truncation.

        Raises:
            StaleCheckpoint: another drain advanced this table meanwhile.
        """
        present = self._resume(table)
        epoch = _epoch(table, present)
        kept = present.truncated if truncated and present.truncated < pack(epoch, 0, 0) else 0
        self.store.advance(present.following(epoch=epoch, server="", truncated=kept))

    def _resume(self, table: Table) -> Checkpoint:
        """The checkpoint, moved to the topic's start when the broker is another incarnation."""
        checkpoint = self.store.checkpoint(table.name) or Checkpoint(source_table=table.name)
        epoch, topic_id = self.changes.epoch(), self.changes.topic_id(table.topic)
        if checkpoint.broker_epoch != epoch:
            if checkpoint.broker_epoch:
                log.warning("%s: the broker is new; reading its topic from the start", table.name)
            # Connect's positions are offsets, which begin anew.
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
            # What was on the former topic behind the checkpoint is gone, and nobody knows it.
            raise TopicGap(
                f"{table.topic} was deleted and made again after {checkpoint.next_offset} messages"
                " of it were drained",
                remedy=f"read the table again: sluice resync {table.name}",
            )
        return replace(checkpoint, topic_id=topic_id)

    def _read(self, table: Table, checkpoint: Checkpoint) -> Iterator[list[Record]]:
        return self.changes.read(
            table.topic,
            checkpoint.next_offset,
            Chunk(self.limits.chunk, self.limits.chunk_bytes),
            self.limits.seconds,
        )


def _epoch(table: Table, present: Checkpoint, raised: bool = True) -> int:
    """The epoch, or the one after it."""
    if raised and present.epoch >= MOST_EPOCH:
        raise NeedsPerson(
            f"{table.name}: there is no epoch of positions after {present.epoch}",
            remedy=f"drop cdc.{table.storage} and the table's rows of cdc.checkpoints in"
            f" ClickHouse, then run: sluice init; sluice resync {table.name}",
        )
    return present.epoch + raised
