"""Dismisses rejected events of a table; started by hand."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from sluice_airflow import dead_letters, tasks

with DAG(
    dag_id="sluice_dismiss",
    dag_display_name="Sluice: dismiss",
    description="Dismisses dead letters of a table that are not needed.",
    **tasks.BY_HAND,
    params={
        **dead_letters.FORM,
        "reason": Param(
            "", type="string", title="Reason", description="Why they are not needed; recorded."
        ),
    },
    doc_md="""
### Dismiss
Dismisses the rejected events selected in the form: they are kept, and no longer count as open. The
user who started the run and the reason are recorded for each event in `cdc.dead_letter_dismissals`.
No table is changed; to store the events, use `sluice_replay`. Running it again changes nothing.

On the command line:
`sluice dead-letters dismiss --table TABLE [--where CONDITION] --reason REASON`.
""",
) as dag:
    dead_letters.dismiss()
