"""One look at the pipeline: rows on both sides, what is pending, how fresh, the slot, the fact."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sluice.catalog import Catalog, Fact
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.clients.topics import Topics
from sluice.drain.backlog import pending_events
from sluice.errors import NotReady
from sluice.execution.outcomes import Outcomes


def read_status(
    catalog: Catalog,
    source: PostgresSource,
    clickhouse: ClickHouse,
    topics: Topics,
    queries: Mapping[str, str],
    slot: str,
) -> dict[str, Any]:
    """Keys `tables`, `facts`, `fact` (all facts together) and `slot`, as `sluice status --json`.

    `freshness_s` is how long ago ClickHouse was known to have what Postgres had: the age of the
    newest drained commit or of the last passed check, whichever is less. A table that cannot be
    counted on a side has None there, and is in `troubles`, by its name, with why and what to do.

    Raises:
        Unreachable: a service does not answer.
        NotReady: `sluice init` has not run.
    """
    fence, outcomes = source.fence(catalog.tables), Outcomes()
    outcomes.troubles.update(fence.troubles)
    live = dict[str, int]()
    for name, storage in [
        *((table.name, table.storage) for table in catalog.tables),
        *((fact.name, fact.name) for fact in catalog.facts),
    ]:
        with outcomes.of(name):
            ((live[name],),) = clickhouse.execute(queries["live_rows"], table=storage)
    dead = dict(clickhouse.execute(queries["dead_letters"]))
    current = dict(clickhouse.execute(queries["freshness"]))
    pending = pending_events(catalog, clickhouse, topics)
    tables = {
        table.name: {
            "postgres_rows": fence.rows.get(table.name),
            "clickhouse_rows": live.get(table.name),
            "pending_events": pending[table.name],
            "dead_letters": dead.get(table.name, 0),
            "freshness_s": _age(current.get(table.name)),
        }
        for table in catalog.tables
    }
    facts = {
        fact.name: {
            "rows": live.get(fact.name),
            "expected_rows": fence.rows.get(fact.table.name),
            "last_rebuild_at": _rebuilt(fact, clickhouse, queries),
        }
        for fact in catalog.facts
    }
    return {
        "tables": tables,
        "fact": _together(facts),
        "facts": facts,
        "slot": _slot(source, slot),
        "troubles": {name: str(error) for name, error in outcomes.troubles.items()},
    }


def _rebuilt(fact: Fact, clickhouse: ClickHouse, queries: Mapping[str, str]) -> str | None:
    last = clickhouse.execute(queries["last_rebuild"], fact=fact.name)[0][0]
    return str(last.isoformat()) if last.timestamp() > 0 else None


def _together(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of all facts, and when the one that waits longest was rebuilt."""
    rebuilt = [fact["last_rebuild_at"] for fact in facts.values()]
    return {
        "rows": sum(fact["rows"] or 0 for fact in facts.values()),
        "expected_rows": sum(fact["expected_rows"] or 0 for fact in facts.values()),
        "last_rebuild_at": min(rebuilt, default=None) if None not in rebuilt else None,
    }


def _slot(source: PostgresSource, name: str) -> dict[str, Any]:
    try:
        state = source.slot(name)
    except NotReady:
        empty = dict.fromkeys(("wal_status", "invalidation", "lag_bytes", "safe_wal_size"))
        return {"name": name, **empty}
    return {
        "name": name,
        "wal_status": state.wal_status,
        "invalidation": state.invalidation or None,
        "lag_bytes": state.lag_bytes,
        "safe_wal_size": state.safe_wal_size,
    }


def _age(committed_at: int | None) -> float | None:
    return round(max(0.0, time.time() - committed_at / 1000), 1) if committed_at else None
