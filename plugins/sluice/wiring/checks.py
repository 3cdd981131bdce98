"""What compares both sides: the checks of a minute, the conditions and the deep check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace

from sluice.adapters.alerts import Alerts
from sluice.adapters.clickhouse import ClickHouse
from sluice.adapters.postgres import Fence, PostgresSource
from sluice.adapters.state_store import ClickHouseStore
from sluice.adapters.topics import Topics
from sluice.catalog import Catalog, Table, load_catalog
from sluice.conditions import Conditions
from sluice.contention import until_done
from sluice.deep import DeepCheck
from sluice.drain import Drain
from sluice.errors import NotReady, TopicGap
from sluice.expectations import Expectations
from sluice.findings import TableFindings, fact_check, table_check
from sluice.ports import Checkpoint
from sluice.positions import format_lsn
from sluice.quality import Check, Quality, QualityReport, graded
from sluice.ranges import Plans
from sluice.relay import slot as slots
from sluice.relay.reading import ExactSnapshot, exact_snapshot
from sluice.results import Results
from sluice.settings import Settings
from sluice.statements import read_statements
from sluice.warehouse import PIPELINE, make_rebuild
from sluice.wiring.drains import draining, make_decoder

ROWS = frozenset({"row_count", "rows"})


def check(
    settings: Settings, tables: Sequence[str], *, deep: bool, restart: bool = False
) -> QualityReport:
    """One run of the checks, of all tables when none is named; nothing is repaired.

    Args:
        restart: compare all rows, also where a deep check that was killed left some.
    """
    catalog = load_catalog(settings.models)
    chosen = catalog.select(tuple(tables))
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, draining(settings) as run:
        checks = make_quality(settings, catalog, clickhouse, run)
        report = checks.run(chosen)
        found = _conditions(settings, catalog, clickhouse).run(chosen)
        checks.keep(report.fence, found)
        if deep and report.settled:
            held = Expectations(clickhouse=clickhouse, catalog=catalog, catch_up=checks.go_on).run(
                chosen
            )
            checks.keep(report.fence, held)
            found += held + _deep(settings, catalog, clickhouse, checks, chosen, restart)
        together = _suggested(settings, report.checks + found)
        return QualityReport(checks=together, fence=report.fence)


def differences(settings: Settings, names: Sequence[str] = ()) -> list[tuple[Table, TableFindings]]:
    """What a deep check finds in tables now; nothing is kept or repaired."""
    catalog = load_catalog(settings.models)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, draining(settings) as run:
        checks = make_quality(settings, catalog, clickhouse, run)
        deep = make_deep_check(clickhouse, drained_snapshot(settings, checks))
        return list(deep.tables(catalog.select(tuple(names))))


def make_deep_check(
    clickhouse: ClickHouse,
    snapshot: Callable[[], AbstractContextManager[ExactSnapshot]],
    *,
    restart: bool = True,
) -> DeepCheck:
    """The comparison of every row, as of points at which `snapshot` opens PostgreSQL."""

    def checkpoint(table: Table) -> Checkpoint:
        found = ClickHouseStore(clickhouse).checkpoint(table.name)
        return found or Checkpoint(source_table=table.name)

    return DeepCheck(
        clickhouse=clickhouse,
        snapshot=snapshot,
        checkpoint=checkpoint,
        plans=Plans(clickhouse=clickhouse, queries=read_statements(PIPELINE)),
        restart=restart,
    )


def drained_snapshot(
    settings: Settings, checks: Quality
) -> Callable[[], AbstractContextManager[ExactSnapshot]]:
    """Opens PostgreSQL at a point that the drain has passed."""

    def passed(point: int) -> None:
        if not checks.passed(point):
            raise NotReady(
                f"the drain did not pass {format_lsn(point)} in time",
                remedy="see: sluice status, sluice logs relay",
            )

    return lambda: exact_snapshot(settings, passed)


def _suggested(settings: Settings, checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks with the commands that repair rows, or without where they are not wanted."""
    bare = settings.repair == "off"
    return tuple(
        replace(check, repair="") if bare and check.check in ROWS else check for check in checks
    )


def _conditions(settings: Settings, catalog: Catalog, clickhouse: ClickHouse) -> Conditions:
    return Conditions(
        catalog=catalog,
        source=PostgresSource(settings.postgres),
        clickhouse=clickhouse,
        topics=Topics(settings.kafka),
        queries=read_statements(PIPELINE),
        slot=settings.relay.slot,
    )


def _exact_fence(settings: Settings, tables: Sequence[Table]) -> Fence:
    with exact_snapshot(settings, lambda _: None) as snapshot:
        return Fence(
            lsn=snapshot.point,
            rows={table.name: snapshot.count(table) for table in tables},
        )


def make_quality(
    settings: Settings, catalog: Catalog, clickhouse: ClickHouse, run: Drain
) -> Quality:
    """The checks of a minute; they bring the drain and the facts past what they compare."""
    rebuilds = {fact.name: make_rebuild(clickhouse, fact) for fact in catalog.facts}
    decoders = [make_decoder(clickhouse, catalog, table.name) for table in catalog.tables]
    queries, gaps = read_statements(PIPELINE), dict[str, TopicGap]()
    results = Results(clickhouse=clickhouse, queries=queries, tell=Alerts(settings.alerts).tell)

    def catch_up() -> None:
        for decoder in decoders:
            try:
                run.run(decoder)
            except TopicGap as error:
                gaps[decoder.table.name] = error
        for step in rebuilds.values():
            until_done(step.run)

    return Quality(
        source=PostgresSource(settings.postgres, settings.statement_seconds),
        clickhouse=clickhouse,
        catalog=catalog,
        queries=queries,
        rebuilds=rebuilds,
        slot=settings.relay.slot,
        had_slot=lambda: slots.snapshot_taken(Topics(settings.kafka), settings.relay),
        exact=lambda tables: _exact_fence(settings, tables),
        catch_up=catch_up,
        seconds=settings.quality_seconds,
        gaps=gaps,
        keep=lambda lsn, found: results.keep(lsn, _suggested(settings, found)),
        most_rows=settings.count_rows,
    )


def _deep(
    settings: Settings,
    catalog: Catalog,
    clickhouse: ClickHouse,
    checks: Quality,
    tables: Sequence[Table],
    restart: bool,
) -> tuple[Check, ...]:
    """The deep checks of tables and of the facts whose own table is among them."""
    deep = make_deep_check(clickhouse, drained_snapshot(settings, checks), restart=restart)
    compared = list(deep.tables(tables))
    found = [table_check(table, findings) for table, findings in compared]
    facts = [fact for fact in catalog.facts if fact.table in tables]
    found += [fact_check(fact, *checks.at_rest(fact, deep.fact)) for fact in facts]
    kept = graded(catalog, found)
    checks.keep(max(findings.point for _, findings in compared), kept)
    return kept
