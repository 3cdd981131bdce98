"""Removes what is no longer needed and checks parts and disks, every night."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from sluice_airflow import tasks

with DAG(
    dag_id="sluice_maintenance",
    dag_display_name="Sluice: maintenance",
    description="Removes old delete markers, history, dead letters and shadow tables; merges.",
    schedule=tasks.from_now_on("40 2 * * *"),
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    default_args=tasks.DEFAULTS,
    params={
        "guard_days": Param(
            30,
            type="integer",
            minimum=1,
            description="Keep delete markers younger than this, in days. It must exceed the lag of"
            " the replication slot and the retention of the topics.",
        )
    },
    tags=["sluice", "maintenance"],
    doc_md="""
### Maintenance
Removes delete markers that are no longer needed, history past its TTL, dead letters older than
`SLUICE_DEAD_LETTER_DAYS`, and shadow tables of interrupted full rebuilds. Merges the tables below
`olap.*` into one part each, so that FINAL has only the rows written since to merge. Fails when a
table has half the parts at which ClickHouse refuses inserts, or a disk is 90 % full. On the command
line: `sluice maintain`.
""",
) as dag:
    tasks.maintain()
