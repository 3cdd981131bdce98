"""The page in a real browser, in every state that the history puts it into."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from sluice.clients.clickhouse import ClickHouse
from sluice.operate.trends import latest
from sluice.settings import PROJECT, Settings
from sluice_airflow.page.listing import CONCERNS, SIZE, Choice
from tests.page.overviews import many
from tests.support.browser import PHONE, SLOWEST_MS, barriers, chromium, log_in, too_wide

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
Look = Callable[..., Page]
PAGES = (
    "/sluice/",
    "/sluice/tables/orders?key=5",
    "/sluice/facts/fact_order_item",
    "/sluice/olap",
    "/sluice/olap/fact_order_item",
    "/sluice/topics",
    "/sluice/topics/cdc.products",
    "/sluice/docs",
)
DRAINED = "data[data-path='tables.orders.last_drain.events']"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def look(browser: Browser, server: str) -> Iterator[Look]:
    """Role -> a browser's page in which its user has logged in by Airflow's form."""
    opened: list[Page] = []

    def log_in_as(role: str, **context: Any) -> Page:
        opened.append(log_in(browser, server, role, role, **context))
        return opened[-1]

    yield log_in_as
    for page in opened:
        page.context.close()


def cut_off(page: Page) -> list[str]:
    """What of the tables is beyond the edge of their boxes, or of the window."""
    return list(
        page.evaluate(
            """[...document.querySelectorAll('.wide, .wide table, .wide td, .wide tbody th')]
            .filter((one) => one.checkVisibility())
            .filter((one) => one.scrollWidth > one.clientWidth + 1
                || one.getBoundingClientRect().right > innerWidth)
            .map((one) => one.outerHTML.slice(0, 150))"""
        )
    )


def drained(settings: Settings, first: int, events: int) -> None:
    """Note a drain of orders that found events."""
    drain = {"source_table": "orders", "broker_epoch": "e", "first_offset": first}
    drain |= {"next_offset": first + events, "events": events, "rejected": 0, "seconds": 1.0}
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        clickhouse.insert_row("cdc.drains", {**drain, "freshness_s": 1.0})


def test_it_goes_on_by_itself_stops_while_nobody_looks_and_then_catches_up(
    kept: None, look: Look, services: Settings
) -> None:
    page = look("viewer")
    asked: list[str] = []
    page.goto("/sluice/")
    page.on("request", lambda request: asked.append(request.url))
    drained(services, 3, 45)
    page.locator(f"{DRAINED}[value='45']").wait_for()
    page.evaluate(  # what a browser does to a page whose tab is not in front
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    before = len(asked)
    drained(services, 48, 67)
    page.wait_for_timeout(12_000)  # longer than it waits between two looks
    assert len(asked) == before
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.locator(f"{DRAINED}[value='67']").wait_for()


def test_a_replay_starts_from_the_page_for_those_who_may_run_it(
    kept: None, dags: None, look: Look, person: Person
) -> None:
    runs = "/api/v2/dags/sluice_replay/dagRuns"
    for role, said in (
        ("viewer", "not permitted to run it"),
        ("admin", "Queued"),
    ):
        page = look(role)
        page.goto("/sluice/tables/orders")
        form = page.locator("form.run[data-dag=sluice_replay]")
        form.get_by_role("button", name="Replay now").click()
        expect(form.locator(".outcome")).to_contain_text(said, timeout=SLOWEST_MS)
        found = person("admin").get(runs).raise_for_status().json()["dag_runs"]
        assert [run["conf"] for run in found] == (
            [] if role == "viewer" else [{"table": "orders", "where": None}]
        )


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("2026-01-01T00:00:00Z", "Done, with findings in orders"),
        ("2096-01-01T00:00:00Z", "Failed with an error"),
    ],
)
def test_a_check_that_ended_says_whether_it_found_something_or_broke_off(
    kept: None, look: Look, start: str, said: str
) -> None:
    """No scheduler runs here: only what became of the run is made up."""
    page = look("admin")
    page.goto("/sluice/tables/orders")
    asked: list[Route] = []

    def hold(route: Route) -> None:
        asked.append(route)

    page.route("**/api/v2/dags/sluice_deep_quality/dagRuns", hold)
    ended = {"dag_run_id": "one", "state": "failed", "start_date": start}
    page.route("**/dagRuns/one", lambda route: route.fulfill(json=ended))
    form = page.locator("form.run[data-dag=sluice_deep_quality]").first
    again = form.get_by_role("button", name="Check again")
    outcomes = page.locator("#ended-runs p")
    for number in range(2):  # the outcome of the first stays
        again.click()
        expect(form.locator(".outcome")).to_have_text("Sent to Airflow.")
        while len(asked) == number:
            page.wait_for_timeout(10)
        asked[number].fulfill(json=ended)
        expect(outcomes).to_have_count(number + 1, timeout=SLOWEST_MS)
        expect(outcomes.first).to_contain_text(f"Check again (orders): {said}")


def test_times_are_in_the_zone_that_airflow_shows(kept: None, look: Look) -> None:
    page = look("viewer", timezone_id="Asia/Kolkata")  # half an hour from UTC's hours
    page.goto("/sluice/?range=24h")
    zone, tick = page.locator("#charts-title .zone"), page.locator(".chart .x").first
    title = page.locator("#tables time").first
    expect(zone).to_have_text(re.compile("^Asia/(Kolkata|Calcutta)$"))
    expect(tick).to_have_text(re.compile(r"^\d\d:30$"))
    for chosen, shown, minutes in (
        ("Asia/Kathmandu", "Asia/Kat", "45"),
        ("Nowhere/At all", "Asia/(Kol|Cal)", "30"),
    ):
        page.evaluate("zone => localStorage.setItem('timezone', JSON.stringify(zone))", chosen)
        page.reload()
        expect(zone).to_have_text(re.compile(f"^{shown}"))
        expect(tick).to_have_text(re.compile(rf"^\d\d:{minutes}$"))
        expect(title).to_have_attribute("title", re.compile(rf"^\d{{1,2}} \w+ \d{{4}} .* {shown}"))


def test_nothing_of_the_page_is_refused_by_its_own_policy(kept: None, look: Look) -> None:
    page = look("viewer")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for path in PAGES:
        page.goto(path)
        page.locator("main").wait_for()
    assert not [text for text in complaints if re.search("refused|violat|error", text, re.I)]


@pytest.mark.filterwarnings("ignore:Using `httpx` with")  # Airflow's security imports it
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
def test_of_many_tables_it_shows_some_and_finds_all(browser: Browser, size: Any) -> None:
    from sluice_airflow.page.pages import overview_values, render

    of, choice = many(1), Choice(period=latest("1h"), q="order")
    shared = {"root": "/sluice", "airflow": "", "period": latest("1h"), "ranges": ["1h"]}
    html = render("overview.html", {**shared, **overview_values(of, choice, None)})
    assert len(html) < 150_000
    page = browser.new_context(viewport=size).new_page()
    page.set_content(html)
    page.add_style_tag(path=PROJECT / "plugins/sluice_airflow/page/static/page.css")
    assert page.locator("#tables tbody tr").count() == SIZE
    assert page.locator("#concerns li").count() == CONCERNS
    expect(page.locator("#tables-shown")).to_have_text(re.compile(r"^1 to 50 of \d+$"))
    expect(page.get_by_role("searchbox", name="Name contains")).to_have_value("order")
    expect(page.get_by_role("columnheader", name="Last check").first).to_have_attribute(
        "aria-sort", "descending"
    )
    first, second = (page.locator(".station").nth(at).bounding_box() for at in (0, 1))
    assert first
    assert second
    assert (second["x"] == first["x"]) is (size is PHONE)  # the flow goes down, or to the right
    assert (second["y"] == first["y"]) is (size is not PHONE)
    assert barriers(page) == []
    assert too_wide(page) <= 0
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
def test_nobody_is_kept_out_and_nothing_is_wider_than_the_window(
    scheme: str, size: dict[str, int], kept: None, look: Look
) -> None:
    page = look("viewer", color_scheme=scheme, viewport=size)
    for path in PAGES:
        page.goto(path)
        page.locator("main").wait_for()
        for numbers in page.locator("summary").all():
            numbers.click()
        assert barriers(page) == [], path
        assert too_wide(page) <= 0, path
        assert size is not PHONE or cut_off(page) == [], path


def test_on_a_phone_each_value_of_a_table_has_the_name_of_its_column(
    kept: None, look: Look
) -> None:
    page = look("user", viewport=PHONE)
    page.goto("/sluice/")
    row = page.locator("#tables tbody tr").filter(has_text="customers")
    names = row.locator("td").evaluate_all("all => all.map(cell => cell.dataset.column)")
    assert names == [
        "Postgres rows",
        "ClickHouse rows",
        "Pending",
        "Freshness",
        "Dead letters",
        "Last drain",
        "Last check",
    ]
    shown = row.locator("td").evaluate_all(
        "all => all.map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert all(name in text for name, text in zip(names, shown, strict=True))
    table = page.get_by_role("table").first
    expect(table.get_by_role("rowheader", name="customers")).to_be_visible()
    table.get_by_role("link", name="Pending").click()
    expect(page).to_have_url(re.compile("sort=pending"))


def drag(page: Page, chart: Locator, begin: float, end: float) -> None:
    """Drag over these parts of a chart's width."""
    box = chart.bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * begin, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, y, steps=5)
    page.mouse.up()


