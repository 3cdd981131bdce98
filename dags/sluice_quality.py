"""Compares ClickHouse with PostgreSQL after each rebuild."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from sluice_airflow import assets, deadlines, tasks

with DAG(
    dag_id="sluice_quality",
    dag_display_name="Sluice 3: quality",
    description="Compares row counts of Postgres and ClickHouse as of one point of the WAL.",
    schedule=[assets.REBUILT],
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=10),
    deadline=deadlines.deadline(),
    default_args=tasks.DEFAULTS,
    tags=["sluice", "quality"],
    doc_md="""
### Quality
Counts every table in one PostgreSQL snapshot, drains past that point, and counts ClickHouse as of
the same point, so that concurrent writes raise no false alarm. A difference that a second count
confirms fails the task. Results are stored in `cdc.quality_checks`.

On the command line: `sluice quality [TABLE...]`.
""",
) as dag:
    tasks.compare()
