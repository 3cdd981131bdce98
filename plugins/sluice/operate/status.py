"""Reads the state that `sluice status --json` prints, and counts the rows of both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import quoted
from sluice.operate.monitor import Monitor
from sluice.operate.overview import BROKER, CLICKHOUSE, POSTGRESQL, FactState, Slot, known_sum
from sluice.quality.bulk import read_each

# Service -> its program in the embedded stack, by which `errors` and `services` name it.
PROGRAMS = {POSTGRESQL: "postgres", BROKER: "broker", CLICKHOUSE: "clickhouse"}


def read_status(monitor: Monitor) -> dict[str, Any]:
    """Return the tables, facts, slot and concerns of `sluice status --json`.

    `fact` is the sum of all facts.

    What cannot be read is None, and `slot` is empty without PostgreSQL. `errors` has the error of
    each service that does not answer, `troubles` that of each table or fact that is not counted.
    """
    catalog, outcomes = monitor.catalog, Outcomes()
    state, errors = monitor.observed()
    expected = _unless_silent(errors, POSTGRESQL, lambda: _expected_rows(monitor, outcomes))
    live = _unless_silent(errors, CLICKHOUSE, lambda: _stored_rows(monitor, outcomes))
    tables = {
        table.name: {
            "postgres_rows": expected.get(table.name),
            "clickhouse_rows": live.get(table.name),
            "pending_events": table.pending_events,
            "dead_letters": table.dead_letters,
            "freshness_s": table.freshness_s,
            "compared_at": table.compared_at.isoformat() if table.compared_at else None,
        }
        for table in state.tables
    }
    facts = {
        fact.name: {
            "rows": live.get(fact.name),
            "expected_rows": expected.get(of.table.name),
            "last_rebuild_at": _rebuilt(fact),
        }
        for of, fact in zip(catalog.facts, state.facts, strict=True)
    }
    return {
        "tables": tables,
        "fact": _together(facts),
        "facts": facts,
        "slot": {} if POSTGRESQL in errors else _slot(state.slot),
        "concerns": [asdict(concern) for concern in state.concerns],
        "troubles": {name: str(error) for name, error in outcomes.troubles.items()},
        "errors": {PROGRAMS[name]: str(error) for name, error in errors.items()},
    }


def _unless_silent(
    errors: dict[str, SluiceError], service: str, read: Callable[[], dict[str, int]]
) -> dict[str, int]:
    """Return what a service knows; note its error, and return nothing, if it does not answer."""
    if service not in errors:
        try:
            return read()
        except SluiceError as error:
            errors[service] = error
    return {}


def _expected_rows(monitor: Monitor, outcomes: Outcomes) -> dict[str, int]:
    """Count the tables in PostgreSQL."""
    fence = monitor.source.fence(monitor.catalog.tables)
    outcomes.troubles.update(fence.troubles)
    return fence.rows


def _stored_rows(monitor: Monitor, outcomes: Outcomes) -> dict[str, int]:
    """Count the tables and facts in ClickHouse."""
    storages = {
        **{table.name: table.storage for table in monitor.catalog.tables},
        **{fact.name: fact.name for fact in monitor.catalog.facts},
    }
    return live_rows(monitor.clickhouse, storages, outcomes)


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
        "rows": known_sum(fact["rows"] for fact in facts.values()),
        "expected_rows": known_sum(fact["expected_rows"] for fact in facts.values()),
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
