"""The one place that builds the pipeline from settings: adapters, queries, schemas.

Each function is one run of a step; the command line and the Airflow tasks call the same ones.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

from sluice.adapters.alerts import Alerts
from sluice.adapters.clickhouse import ClickHouse
from sluice.adapters.kafka import KafkaLog
from sluice.adapters.postgres import Fence, PostgresSource
from sluice.adapters.state_store import ClickHouseStore
from sluice.adapters.topics import Topics
from sluice.catalog import Catalog, Fact, Table, load_catalog
from sluice.conditions import Conditions
from sluice.dead_letters import Condition, DeadLetter, DeadLetters, ReplayReport, replay
from sluice.decoding import Decoder
from sluice.deep import DeepCheck
from sluice.drain import Drain
from sluice.errors import (
    NeedsPerson,
    NotReady,
    SlotBusy,
    SlotMissing,
    SluiceError,
    StaleCheckpoint,
    StaleRebuild,
    TableDiffers,
    TopicGap,
    WrongUsage,
)
from sluice.events import CONNECT, KeyText
from sluice.evolution import former_columns, require_same
from sluice.expectations import Expectations
from sluice.findings import TableFindings, fact_check, table_check
from sluice.generate.files import require_current
from sluice.generate.files import topics as topic_names
from sluice.maintenance import GUARD, Maintenance, MaintenanceReport
from sluice.monitor import Monitor
from sluice.ports import DrainReport
from sluice.positions import format_lsn
from sluice.quality import FAIL, PASS, Check, Quality, QualityReport, graded
from sluice.ranges import Plan, Plans
from sluice.rebuild import Rebuild, RebuildReport
from sluice.recovery import MENDED, Recovery
from sluice.relay import publication as publications
from sluice.relay import slot as slots
from sluice.relay.reading import (
    ExactSnapshot,
    FencedReading,
    division,
    exact_snapshot,
    fenced_reading,
)
from sluice.relay.rows import present_rows
from sluice.relay.snapshot import replacing
from sluice.repair import AUTO, DIFF, Repair, selected
from sluice.repair import forecast as describe_repair
from sluice.results import News, Results
from sluice.resync import Resync, ResyncReport
from sluice.selection import Selection, parse_key
from sluice.settings import PROJECT, AlertSettings, Settings
from sluice.statements import read_statements
from sluice.status import read_status
from sluice.warehouse import PIPELINE, create_warehouse, make_rebuild

log = logging.getLogger(__name__)

_ROWS = frozenset({"row_count", "rows"})
_MAINTENANCE = PROJECT / "sql/clickhouse/maintenance.sql"
_MONITOR = PROJECT / "sql/clickhouse/monitor.sql"
_LOOK_S = 5.0  # nobody looks at a page that waits longer for a broker


def initialise(settings: Settings) -> list[str]:
    """Create what is missing: topics, ClickHouse tables and views, publication; bring tables to
    their models. Idempotent.

    Returns:
        What was changed, and what is left to do, a line each.

    Raises:
        StaleGenerated: generated files are not what the models give.
        TableDiffers: a table needs a person; all others are done.
        PublicationIncomplete: the publication there is lacks a table of the models.
    """
    catalog = load_catalog(settings.models)
    require_current(catalog, settings.out, settings.clickhouse.cluster)
    Topics(settings.kafka).ensure(topic_names(catalog))
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        done, stopped = create_warehouse(clickhouse, catalog)
    with slots.session(settings.postgres) as cursor:
        publications.ensure(cursor, settings.relay, catalog)
    done += _unlike_postgres(settings, catalog)
    if stopped:
        raise TableDiffers("\n".join([*done, *map(str, stopped.values())]))
    return done


def _unlike_postgres(settings: Settings, catalog: Catalog) -> list[str]:
    """Tables whose columns in PostgreSQL are not their model's, a line each."""
    source = PostgresSource(settings.postgres)
    differences = {table.name: source.schema_differences(table) for table in catalog.tables}
    return [
        f"PostgreSQL's table {name} is not its model's: {'; '.join(lines)}; migrate it"
        for name, lines in differences.items()
        if lines
    ]


