"""Exports the overview as Prometheus metrics; docs/monitoring.md lists the names.

Unknown values are absent, so that alerts can distinguish them from zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sluice.catalog.quality_options import Status
from sluice.operate.overview import FactState, Overview, Slot, TableState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Sequence[str], float | int | None]


def exposition(of: Overview) -> str:
    """Return the overview in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gauges(of))
    return generate_latest(registry).decode()


class _Gauges(Collector):
    def __init__(self, of: Overview) -> None:
        self._overview = of

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
        yield from _tables(of.tables)
        yield from _facts(of.facts)
        yield from _checks(of)


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


def _checks(of: Overview) -> Iterator[Metric]:
    states: list[TableState | FactState] = [*of.tables, *of.facts]
    results = [state.last_check for state in states if state.last_check]
    findings = [finding for finding in of.findings if finding not in results]
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
