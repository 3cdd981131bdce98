"""By hand: rejected events of a table, put in once the models take them."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.sdk import DAG, Param

from sluice_airflow import tasks

NAMES = [table.name for table in tasks.catalog().tables]

with DAG(
    dag_id="sluice_replay",
    dag_display_name="Sluice: replay",
    description="Puts dead letters of a table in, at the places they had.",
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
            " or offset>=100. None: all of the table.",
        ),
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
    tasks.replay()
