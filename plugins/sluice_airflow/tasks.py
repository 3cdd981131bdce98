"""Defines the tasks: each calls the library, logs its result, and translates its errors."""

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
    """Return the models' catalog; read no file but the models, and open no connection."""
    return load_catalog(os.environ.get("SLUICE_MODELS") or "models")


TABLES = [table.name for table in catalog().tables]
# The arguments of a DAG that a person starts with a form.
BY_HAND: dict[str, Any] = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "max_active_runs": 1,
    "default_args": DEFAULTS,
    "tags": ["sluice", "repair"],
}


def drain_task(table: Table) -> Any:
    """Return the task that drains one table; without events it is skipped, with no asset event."""

    @task(
        task_id=f"drain_{table.name}",
        task_display_name=f"{table.topic} → cdc.{table.storage}",
        inlets=[assets.source(table), assets.topic(table)],
        outlets=[assets.current_state(table)],
        doc_md=f"Drains the changes of `{table.name}` from `{table.topic}` into"
        f" `cdc.{table.storage}`, then moves the checkpoint. Running it again is harmless."
        " Skipped when there are no events.",
    )
    def drain(*, outlet_events: Any = None) -> None:
        from sluice import wiring

        with understood():
            settings = settings_from_connections()
            report = wiring.drain(settings, table.name)
        log.info(report.sentence())
        if not report.events:
            raise AirflowSkipException(f"{table.name}: no events")
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
    doc_md="Starts `sluice_rebuild` every minute, also without events: an idle pipeline is checked"
    " as well. Runs when the drain of a table failed, too.",
)
def publish_drained() -> None:
    """Emit the asset event that starts the rebuild."""


@task(
    trigger_rule="none_failed",
    task_display_name="every table drained?",
    doc_md="Fails the run when a drain failed.",
)
def require_drained() -> None:
    """Succeed when no drain failed."""


def rebuild_task(fact: Fact) -> Any:
    """Return the task that rebuilds one fact."""

    @task(
        task_id=f"rebuild_{fact.name}",
        task_display_name=f"olap.{fact.name}",
        inlets=[assets.current_state(table) for table in fact.tables],
        outlets=[assets.fact(fact)],
        doc_md=f"Recomputes the rows of `{fact.name}` that drained changes affect. Works from the"
        " checkpoints, so a missed run loses nothing. Skipped when there are no changes.",
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


@task(outlets=[assets.REBUILT], trigger_rule="none_failed", task_display_name="publish: rebuilt")
def publish_rebuilt() -> None:
    """Emit the asset event that starts the checks."""


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
def compare_deeply() -> None:
    """Run the deep checks."""
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
        report.require_passed()  # retried if a table could not be compared


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
