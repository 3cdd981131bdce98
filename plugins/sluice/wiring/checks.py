"""What compares both sides: the checks of a minute, the conditions and the deep check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace
from functools import partial

from sluice.capture import slot as slots
from sluice.capture.claims import claims
from sluice.capture.fenced_snapshot import ExactSnapshot, exact_snapshot
from sluice.catalog import Catalog, Fact, Table, load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import Fence, PostgresSource
from sluice.clients.topics import Topics
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.decoder import Decoder
from sluice.drain.drain import Drain
from sluice.drain.ports import Checkpoint
from sluice.errors import Lagging, SluiceError, StaleCheckpoint
from sluice.execution.contention import until_done
from sluice.execution.outcomes import Outcomes
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.quality.alerts import Alerts
from sluice.quality.checks import UNSETTLED, WARN, Check, QualityReport, graded, passing, unmade
from sluice.quality.deep_check import DeepCheck
from sluice.quality.differences import TableFindings, fact_check, rollup_check, table_check
from sluice.quality.expectations import Expectations
from sluice.quality.fact_check import FactCheck
from sluice.quality.fences import CaughtUp, Fences
from sluice.quality.measures import Conditions
from sluice.quality.results import Results
from sluice.quality.row_counts import Quality
from sluice.settings import Settings
from sluice.star.create import make_rebuild
from sluice.star.rebuild import Rebuild
from sluice.warehouse.key_ranges import Plans
from sluice.wiring.ahead import ahead_in
from sluice.wiring.drains import draining, make_decoder

ROWS = frozenset({"row_count", "rows"})
_WAITING = frozenset({UNSETTLED, WARN})
_NOT_PASSED = Lagging("the drain did not pass the fence of this run", remedy="see: sluice status")


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
        conditions = _conditions(settings, catalog, clickhouse, checks, report, deep=deep)
        measured = conditions.run(chosen)
        found, troubles = checks.keep(report.fence, measured), dict(report.troubles)
        if deep:
            found += _held(catalog, clickhouse, checks, chosen, report)
            compared, untold = _deep(
                settings, catalog, clickhouse, checks, chosen, report, restart=restart
            )
            found += compared
            troubles |= untold
        together = _suggested(settings, report.checks + found)
        return QualityReport(checks=together, fence=report.fence, troubles=troubles)


def differences(
    settings: Settings, tables: Sequence[Table], outcomes: Outcomes
) -> list[tuple[Table, TableFindings]]:
    """What a deep check finds in tables now; nothing is kept or repaired."""
    catalog = load_catalog(settings.models)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, draining(settings) as run:
        checks = make_quality(settings, catalog, clickhouse, run)
        deep = make_deep_check(clickhouse, drained_snapshot(settings, checks, tables))
        return list(deep.tables(tables, outcomes))


def make_deep_check(
    clickhouse: ClickHouse,
    snapshot: Callable[[], AbstractContextManager[ExactSnapshot]],
    *,
    restart: bool = True,
    claim: Callable[[str], bool] = lambda _: True,
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
        claim=claim,
    )


def drained_snapshot(
    settings: Settings, checks: Quality, tables: Sequence[Table]
) -> Callable[[], AbstractContextManager[ExactSnapshot]]:
    """Opens PostgreSQL at a point that the drain has passed with these tables."""
    return lambda: exact_snapshot(settings, lambda point: checks.fences.behind(point, tables))


def _suggested(settings: Settings, checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks with the commands that repair rows, or without where they are not wanted."""
    bare = settings.repair == "off"
    return tuple(
        replace(check, repair="") if bare and check.check in ROWS else check for check in checks
    )


def _conditions(
    settings: Settings,
    catalog: Catalog,
    clickhouse: ClickHouse,
    checks: Quality,
    report: QualityReport,
    *,
    deep: bool,
) -> Conditions:
    late = report.behind
    ages = checks.ages(sorted(late)) if late else {}
    return Conditions(
        catalog=catalog,
        source=PostgresSource(settings.postgres),
        clickhouse=clickhouse,
        topics=Topics(settings.kafka),
        queries=read_statements(PIPELINE),
        slot=settings.relay.slot,
        rebuilds=[make_rebuild(clickhouse, fact) for fact in catalog.facts],
        ahead=ahead_in(settings, clickhouse),
        most_rows=None if deep else settings.count_rows,
        late={table: ages.get((table, "caught_up"), 0) for table in late},
    )


def _exact_fence(settings: Settings, tables: Sequence[Table]) -> Fence:
    outcomes, rows = Outcomes(), dict[str, int]()
    with exact_snapshot(settings, lambda _: {}) as snapshot:
        for table in tables:
            with outcomes.of(table.name):
                rows[table.name] = snapshot.count(table)
        return Fence(lsn=snapshot.point, rows=rows, troubles=outcomes.troubles)


