"""By hand: rejected events of a table, put in once the models take them."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from sluice_airflow import dead_letters, tasks

with DAG(
    dag_id="sluice_replay",
    dag_display_name="Sluice: replay",
    description="Puts dead letters of a table in, at the places they had.",
    **tasks.BY_HAND,
    params={
        **dead_letters.FORM,
        "pass_rejects": Param(
            False,
            type="boolean",
            title="Let them pass",
            description="For a topic that the drain refuses because too many of its events are"
            " invalid: drain it to its end; all that is invalid becomes a dead letter. Nothing is"
            " replayed.",
        ),
    },
    doc_md="""
### Replay
Validates the rejected events of a table again. Those that the models take now go in at their
original positions, so what is newer stays, and are marked as replayed; the run fails when others
are still invalid, and names the first. Running it again changes nothing. The next minute rebuilds
the facts.

By hand: `sluice dead-letters replay --table TABLE [--where CONDITION]`; a topic with too many
invalid events: `sluice drain TABLE --pass-rejects --until-empty`.
""",
) as dag:
    dead_letters.replay()
