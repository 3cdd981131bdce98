"""Compares every column of every row, every hour."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from sluice_airflow import tasks

with DAG(
    dag_id="sluice_deep_quality",
    dag_display_name="Sluice: deep quality",
    description="Compares every column of every row, and each fact with its join.",
    schedule=tasks.from_now_on("17 * * * *"),
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=3),
    default_args=tasks.DEFAULTS,
    tags=["sluice", "quality"],
    params={
        "tables": tasks.several(
            tasks.TABLES,
            title="Tables",
            description="The tables to compare, with the facts that read them. None: all.",
        ),
    },
    doc_md="""
### Deep quality
Row counts alone hide errors that cancel out. Once an hour every column of every row is compared as
of an exact point of the WAL: one checksum per bucket on both sides, then the rows of the buckets
that differ, then their columns. Concurrent writes raise no false alarm. A finding names its keys
and columns and the `sluice resync` command that repairs exactly those. The next run resumes a run
that was killed or timed out.

On the command line: `sluice quality --deep [TABLE...]`.
""",
) as dag:
    tasks.compare_deeply()
