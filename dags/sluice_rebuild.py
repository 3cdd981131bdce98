"""Rebuilds the facts after each drain."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from sluice_airflow import assets, deadlines, tasks

with DAG(
    dag_id="sluice_rebuild",
    dag_display_name="Sluice 2: rebuild",
    description="Updates the facts with the drained changes.",
    schedule=[assets.DRAINED],
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=30),
    deadline=deadlines.deadline(),
    default_args=tasks.DEFAULTS,
    tags=["sluice", "star"],
    params={
        "full": tasks.several(
            tasks.FACTS,
            title="In full",
            description="Facts whose rows are all recomputed, as after a check has found wrong"
            " ones. Readers have the present rows until the new ones replace them.",
        ),
    },
    doc_md="""
### Rebuild
Recomputes the facts that changes since the last rebuild may have altered, and writes delete markers
for those that no longer exist. The cost grows with the changes, not with the table; a fact without
changes costs nothing.

`sluice_quality` follows each run. On the command line: `sluice rebuild`; all rows:
`sluice rebuild --full`.
""",
) as dag:
    rebuilt = tasks.rebuild()
    tasks.rebuild_apart.expand(fact=rebuilt)
