"""Replays rejected events of a table once the models accept them; started by hand."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from sluice_airflow import dead_letters, tasks

with DAG(
    dag_id="sluice_replay",
    dag_display_name="Sluice: replay",
    description="Stores dead letters of a table at their original positions.",
    **tasks.BY_HAND,
    params={
        **dead_letters.FORM,
        "pass_rejects": Param(
            False,
            type="boolean",
            title="Let them pass",
            description="For a topic that the drain refuses because too many events are invalid:"
            " drain it to its end, and make every invalid event a dead letter. Replays nothing.",
        ),
    },
    doc_md="""
### Replay
Validates the rejected events of a table again. Those that the models accept now are stored at their
original positions, so newer changes win, and are marked as replayed. The run fails if others are
still invalid, and names the first. Running it again changes nothing. The next minute rebuilds the
facts.

On the command line: `sluice dead-letters replay --table TABLE [--where CONDITION]`; for a topic
with too many invalid events: `sluice drain TABLE --pass-rejects --until-empty`.
""",
) as dag:
    dead_letters.replay()
