"""Every night: what grows, and what has to be watched."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, CronTriggerTimetable, Param

from sluice_airflow import tasks

with DAG(
    dag_id="sluice_maintenance",
    dag_display_name="Sluice: maintenance",
    description="Removes old delete markers, old history and killed shadow tables; merges.",
    schedule=CronTriggerTimetable("40 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    default_args=tasks.DEFAULTS,
    params={
        "guard_days": Param(
            30,
            type="integer",
            minimum=1,
            description="Delete markers younger than this stay. Longer than a replication slot may"
            " be behind and a topic keeps its events.",
        )
    },
    tags=["sluice", "maintenance"],
    doc_md="""
### Maintenance
Removes delete markers that nothing can need any more, history past its TTL, and the shadow tables
of full rebuilds that were killed. Merges what `olap.*` reads into one part a table, so that by day
FINAL merges only what the minutes since have written. Fails when a table has half the parts at
which ClickHouse refuses inserts, or a disk is nine tenths full. By hand: `sluice maintain`.
""",
) as dag:
    tasks.maintain()