def make_quality(
    settings: Settings, catalog: Catalog, clickhouse: ClickHouse, run: Drain
) -> Quality:
    """The checks of a minute; they bring the drain and the facts past what they compare."""
    rebuilds = {fact.name: make_rebuild(clickhouse, fact) for fact in catalog.facts}
    queries = read_statements(PIPELINE)
    results = Results(clickhouse=clickhouse, queries=queries, tell=Alerts(settings.alerts).tell)
    topics, slot = Topics(settings.kafka), settings.relay.slot
    source = PostgresSource(settings.postgres, settings.statement_seconds)
    return Quality(
        source=source,
        clickhouse=clickhouse,
        catalog=catalog,
        queries=queries,
        missing=lambda fact: FactCheck(rebuild=rebuilds[fact.name]).missing(),
        fences=Fences(
            source=source,
            slot=slot,
            had_slot=lambda: slots.snapshot_taken(topics, settings.relay),
            published=lambda: topics.published(slot),
            catch_up=partial(_caught_up, clickhouse, catalog, run, rebuilds, {}),
            seconds=settings.quality_seconds,
        ),
        exact=lambda tables: _exact_fence(settings, tables),
        keep=lambda lsn, found: results.keep(lsn, _suggested(settings, found)),
        ages=results.ages,
        most_rows=settings.count_rows,
    )


def _caught_up(
    clickhouse: ClickHouse,
    catalog: Catalog,
    run: Drain,
    rebuilds: Mapping[str, Rebuild],
    decoders: dict[str, Decoder],
) -> CaughtUp:
    """Drain every table and bring every fact up to date, as far as each can be.

    Args:
        decoders: those that were made before.
    """
    outcomes, ended = Outcomes(), set[str]()
    for table in catalog.tables:
        with outcomes.of(table.name), suppress(StaleCheckpoint):  # another drain is at work
            if table.name not in decoders:
                decoders[table.name] = make_decoder(clickhouse, catalog, table.name)
            if run.run(decoders[table.name]).caught_up:
                ended.add(table.name)
    for name, step in rebuilds.items():
        with outcomes.of(name):
            until_done(step.run)
    return CaughtUp(ended=frozenset(ended), troubles=outcomes.troubles)


def _held(
    catalog: Catalog,
    clickhouse: ClickHouse,
    checks: Quality,
    tables: Sequence[Table],
    report: QualityReport,
) -> tuple[Check, ...]:
    """What the models expect of the tables' rows."""
    step = Expectations(
        clickhouse=clickhouse,
        catalog=catalog,
        pass_now=checks.pass_now,
        version=checks.version,
        drained=checks.drained,
    )
    ready, late = _parted(tables, report)
    return checks.keep(report.fence, [*step.run(ready), *step.unmade(late, _NOT_PASSED)])


def _deep(
    settings: Settings,
    catalog: Catalog,
    clickhouse: ClickHouse,
    checks: Quality,
    tables: Sequence[Table],
    report: QualityReport,
    *,
    restart: bool,
) -> tuple[tuple[Check, ...], dict[str, SluiceError]]:
    """The deep checks of tables, of the facts whose own table is among them and of their rollups;
    and why some could not be made this time.
    """
    ready, late = _parted(tables, report)
    opened, outcomes = drained_snapshot(settings, checks, ready), Outcomes()
    with claims(settings.postgres) as claim:
        deep = make_deep_check(clickhouse, opened, restart=restart, claim=claim)
        compared = list(deep.tables(ready, outcomes))
    found = [table_check(table, findings) for table, findings in compared]
    found += [unmade(table.name, "rows", _NOT_PASSED) for table in late]
    found += [unmade(name, "rows", error) for name, error in outcomes.troubles.items()]
    for fact in catalog.facts:
        if fact.table in tables:
            found += _derived(FactCheck(rebuild=make_rebuild(clickhouse, fact)), fact, outcomes)
    point = max((findings.point for _, findings in compared), default=report.fence)
    return checks.keep(point, graded(catalog, found)), passing(outcomes.troubles)


def _derived(step: FactCheck, fact: Fact, outcomes: Outcomes) -> Iterator[Check]:
    """The checks of a fact and its rollups, which need no fence of their own."""
    with outcomes.of(fact.name):
        yield fact_check(fact, step.rows())
    if fact.name in outcomes.troubles:
        yield unmade(fact.name, "fact_rows", outcomes.troubles[fact.name])
    for rollup in fact.table.rollups:
        with outcomes.of(rollup.name):
            yield rollup_check(rollup, step.rollup(rollup))
        if rollup.name in outcomes.troubles:
            yield unmade(rollup.name, "rollup_rows", outcomes.troubles[rollup.name])


def _parted(tables: Sequence[Table], report: QualityReport) -> tuple[list[Table], list[Table]]:
    """The tables that can be compared, and those that are late; a check names others' trouble."""
    waiting = {c.table for c in report.checks if c.check == "caught_up" and c.status in _WAITING}
    ready = [table for table in tables if table.name not in report.behind]
    return ready, [table for table in tables if table.name in waiting]
