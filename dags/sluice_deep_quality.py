"""Every hour: is every column of every row the same on both sides?"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable

from sluice_airflow import tasks

with DAG(
    dag_id="sluice_deep_quality",
    dag_display_name="Sluice: deep quality",
    description="Compares every column of every row, and each fact with its join.",
    # Without a start date and with no time to run late, the first run is the next one: Airflow
    # would else make up for one missed by minutes, while the stack is still starting.
    schedule=CronTriggerTimetable("17 * * * *", timezone="UTC", run_immediately=timedelta()),
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=3),
    default_args=tasks.DEFAULTS,
    tags=["sluice", "quality"],
    doc_md="""
### Deep quality
Row counts alone hide errors that cancel out. Once an hour every column of every row is compared as
of an exact point of the WAL: a checksum a bucket on both sides, then the rows of the buckets that
differ, then their columns. Writes that go on raise no alarm. A finding names its keys and columns
and the `sluice resync` command that repairs exactly those. A run that was killed or timed out is
gone on with by the next one.

By hand: `sluice quality --deep [TABLE...]`.
""",
) as dag:
    tasks.compare_deeply()
