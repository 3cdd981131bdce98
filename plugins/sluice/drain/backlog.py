"""The backlog of each table: events on its topic that are not drained."""

from __future__ import annotations

from sluice.catalog import Catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.drain.clickhouse_store import ClickHouseStore


def pending_events(catalog: Catalog, clickhouse: ClickHouse, topics: Topics) -> dict[str, int]:
    """Return the number of undrained events by source table."""
    store, epoch = ClickHouseStore(clickhouse), topics.epoch()
    ends = topics.ends([table.topic for table in catalog.tables])
    pending = {}
    for table in catalog.tables:
        checkpoint = store.checkpoint(table.name)
        same = checkpoint is not None and checkpoint.broker_epoch == epoch
        drained = checkpoint.next_offset if checkpoint is not None and same else 0
        pending[table.name] = max(0, ends.get(table.topic, 0) - drained)
    return pending
