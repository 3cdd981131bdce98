"""The tasks of `sluice_replay` and `sluice_dismiss`, and the form by which both choose events."""

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
        description="Which dead letters, one condition a line, such as reason~price (contains)"
        " or offset>=100. None: all of the table.",
    ),
}


@task(
    retries=0,
    task_display_name="put rejected events in",
    doc_md="Replays the dead letters that the form chooses. Fails with the reason of the first that"
    " is still invalid, after the others went in. With *Let them pass*, drains the table's topic to"
    " its end, however many events become dead letters, and replays nothing.",
)
def replay(*, params: Any = None) -> None:
    """One replay of a table's dead letters, or a drain that lets events become some."""
    from sluice import wiring
    from sluice.drain.dead_letters import parse_condition

    with understood():
        conditions = [parse_condition(text) for text in params["where"] or ()]
        settings = settings_from_connections()
        if params["pass_rejects"]:
            for drained in wiring.drain_until_empty(settings, params["table"], pass_rejects=True):
                log.info(drained.sentence())
            return
        report = wiring.replay_dead_letters(settings, params["table"], conditions)
    if report.rejected:
        raise AirflowFailException(report.sentence())
    log.info(report.sentence())


@task(
    retries=0,
    task_display_name="close rejected events",
    doc_md="Dismisses the dead letters that the form chooses, in the name of who started the run.",
)
def dismiss(*, params: Any = None) -> None:
    """One dismissal of a table's dead letters."""
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
