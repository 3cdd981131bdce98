"""What `sluice status` prints: local times, no None, and all parts but those that are not read."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice.cli.status import (
    _ended,
    _external,
    _failed,
    _has_stack,
    _is_broken,
    print_status,
    read_status,
)
from sluice.settings import read_settings, started_file
from tests.support.local_time import in_zone
from tests.support.services import free_ports

RUN = {
    "last_state": "success",
    "last_start": "2026-06-30T21:59:00Z",
    "last_end": "2026-06-30T22:00:01.500000Z",
    "last_duration_s": 61.5,
}
STATE: dict[str, Any] = {
    "services": {
        "postgres": {
            "state": "running",
            "pid": 7,
            "address": "127.0.0.1:5434",
            "external": False,
            "error": "",
        }
    },
    "tables": {
        "orders": {
            "postgres_rows": 12,
            "clickhouse_rows": 11,
            "pending_events": 1,
            "dead_letters": 0,
            "freshness_s": 0.5,
            "compared_at": "2026-06-30T21:30:00+00:00",
        }
    },
    "facts": {"fact_order": {"rows": 5, "expected_rows": 6, "last_rebuild_at": None}},
    "fact": {"rows": 5, "expected_rows": 6, "last_rebuild_at": None},
    "slot": {"name": "sluice", "wal_status": "reserved", "lag_bytes": 4321, "invalidation": None},
    "relay": {},
    "dags": {"sluice_drain": RUN},
    "concerns": [],
    "troubles": {},
    "errors": {},
}
# Part that is not read -> what is empty then, and what the status says.
PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "supervisor": ({"services": {}}, "services: not known"),
    "models": ({"tables": {}, "facts": {}, "slot": {}}, "tables: not known"),
    "postgres": ({"slot": {}}, "slot: not known"),
    "broker": ({}, "?"),
    "clickhouse": ({}, "?"),
    "airflow": ({"dags": {}}, "DAG runs: not known"),
}
UNREAD = {
    "postgres": ("postgres_rows",),
    "broker": ("pending_events",),
    "clickhouse": ("clickhouse_rows", "pending_events", "dead_letters", "freshness_s"),
}
SHOWN = ("5434", "orders", "slot sluice: WAL reserved, 4,321 bytes", "sluice_drain: success at")


@pytest.fixture
def berlin() -> Iterator[None]:
    with in_zone("Europe/Berlin"):
        yield


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("run", "words"),
    [
        (RUN, "success at 2026-07-01 00:00:01 CEST"),
        ({**RUN, "last_state": "failed"}, "failed at 2026-07-01 00:00:01 CEST"),
        ({**RUN, "last_state": "running", "last_end": None}, "running since 2026-06-30 23:59:00"),
        ({**dict.fromkeys(RUN), "last_state": "queued"}, "queued"),
        (dict.fromkeys(RUN), "has not run yet"),
    ],
)
def test_a_dag_shows_its_last_run_in_local_time(
    run: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_status({**STATE, "dags": {"sluice_drain": run}})
    printed = capsys.readouterr().out
    assert f"sluice_drain: {words}" in printed
    assert "None" not in printed


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "2026-06-30 23:30:00 CEST"),
        (["2026-06-30T21:29:00+00:00"], "2026-06-30 23:29:00 CEST"),
        ([None, None], "not yet in 2 of 3 tables"),
    ],
)
def test_the_status_says_since_when_values_are_compared_and_whether_all_is_well(
    others: list[str | None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = STATE["tables"]["orders"]
    tables = {str(n): {**orders, "compared_at": at} for n, at in enumerate(others)}
    print_status({**STATE, "tables": {**tables, "orders": orders}, "healthy": True})
    printed = capsys.readouterr().out
    assert f"every column compared: {words}\n" in printed
    assert printed.endswith("\nhealthy\n")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_read_says_so_and_all_others_are_printed(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, words = PARTS[part]
    state = copy.deepcopy({**STATE, **empty})
    for table in state["tables"].values():
        table.update(dict.fromkeys(UNREAD.get(part, ())))
    state["errors"] = {part: f"{part} does not answer\nsee: its log"}
    state["error"] = state["errors"][part]
    print_status(state)
    printed = capsys.readouterr()
    assert words in printed.out
    assert printed.err == f"{part} does not answer\nsee: its log\n"
    assert "None" not in printed.out
    gone = {"supervisor": 1, "models": 2, "postgres": 1, "airflow": 1}.get(part, 0)
    assert sum(word in printed.out for word in SHOWN) == len(SHOWN) - gone


def test_of_many_tables_those_of_a_side_that_is_not_read_are_no_problems(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = {**STATE["tables"]["orders"], "clickhouse_rows": None}
    state = {**STATE, "tables": {f"table_{n}": table for n in range(30)}}
    print_status({**state, "facts": {"fact": {"rows": None, "expected_rows": 6}}})
    printed = capsys.readouterr().out
    assert "with problems" not in printed
    assert "all 30 tables" in printed
    assert re.search(r"all 30 tables │ +360 │ \? +│ +30 │ +0 │", printed)


def test_with_nothing_running_every_part_has_its_error_and_no_count_is_zero(
    tmp_path: Path,
) -> None:
    names = ("POSTGRES", "KAFKA", "CLICKHOUSE", "CLICKHOUSE_HTTP", "API", "AIRFLOW")
    ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
    variables = {f"SLUICE_{name}_PORT": port for name, port in ports.items()}
    state = read_status(read_settings({**variables, "SLUICE_HOME": str(tmp_path)}))
    assert set(state["errors"]) == {"postgres", "broker", "clickhouse", "airflow"}
    assert all(ports[name] in state["error"] for name in ("POSTGRES", "CLICKHOUSE", "AIRFLOW"))
    assert {service["state"] for service in state["services"].values()} == {"stopped"}
    assert {value for table in state["tables"].values() for value in table.values()} == {None}
    assert state["fact"] == {"rows": None, "expected_rows": None, "last_rebuild_at": None}
    assert state["slot"] == {}
    assert state["healthy"] is False
    stopped = [concern for concern in state["concerns"] if "stack" in concern["what"]]
    assert [concern["remedy"] for concern in stopped] == ["sluice up"]


THEIRS = {
    "SLUICE_POSTGRES_HOST": "db.example",
    "SLUICE_KAFKA_BOOTSTRAP": "a.example:9092,b.example:9092",
    "SLUICE_CLICKHOUSE_HOST": "olap.example",
}
ADDRESSES = {
    "postgres-source": "db.example:5434",
    "broker": "a.example:9092,b.example:9092",
    "clickhouse": "olap.example:9000",
}


@pytest.mark.parametrize("silent", ["postgres", "broker", "clickhouse"])
def test_services_of_others_are_listed_with_what_is_known_of_them(
    silent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    services = _external(read_settings(THEIRS), {silent: "it does not answer\nsee its log"})
    assert {name: of["address"] for name, of in services.items()} == ADDRESSES
    name = {"postgres": "postgres-source"}.get(silent, silent)
    assert services[name]["error"] == "it does not answer\nsee its log"
    others = {other: of["state"] for other, of in services.items() if other != name}
    assert set(others.values()) == {"answers"}
    assert _ended(services) == []
    print_status({**STATE, "services": services})
    printed = capsys.readouterr().out
    assert re.search(rf"{name} +│ does not answer │ +│ {ADDRESSES[name]} ", printed)


def test_beside_services_of_others_only_a_stack_that_was_started_counts(tmp_path: Path) -> None:
    postgres, broker, clickhouse = map(str, free_ports(3))
    variables = {
        "SLUICE_HOME": str(tmp_path),
        "SLUICE_POSTGRES_HOST": "127.0.0.1",
        "SLUICE_POSTGRES_PORT": postgres,
        "SLUICE_KAFKA_BOOTSTRAP": f"127.0.0.1:{broker}",
        "SLUICE_CLICKHOUSE_HOST": "127.0.0.1",
        "SLUICE_CLICKHOUSE_PORT": clickhouse,
    }
    state = read_status(read_settings(variables))
    assert set(state["services"]) == set(ADDRESSES)
    assert set(state["errors"]) == {"postgres", "broker", "clickhouse"}
    assert [one for one in state["concerns"] if "stack" in one["what"]] == []
    one_is_own = {name: variables[name] for name in variables if "CLICKHOUSE" not in name}
    assert _has_stack(read_settings(one_is_own))
    assert not _has_stack(read_settings(variables))
    started_file(tmp_path).parent.mkdir()
    started_file(tmp_path).write_text("")
    assert _has_stack(read_settings(variables))


def test_a_stack_of_its_own_has_no_services_of_others_and_without_models_nothing_is_known() -> None:
    assert _external(read_settings({}), {}) == {}
    services = _external(read_settings(THEIRS), {"models": "no module"})
    assert {of["state"] for of in services.values()} == {"unknown"}


def test_each_service_that_ended_is_a_problem_with_its_log() -> None:
    services = {
        "relay": {"state": "fatal", "external": False},
        "broker": {"state": "stopped", "external": False},
        "postgres": {"state": "running", "external": False},
        "clickhouse": {"state": "does not answer", "external": True},
    }
    assert [(concern["what"], concern["remedy"]) for concern in _ended(services)] == [
        ("service relay is fatal", "sluice logs relay"),
        ("service broker is stopped", "sluice logs broker"),
    ]
    assert _ended({"postgres": {"state": "running", "external": False}}) == []
    assert _ended({}) == []


def test_a_failed_run_is_a_problem_with_the_address_of_its_log() -> None:
    (concern,) = _failed(["sluice_drain"], read_settings({"SLUICE_AIRFLOW_PORT": "8099"}))
    assert concern["what"] == "the last run of sluice_drain failed"
    assert concern["remedy"] == "its log: http://127.0.0.1:8099/dags/sluice_drain"


DEEP, EARLIER, LATER = "sluice_deep_quality", "2026-06-30T21:17:00Z", "2026-06-30T21:45:00Z"


@pytest.mark.parametrize(
    ("dag_id", "run", "broken"),
    [
        ("sluice_drain", {"state": "failed", "start_date": EARLIER}, True),
        ("sluice_drain", {"state": "running", "start_date": EARLIER}, False),
        ("sluice_drain", {}, False),
        (DEEP, {"state": "failed", "start_date": EARLIER, "conf": {}}, False),
        (DEEP, {"state": "failed", "start_date": LATER, "conf": None}, True),
        (DEEP, {"state": "failed", "start_date": None, "run_after": LATER}, True),
        (DEEP, {"state": "failed", "start_date": LATER, "conf": {"tables": ["gone"]}}, False),
        (DEEP, {"state": "failed", "start_date": EARLIER, "conf": {"tables": ["new"]}}, True),
    ],
)
def test_a_deep_check_that_failed_counts_until_its_tables_are_compared(
    dag_id: str, run: dict[str, Any], broken: bool
) -> None:
    """Its findings are concerns of their own, which end."""
    tables = {"orders": STATE["tables"]["orders"]}
    if (run.get("conf") or {}).get("tables") == ["new"]:
        tables["new"] = {**tables["orders"], "compared_at": None}
    assert _is_broken(dag_id, run, tables) is broken


def test_problems_are_listed_with_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    concern = {"severity": "bad", "what": "orders: rows fail", "table": "orders", "follows": []}
    fact = {**concern, "what": "fact_order: rows fail", "remedy": "", "follows": ("orders",)}
    concerns = [{**concern, "remedy": "sluice resync orders --key 7"}, fact, *[fact] * 30]
    print_status({**STATE, "concerns": concerns, "healthy": False})
    printed = capsys.readouterr().out
    assert "healthy" not in printed
    assert "bad: orders: rows fail; sluice resync orders --key 7\n" in printed
    assert (
        "  bad: fact_order: rows fail; follows from orders and ends with that repair\n" in printed
    )
    assert "and 12 more problems: sluice status --json\n" in printed
