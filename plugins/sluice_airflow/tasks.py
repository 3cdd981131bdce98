"""Defines the tasks: each calls the library, logs its result, and translates its errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronTriggerTimetable, Param, task
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
)

from sluice.catalog import Catalog, Fact, Table, load_catalog
from sluice.errors import Retryable, SlotAwaited, SluiceError
from sluice.printable import first_lines
from sluice.settings import WAREHOUSE_POOL, Settings, read_models_name
from sluice_airflow import assets, lineage
from sluice_airflow.addresses import cdc_page
from sluice_airflow.connections import settings_from_connections

if TYPE_CHECKING:
    from sluice.execution.side_by_side import Results
    from sluice.quality.checks import QualityReport
    from sluice.star.rebuild import RebuildReport
    from sluice.wiring import Drained

log = logging.getLogger("sluice.tasks")

DEFAULTS: dict[str, Any] = {
    "owner": "sluice",
    "pool": WAREHOUSE_POOL,
    "retries": 2,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(seconds=30),
    "execution_timeout": timedelta(minutes=10),
}


def catalog() -> Catalog:
    """Return the models' catalog; read no file but the models, and open no connection."""
    return load_catalog(read_models_name(os.environ))


TABLES = [table.name for table in catalog().tables]
FACTS = [fact.name for fact in catalog().facts]


def several(names: list[str], *, title: str, description: str) -> Param:
    """Return a form's field that takes any of these names; none is preselected."""
    return Param(
        [],
        type="array",
        items={"type": "string", "enum": names},
        uniqueItems=True,
        examples=names,
        title=title,
        description=description,
    )


def from_now_on(cron: str) -> CronTriggerTimetable:
    """Return a schedule, in UTC, whose first run is the next one, for a DAG without a start date.

    With one, Airflow makes up for the last run before it, while the stack is still starting.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta())


# The arguments of a DAG that a person starts with a form.
BY_HAND: dict[str, Any] = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "max_active_runs": 1,
    "default_args": DEFAULTS,
    "tags": ["sluice", "repair"],
}


@task(
    task_display_name="topics → cdc.*",
    inlets=[of(table) for table in catalog().tables for of in (assets.source, assets.topic)],
    outlets=[assets.CURRENT_STATES, assets.DRAINED],
    doc_md="Drains the tables with undrained events from their topics into `cdc`, several at a"
    " time. Each drained table has a line in the log and an asset event. Tables that failed, and"
    " the shares of a large backlog, are left to `drain_apart`. Running it again is harmless."
    " Starts `sluice_rebuild` also without events: an idle pipeline is checked as well.",
)
def drain(*, outlet_events: Any = None) -> list[list[str]]:
    """Drain all tables; return lists of tables that each need a task of their own."""
    from sluice import wiring

    with understood():
        settings = settings_from_connections()
        done = wiring.drain_all(settings, processes=settings.drain.processes)
    _note_drained(settings, done, outlet_events)
    return [*map(list, done.shares), *([name] for name in done.troubles)]


@task(
    task_display_name="one table's topic → cdc",
    map_index_template="{{ task.op_kwargs['tables'] | join(', ') }}",
    outlets=[assets.CURRENT_STATES],
    doc_md="Drains tables whose drain failed, a task for each table, and the shares of a large"
    " backlog. Fails with each table's reason and remedy. Running it again drains what is left.",
)
def drain_apart(tables: list[str], *, outlet_events: Any = None) -> None:
    """Drain these tables; fail with the reasons of those that cannot be drained."""
    from sluice import wiring

    with understood():
        settings = settings_from_connections()
        done = wiring.drain_all(settings, tables)
        _note_drained(settings, done, outlet_events)
        done.require()


def _note_drained(settings: Settings, done: Drained, outlet_events: Any) -> None:
    """Log each table's result, and emit the asset events of those with events."""
    for report in done.reports:
        table = catalog().table(report.table)
        log.info("%s%s", report.sentence(), _seen_at(table))
        if not report.events:
            continue
        lineage.drained(settings, table)
        extra = {
            "table": table.name,
            "events": report.events,
            "next_offset": report.next_offset,
            "freshness_s": report.freshness_s,
        }
        outlet_events[assets.CURRENT_STATES].add(assets.current_state(table), extra=extra)
    for name, error in done.troubles.items():
        log.warning("%s: %s%s", name, error, _seen_at(catalog().table(name)))
    log.info("%d tables drained, %d in trouble", len(done.reports), len(done.troubles))


def _seen_at(table: Table) -> str:
    """Return the address of the table's page, for the end of a line; empty without one."""
    page = cdc_page()
    return f"; see: {page}tables/{table.name}" if page else ""


@task(
    outlets=[assets.DRAINED],
    trigger_rule="all_failed",
    task_display_name="check all the same",
    doc_md="Starts `sluice_rebuild` where the drain failed: the checks then say what is missing.",
)
def drain_failed() -> None:
    """Emit the asset event that starts the rebuild, in place of a drain that failed."""


@task(
    task_display_name="cdc.* → facts",
    inlets=[assets.current_state(table) for fact in catalog().facts for table in fact.tables],
    outlets=[assets.FACTS, assets.REBUILT],
    doc_md="Recomputes the rows of facts that drained changes affect; a fact without changes costs"
    " nothing. Works from the checkpoints, so a missed run loses nothing. Facts that failed are"
    " left to `rebuild_apart`. Starts `sluice_quality`. With *In full*, first recomputes all rows"
    " of the facts chosen in the form.",
)
def rebuild(*, outlet_events: Any = None, params: Any = None) -> list[str]:
    """Rebuild the facts with changes; return those that failed."""
    from sluice import wiring

    with understood():
        settings = settings_from_connections()
        for name in params["full"] if params else ():
            log.info(wiring.rebuild(settings, name, full=True).sentence())
        done = wiring.rebuild_all(settings)
    _note_rebuilt(settings, done, outlet_events)
    return list(done.troubles)