def period(page: Page) -> tuple[int, int]:
    """The period of the first chart, in seconds since 1970."""
    chart = page.locator("svg.chart").first
    return tuple(int(chart.get_attribute(f"data-{name}") or 0) for name in ("start", "end"))  # type: ignore[return-value]


def test_a_span_of_a_chart_becomes_the_period_by_mouse(kept: None, look: Look) -> None:
    page = look("viewer", timezone_id="Asia/Kolkata")
    page.goto("/sluice/?range=24h&sort=pending")
    start, end = period(page)
    chart = page.locator("svg.chart").first
    chart.scroll_into_view_if_needed()
    drag(page, chart, 0.4, 0.7)
    expect(page).to_have_url(re.compile("from=.*&to=|to=.*&from="))
    expect(page).to_have_url(re.compile("sort=pending"))
    first, last = period(page)
    assert start < first < last < end
    assert abs((last - first) / (end - start) - 0.3 * 400 / 346) < 0.05
    page.goto("/sluice/?range=24h")
    chart.scroll_into_view_if_needed()
    chart.click()  # selects nothing
    assert "from" not in page.url
    assert page.locator("figure.selecting").count() == 0


def test_a_span_of_a_chart_becomes_the_period_by_keyboard(kept: None, look: Look) -> None:
    page = look("viewer")
    page.goto("/sluice/?range=24h")
    start, end = period(page)
    span = page.get_by_role("slider").first
    span.focus()
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
    expect(span).to_have_attribute("aria-valuetext", re.compile(r"^\d{1,2} \w+ .* to \d{1,2} \w+"))
    assert barriers(page) == []
    page.keyboard.press("Escape")
    expect(span).to_have_attribute("aria-valuetext", re.compile("^nothing selected"))
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("from="))
    first, last = period(page)
    assert start < first < last < end
    assert last - first == 6 * 1200


