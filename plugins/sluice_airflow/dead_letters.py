"""Defines the tasks of `sluice_replay` and `sluice_dismiss`, and the form that selects events."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import Param, task
from airflow.sdk.exceptions import AirflowFailException

from sluice_airflow.connections import settings_from_connections
from sluice_airflow.tasks import TABLES, understood

log = logging.getLogger("sluice.tasks")

FORM: dict[str, Param] = {
    "table": Param(TABLES[0], type="string", enum=TABLES, title="Table"),
    "where": Param(
        None,
        type=["null", "array"],
        items={"type": "string"},
        title="Conditions",
        description="Which dead letters: one condition per line, such as reason~price (contains)"
        " or offset>=100. Empty: all of the table.",
    ),
}


@task(
    retries=0,
    task_display_name="replay rejected events",
    doc_md="Replays the dead letters selected in the form. If some are still invalid, replays the"
    " others and fails with the first reason. With *Let them pass*, only drains the table's topic"
    " to its end, and makes any number of invalid events dead letters.",
)
def replay(*, params: Any = None) -> None:
    """Replay a table's dead letters, or drain its topic whatever is invalid."""
    from sluice import wiring
    from sluice.drain.dead_letters import parse_condition

    with understood():
        conditions = [parse_condition(text) for text in params["where"] or ()]
        settings = settings_from_connections()
        if params["pass_rejects"]:
            for done in wiring.drain_until_empty(settings, [params["table"]], pass_rejects=True):
                for drained in done.reports:
                    log.info(drained.sentence())
                done.require()
            return
        report = wiring.replay_dead_letters(settings, params["table"], conditions)
    if report.rejected:
        raise AirflowFailException(report.sentence())
    log.info(report.sentence())


@task(
    retries=0,
    task_display_name="dismiss rejected events",
    doc_md="Dismisses the dead letters selected in the form, in the name of the run's user.",
)
def dismiss(*, params: Any = None) -> None:
    """Dismiss a table's dead letters."""
    from sluice import wiring
    from sluice.drain.dead_letters import parse_condition

    with understood():
        conditions = [parse_condition(text) for text in params["where"] or ()]
        line = wiring.dismiss_dead_letters(
            settings_from_connections(),
            params["table"],
            conditions,
            reason=params["reason"],
        )
    log.info(line)
