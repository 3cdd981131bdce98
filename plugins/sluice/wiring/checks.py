"""Run the checks: the minute's comparison, the conditions and the deep check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from sluice.capture import slot as slots
from sluice.capture.claims import claims
from sluice.capture.fenced_snapshot import ExactSnapshot, exact_snapshot
from sluice.catalog import Fact, Table
from sluice.catalog.quality_options import Status
from sluice.clients.postgres import Fence
from sluice.drain.ports import Checkpoint
from sluice.errors import Lagging, SluiceError, StaleCheckpoint
from sluice.execution.outcomes import Outcomes
from sluice.quality.alerts import Alerts
from sluice.quality.carried import Carried, CarriedForward, Place
from sluice.quality.causes import causes_in
from sluice.quality.checks import COLUMNS, ROWS, Check, QualityReport, graded, not_checked, passing
from sluice.quality.deep_check import DeepCheck
from sluice.quality.differences import TableFindings, fact_check, rollup_check, table_check
from sluice.quality.expectations import Expectations
from sluice.quality.fact_check import FactCheck
from sluice.quality.fact_counts import FactCounts
from sluice.quality.fences import CaughtUp, Fences
from sluice.quality.measures import Conditions
from sluice.quality.results import Results
from sluice.quality.row_counts import Quality
from sluice.settings import Settings
from sluice.star.create import make_rebuild
from sluice.wiring.ahead import ahead_in
from sluice.wiring.backlog import drain_backlog
from sluice.wiring.context import Run, opened
from sluice.wiring.masked import require_key, wrong_key
from sluice.wiring.steps import rebuild_changed

_NONE: Mapping[Place, str] = {}
_WAITING = frozenset({Status.UNSETTLED, Status.WARN})
_NOT_PASSED = Lagging("the drain did not pass the fence of this run", remedy="see: sluice status")


def check(run: Run, tables: Sequence[str], *, deep: bool, restart: bool = False) -> QualityReport:
    """Run the checks once, for all tables if none is named; repair nothing.

    Args:
        restart: compare all rows, including those that an interrupted deep check has compared, and
            count tables without changes.

    Raises:
        NeedsPerson: rows are to be compared, and the key of masked columns is another one.
    """
    chosen = run.catalog.select(tuple(tables))
    if deep:
        require_key(run, chosen)
    checks, carried = make_quality(run), _carried(run).find(chosen)
    if deep or restart:
        carried = replace(carried, checks={})
    report = checks.run(chosen, carried)
    measured = _conditions(run, checks, report, carried, deep=deep).run(chosen)
    found = checks.keep(report.fence, measured, carried.marks)
    troubles = dict(report.troubles)
    if deep:
        found += _held(run, checks, chosen, report)
        compared, untold = _deep(run, checks, chosen, report, restart=restart)
        found += compared
        troubles |= untold
    together = causes_in(run.catalog).name(_suggested(run.settings, report.checks + found))
    return QualityReport(checks=together, fence=report.fence, troubles=troubles)


def differences(
    settings: Settings, tables: Sequence[Table], outcomes: Outcomes
) -> list[tuple[Table, TableFindings]]:
    """Return what a deep check of tables finds now; store and repair nothing."""
    with opened(settings) as run:
        return compared(run, tables, outcomes)


def compared(
    run: Run, tables: Sequence[Table], outcomes: Outcomes
) -> list[tuple[Table, TableFindings]]:
    """See `differences`."""
    require_key(run, tables)
    deep = make_deep_check(run, _drained_snapshot(run, make_quality(run), tables))
    return list(deep.tables(tables, outcomes))


def make_deep_check(
    run: Run,
    snapshot: Callable[[], AbstractContextManager[ExactSnapshot]],
    *,
    restart: bool = True,
    claim: Callable[[str], bool] = lambda _: True,
) -> DeepCheck:
    """Make the comparison of all rows, as of the LSNs at which `snapshot` opens PostgreSQL."""

    def checkpoint(table: Table) -> Checkpoint:
        return run.store.checkpoint(table.name) or Checkpoint(source_table=table.name)

    return DeepCheck(
        clickhouse=run.clickhouse,
        snapshot=snapshot,
        checkpoint=checkpoint,
        plans=run.plans,
        restart=restart,
        claim=claim,
    )


def _drained_snapshot(
    run: Run, checks: Quality, tables: Sequence[Table]
) -> Callable[[], AbstractContextManager[ExactSnapshot]]:
    """Return what opens PostgreSQL at an LSN that the drain of these tables has passed."""
    return lambda: exact_snapshot(run.settings, lambda point: checks.fences.behind(point, tables))


def _suggested(settings: Settings, checks: Sequence[Check]) -> tuple[Check, ...]:
    """Return the checks, without the commands that repair rows if those are switched off."""
    bare = settings.repair == "off"
    return tuple(
        replace(check, repair="") if bare and check.check in ROWS else check for check in checks
    )


def _conditions(
    run: Run, checks: Quality, report: QualityReport, carried: Carried, *, deep: bool
) -> Conditions:
    late, tables = report.behind, run.catalog.tables
    ages = checks.ages(sorted(late)) if late else {}
    return Conditions(
        catalog=run.catalog,
        source=run.source,
        clickhouse=run.clickhouse,
        topics=run.topics,
        queries=run.queries,
        slot=run.settings.relay.slot,
        facts=_fact_counts(run),
        ahead=ahead_in(run),
        most_rows=None if deep else run.settings.count_rows,
        carried=carried,
        wrong_key=wrong_key(run, tables),
        late={table: ages.get((table, "caught_up"), 0) for table in late},
    )


def _carried(run: Run) -> CarriedForward:
    return CarriedForward(
        source=run.source,
        clickhouse=run.clickhouse,
        catalog=run.catalog,
        queries=run.queries,
        seconds=run.settings.carry_seconds,
    )


def _fact_counts(run: Run) -> FactCounts:
    return FactCounts(
        clickhouse=run.clickhouse,
        queries=run.queries,
        missing=lambda fact: FactCheck(rebuild=make_rebuild(run.clickhouse, fact)).missing(),
    )


def _exact_fence(settings: Settings, tables: Sequence[Table]) -> Fence:
    outcomes, rows = Outcomes(), dict[str, int]()
    with exact_snapshot(settings, lambda _: {}) as snapshot:
        for table in tables:
            with outcomes.of(table.name):
                rows[table.name] = snapshot.count(table)
        return Fence(lsn=snapshot.point, rows=rows, troubles=outcomes.troubles)


def make_quality(run: Run) -> Quality:
    """Make the minute's checks, which first bring the drain and the facts past their fence."""
    settings, topics, slot = run.settings, run.topics, run.settings.relay.slot
    causes = causes_in(run.catalog)
    results = Results(
        clickhouse=run.clickhouse, queries=run.queries, tell=Alerts(settings.alerts).tell
    )
    return Quality(
        source=run.source,
        clickhouse=run.clickhouse,
        catalog=run.catalog,
        queries=run.queries,
        missing=_fact_counts(run).missing_rows,
        fences=Fences(
            source=run.source,
            slot=slot,
            had_slot=lambda: slots.snapshot_taken(topics, settings.relay),
            published=lambda: topics.published(slot),
            catch_up=partial(_caught_up, run),
            seconds=settings.quality_seconds,
        ),
        exact=lambda tables: _exact_fence(settings, tables),
        keep=lambda lsn, checks, marks=_NONE: results.keep(
            lsn, causes.name(_suggested(settings, checks)), marks
        ),
        ages=results.ages,
        most_rows=settings.count_rows,
    )