def test_a_chart_shows_the_numbers_under_the_pointer(kept: None, look: Look) -> None:
    from sluice_airflow.page.charts import LEFT, RIGHT, WIDTH

    page = look("viewer", timezone_id="Asia/Kolkata")
    page.goto("/sluice/?range=24h")
    figure = page.locator("#chart-checks")
    last = figure.locator("tbody tr").first.locator("th, td")
    when, *values = last.evaluate_all("all => all.map(cell => cell.textContent)")
    start, end = period(page)
    middle = int(figure.locator("tbody th").first.get_attribute("data-at") or 0) + 600
    figure.scroll_into_view_if_needed()
    shown, box = figure.locator("svg .at"), figure.locator("svg.chart").bounding_box()
    assert box
    expect(shown).to_be_hidden()
    x = LEFT + (WIDTH - LEFT - RIGHT) * (middle - start) / (end - start)
    page.mouse.move(box["x"] + box["width"] * x / WIDTH, box["y"] + box["height"] / 2)
    text = f"{when}: pass {values[0]}, fail {values[1]}, other {values[2]}"
    expect(shown).to_have_text(text)
    expect(shown).to_be_visible()
    page.mouse.move(box["x"] + box["width"] * 100 / 400, box["y"] + box["height"] / 2)
    expect(shown).to_be_hidden()  # nothing was checked then


def test_a_query_is_copied(kept: None, look: Look) -> None:
    page = look("viewer", permissions=["clipboard-read", "clipboard-write"])
    page.goto("/sluice/olap/fact_order_item")
    page.get_by_role("button", name="Copy").nth(1).click()
    expect(page.get_by_text("copied", exact=True)).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "SELECT count() FROM olap.fact_order_item"


def test_all_of_it_is_reached_by_keyboard_alone(kept: None, look: Look) -> None:
    page = look("viewer")
    page.goto("/sluice/tables/orders")
    reached, wanted = (
        set(),
        page.locator("a[href], button, input:not([type=hidden]), textarea, [role=slider]"),
    )
    for _ in range(200):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML"))
        if page.evaluate("document.activeElement === document.body"):
            break
    there = wanted.evaluate_all("all => all.map(one => one.outerHTML)")
    assert [html for html in there if html not in reached] == []
    page.goto("/sluice/")
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("status").first).to_have_text("paused")