def drain(settings: Settings, table: str) -> DrainReport:
    """One run of a table's drain; see Drain.run."""
    catalog = load_catalog(settings.models)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        require_same(clickhouse, catalog.table(table))
        decoder = _decoder(clickhouse, catalog, table)
    with _drain(settings) as run:
        return run.run(decoder)


def resync(
    settings: Settings,
    name: str,
    *,
    lower: str = "",
    upper: str = "",
    keys: Sequence[str] = (),
    restart: bool = False,
) -> ResyncReport:
    """Read a table, or some of its keys, again from Postgres; see Resync.run."""
    table = load_catalog(settings.models).table(name)
    selection = _selection(table, lower, upper, keys)
    with resyncing(settings, table) as step:
        return step.run(table, selection, restart=restart)


def plan_resync(settings: Settings, name: str, *, lower: str = "", upper: str = "") -> Plan:
    """Divide a table, or a range of its keys, so that several can read it; see Resync.plan."""
    table = load_catalog(settings.models).table(name)
    with resyncing(settings, table) as step:
        return step.plan(table, _selection(table, lower, upper, ()))


def resync_share(settings: Settings, name: str, run: str, share: int, shares: int) -> ResyncReport:
    """Read one share of the ranges of a plan that are left; see Resync.read.

    Raises:
        NeedsPerson: changes were lost since it was planned.
    """
    table = load_catalog(settings.models).table(name)
    with resyncing(settings, table) as step:
        plan = step.plans.find(table, run)
        if plan is None:
            raise NeedsPerson(
                f"{name}: changes were lost since the resync began, or it began long ago",
                remedy=f"begin it again: sluice resync {name}, or a new run of sluice_resync",
            )
        return step.read(plan, share, shares)


@contextmanager
def resyncing(
    settings: Settings, table: Table, within: ExactSnapshot | None = None
) -> Iterator[Resync]:
    """What reads a table again; a gap in its topic is passed first, as its rows are read anew.

    Args:
        within: where rows are read, for all ranges; without it each has a fence of its own.
    """
    catalog = load_catalog(settings.models)
    topics = Topics(settings.kafka)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, _drain(settings) as drain:
        decoder = _decoder(clickhouse, catalog, table.name)
        plans = Plans(clickhouse=clickhouse, queries=read_statements(PIPELINE))

        def drain_once() -> None:
            with suppress(StaleCheckpoint):  # another drain is at work
                drain.run(decoder)

        try:
            drain_once()  # a gap shows only until the topic is as long again as it was
        except TopicGap:
            plans.drop(table)  # before the gap is forgotten: it came after the ranges that are done
            drain.skip_gap(table)

        def reading(of: Table, by_offset: bool) -> AbstractContextManager[FencedReading]:
            if within is not None:
                return within.reading(settings, of, topics, drain_once)
            return fenced_reading(settings, of, topics, drain_once, by_offset=by_offset)

        yield Resync(
            clickhouse=clickhouse,
            reading=reading,
            division=partial(division, settings),
            plans=plans,
        )


def _resync(
    settings: Settings, table: Table, selection: Selection, within: ExactSnapshot | None = None
) -> ResyncReport:
    with resyncing(settings, table, within) as step:
        return step.run(table, selection, restart=True)


def differences(settings: Settings, names: Sequence[str] = ()) -> list[tuple[Table, TableFindings]]:
    """What a deep check finds in tables now; nothing is kept or repaired."""
    catalog = load_catalog(settings.models)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, _drain(settings) as run:
        checks = _quality(settings, catalog, clickhouse, run)
        deep = _deep_check(clickhouse, _drained_snapshot(settings, checks))
        return list(deep.tables(catalog.select(tuple(names))))


def forecast(
    settings: Settings, name: str, *, lower: str = "", upper: str = "", keys: Sequence[str] = ()
) -> str:
    """What a resync of these rows would change, in one line; nothing is changed."""
    selection = _selection(load_catalog(settings.models).table(name), lower, upper, keys)
    ((table, findings),) = differences(settings, [name])
    return describe_repair(table, selected(table, findings, selection))


