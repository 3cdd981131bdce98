"""`sluice status TABLE` says what was repaired, and does without what is not known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sluice.cli.table_status import print_table_status
from tests.support.local_time import in_zone

AT = "2026-11-30T07:00:00+00:00"
RESYNC = {
    "table": "orders",
    "finished_at": AT,
    "selection": "3 keys",
    "fence": "0/1",
    "rows": 2,
    "deleted": 1,
    "seconds": 0.5,
    "done_by": "ann",
}
UNKNOWN: dict[str, Any] = {
    "table": "orders",
    "topic": "cdc.orders",
    "storage": "cdc.dim_order",
    "postgres_rows": None,
    "clickhouse_rows": None,
    "pending_events": None,
    "dead_letters": None,
    "freshness_s": None,
    "compared_at": None,
    "last_drain": None,
    "running": None,
    "last_resync": None,
    "checks": [],
    "differing": [],
    "closed": [],
    "concerns": [],
    "troubles": {},
    "errors": {"clickhouse": "ClickHouse does not answer\nsluice doctor"},
    "healthy": False,
}


@pytest.fixture(autouse=True)
def in_utc() -> Iterator[None]:
    with in_zone("UTC"):
        yield


def test_what_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_table_status(UNKNOWN)
    printed = capsys.readouterr()
    assert "│ orders │ ?             │ ?               │" in printed.out
    assert "last resync: none yet\nevery column compared: not yet\n" in printed.out
    assert "None" not in printed.out
    assert printed.err == "ClickHouse does not answer\nsluice doctor\n"


def test_checks_and_repairs_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    check = {"check": "rows", "status": "fail", "checked_at": AT, "postgres": 9, "clickhouse": 8}
    gap = {**check, "check": "gap", "status": "pass", "postgres": 0, "clickhouse": 0, "keys": []}
    checks = [{**check, "keys": list("1234567")}, gap]
    closed = {"check": "row_count", "failed_at": AT, "passed_at": AT, "repair": RESYNC}
    itself = {**closed, "check": "freshness", "repair": None}
    state = {**UNKNOWN, "errors": {}, "last_resync": RESYNC, "checks": checks}
    print_table_status({**state, "closed": [closed, itself]})
    printed = capsys.readouterr().out
    assert "│ rows  │ fail   │        9 │          8 │ 1, 2, 3, 4, 5, ... │" in printed
    assert "│ gap   │ pass   │          │            │                    │" in printed
    assert "; repaired: 3 keys by ann, 2 rows read again, 1 deleted, 2026-11-30" in printed
    assert [line for line in printed.split("\n") if line.startswith("freshness passed")]


def test_rows_that_differed_are_said_with_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    sides = [(True, True), (True, False), (False, True), (False, False), (True, True)]
    rows = [
        {"key": str(key), "in_postgres": left, "in_clickhouse": right, "values": []}
        for key, (left, right) in enumerate(sides)
    ]
    city: dict[str, Any] = {"column": "city", "postgres": "Chicago", "clickhouse": None}
    rows[0]["values"] = [city, {**city, "column": "name"}]
    print_table_status({**UNKNOWN, "differing": rows})
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines()]
    assert [line for line in cells if line and line[0] in set("01234")] == [
        ["0", "city", "Chicago", "NULL"],
        ["0", "name", "Chicago", "NULL"],
        ["1", "", "there", "no such row"],
        ["2", "", "no such row", "there"],
        ["3", "", "no such row", "no such row"],
        ["4", "", "equal", "equal"],
    ]


@pytest.mark.parametrize(("seconds", "left"), [(720.0, ", about 12 min left;"), (None, " rows;")])
def test_a_read_that_runs_is_said_with_the_time_left(
    seconds: float | None, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    read: dict[str, Any] = {
        "purpose": "all rows",
        "ranges": 10,
        "ranges_done": 4,
        "rows": 9,
        "rows_read": 4,
    }
    read |= {"began_at": AT, "last_at": AT, "seconds_left": seconds}
    print_table_status({**UNKNOWN, "running": read})
    (line,) = (one for one in capsys.readouterr().out.split("\n") if one.startswith("running: "))
    assert line.startswith("running: all rows, 4 of 10 ranges, 4 of about 9 rows")
    assert left in line
