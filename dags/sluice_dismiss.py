"""By hand: rejected events of a table, closed for good."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.sdk import DAG, Param

from sluice_airflow import tasks

NAMES = [table.name for table in tasks.catalog().tables]

with DAG(
    dag_id="sluice_dismiss",
    dag_display_name="Sluice: dismiss",
    description="Closes dead letters of a table that nobody needs.",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    max_active_runs=1,
    default_args=tasks.DEFAULTS,
    tags=["sluice", "repair"],
    params={
        "table": Param(NAMES[0], type="string", enum=NAMES, title="Table"),
        "where": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            title="Conditions",
            description="Which dead letters, one condition a line, such as reason~price (contains)"
            " or offset<=100. None: all of the table.",
        ),
        "reason": Param(
            "", type="string", title="Reason", description="Why they may be forgotten; it is kept."
        ),
    },
    doc_md="""
### Dismiss
Closes the rejected events that the form chooses: they are kept, and no longer counted. Who started
the run and the reason are written to `cdc.dead_letter_dismissals`, a row for each event. Nothing is
put into ClickHouse's tables; for that there is `sluice_replay`. Running it again changes nothing.

By hand: `sluice dead-letters dismiss --table TABLE [--where CONDITION] --reason REASON`.
""",
) as dag:
    tasks.dismiss()
