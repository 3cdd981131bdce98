"""What the tasks do: one call of the library, one line in the log, errors Airflow understands."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
)

from sluice.catalog import Catalog, Fact, Table, load_catalog
from sluice.catalog.quality_options import Status
from sluice.errors import Retryable, SlotAwaited, SluiceError
from sluice.settings import WAREHOUSE_POOL
from sluice_airflow import assets, lineage
from sluice_airflow.connections import settings_from_connections

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
    """The models' catalog; reads no file but the models and opens no connection."""
    return load_catalog(os.environ.get("SLUICE_MODELS") or "models")


TABLES = [table.name for table in catalog().tables]
# The arguments of a DAG that people start, with a form.
BY_HAND: dict[str, Any] = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "max_active_runs": 1,
    "default_args": DEFAULTS,
    "tags": ["sluice", "repair"],
}


def drain_task(table: Table) -> Any:
    """The task that drains one table; skipped, with no asset event, when nothing came."""

    @task(
        task_id=f"drain_{table.name}",
        task_display_name=f"{table.topic} → cdc.{table.storage}",
        inlets=[assets.source(table), assets.topic(table)],
        outlets=[assets.current_state(table)],
        doc_md=f"Drains the changes of `{table.name}` from `{table.topic}` to their end into"
        f" `cdc.{table.storage}`, then moves the checkpoint. Running it again is harmless."
        " Skipped when nothing came.",
    )
    def drain(*, outlet_events: Any = None) -> None:
        from sluice import wiring

        with understood():
            settings = settings_from_connections()
            report = wiring.drain(settings, table.name)
        log.info(report.sentence())
        if not report.events:
            raise AirflowSkipException(f"{table.name}: nothing came")
        lineage.drained(settings, table)
        outlet_events[assets.current_state(table)].extra = {
            "table": table.name,
            "events": report.events,
            "next_offset": report.next_offset,
            "freshness_s": report.freshness_s,
        }

    return drain()


@task(
    outlets=[assets.DRAINED],
    trigger_rule="all_done",
    task_display_name="publish: drained",
    doc_md="Starts `sluice_rebuild`, every minute: a pipeline in which nothing arrives must be"
    " checked as well. Fails when a table's drain failed, after the event is out.",
)
def publish_drained() -> None:
    """The event that starts the rebuild."""


@task(
    trigger_rule="none_failed",
    task_display_name="every table drained?",
    doc_md="Fails the run when a drain failed.",
)
def require_drained() -> None:
    """Succeeds when no drain failed."""


def rebuild_task(fact: Fact) -> Any:
    """The task that brings one fact up to date."""

    @task(
        task_id=f"rebuild_{fact.name}",
        task_display_name=f"olap.{fact.name}",
        inlets=[assets.current_state(table) for table in fact.tables],
        outlets=[assets.fact(fact)],
        doc_md=f"Recomputes the rows of `{fact.name}` that drained changes touch. Works from the"
        " checkpoints, so a run that is left out loses nothing. Skipped when nothing had changed.",
    )
    def rebuild(*, outlet_events: Any = None) -> None:
        from sluice import wiring

        with understood():
            settings = settings_from_connections()
            report = wiring.rebuild(settings, fact.name)
        log.info(report.sentence())
        if report.mode == "none":
            raise AirflowSkipException(report.sentence())
        lineage.rebuilt(settings, fact)
        outlet_events[assets.fact(fact)].extra = {"mode": report.mode, "rows": report.rows}

    return rebuild()


def backfill_task(fact: Fact) -> Any:
    """The task that redoes one fact's day: that of the run's logical date."""

    @task(
        task_id=f"backfill_{fact.name}",
        task_display_name=f"olap.{fact.name} of the day",
        inlets=[assets.current_state(table) for table in fact.tables],
        doc_md=f"Recomputes the rows of `{fact.name}` of one day (UTC) from the current state."
        " Running it again, in any order or beside others, is harmless. A scheduled run takes the"
        " day that ended, a backfill's the day of its date.",
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
    """The day of a backfill's or a manual run's date; a scheduled one takes the day before."""
    at: datetime = (dag_run.logical_date or dag_run.run_after).astimezone(timezone.utc)
    scheduled = str(getattr(dag_run.run_type, "value", dag_run.run_type)) == "scheduled"
    return (at - timedelta(days=int(scheduled))).date()


@task(outlets=[assets.REBUILT], trigger_rule="none_failed", task_display_name="publish: rebuilt")
def publish_rebuilt() -> None:
    """The event that starts the checks."""


@task(
    retries=1,
    inlets=[assets.fact(fact) for fact in catalog().facts],
    task_display_name="Postgres = ClickHouse?",
    doc_md="Counts every table and fact on both sides, as of one point of the WAL, and fails"
    " with what differs, where, and the command that repairs it. Skipped before the relay's first"
    " snapshot is complete.",
)
def compare() -> None:
    """One run of the data-quality checks."""
    _check(deep=False)


@task(
    retries=1,
    execution_timeout=timedelta(hours=2),
    task_display_name="Postgres = ClickHouse, in every column?",
    doc_md="Compares every column of every row, and each fact with its join, as of one point of"
    " the WAL. Fails with the keys and columns that differ, and the command that repairs them."
    " Skipped before the relay's first snapshot is complete.",
)
def compare_deeply() -> None:
    """One run of the deep checks."""
    _check(deep=True)


def _check(*, deep: bool) -> None:
    from sluice import wiring

    with understood():
        settings = settings_from_connections()
        try:
            report = wiring.quality(settings, deep=deep)
        except SlotAwaited as error:
            raise AirflowSkipException(f"nothing to compare yet: {error.what}") from None
    for check in report.checks:
        log.log(logging.INFO if check.status == Status.PASS else logging.WARNING, check.sentence())
    if not report.passed:
        failed = [check.sentence() for check in report.checks if check.status == Status.FAIL]
        page = settings.alerts.page
        raise AirflowFailException("\n".join([*failed, *([f"see: {page}"] if page else [])]))
    with understood():
        report.require_passed()  # a table that could not be compared: tried again


@task(
    task_display_name="clean up and watch",
    doc_md="Removes what may go, one line each in the log, and fails with what a person has to"
    " look at: parts that pile up, disks that fill.",
)
def maintain(*, params: Any = None) -> None:
    """One run of the maintenance."""
    from sluice import wiring

    with understood():
        report = wiring.maintain(settings_from_connections(), timedelta(days=params["guard_days"]))
        for line in report.done:
            log.info(line)
        report.require_calm()


@contextmanager
def understood() -> Iterator[None]:
    """Retryable errors are retried; what a person has to decide fails at once."""
    try:
        yield
    except Retryable as error:
        raise AirflowException(str(error)) from None
    except SluiceError as error:
        raise AirflowFailException(str(error)) from None
