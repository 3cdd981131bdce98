"""After each rebuild: does ClickHouse equal Postgres?"""

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
Counts every table in one Postgres snapshot, brings the drain past that point, and counts
ClickHouse as of the same point, so that writes which go on raise no false alarm. A difference
that a second look confirms fails the task. Results are kept in `cdc.quality_checks`.

By hand: `sluice quality [TABLE...]`.
""",
) as dag:
    tasks.compare()
