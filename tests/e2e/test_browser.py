"""What people do in Airflow's UI with a pipeline that runs: see it, trust it, steer it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import text

from sluice.settings import read_secrets, read_settings
from store_api.database import make_engine
from tests.e2e.running import Running
from tests.support.browser import SLOWEST_MS, barriers, chromium, log_in, too_wide
from tests.support.waiting import until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, stack: Running) -> Iterator[Page]:
    """A page in which the admin has logged in."""
    address = f"http://127.0.0.1:{stack.environment['SLUICE_AIRFLOW_PORT']}"
    password = read_secrets(stack.home)["airflow"]
    found = log_in(browser, address, "admin", password, timezone_id="UTC")
    yield found
    found.context.close()


def number(path: str, value: int) -> str:
    """Where the page shows this value for this path of the API."""
    return f"data[data-path='{path}'][value='{value}']"


def rows(stack: Running, table: str) -> int:
    """How many PostgreSQL has."""
    engine = make_engine(read_settings(stack.environment).postgres)
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
    engine.dispose()
    return int(found)


def in_clickhouse(stack: Running, query: str) -> int:
    """The one number that a query on ClickHouse gives."""
    return int(next(word for word in stack.query(query).split() if word.isdigit()))


def test_its_numbers_are_those_of_sql_and_follow_a_change_by_themselves(
    page: Page, stack: Running
) -> None:
    page.get_by_role("link", name="CDC").click()
    frame = page.frame_locator("iframe")
    before = rows(stack, "customers")
    for side in ("postgres_rows", "clickhouse_rows"):
        frame.locator(number(f"tables.customers.{side}", before)).wait_for()
    items = in_clickhouse(stack, "SELECT count() AS n FROM olap.fact_order_item")
    frame.locator(number("facts.fact_order_item.rows", items)).wait_for()
    assert items == rows(stack, "order_items")
    api = f"http://127.0.0.1:{stack.environment['SLUICE_API_PORT']}/api/customers"
    person = {"email": "browser@example.com", "name": "B", "country": "Chile", "city": "Arica"}
    assert httpx.post(api, json=person).status_code == 201
    for side in ("postgres_rows", "clickhouse_rows"):
        frame.locator(number(f"tables.customers.{side}", before + 1)).wait_for(timeout=300_000)
    assert in_clickhouse(stack, "SELECT count() AS n FROM olap.dim_customer") == before + 1


def test_airflows_home_greets_with_healthy_parts_alone(page: Page, stack: Running) -> None:
    page.goto("/")
    badges = page.get_by_test_id("state-badge")
    colours = set()
    for part in ("MetaDatabase", "Scheduler", "Triggerer", "Dag Processor"):
        badge = badges.filter(has_text=part)
        badge.wait_for()
        colours.add(badge.evaluate("badge => getComputedStyle(badge).backgroundColor"))
    assert len(colours) == 1
    health = stack.airflow("GET", "monitor/health")
    assert {part["status"] for part in health.values()} == {"healthy"}


def test_a_corrupted_row_is_found_seen_repaired_and_closed_on_the_page_alone(
    page: Page, stack: Running
) -> None:
    stack.query(
        "INSERT INTO cdc.dim_customer SELECT * REPLACE ('wrong' AS city)"
        " FROM cdc.dim_customer FINAL WHERE id = 3"
    )
    engine = make_engine(read_settings(stack.environment).postgres)
    with engine.connect() as connection:
        city = connection.execute(text("SELECT city FROM customers WHERE id = 3")).scalar_one()
    engine.dispose()
    page.goto("/sluice/tables/customers")
    page.get_by_role("button", name="Compare every column now").click()
    outcome = page.locator("#findings .outcome").first
    expect(outcome).to_contain_text("Queued: the DAG is paused", timeout=SLOWEST_MS)
    stack.airflow("PATCH", "dags/sluice_deep_quality", is_paused=False)
    finding = page.locator("article.finding")
    sides = finding.get_by_role("row", name="3 city")
    sides.wait_for(timeout=300_000)  # the check ends, and the page shows it by itself
    expect(sides.get_by_role("cell").nth(1)).to_have_text(city)
    expect(sides.get_by_role("cell").nth(2)).to_have_text("wrong")
    expect(page.locator("#ended-runs")).to_contain_text("Done, with findings in customers")
    assert barriers(page) == []
    finding.get_by_role("button", name="Repair 1 row").click()
    expect(finding.locator(".outcome").first).to_contain_text("Running", timeout=SLOWEST_MS)
    assert finding.get_by_role("link", name="see the run").first.get_attribute("href")
    closed = page.locator("ul.closed li").filter(has_text="rows passed")
    closed.wait_for(timeout=300_000)
    expect(closed).to_contain_text("Repaired by admin")
    expect(closed).to_contain_text("1 row of customers read again")
    assert finding.count() == 0
    assert barriers(page) == []
    stack.airflow("PATCH", "dags/sluice_deep_quality", is_paused=True)
    until(lambda: bool(stack.status()["healthy"]), "the status is healthy again", 120, pause=1)
    wrong = "SELECT count() AS n FROM olap.dim_customer WHERE city = 'wrong'"
    assert in_clickhouse(stack, wrong) == 0


def test_airflows_form_takes_a_backfill_of_two_days(page: Page, stack: Running) -> None:
    today = datetime.now(timezone.utc).date()
    page.goto("/dags/sluice_fact_backfill")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog").first
    form.get_by_text("Backfill", exact=True).click()
    for day in (today - timedelta(days=3), today - timedelta(days=2)):
        choose(page, form.get_by_text("Select date and time").first, f"{day:%Y/%m/%d}")
    form.get_by_text("All Runs", exact=True).click()
    form.get_by_role("button", name="Run Backfill").click()

    def done() -> bool:
        found = stack.airflow("GET", "backfills?dag_id=sluice_fact_backfill")["backfills"]
        return bool(found) and all(one["completed_at"] for one in found)

    until(done, "the runs of the backfill have ended", 300, pause=1)
    found = stack.airflow("GET", "dags/sluice_fact_backfill/dagRuns?run_type=backfill")["dag_runs"]
    days = sorted(run["logical_date"][:10] for run in found)
    assert days == [f"{today - timedelta(days=back)}" for back in (3, 2)]
    assert {run["state"] for run in found} == {"success"}


def choose(page: Page, picker: Locator, day: str) -> None:
    """Type midnight of a day into Airflow's date picker, and wait until it is shut: while it
    fades, the next one is open beside it."""
    picker.click()
    date = page.get_by_placeholder("YYYY/MM/DD")
    date.fill(day)
    date.press("Tab")
    page.get_by_placeholder("HH:mm").fill("00:00")
    page.get_by_placeholder("HH:mm").press("Enter")
    page.keyboard.press("Escape")
    expect(date).to_have_count(0)


def test_the_page_of_a_running_pipeline_has_no_barriers_within_airflow(page: Page) -> None:
    for path in ("/sluice/", "/sluice/tables/order_items"):
        page.goto(path)
        page.locator("main").wait_for()
        assert barriers(page) == [], path
        assert too_wide(page) <= 0, path
