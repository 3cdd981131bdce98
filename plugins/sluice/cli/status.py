"""Reads and prints `sluice status`: of many tables those with problems and the sum of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sluice.cli.output import say
from sluice.cli.tables import print_table
from sluice.clients import slot_loss
from sluice.errors import SluiceError
from sluice.settings import Settings

_NAMES = ["table", "Postgres rows", "ClickHouse rows", "pending", "dead letters", "freshness s"]
_ROWS = 20  # so many tables are all shown; of more, at most as many with problems


def read_status(settings: Settings) -> dict[str, Any]:
    """Return the status that `sluice status --json` prints; parts that do not answer are empty."""
    from sluice import wiring
    from sluice.capture import metrics as telemetry
    from sluice.embedded.stack import Stack

    state: dict[str, Any] = {"services": {}, "tables": {}, "fact": {}, "slot": {}, "dags": {}}
    errors: list[str] = []
    try:
        services = Stack(settings).states()
        state["services"] = {name: asdict(service) for name, service in services.items()}
    except SluiceError as error:
        errors.append(str(error))
    metrics = settings.relay.metrics
    state["relay"] = telemetry.read_status(*metrics) if metrics else {}
    healthy = all(service["state"] == "running" for service in state["services"].values())
    try:
        state.update(wiring.status(settings))
        state["dags"] = _dag_states(settings)
    except SluiceError as error:
        errors.append(str(error))
    if errors:
        state["error"] = "\n".join(errors)
    failed = any(dag["last_state"] == "failed" for dag in state["dags"].values())
    return {**state, "healthy": healthy and not failed and not errors and not state.get("troubles")}


def _dag_states(settings: Settings) -> dict[str, Any]:
    from sluice.embedded.stack import Stack

    api = Stack(settings).airflow()
    states = {}
    for dag_id in sorted(api.dag_ids()):
        run = api.last_run(dag_id) or {}
        states[dag_id] = {
            "last_state": run.get("state"),
            "last_end": run.get("end_date"),
            "last_duration_s": run.get("duration"),
        }
    return states


def print_status(state: dict[str, Any], *, every: bool = False) -> None:
    """Print a status for people; see `print_tables`."""
    services = [
        (name, service["state"], service["pid"] or "", service["address"])
        for name, service in state["services"].items()
    ]
    print_table(["service", "state", "pid", "address"], services)
    if state["tables"]:
        print_tables(state, every=every)
    if state["slot"]:
        say(_slot_line(state["slot"]))
    if state["relay"]:
        relay = state["relay"]
        snapshot = relay["snapshot"]
        say(
            f"relay: {relay['state']}, {relay['events_per_second']} events/s,"
            f" {relay['seconds_behind']} s behind; snapshot: {snapshot['rows']} rows,"
            f" {snapshot['ranges_done']} of {snapshot['ranges']} ranges"
        )
    for dag_id, dag in state["dags"].items():
        say(f"{dag_id}: {dag['last_state']} at {dag['last_end']}")
    for name, trouble in state.get("troubles", {}).items():
        say(*f"{name}: {trouble}".split("\n"), err=True)
    if "error" in state:
        say(*state["error"].split("\n"), err=True)


def _slot_line(slot: dict[str, Any]) -> str:
    name, reason = slot["name"], slot["invalidation"]
    if reason:
        return f"slot {name}: invalidated, {slot_loss.cause(reason)}; {slot_loss.remedy(reason)}"
    if slot["wal_status"] is None:
        return f"slot {name}: does not exist"
    return f"slot {name}: WAL {slot['wal_status']}, {slot['lag_bytes']:,} bytes unconfirmed"


def print_tables(state: dict[str, Any], *, every: bool = False) -> None:
    """Print the rows of tables and facts on both sides.

    Of more than _ROWS, those with problems and the sum of all.

    Args:
        every: whether to print every table however many there are. Default: false.
    """
    tables, facts = state["tables"], state["facts"]
    if every or len(tables) + len(facts) <= _ROWS:
        print_table(_NAMES, [_row(name, tables, facts) for name in (*tables, *facts)])
        return
    problems = _problems(state)
    listed = [_row(name, tables, facts) for name in list(problems)[:_ROWS]]
    print_table(_NAMES, [*listed, *_sums(tables, facts)])
    if problems:
        hidden = len(problems) - len(listed)
        say(
            f"with problems: {len(problems)}"
            + (f", of which {hidden} are not shown" * bool(hidden))
        )
    say("every table: sluice status --all")


def _row(name: str, tables: dict[str, Any], facts: dict[str, Any]) -> Sequence[Any]:
    if name in tables:
        values = list(tables[name].values())
    else:
        values = [facts[name]["expected_rows"], facts[name]["rows"], "", "", ""]
    return [name, *("" if value is None else value for value in values)]


def _problems(state: dict[str, Any]) -> dict[str, None]:
    """Return the tables and facts with problems, the gravest kind first."""
    tables, facts = state["tables"], state["facts"]
    concerns = [(concern["severity"], concern["table"]) for concern in state["concerns"]]
    names = [
        *state.get("troubles", {}),
        *(name for severity, name in concerns if severity == "bad"),
        *(n for n, t in tables.items() if t["postgres_rows"] != t["clickhouse_rows"]),
        *(n for n, fact in facts.items() if fact["rows"] != fact["expected_rows"]),
        *(name for _, name in concerns),
    ]
    return dict.fromkeys(name for name in names if name in tables or name in facts)


def _sums(tables: dict[str, Any], facts: dict[str, Any]) -> list[list[Any]]:
    """Return the sum of all tables, with the oldest freshness, and that of all facts."""
    fresh = [table["freshness_s"] for table in tables.values()]
    known = [seconds for seconds in fresh if seconds is not None]
    sums = [
        sum(table[field] or 0 for table in tables.values())
        for field in ("postgres_rows", "clickhouse_rows", "pending_events", "dead_letters")
    ]
    rows = [sum(fact[field] or 0 for fact in facts.values()) for field in ("expected_rows", "rows")]
    return [
        [f"all {len(tables)} tables", *sums, max(known, default="")],
        [f"all {len(facts)} facts", *rows, "", "", ""],
    ]