@task(
    task_display_name="cdc.* → one fact",
    map_index_template="{{ task.op_kwargs['fact'] }}",
    outlets=[assets.FACTS],
    doc_md="Rebuilds a fact whose rebuild failed. Fails with the reason and the remedy.",
)
def rebuild_apart(fact: str, *, outlet_events: Any = None) -> None:
    """Rebuild one fact; fail with the reason if it cannot be rebuilt."""
    from sluice import wiring

    with understood():
        settings = settings_from_connections()
        done = wiring.rebuild_all(settings, [fact])
        _note_rebuilt(settings, done, outlet_events)
        done.require()


def _note_rebuilt(settings: Settings, done: Results[RebuildReport], outlet_events: Any) -> None:
    """Log each fact's result, and emit the asset events of those that changed."""
    facts = {fact.name: fact for fact in catalog().facts}
    for report in done.results:
        log.info(report.sentence())
        if report.mode != "none":
            fact = facts[report.fact]
            lineage.rebuilt(settings, fact)
            extra = {"mode": report.mode, "rows": report.rows}
            outlet_events[assets.FACTS].add(assets.fact(fact), extra=extra)
    for name, error in done.troubles.items():
        log.warning("%s: %s", name, error)
    log.info("%d facts rebuilt, %d in trouble", len(done.results), len(done.troubles))


def backfill_task(fact: Fact) -> Any:
    """Return the task that recomputes one day of a fact, by the run's logical date."""

    @task(
        task_id=f"backfill_{fact.name}",
        task_display_name=f"olap.{fact.name} of the day",
        inlets=[assets.current_state(table) for table in fact.tables],
        doc_md=f"Recomputes the rows of `{fact.name}` of one day (UTC) from the current state."
        " Running it again, in any order or concurrently, is harmless. A scheduled run takes the"
        " previous day, a backfill's run the day of its date.",
    )
    def backfill(*, dag_run: Any = None) -> None:
        from sluice import wiring

        day = _day(dag_run)
        with understood():
            settings = settings_from_connections()
            report = wiring.backfill(settings, fact.name, day, day)
        log.info("%s: %s", day, report.sentence())
        lineage.rebuilt(settings, fact)

    return backfill()


def _day(dag_run: Any) -> date:
    """Return the day of the run's date; for a scheduled run, the day before it."""
    at: datetime = (dag_run.logical_date or dag_run.run_after).astimezone(timezone.utc)
    scheduled = str(getattr(dag_run.run_type, "value", dag_run.run_type)) == "scheduled"
    return (at - timedelta(days=int(scheduled))).date()


@task(
    retries=1,
    inlets=[assets.fact(fact) for fact in catalog().facts],
    task_display_name="Postgres = ClickHouse?",
    doc_md="Counts every table and fact on both sides, as of one point of the WAL. Fails with the"
    " differences and the command that repairs them. Skipped before the relay's first snapshot is"
    " complete.",
)
def compare() -> None:
    """Run the checks of every minute."""
    _check(deep=False)


@task(
    retries=1,
    execution_timeout=timedelta(hours=2),
    task_display_name="Postgres = ClickHouse, in every column?",
    doc_md="Compares every column of every row, and each fact with its join, as of one point of"
    " the WAL. Fails with the keys and columns that differ, and the command that repairs them."
    " Skipped before the relay's first snapshot is complete.",
)
def compare_deeply(*, params: Any = None) -> None:
    """Run the deep checks."""
    _check(params["tables"], deep=True)


def _check(tables: Sequence[str] = (), *, deep: bool) -> None:
    with understood():
        settings = settings_from_connections()
    report = logged_check(settings, tables, deep=deep)
    if not report.passed:
        failed = first_lines(report.failures, "more failed checks")
        page = settings.alerts.page
        raise AirflowFailException("\n".join([*failed, *([f"see: {page}"] if page else [])]))
    with understood():
        report.require_passed()  # retried if a table could not be compared


def logged_check(settings: Settings, tables: Sequence[str] = (), *, deep: bool) -> QualityReport:
    """Run the checks of tables, of all if none is named; log the results.

    Raises:
        AirflowSkipException: the relay has not completed its first snapshot.
    """
    from sluice import wiring

    with understood():
        try:
            report = wiring.quality(settings, tables, deep=deep)
        except SlotAwaited as error:
            raise AirflowSkipException(f"nothing to compare yet: {error.what}") from None
    for line in report.findings:
        log.warning(line)
    for line in report.sums:
        log.info(line)
    return report


@task(
    task_display_name="clean up and watch",
    doc_md="Removes what is no longer needed, one line each in the log. Fails when a person is"
    " needed: too many parts, or disks that are nearly full.",
)
def maintain(*, params: Any = None) -> None:
    """Run the maintenance."""
    from sluice import wiring

    with understood():
        report = wiring.maintain(settings_from_connections(), timedelta(days=params["guard_days"]))
        for line in report.done:
            log.info(line)
        report.require_calm()


@contextmanager
def understood() -> Iterator[None]:
    """Translate errors: Airflow retries a Retryable, and fails at once for any other."""
    try:
        yield
    except Retryable as error:
        raise AirflowException(str(error)) from None
    except SluiceError as error:
        raise AirflowFailException(str(error)) from None