def repair(settings: Settings, names: Sequence[str] = (), *, mode: str = DIFF) -> list[str]:
    """Bring tables back to equality by their differences, all of them when none is named.

    A table whose topic has a gap is read again as a whole first, unless `mode` is auto.

    Returns:
        What was done, a line each.
    """
    catalog = load_catalog(settings.models)
    done = _close_gaps(settings, catalog) if mode == DIFF else []
    found = differences(settings, names)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        step = Repair(clickhouse=clickhouse, resync=partial(_resync, settings))
        for table, findings in found:
            report = step.run(table, findings, mode)
            done.append(report.sentence() if report else describe_repair(table, findings))
    return done + [rebuild(settings, fact.name).sentence() for fact in catalog.facts]


def recover(settings: Settings) -> Iterator[str]:
    """Bring everything back to equality after changes were lost, without dropping a table.

    Where the slot is of no use, or the server is another one, a new slot is made first; see
    Recovery. Where the relay can go on, what differs is read again; see `repair`.

    Returns:
        What is done, a line each, as it is done.

    Raises:
        NotReady: a relay is needed and does not run, or set-up is not finished.
        WrongUsage: the slot is Redpanda Connect's.
    """
    catalog, topics = load_catalog(settings.models), Topics(settings.kafka)
    topics.ensure(topic_names(catalog))
    fault = _fault(settings, catalog, topics)
    if fault is None:
        yield from repair(settings)
        return
    yield fault.what
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, _drain(settings) as run:
        store = ClickHouseStore(clickhouse)
        checkpoints = [store.checkpoint(table.name) for table in catalog.tables]
        if CONNECT in {found.source for found in checkpoints if found}:
            raise WrongUsage(
                "Redpanda Connect keeps its slot itself",
                remedy="let it make its slot again; then run: sluice resync --diff",
            )
        plans = Plans(clickhouse=clickhouse, queries=read_statements(PIPELINE))

        def drained(table: Table) -> None:
            plans.drop(table)  # changes were lost since the ranges that are done
            _drain_all(run, _decoder(clickhouse, catalog, table.name))

        step = Recovery(
            drained=drained,
            raise_epoch=run.raise_epoch,
            replacing=lambda: replacing(settings, catalog, topics),
            compare=lambda within: _deep_check(clickhouse, lambda: nullcontext(within)),
            repair=lambda within: Repair(
                clickhouse=clickhouse, resync=partial(_resync, settings, within=within)
            ),
        )
        yield from step.run(catalog.tables, fault)
    for fact in catalog.facts:
        yield rebuild(settings, fact.name).sentence()
    yield "start the relay: sluice up, or sluice relay"


def _fault(settings: Settings, catalog: Catalog, topics: Topics) -> SluiceError | None:
    """Why the relay cannot go on from its slot; None where it can."""
    try:
        ready = slots.prepare(settings.postgres, settings.relay, catalog, topics, snapshot=False)
    except SlotBusy:
        return None
    except MENDED as error:
        return error
    return None if ready.confirmed_lsn is not None else SlotMissing("there is no slot")


def _drain_all(run: Drain, decoder: Decoder) -> None:
    """Drain to the topic's end; what is missing from the topic is found by comparing."""
    while True:
        try:
            if run.run(decoder).caught_up:
                return
        except StaleCheckpoint:
            continue  # another drain is at work
        except TopicGap:
            run.skip_gap(decoder.table)


def _close_gaps(settings: Settings, catalog: Catalog) -> list[str]:
    """Read tables again whose topics lost messages; what was done."""
    gaps = []
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, _drain(settings) as run:
        for table in catalog.tables:
            try:
                run.run(_decoder(clickhouse, catalog, table.name))
            except StaleCheckpoint:
                continue  # another drain is at work
            except TopicGap as error:
                log.warning("%s: %s", table.name, error.what)
                gaps.append(table.name)
    return [resync(settings, name).sentence() for name in gaps]


def change_source(settings: Settings, source: str) -> list[str]:
    """Let another change source take over all tables; what was changed, a line each.

    Raises:
        NotReady: the present source still reads from the slot, or left undrained events.
        WrongUsage: there is no such source.
    """
    with slots.session(settings.postgres) as cursor:
        reader = slots.reader(cursor, settings.relay.slot)
    if reader is not None:
        raise NotReady(
            f"slot {settings.relay.slot!r} is being read from (pid {reader})",
            remedy="stop the present change source, then run it again",
        )
    catalog = load_catalog(settings.models)
    with _drain(settings) as drain:
        changed = [t.name for t in catalog.tables if drain.change_source(t, source)]
    return [f"{name}: from here on its changes come from {source}" for name in changed]


