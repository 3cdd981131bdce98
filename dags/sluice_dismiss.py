"""By hand: rejected events of a table, closed for good."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from sluice_airflow import dead_letters, tasks

with DAG(
    dag_id="sluice_dismiss",
    dag_display_name="Sluice: dismiss",
    description="Closes dead letters of a table that nobody needs.",
    **tasks.BY_HAND,
    params={
        **dead_letters.FORM,
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
    dead_letters.dismiss()
