"""Defines the tasks of `sluice_resync`: the plan from the form, and a mapped task for each part."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sluice.execution.outcomes import Outcomes, together
from sluice.printable import named
from sluice.settings import Settings
from sluice_airflow.connections import settings_from_connections
from sluice_airflow.tasks import logged_check, understood

log = logging.getLogger("sluice.tasks")

RECOVER, FORECAST, DIFF, KEYS, RANGES = "recover", "forecast", "diff", "keys", "ranges"
ALL = "all"  # all rows of a table that could not be divided into ranges


@task(
    task_display_name="plan",
    doc_md="Divides the run by the form into parts: the recovery, a dry run or the keys of a table,"
    " all tables to compare, or a share of a table's key ranges. An interrupted run of a table is"
    " resumed.",
)
def plan_parts(*, params: Any = None) -> list[dict[str, Any]]:
    """Return the parts of the run; keys in the form need exactly one table."""
    if params["recover"]:
        return [{"do": RECOVER, "name": "recover all tables"}]
    tables = list(params["tables"])
    if not tables:
        raise AirflowFailException("no table is chosen: choose at least one")
    bounded = bool(params["from_key"] or params["to_key"])
    if len(tables) > 1 and (bounded or params["keys"]):
        raise AirflowFailException("keys need exactly one table: choose one table")
    if params["dry_run"]:
        return [{"do": FORECAST, "name": name, "table": name} for name in tables]
    if params["keys"]:
        return [{"do": KEYS, "name": tables[0], "table": tables[0]}]
    if params["diff"] and not bounded:
        return [{"do": DIFF, "name": named(tables), "tables": tables}]
    parts: list[dict[str, Any]] = []
    with understood():
        settings = settings_from_connections()
        for name in tables:
            outcomes = Outcomes()
            with outcomes.of(name):
                parts += _shares(settings, name, params)
            for error in outcomes.troubles.values():  # the table's own task meets it, if it lasts
                log.warning("%s: %s", name, error)
                parts.append({"do": ALL, "name": name, "table": name})
    return parts


def _shares(settings: Settings, name: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    from sluice import wiring

    plan = wiring.plan_resync(
        settings, name, lower=params["from_key"] or "", upper=params["to_key"] or ""
    )
    shares = min(params["readers"], len(plan.ranges))
    log.info("%s: %d of %d ranges are to be read", name, len(plan.open), len(plan.ranges))
    return [
        {
            "do": RANGES,
            "name": name if shares == 1 else f"{name}, share {share + 1} of {shares}",
            "table": name,
            "run": plan.run,
            "share": share,
            "shares": shares,
        }
        for share in range(shares)
    ]


@task(
    max_active_tis_per_dagrun=2,  # leaves half of the pool to the minute loop
    execution_timeout=timedelta(hours=6),
    map_index_template="{{ part_name }}",
    task_display_name="read again",
    doc_md="Reads rows again, each range of keys behind its own fence, and waits until they are"
    " drained. Logs progress and the remaining time after every range. Resumes with the open"
    " ranges after it was killed or cleared.",
)
def resync_part(part: dict[str, Any], *, params: Any = None) -> None:
    """Run one part."""
    from airflow.sdk import get_current_context

    get_current_context()["part_name"] = part["name"]  # type: ignore[typeddict-unknown-key]
    with understood():
        for line in _resynced(settings_from_connections(), part, params):
            log.info(line)


@task(
    retries=1,
    execution_timeout=timedelta(hours=2),
    task_display_name="check again",
    doc_md="Compares every column of the tables, and the facts that read them. The results close"
    " findings or confirm them; a finding fails `sluice_quality`, not this task.",
)
def check_again(*, params: Any = None) -> None:
    """Check the tables of the form; after a recovery all."""
    if params["dry_run"] or not params["check"]:
        raise AirflowSkipException("nothing was read again, or no check was asked for")
    with understood():
        settings = settings_from_connections()
        tables = () if params["recover"] else params["tables"]
        report = logged_check(settings, tables, deep=True)
        if report.troubles:
            raise together(report.troubles)


def _resynced(
    settings: Settings, part: Mapping[str, Any], params: Mapping[str, Any]
) -> Iterator[str]:
    """Run a part; yield a line about each result."""
    from sluice import wiring

    chosen: dict[str, Any] = {
        "lower": params["from_key"] or "",
        "upper": params["to_key"] or "",
        "keys": params["keys"] or (),
    }
    if part["do"] == RECOVER:
        yield from wiring.recover(settings)
    elif part["do"] == FORECAST:
        yield wiring.forecast(settings, part["table"], **chosen)
    elif part["do"] == DIFF:
        yield from wiring.repair(settings, part["tables"])
    elif part["do"] in {KEYS, ALL}:
        report = wiring.resync(settings, part["table"], **chosen)
        yield report.sentence()
        report.require_stored()
    else:
        share = [part[name] for name in ("table", "run", "share", "shares")]
        report = wiring.resync_share(settings, *share)
        yield report.sentence()
        report.require_stored()