def _caught_up(run: Run, seconds: float) -> CaughtUp:
    """Drain all tables for so many seconds, and rebuild all facts, each as far as possible.

    A table that another drain advances is neither at its end nor in trouble.
    """
    drained = drain_backlog(run, run.catalog.tables, patience=0, seconds=seconds)
    rebuilt = rebuild_changed(run, run.catalog.facts)
    troubles = {
        name: error
        for name, error in {**drained.troubles, **rebuilt.troubles}.items()
        if not isinstance(error, StaleCheckpoint)
    }
    return CaughtUp(ended=drained.at_end, troubles=troubles)


def _held(
    run: Run, checks: Quality, tables: Sequence[Table], report: QualityReport
) -> tuple[Check, ...]:
    """Check what the models expect of the rows of tables; see `_left_orphans` for other tables."""
    step = Expectations(
        clickhouse=run.clickhouse,
        catalog=run.catalog,
        pass_now=checks.pass_now,
        version=checks.version,
        drained=checks.drained,
    )
    ready, late = _parted(tables, report)
    ready += _left_orphans(run, tables)
    return checks.keep(report.fence, [*step.run(ready), *step.not_checked(late, _NOT_PASSED)])


def _left_orphans(run: Run, tables: Sequence[Table]) -> list[Table]:
    """Return the other tables that had rows without their row in these tables.

    Such a finding may have ended with the repair of these tables.
    """
    names = {table.name for table in tables}
    referred = causes_in(run.catalog).referred
    places = {at for at, target in referred.items() if target in names and at[0] not in names}
    if not places:
        return []
    listed = sorted({table for table, _ in places})
    rows = run.clickhouse.execute(run.queries["last_results"], tables=listed)
    left = {table for table, check, status in rows if (table, check) in places and status != "pass"}
    return [table for table in run.catalog.tables if table.name in left]


