"""The page in a real browser, inside Airflow's own UI. Runs where playwright and a Chromium are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from sluice.adapters.clickhouse import ClickHouse
from sluice.settings import Settings

pytestmark = [pytest.mark.services, pytest.mark.airflow]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Person = Callable[[str], httpx.Client]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is on PATH")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium: Any, server: str) -> Iterator[Callable[[str], Any]]:
    """Role -> a browser's page in which its user has logged in by Airflow's form."""
    opened: list[Any] = []

    def log_in(role: str) -> Any:
        page = chromium.new_context(base_url=server).new_page()
        opened.append(page)
        page.set_default_timeout(60_000)
        page.goto("/")
        page.locator("input[name=username]").fill(role)
        page.locator("input[name=password]").fill(role)
        page.locator("button[type=submit]").click()
        page.get_by_role("link", name="CDC").wait_for()
        return page

    yield log_in
    for page in opened:
        page.context.close()


def test_the_page_is_a_click_away_and_its_numbers_move_by_themselves(
    kept: None, look: Callable[[str], Any], services: Settings, person: Person
) -> None:
    page = look("viewer")
    page.get_by_role("link", name="CDC").click()
    frame = page.frame_locator("iframe")
    shown = frame.locator("data[data-path='tables.orders.last_drain.events']").first
    shown.wait_for()
    assert shown.get_attribute("value") == "3"
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        drain = {"source_table": "orders", "broker_epoch": "e", "first_offset": 3}
        drain |= {"next_offset": 48, "events": 45, "rejected": 0, "seconds": 1.0}
        clickhouse.insert_row("cdc.drains", {**drain, "freshness_s": 1.0})
    moved = "data[data-path='tables.orders.last_drain.events'][value='45']"
    frame.locator(moved).first.wait_for()


def test_a_replay_starts_from_the_page_for_those_who_may_run_it(
    kept: None, dags: None, look: Callable[[str], Any], person: Person
) -> None:
    runs = "/api/v2/dags/sluice_replay/dagRuns"
    for role, said in (("viewer", "You may not run sluice_replay"), ("admin", "Started manual")):
        page = look(role)
        page.goto("/sluice/tables/orders")
        form = page.locator("form.run[data-dag=sluice_replay]")
        form.get_by_role("button", name="Replay now").click()
        outcome = form.locator(".outcome")
        playwright.expect(outcome).to_contain_text(said, timeout=60_000)
        found = person("admin").get(runs).raise_for_status().json()["dag_runs"]
        assert [run["conf"] for run in found] == (
            [] if role == "viewer" else [{"table": "orders", "where": None}]
        )


def test_nothing_of_the_page_is_refused_by_its_own_policy(
    kept: None, look: Callable[[str], Any]
) -> None:
    page = look("viewer")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for path in ("/sluice/", "/sluice/tables/orders", "/sluice/docs"):
        page.goto(path)
        page.locator("main").wait_for()
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert width <= 0
    assert not [text for text in complaints if re.search("refused|violat|error", text, re.I)]
