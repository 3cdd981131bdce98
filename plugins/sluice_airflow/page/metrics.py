"""Exports the overview as Prometheus metrics; docs/monitoring.md lists the names.

Unknown values are absent, so that alerts can distinguish them from zero. Of many tables and facts,
those with problems and the largest have series of their own; the sums are over all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sluice.catalog.quality_options import Status
from sluice.operate.health import lateness
from sluice.operate.overview import FactState, Overview, Severity, Slot, TableState, severities

S = TypeVar("S", TableState, FactState)
SERIES_OF = 100  # tables, and facts, by default
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Sequence[str], float | int | None]


def exposition(of: Overview, most: int = SERIES_OF) -> str:
    """Return the overview in Prometheus' text format.

    Args:
        most: the most tables, and the most facts, with series of their own. Default: SERIES_OF.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gauges(of, most))
    return generate_latest(registry).decode()


def _some(states: Sequence[S], of: Overview, most: int) -> tuple[S, ...]:
    """Return the tables or facts with series of their own: with problems, then the largest."""
    grave = severities(of)
    order = sorted(states, key=lambda state: (grave.get(state.name, 2), -(_rows(state) or 0)))
    chosen = {state.name for state in order[:most]}
    return tuple(state for state in states if state.name in chosen)


def _rows(state: TableState | FactState) -> int | None:
    return state.clickhouse_rows if isinstance(state, TableState) else state.rows


class _Gauges(Collector):
    def __init__(self, of: Overview, most: int) -> None:
        self._overview, self._most = of, most

    def collect(self) -> Iterator[Metric]:
        of = self._overview
        yield _gauge("healthy", "1 when nothing is broken or differs", (), [((), of.healthy)])
        yield _gauge(
            "service_up",
            "1 when the service answers",
            ["service"],
            [((service.name.lower(),), service.answers) for service in of.services],
        )
        yield from _slot(of.slot)
        yield from _sums(of)
        tables, facts = _some(of.tables, of, self._most), _some(of.facts, of, self._most)
        yield from _tables(tables)
        yield from _facts(facts)
        yield from _checks(of, [*tables, *facts])


def _gauge(
    name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sluice_{name}", text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, float(value))
    return family


def _slot(slot: Slot) -> Iterator[Metric]:
    label, name = ["slot"], (slot.name,)
    yield _gauge("slot_lag_bytes", "WAL that is not confirmed", label, [(name, slot.lag_bytes)])
    yield _gauge("slot_active", "1 when a relay reads from it", label, [(name, slot.active)])
    states = ("reserved", "extended", "unreserved", "lost")
    yield _gauge(
        "slot_wal_status",
        "1 for the state its WAL is in",
        ["slot", "state"],
        [((slot.name, state), slot.wal_status == state) for state in states if slot.wal_status],
    )


def _sums(of: Overview) -> Iterator[Metric]:
    """Yield what holds for all tables and facts, however many have series of their own."""
    tables, states = of.tables, list[TableState | FactState]([*of.tables, *of.facts])
    pending, letters, fresh = (
        [value for table in tables if (value := getattr(table, field)) is not None]
        for field in ("pending_events", "dead_letters", "freshness_s")
    )
    different = [table for table in tables if table.postgres_rows != table.clickhouse_rows]
    checked = [one.last_check.checked_at.timestamp() for one in states if one.last_check]
    for name, text, value in (
        ("tables", "tables of the models", len(tables)),
        ("facts", "facts of the models", len(of.facts)),
        ("pending_events", "events of all tables that are not drained", _sum(pending)),
        ("dead_letters", "open dead letters of all tables", _sum(letters)),
        ("freshness_seconds", "of the table that is behind the most", max(fresh, default=None)),
        (
            "tables_late",
            "tables above a limit of their freshness",
            sum(lateness(table) != Severity.GOOD for table in tables),
        ),
        ("tables_different", "tables whose last row counts differ", len(different)),
        ("checks_not_passed", "current results of checks that did not pass", len(of.findings)),
        ("checks_last_timestamp_seconds", "time of the last check", max(checked, default=None)),
    ):
        yield _gauge(name, text, (), [((), value)])


def _sum(values: Sequence[int]) -> int | None:
    return sum(values) if values else None


def _tables(tables: Sequence[TableState]) -> Iterator[Metric]:
    gauges = (
        ("table_postgres_rows", "rows in Postgres at the last row count", "postgres_rows"),
        ("table_clickhouse_rows", "rows in ClickHouse at the last row count", "clickhouse_rows"),
        ("table_pending_events", "events that are not drained", "pending_events"),
        ("table_freshness_seconds", "since ClickHouse last equalled PostgreSQL", "freshness_s"),
        ("table_dead_letters", "rejected events that are open", "dead_letters"),
    )
    for name, text, field in gauges:
        yield _gauge(name, text, ["table"], [((t.name,), getattr(t, field)) for t in tables])
    yield _gauge(
        "table_freshness_limit_seconds",
        "above which the table is late",
        ["table"],
        [((t.name,), t.freshness_limit.warn or t.freshness_limit.fail) for t in tables],
    )
    drains = [((table.name,), table.last_drain) for table in tables if table.last_drain]
    yield _gauge(
        "drain_last_timestamp_seconds",
        "end of the last drain that read events",
        ["table"],
        [(labels, run.finished_at.timestamp()) for labels, run in drains],
    )
    for field in ("events", "seconds"):
        yield _gauge(
            f"drain_last_{field}",
            f"{field} of the last drain that read events",
            ["table"],
            [(labels, getattr(run, field)) for labels, run in drains],
        )


def _facts(facts: Sequence[FactState]) -> Iterator[Metric]:
    yield _gauge(
        "fact_rows",
        "rows of the fact at the last check",
        ["fact"],
        [((f.name,), f.rows) for f in facts],
    )
    yield _gauge(
        "fact_expected_rows",
        "rows that the fact should have had",
        ["fact"],
        [((f.name,), f.expected_rows) for f in facts],
    )
    rebuilds = [((fact.name,), fact.last_rebuild) for fact in facts if fact.last_rebuild]
    yield _gauge(
        "rebuild_last_timestamp_seconds",
        "end of the last rebuild that changed something",
        ["fact"],
        [(labels, run.finished_at.timestamp()) for labels, run in rebuilds],
    )
    yield _gauge(
        "rebuild_last_seconds",
        "duration of that rebuild",
        ["fact"],
        [(labels, run.seconds) for labels, run in rebuilds],
    )


def _checks(of: Overview, states: Sequence[TableState | FactState]) -> Iterator[Metric]:
    """Yield the results of these tables and facts, and findings of the slot."""
    results = [state.last_check for state in states if state.last_check]
    names = {one.name for one in of.tables} | {one.name for one in of.facts}
    left_out = names - {one.name for one in states}
    findings = [one for one in of.findings if one.table not in left_out and one not in results]
    every = [*results, *findings]
    yield _gauge(
        "check_passed",
        "1 when the last check passed, 0 when it failed or was unsettled",
        ["table", "check"],
        [((check.table, check.check), check.status == Status.PASS) for check in every],
    )
    yield _gauge(
        "check_last_timestamp_seconds",
        "time of the last check",
        ["table", "check"],
        [((check.table, check.check), check.checked_at.timestamp()) for check in every],
    )