def _deep(
    run: Run, checks: Quality, tables: Sequence[Table], report: QualityReport, *, restart: bool
) -> tuple[tuple[Check, ...], dict[str, SluiceError]]:
    """Compare all rows of tables, of the facts that read these tables and of their rollups.

    Returns:
        The checks, and by table the errors of those that were not possible this time.
    """
    ready, late = _parted(tables, report)
    snapshot, outcomes = _drained_snapshot(run, checks, ready), Outcomes()
    with claims(run.settings.postgres) as claim:
        deep = make_deep_check(run, snapshot, restart=restart, claim=claim)
        differing = _compared(run, deep, ready, outcomes)
    found = [table_check(table, findings) for table, findings in differing]
    found += [not_checked(table.name, COLUMNS, _NOT_PASSED) for table in late]
    found += [not_checked(name, COLUMNS, error) for name, error in outcomes.troubles.items()]
    for fact in run.catalog.facts:
        if any(table in tables for table in fact.tables):
            step = FactCheck(rebuild=make_rebuild(run.clickhouse, fact))
            found += _derived(step, fact, outcomes)
    point = max((findings.point for _, findings in differing), default=report.fence)
    return checks.keep(point, graded(run.catalog, found)), passing(outcomes.troubles)


def _compared(
    run: Run, deep: DeepCheck, tables: Sequence[Table], outcomes: Outcomes
) -> list[tuple[Table, TableFindings]]:
    """Compare tables, and once more those that differed and that a resync has read meanwhile."""
    ((begun,),) = run.clickhouse.execute("SELECT now64(3)")
    first = list(deep.tables(tables, outcomes))
    wrong = [table.name for table, findings in first if findings.differences]
    if not wrong:
        return first
    rows = run.clickhouse.execute(run.queries["resynced_since"], begun=begun, tables=wrong)
    resynced = {name for (name,) in rows}
    again = deep.tables([table for table in tables if table.name in resynced], outcomes)
    return [*(pair for pair in first if pair[0].name not in resynced), *again]


def _derived(step: FactCheck, fact: Fact, outcomes: Outcomes) -> Iterator[Check]:
    """Check a fact and its rollups against ClickHouse's own tables; this needs no fence."""
    with outcomes.of(fact.name):
        yield fact_check(fact, step.rows())
    if fact.name in outcomes.troubles:
        yield not_checked(fact.name, "fact_rows", outcomes.troubles[fact.name])
    for rollup in fact.table.rollups:
        with outcomes.of(rollup.name):
            yield rollup_check(rollup, step.rollup(rollup))
        if rollup.name in outcomes.troubles:
            yield not_checked(rollup.name, "rollup_rows", outcomes.troubles[rollup.name])


def _parted(tables: Sequence[Table], report: QualityReport) -> tuple[list[Table], list[Table]]:
    """Divide tables into those that can be compared and those that are late."""
    waiting = {c.table for c in report.checks if c.check == "caught_up" and c.status in _WAITING}
    ready = [table for table in tables if table.name not in report.behind]
    return ready, [table for table in tables if table.name in waiting]
