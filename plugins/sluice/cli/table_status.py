"""Prints `sluice status TABLE`: the state of one table, its checks, and what was repaired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluice.cli.output import say
from sluice.cli.status import local_time, print_concerns, print_tables
from sluice.cli.tables import print_table

_KEYS = 5  # keys of a finding that are printed


def print_table_status(state: Mapping[str, Any]) -> None:
    """Print a table's status for people, with local times; errors follow on stderr."""
    name, drain, resync = state["table"], state["last_drain"], state["last_resync"]
    say(f"{state['topic']} -> {state['storage']}")
    print_tables({"tables": {name: state}, "facts": {}})
    say(f"last drain: {_drain_words(drain) if drain else 'none with events yet'}")
    say(f"last resync: {_resync_words(resync) if resync else 'none yet'}")
    if state["running"]:
        say(_running_line(state["running"]))
    compared = state["compared_at"]
    say(f"every column compared: {local_time(compared) if compared else 'not yet'}")
    if state["checks"]:
        names = ["check", "result", "Postgres", "ClickHouse", "keys", "when"]
        print_table(names, [_check_row(check) for check in state["checks"]])
    if state["differing"]:
        say("rows that differed, as they are now:")
        lines = [line for row in state["differing"] for line in _row_lines(row)]
        print_table(["key", "column", "PostgreSQL", "ClickHouse"], lines)
    for closed in state["closed"]:
        say(_closed_line(closed))
    print_concerns(state["concerns"])
    for trouble in state["troubles"].values():
        say(*f"{name}: {trouble}".split("\n"), err=True)
    for error in dict.fromkeys(state["errors"].values()):
        say(*error.split("\n"), err=True)


def _check_row(check: Mapping[str, Any]) -> list[Any]:
    from sluice.quality.checks import COMPARED

    counted = check["check"] in COMPARED
    sides = [check["postgres"], check["clickhouse"]] if counted else ["", ""]
    keys = check["keys"]
    named = ", ".join(keys[:_KEYS]) + (", ..." if len(keys) > _KEYS else "")
    return [check["check"], check["status"], *sides, named, local_time(check["checked_at"])]


def _row_lines(row: Mapping[str, Any]) -> list[list[str]]:
    """Return a line for each column that differs, or one for the row."""
    if row["in_postgres"] and row["in_clickhouse"] and row["values"]:
        return [
            [row["key"], one["column"], _value(one["postgres"]), _value(one["clickhouse"])]
            for one in row["values"]
        ]
    words = {True: "equal" if row["in_postgres"] == row["in_clickhouse"] else "there"}
    sides = [words.get(row[side], "no such row") for side in ("in_postgres", "in_clickhouse")]
    return [[row["key"], "", *sides]]


def _value(text: str | None) -> str:
    return "NULL" if text is None else text


def _drain_words(drain: Mapping[str, Any]) -> str:
    rejected = f", {drain['rejected']} rejected" if drain["rejected"] else ""
    taken = f"{drain['events']} events{rejected} in {drain['seconds']:.1f} s"
    return f"{taken}, {local_time(drain['finished_at'])}"


def _resync_words(resync: Mapping[str, Any]) -> str:
    person = resync["done_by"] or "somebody"
    return (
        f"{resync['selection']} by {person}, {resync['rows']} rows read again,"
        f" {resync['deleted']} deleted, {local_time(resync['finished_at'])}"
    )


def _running_line(read: Mapping[str, Any]) -> str:
    from sluice.execution.progress import duration

    seconds = read["seconds_left"]
    left = "" if seconds is None else f", {duration(seconds)} left"
    return (
        f"running: {read['purpose']}, {read['ranges_done']} of {read['ranges']} ranges,"
        f" {read['rows_read']} of about {read['rows']} rows{left};"
        f" last range at {local_time(read['last_at'])}"
    )


def _closed_line(closed: Mapping[str, Any]) -> str:
    line = (
        f"{closed['check']} passed at {local_time(closed['passed_at'])},"
        f" after it failed at {local_time(closed['failed_at'])}"
    )
    return f"{line}; repaired: {_resync_words(closed['repair'])}" if closed["repair"] else line
