"""Reads the state that `sluice status --json` prints, and counts the rows of both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sluice.clients.clickhouse import ClickHouse
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import quoted
from sluice.operate.monitor import Monitor
from sluice.operate.overview import FactState, Slot
from sluice.quality.bulk import read_each


def read_status(monitor: Monitor) -> dict[str, Any]:
    """Return the tables, facts, slot and concerns of `sluice status --json`.

    `fact` is the sum of all facts.

    The count of a side is None where it fails; `troubles` has the error by table.

    Raises:
        Unreachable: a service does not answer.
        NotReady: `sluice init` has not run.
    """
    catalog, outcomes = monitor.catalog, Outcomes()
    fence = monitor.source.fence(catalog.tables)
    outcomes.troubles.update(fence.troubles)
    storages = {
        **{table.name: table.storage for table in catalog.tables},
        **{fact.name: fact.name for fact in catalog.facts},
    }
    live = live_rows(monitor.clickhouse, storages, outcomes)
    state = monitor.answered()
    tables = {
        table.name: {
            "postgres_rows": fence.rows.get(table.name),
            "clickhouse_rows": live.get(table.name),
            "pending_events": table.pending_events,
            "dead_letters": table.dead_letters,
            "freshness_s": table.freshness_s,
        }
        for table in state.tables
    }
    facts = {
        fact.name: {
            "rows": live.get(fact.name),
            "expected_rows": fence.rows.get(of.table.name),
            "last_rebuild_at": _rebuilt(fact),
        }
        for of, fact in zip(catalog.facts, state.facts, strict=True)
    }
    return {
        "tables": tables,
        "fact": _together(facts),
        "facts": facts,
        "slot": _slot(state.slot),
        "concerns": [asdict(concern) for concern in state.concerns],
        "troubles": {name: str(error) for name, error in outcomes.troubles.items()},
    }


def live_rows(
    clickhouse: ClickHouse, storages: Mapping[str, str], outcomes: Outcomes
) -> dict[str, int]:
    """Return the live rows of each table that can be counted; see `read_each`.

    Args:
        storages: name of a source table or fact -> its table in `cdc`.
    """
    counts = {
        name: f"SELECT count() FROM cdc.{quoted(storage)} FINAL"
        for name, storage in storages.items()
    }
    return {name: rows for name, (rows,) in read_each(clickhouse, counts, outcomes).items()}


def _rebuilt(fact: FactState) -> str | None:
    return fact.last_rebuild.finished_at.isoformat() if fact.last_rebuild else None


def _together(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows of all facts, and the oldest of their last rebuilds."""
    rebuilt = [fact["last_rebuild_at"] for fact in facts.values()]
    return {
        "rows": sum(fact["rows"] or 0 for fact in facts.values()),
        "expected_rows": sum(fact["expected_rows"] or 0 for fact in facts.values()),
        "last_rebuild_at": min(rebuilt, default=None) if None not in rebuilt else None,
    }


def _slot(slot: Slot) -> dict[str, Any]:
    return {
        "name": slot.name,
        "wal_status": slot.wal_status,
        "invalidation": slot.invalidation or None,
        "lag_bytes": slot.lag_bytes,
        "safe_wal_size": slot.safe_wal_size,
    }
