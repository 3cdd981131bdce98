"""What the page says of repairs: how far one is, and which findings they ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.operate.row_comparison import ComparedRow, ComparedValue
from sluice.settings import Settings
from tests.page.history import forget

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
RANGES, DONE = "cdc.resync_ranges", 4


@pytest.fixture(scope="module")
def clickhouse(services: Settings) -> Iterator[ClickHouse]:
    with closing(ClickHouse(services.clickhouse)) as found:
        forget(found)
        yield found
        forget(found)
        found.execute("DELETE FROM cdc.resync_ranges WHERE run IN ('p', 'q')")


def ago(minutes: float) -> datetime:
    return datetime.now(timezone.utc) - timedelta(minutes=minutes)


def checked(clickhouse: ClickHouse, table: str, check: str, status: str, minutes: float) -> None:
    result = {"run": "r", "source_table": table, "check": check, "status": status}
    clickhouse.insert_row("cdc.quality_checks", {**result, "checked_at": ago(minutes)})


def test_a_finding_that_was_repaired_says_by_whom_and_when(
    clickhouse: ClickHouse, person: Person
) -> None:
    for table, check in (("products", "rows"), ("fact_order_item", "fact_rows")):
        for status, minutes in (("fail", 30.0), ("fail", 20.0), ("pass", 5.0)):
            checked(clickhouse, table, check, status, minutes)
    checked(clickhouse, "products", "row_count", "fail", 4)
    checked(clickhouse, "products", "row_count", "pass", 3)
    resync = {"source_table": "products", "selection": "2 keys", "fence": "0/1", "rows": 2}
    clickhouse.insert_row("cdc.resyncs", {**resync, "done_by": "ann", "finished_at": ago(10)})
    for path in ("tables/products", "facts/fact_order_item"):
        page = person("viewer").get(f"/sluice/{path}").text
        closed = page[page.index('<ul class="closed">') :]
        assert re.search(r"Repaired by ann .*?: 2 rows of products read again, 0 deleted", closed)
        checks = page[page.index('id="checks"') :]
        assert checks.count("repaired by ann") == 1
        assert ("passed again" in checks) == (path == "tables/products")


def test_a_read_of_ranges_that_runs_says_how_far_it_is_and_the_time_left(
    clickhouse: ClickHouse, person: Person
) -> None:
    running = '<p id="running" role="status" data-live></p>'
    assert running in person("viewer").get("/sluice/tables/products").text
    part = {"source_table": "products", "run": "p", "selection": "all rows", "epoch": 0}
    for number in range(10):
        began = {**part, "number": number, "rows": 1000, "state": "open", "noted_at": ago(8)}
        clickhouse.insert_row(RANGES, began)
    page = person("viewer").get("/sluice/tables/products").text
    assert "Reading again: 0 of 10 ranges, 0 of about 10,000 rows, no estimate before" in page
    for number in range(DONE):
        done = {**part, "selection": "", "number": number, "rows": 1000, "state": "done"}
        clickhouse.insert_row(RANGES, {**done, "noted_at": ago(2 * (3 - number))})
    page = person("viewer").get("/sluice/tables/products").text
    assert "Reading again: 4 of 10 ranges, 4,000 of about 10,000 rows, about 12 min left" in page
    old = {**part, "run": "q", "noted_at": ago(40), "rows": 5, "state": "open"}
    for number in range(2):
        clickhouse.insert_row(RANGES, {**old, "number": number})
    clickhouse.insert_row(RANGES, {"source_table": "products", "run": "p", "state": "dropped"})
    assert running in person("viewer").get("/sluice/tables/products").text


@pytest.mark.filterwarnings("ignore:Using `httpx` with")  # Airflow's security imports it
def test_a_row_that_one_side_lacks_is_shown_as_the_other_has_it() -> None:
    from sluice_airflow.page import pages

    values = tuple(
        ComparedValue(column=f"column{at}", postgres=f"<{at}>", clickhouse=None, differs=True)
        for at in range(14)
    )
    lost = ComparedRow(key="7", in_postgres=True, in_clickhouse=False, equal=False, values=values)
    same = ComparedRow(key="8", in_postgres=True, in_clickhouse=True, equal=True, values=())
    gone = ComparedRow(key="9", in_postgres=False, in_clickhouse=False, equal=True, values=())
    parts: Any = pages._templates.get_template("parts.html").module
    shown = str(parts.compared_rows([lost, same, gone], "/sluice/tables/orders"))
    assert shown.count("<mark>missing</mark>") == 12
    assert "&lt;11&gt;" in shown
    assert "&lt;12&gt;" not in shown
    for words in ("and 2 more columns", "equal now", "neither has it now"):
        assert shown.count(words) == 1
