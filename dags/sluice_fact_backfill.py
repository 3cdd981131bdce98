"""Recomputes the facts of one day, for Airflow's backfills."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from sluice_airflow import tasks

with DAG(
    dag_id="sluice_fact_backfill",
    dag_display_name="Sluice: backfill of the facts by day",
    description="Recomputes the facts of one day from the current state.",
    schedule=tasks.from_now_on("0 0 * * *"),
    max_active_runs=4,
    dagrun_timeout=timedelta(hours=1),
    default_args=tasks.DEFAULTS,
    tags=["sluice", "star"],
    doc_md="""
### Backfill by day
A run recomputes the facts of the day (UTC) of its logical date, from the current state of the
source tables, and writes delete markers for facts that no longer exist. A scheduled run, every
night, takes the previous day. Runs can be repeated, in any order and concurrently.

A range of days: *Trigger → Backfill* in the UI, or

    airflow backfill create --dag-id sluice_fact_backfill \\
        --from-date 2026-03-01 --to-date 2026-03-31

Both ends are included. The form takes days in the zone that Airflow shows: choose UTC there first,
or the first day may be left out. Days that ran before are skipped unless `--reprocess-behavior
completed` (all of them) or `failed` is chosen; *Reprocess* in the UI. The run of a night counts for
the day on which it ran: *clear* a night that failed, and choose `completed` for today. Without
Airflow, for any range in one run: `sluice rebuild --from 2026-03-01 --to 2026-03-31`.
""",
) as dag:
    for fact in tasks.catalog().facts:
        if fact.date:
            tasks.backfill_task(fact)
