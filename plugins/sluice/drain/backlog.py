"""The backlog of all tables: how far each is drained, and which drains have something to do.

One query for the checkpoints and a few requests to the broker answer for all tables, so a table
without changes costs nothing more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sluice.catalog import Catalog, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.ports import ChangeLog, Checkpoint, Standing, StateStore, TopicPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The state of the drains of tables.

    Attributes:
        broker_epoch: the broker's incarnation.
        checkpoints: by table; none before its first drain.
        positions: by topic; none where the topic does not exist.
        rejecting: tables with open dead letters, which a newer row may resolve.
    """

    broker_epoch: str
    checkpoints: Mapping[str, Checkpoint]
    positions: Mapping[str, TopicPosition]
    rejecting: Collection[str]

    def standing(self, table: Table) -> Standing | None:
        """Return where a table's drain begins; None if its topic is missing or partitioned."""
        position = self.positions.get(table.topic)
        if position is None or position.partitions > 1:
            return None
        return Standing(
            checkpoint=self.checkpoints.get(table.name),
            broker_epoch=self.broker_epoch,
            topic_id=position.id,
            end=position.end,
            rejecting=table.name in self.rejecting,
        )

    def events(self, table: Table) -> int:
        """Return the number of undrained events."""
        position = self.positions.get(table.topic)
        return max(0, position.end - self._drained(table)) if position else 0

    def due(self, table: Table) -> bool:
        """Whether a drain of the table has something to do or to report."""
        position = self.positions.get(table.topic)
        if position is None or position.partitions > 1 or table.name in self.rejecting:
            return True
        checkpoint = self._current(table)
        recreated = checkpoint and position.id and checkpoint.topic_id not in {"", position.id}
        return bool(recreated) or position.end != self._drained(table)

    def uncommitted(self, tables: Sequence[Table]) -> dict[str, int]:
        """Return topic -> drained offset where a killed drain did not commit it."""
        return {
            table.topic: self._drained(table)
            for table in tables
            if (position := self.positions.get(table.topic))
            and position.committed < self._drained(table)
        }

    def passed(self, tables: Sequence[Table]) -> dict[str, int]:
        """Return topic -> offset before which its messages are drained for good.

        Without topics that were recreated since, and those whose offset is not committed.
        """
        return {
            table.topic: min(position.committed, checkpoint.next_offset)
            for table in tables
            if (position := self.positions.get(table.topic))
            and (checkpoint := self._current(table))
            and checkpoint.topic_id == position.id
        }

    def _drained(self, table: Table) -> int:
        checkpoint = self._current(table)
        return checkpoint.next_offset if checkpoint else 0

    def _current(self, table: Table) -> Checkpoint | None:
        """Return the checkpoint if it is of the broker's present incarnation."""
        checkpoint = self.checkpoints.get(table.name)
        return checkpoint if checkpoint and checkpoint.broker_epoch == self.broker_epoch else None


def read_backlog(changes: ChangeLog, store: StateStore, tables: Sequence[Table]) -> Backlog:
    """Read the backlog of tables.

    The checkpoints come first: offsets that were committed later are at or behind the newest.
    """
    checkpoints = store.checkpoints()
    return Backlog(
        broker_epoch=changes.epoch(),
        checkpoints=checkpoints,
        positions=changes.positions([table.topic for table in tables]),
        rejecting=store.rejecting(),
    )


def pending_events(catalog: Catalog, clickhouse: ClickHouse, topics: Topics) -> dict[str, int]:
    """Return the number of undrained events by source table."""
    checkpoints, epoch = ClickHouseStore(clickhouse).checkpoints(), topics.epoch()
    ends = topics.ends([table.topic for table in catalog.tables])
    pending = {}
    for table in catalog.tables:
        checkpoint = checkpoints.get(table.name)
        same = checkpoint is not None and checkpoint.broker_epoch == epoch
        drained = checkpoint.next_offset if checkpoint is not None and same else 0
        pending[table.name] = max(0, ends.get(table.topic, 0) - drained)
    return pending
