"""Drains the topics' changes into ClickHouse, every minute."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, CronTriggerTimetable

from sluice_airflow import deadlines, tasks

with DAG(
    dag_id="sluice_drain",
    dag_display_name="Sluice 1: drain",
    description="Drains every cdc.* topic into its current-state table.",
    schedule=CronTriggerTimetable("* * * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=15),
    deadline=deadlines.deadline(),
    default_args=tasks.DEFAULTS,
    tags=["sluice", "cdc"],
    doc_md="""
### Drain
Reads the topics of all tables with undrained events from their checkpoints to their ends, several
at a time, validates each event, and writes the row versions, then the checkpoint. A table without
events costs nothing; one that fails does not delay the others and is drained again in a task of its
own, which names it. Concurrent runs are harmless: rows carry the version of their change.

`sluice_rebuild` follows each run. On the command line: `sluice drain [TABLE...]`.
""",
) as dag:
    drained = tasks.drain()
    drained >> tasks.drain_failed()
    tasks.drain_apart.expand(tables=drained)