def _selection(table: Table, lower: str, upper: str, keys: Sequence[str]) -> Selection:
    if keys and (lower or upper):
        raise WrongUsage("give keys or a range of keys, not both")
    return Selection(
        lower=parse_key(table, lower) if lower else None,
        upper=parse_key(table, upper) if upper else None,
        keys=tuple(parse_key(table, key) for key in keys),
    )


def rebuild(settings: Settings, fact: str, *, full: bool = False) -> RebuildReport:
    """One run of a fact's rebuild; see Rebuild.run."""
    catalog = load_catalog(settings.models)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return make_rebuild(clickhouse, _fact(catalog, fact)).run(full=full)


def backfill(settings: Settings, fact: str, first: date, last: date) -> RebuildReport:
    """Redo a fact's days, both ends included; see Rebuild.backfill."""
    catalog = load_catalog(settings.models)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return make_rebuild(clickhouse, _fact(catalog, fact)).backfill(first, last)


def rollback(settings: Settings, fact: str) -> RebuildReport:
    """Undo a fact's last full rebuild; see Rebuild.rollback."""
    catalog = load_catalog(settings.models)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return make_rebuild(clickhouse, _fact(catalog, fact)).rollback()


def maintain(settings: Settings, guard: timedelta = GUARD) -> MaintenanceReport:
    """One run of the maintenance; see Maintenance.run."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return Maintenance(
            clickhouse=clickhouse,
            catalog=load_catalog(settings.models),
            queries=read_statements(_MAINTENANCE),
            guard=guard,
        ).run()


def quality(settings: Settings, tables: Sequence[str] = (), *, deep: bool = False) -> QualityReport:
    """One run of the checks, of all tables when none is named; see Quality.run and DeepCheck."""
    report = _checked(settings, tables, deep=deep)
    wrong = {c.table for c in report.checks if c.check in _ROWS and c.status == FAIL}
    if settings.repair != AUTO or not wrong:
        return report
    for line in repair(settings, sorted(wrong), mode=AUTO):
        log.warning("auto-repair: %s", line)
    return _checked(settings, tables, deep=deep)


def _checked(settings: Settings, tables: Sequence[str], *, deep: bool) -> QualityReport:
    catalog = load_catalog(settings.models)
    chosen = catalog.select(tuple(tables))
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, _drain(settings) as run:
        checks = _quality(settings, catalog, clickhouse, run)
        report = checks.run(chosen)
        found = _conditions(settings, catalog, clickhouse).run(chosen)
        checks.keep(report.fence, found)
        if deep and report.settled:
            held = Expectations(clickhouse=clickhouse, catalog=catalog, catch_up=checks.go_on).run(
                chosen
            )
            checks.keep(report.fence, held)
            found += held + _deep(settings, catalog, clickhouse, checks, chosen)
        together = _suggested(settings, report.checks + found)
        return QualityReport(checks=together, fence=report.fence)


def _suggested(settings: Settings, checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks with the commands that repair rows, or without where they are not wanted."""
    bare = settings.repair == "off"
    return tuple(
        replace(check, repair="") if bare and check.check in _ROWS else check for check in checks
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


def _quality(settings: Settings, catalog: Catalog, clickhouse: ClickHouse, run: Drain) -> Quality:
    rebuilds = {fact.name: make_rebuild(clickhouse, fact) for fact in catalog.facts}
    decoders = [_decoder(clickhouse, catalog, table.name) for table in catalog.tables]
    queries, gaps = read_statements(PIPELINE), dict[str, TopicGap]()
    results = Results(clickhouse=clickhouse, queries=queries, tell=Alerts(settings.alerts).tell)

    def catch_up() -> None:
        for decoder in decoders:
            try:
                run.run(decoder)
            except TopicGap as error:
                gaps[decoder.table.name] = error
        for step in rebuilds.values():
            _settled_rebuild(step)

    return Quality(
        source=PostgresSource(settings.postgres),
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
    )


def _deep(
    settings: Settings,
    catalog: Catalog,
    clickhouse: ClickHouse,
    checks: Quality,
    tables: Sequence[Table],
) -> tuple[Check, ...]:
    """The deep checks of tables and of the facts whose own table is among them."""
    deep = _deep_check(clickhouse, _drained_snapshot(settings, checks))
    compared = list(deep.tables(tables))
    found = [table_check(table, findings) for table, findings in compared]
    facts = [fact for fact in catalog.facts if fact.table in tables]
    found += [fact_check(fact, *checks.at_rest(fact, deep.fact)) for fact in facts]
    kept = graded(catalog, found)
    checks.keep(compared[0][1].point, kept)
    return kept


def _deep_check(
    clickhouse: ClickHouse, snapshot: Callable[[], AbstractContextManager[ExactSnapshot]]
) -> DeepCheck:
    def epoch(table: Table) -> int:
        found = ClickHouseStore(clickhouse).checkpoint(table.name)
        return found.epoch if found else 0

    return DeepCheck(clickhouse=clickhouse, snapshot=snapshot, epoch=epoch)


def _drained_snapshot(
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


def status(settings: Settings) -> dict[str, Any]:
    """The pipeline's part of `sluice status --json`: tables, fact, slot."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return read_status(
            load_catalog(settings.models),
            PostgresSource(settings.postgres),
            clickhouse,
            Topics(settings.kafka),
            read_statements(PIPELINE),
            settings.relay.slot,
        )


@contextmanager
def monitor(settings: Settings) -> Iterator[Monitor]:
    """What the CDC page reads with; its sessions end with the context."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        yield Monitor(
            catalog=load_catalog(settings.models),
            source=PostgresSource(settings.postgres),
            clickhouse=clickhouse,
            topics=Topics(settings.kafka, seconds=_LOOK_S),
            queries={**read_statements(PIPELINE), **read_statements(_MONITOR)},
            slot=settings.relay.slot,
        )


def tell(alerts: AlertSettings, found: Check) -> None:
    """Tell what no check has found to where checks tell their findings."""
    Alerts(alerts).tell([News(check=found, before=PASS)])


def query(settings: Settings, text: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a query on ClickHouse."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return clickhouse.table(text)


def dead_letters(
    settings: Settings,
    table: str,
    limit: int,
    conditions: Sequence[Condition] = (),
    *,
    replayed: bool = False,
) -> list[DeadLetter]:
    """The newest rejected events; see DeadLetters.newest."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        letters = DeadLetters(clickhouse=clickhouse)
        return letters.newest(table, conditions, replayed=replayed, limit=limit)


def replay_dead_letters(
    settings: Settings, table: str, conditions: Sequence[Condition] = ()
) -> ReplayReport:
    """Put a table's open dead letters in; see dead_letters.replay."""
    catalog = load_catalog(settings.models)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, _drain(settings) as run:
        require_same(clickhouse, catalog.table(table))
        letters = DeadLetters(clickhouse=clickhouse)
        return replay(letters, run, _decoder(clickhouse, catalog, table), conditions)


def _settled_rebuild(step: Rebuild) -> None:
    try:
        step.run()
    except StaleRebuild:
        step.run()


@contextmanager
def _drain(settings: Settings) -> Iterator[Drain]:
    with (
        closing(ClickHouse(settings.clickhouse)) as clickhouse,
        closing(KafkaLog(settings.kafka)) as changes,
    ):
        yield Drain(
            changes=changes,
            store=ClickHouseStore(clickhouse),
            limits=settings.drain,
            reread=lambda table, keys: _present_rows(settings, table, keys),
        )


def _present_rows(settings: Settings, table: Table, keys: Sequence[KeyText]) -> list[bytes]:
    with slots.session(settings.postgres) as cursor:
        return present_rows(cursor, table, keys)


def _decoder(clickhouse: ClickHouse, catalog: Catalog, name: str) -> Decoder:
    table = catalog.table(name)
    try:
        schemas = importlib.import_module(catalog.schemas)
        event_type = getattr(schemas, f"{table.model}Event")
    except (ImportError, AttributeError) as error:
        raise WrongUsage(
            f"{catalog.schemas} has no schema of {name}", remedy="run: make generate"
        ) from error
    return Decoder(table, event_type, former_columns(clickhouse, table))


def _fact(catalog: Catalog, name: str) -> Fact:
    for fact in catalog.facts:
        if fact.name == name:
            return fact
    known = ", ".join(fact.name for fact in catalog.facts)
    raise WrongUsage(f"no fact {name!r} in the models (known: {known})")
