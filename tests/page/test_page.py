"""The page says what the API says, and nothing that came from a row is markup."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from html import unescape
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis.strategies import text

from sluice.catalog import load_catalog
from sluice.catalog.quality_options import Status
from sluice.errors import NotReady, WrongUsage
from sluice.operate.overview import CheckResult
from sluice_airflow.page.figures import apart, check_value
from sluice_airflow.page.limits import Busy
from sluice_airflow.page.repairs import fact_repair, table_repair
from tests.page.history import (
    ABSENT,
    ACCEPTED,
    CUSTOMER,
    DISMISSED,
    FAKED,
    LONG,
    PERSON,
    REJECTED,
    REPLAYED,
)

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
LIVE = (
    "freshness_s",
    "slot.lag_bytes",
    "unconfirmed",
    "freshness",
    "last_check",
)  # go on between two requests


class Shown(HTMLParser):
    """What a page shows: its numbers by path, its text, the addresses that it loads or links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: dict[str, tuple[str, str]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._number: tuple[str, str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [
            str(values[name]) for name in ("href", "src", "action") if name in values
        ]
        if tag == "data":
            self._number = (str(values["data-path"]), str(values["value"]))

    def handle_data(self, data: str) -> None:
        if self._number and data.strip():
            path, value = self._number
            self.numbers[path] = (value, data.strip())

    def handle_endtag(self, tag: str) -> None:
        if tag == "data":
            self._number = None


def by_path(overview: Any) -> dict[str, Any]:
    """The API's overview as path -> value, as the page names them."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                walk(part, f"{path}.{name}")
        else:
            found[path] = value

    for kind in ("tables", "facts"):
        for state in overview[kind]:
            walk(state, f"{kind}.{state['name']}")
    walk(overview["slot"], "slot")
    for stage in overview["flow"]:
        for figure in (*stage["holds"], *filter(None, [stage["arriving"]])):
            found[f"flow.{stage['name']}.{figure['name']}"] = figure["value"]
    return found


def test_every_number_of_the_page_is_the_apis(kept: None, person: Person) -> None:
    viewer = person("viewer")
    for path in ("/sluice/", "/sluice/tables/orders"):
        shown = Shown(viewer.get(path).text)
        known = by_path(viewer.get("/sluice/api/v1/overview").json())
        assert len(shown.numbers) >= 5
        for name, (value, _) in shown.numbers.items():
            assert name in known
            if not name.endswith(LIVE):
                assert value == ("" if known[name] is None else str(known[name])), name
        wanted = {n for n in known if n.startswith("tables.") and n.endswith("_rows")}
        assert path != "/sluice/" or wanted <= set(shown.numbers)


def test_what_is_shown_is_what_is_kept(kept: None, person: Person) -> None:
    numbers = Shown(person("viewer").get("/sluice/").text).numbers
    assert numbers["tables.customers.postgres_rows"] == ("41", "41")
    assert numbers["tables.customers.last_drain.events"] == ("1234567", "1,234,567")
    assert numbers["facts.fact_order_item.rows"] == ("12", "12")
    assert numbers["tables.products.postgres_rows"] == ("", "—")


def test_a_count_answers_an_older_delay_and_a_failed_comparison_stands(
    kept: None, person: Person
) -> None:
    overview = person("viewer").get("/sluice/api/v1/overview").json()
    assert [(one["table"], one["check"]) for one in overview["findings"]] == [
        ("orders", "rows"),
        ("fact_order_item", "fact_rows"),
    ]
    assert overview["healthy"] is False
    remedies = [one["remedy"] for one in overview["concerns"]]
    assert "sluice resync orders --diff" in remedies
    trusted = person("user").get("/sluice/api/v1/overview").json()
    assert f"sluice resync orders --key {ABSENT} --key {PERSON}" in [
        one["remedy"] for one in trusted["concerns"]
    ]


def forms(page: str) -> list[tuple[str, Any]]:
    """The DAG and the configuration of each form of a page."""
    found = re.findall(r'<form class="run" data-dag="(\w+)" data-conf="([^"]*)"', page)
    return [(dag, json.loads(unescape(conf))) for dag, conf in found]


def test_a_finding_offers_the_resync_of_its_keys_and_another_check(
    kept: None, person: Person
) -> None:
    offered = forms(person("user").get("/sluice/tables/orders").text)
    assert offered[:2] == [
        ("sluice_resync", {"tables": ["orders"], "diff": True, "keys": [ABSENT, FAKED, PERSON]}),
        ("sluice_deep_quality", {"tables": ["orders"]}),
    ]
    offered = forms(person("viewer").get("/sluice/tables/orders").text)
    assert offered[0] == ("sluice_resync", {"tables": ["orders"], "diff": True})


def test_the_overview_offers_the_repair_of_each_cause_beside_it(kept: None, person: Person) -> None:
    """A finding that follows from another has no repair of its own."""
    (one,) = forms(person("user").get("/sluice/").text)
    assert one == (
        "sluice_resync",
        {"tables": ["orders"], "diff": True, "keys": [ABSENT, FAKED, PERSON]},
    )
    (one,) = forms(person("viewer").get("/sluice/").text)
    assert one == ("sluice_resync", {"tables": ["orders"], "diff": True})


def test_the_rows_of_a_finding_are_read_on_both_sides(kept: None, person: Person) -> None:
    """None of them is there, nor can two of them be: no page fails for a key."""
    page = person("user").get("/sluice/tables/orders").text
    assert page.count("neither has it now") == 3
    assert FAKED not in page
    keys = {"key": [ABSENT, FAKED]}
    rows = person("user").get("/sluice/api/v1/tables/orders/compared", params=keys).json()
    assert [(row["key"], row["equal"], row["in_postgres"]) for row in rows] == [
        (ABSENT, True, False),
        (FAKED, True, False),
    ]
    refused = person("user").get("/sluice/api/v1/tables/orders/compared", params={"key": "1,2"})
    assert (refused.status_code, "is not a key" in refused.json()["detail"]) == (400, True)


def test_a_fact_that_follows_from_wrong_rows_says_so_and_offers_no_rebuild(
    kept: None, person: Person
) -> None:
    page = person("user").get("/sluice/facts/fact_order_item").text
    assert "It follows from differences in" in page
    assert forms(page) == [("sluice_deep_quality", {"tables": ["order_items"]})]
    assert PERSON not in person("viewer").get("/sluice/facts/fact_order_item").text
    assert person("user").get("/sluice/facts/orders").status_code == 404
    concerns = person("user").get("/sluice/api/v1/overview").json()["concerns"]
    (fact,) = (one for one in concerns if one["table"] == "fact_order_item")
    assert (fact["follows"], fact["remedy"]) == (["orders"], "")


def found(check: str, **others: Any) -> CheckResult:
    values: dict[str, Any] = {"table": "orders", "status": Status.FAIL, "keys": (), "repair": ""}
    values |= {"postgres": 0, "clickhouse": 6, "fence": "0/1", **others}
    return CheckResult(check=check, checked_at=datetime.now(timezone.utc), **values)


@pytest.mark.parametrize("check", ["dead_letters", "freshness", "schema", "caught_up"])
def test_a_finding_that_rows_read_again_do_not_mend_offers_no_resync(check: str) -> None:
    assert table_repair(found(check)).conf is None


@pytest.mark.parametrize("keys", [(), tuple(map(str, range(100)))])
def test_a_finding_without_all_of_its_keys_offers_the_repair_of_what_differs(
    keys: tuple[str, ...],
) -> None:
    conf = table_repair(found("rows", keys=keys)).conf
    assert conf == {"tables": ["orders"], "diff": True}


def test_a_fact_whose_tables_are_right_offers_a_rebuild_in_full() -> None:
    (fact,) = load_catalog("models").facts
    offered = fact_repair(found("fact_rows", table=fact.name), fact, ())
    assert (offered.dag, offered.conf) == ("sluice_rebuild", {"full": [fact.name]})


@pytest.mark.parametrize(
    ("check", "value", "shown"),
    [
        ("row_count", 1234567, "1,234,567"),
        ("caught_up", 0x1_0000_00A0, "1/A0"),
        ("freshness", 90, "90 s"),
        ("slot_lag", 1_500_000, "1.50 MB"),
    ],
)
def test_a_checks_value_has_its_unit(check: str, value: int, shown: str) -> None:
    assert check_value(found(check, clickhouse=value), "clickhouse") == shown


@given(text(), text())
def test_what_differs_between_two_texts_is_apart(left: str, right: str) -> None:
    start, middle, end = apart(left, right)
    assert start + middle + end == left
    other_start, other, other_end = apart(right, left)
    assert (start, end) == (other_start, other_end)
    assert (middle == other == "") == (left == right)


def test_rejected_events_are_shortened_and_never_markup(kept: None, person: Person) -> None:
    page = person("user").get("/sluice/tables/orders")
    assert Shown(page.text).tags.count("script") == 1
    assert "&lt;script&gt;alert(1)" in page.text
    assert "x" * 250 not in page.text
    letters = person("user").get("/sluice/api/v1/dead-letters?table=orders").json()
    assert [letter["offset"] for letter in letters] == [ACCEPTED, REJECTED]
    rejected = letters[1]
    assert len(rejected["value"]) == 200
    assert rejected["value_bytes"] == len(PERSON) + len(FAKED) + 1000


def test_the_versions_of_a_row_are_shortened_and_never_markup(kept: None, person: Person) -> None:
    key = {"key": str(CUSTOMER)}
    page = person("user").get("/sluice/tables/customers", params=key).text
    assert Shown(page).tags.count("script") == 1
    assert "&lt;script&gt;alert(1)" in page
    assert "x" * 250 not in page
    versions = person("user").get("/sluice/api/v1/tables/customers/versions", params=key)
    (version,) = versions.json()
    assert len(version["values"]["name"]) == 200


def test_a_viewer_sees_that_there_are_rejected_events_and_versions_but_no_values(
    kept: None, person: Person
) -> None:
    key = {"key": str(CUSTOMER)}
    letters = person("viewer").get("/sluice/tables/orders").text
    rows = person("viewer").get("/sluice/tables/customers", params=key).text
    assert "x" * 50 not in letters + rows
    assert f'value="{CUSTOMER}"' not in rows
    for page in (letters, rows):
        assert "to users who may run the DAG sluice_resync" in page
    assert "to users who may run" not in person("user").get("/sluice/tables/orders").text


def test_rejected_events_offer_replay_and_dismissal_and_tables_without_any_do_not(
    kept: None, person: Person
) -> None:
    page = person("viewer").get("/sluice/tables/orders").text
    conf = {"table": "orders", "where": None}
    assert {("sluice_replay", str(conf)), ("sluice_dismiss", str(conf))} <= {
        (dag, str(given)) for dag, given in forms(page)
    }
    other = person("viewer").get("/sluice/tables/products").text
    assert "sluice_replay" not in other
    assert '<input id="dismiss-reason" name="reason"' in page
    assert "sluice_dismiss" not in other


def test_a_replay_is_offered_where_the_models_accept_the_message_now(
    kept: None, person: Person
) -> None:
    def shown(offset: int) -> str:
        return person("user").get(f"/sluice/tables/orders?letter={offset}").text

    accepted, rejected = shown(ACCEPTED), shown(REJECTED)
    alone = {"table": "orders", "where": [f"offset={ACCEPTED}"]}
    assert ("sluice_replay", alone) in list(forms(accepted))
    assert re.search(r"payload.total .*rejected</span></th><td><mark>&#34;9.90&#34;", accepted)
    assert "numeric(10, 2)" in accepted.lower()
    assert "A replay rejects it again" in rejected
    assert unescape(rejected).count(PERSON + LONG) == 1  # the whole message
    assert [conf for dag, conf in forms(rejected) if dag == "sluice_replay"] == [
        {"table": "orders", "where": None}
    ]
    assert "There is no dead letter at offset 5" in shown(5)
    assert person("user").get("/sluice/tables/orders?letter=-1").status_code == 422


def test_letters_that_ended_say_how_and_by_whom(kept: None, person: Person) -> None:
    user, viewer = (person(role).get("/sluice/tables/orders").text for role in ("user", "viewer"))
    for page in (user, viewer):
        ended = page[page.index('id="ended-letters"') :]
        assert re.search(rf"{DISMISSED}.*?dismissed.*?ann.*?payload.status", ended, re.DOTALL)
        assert re.search(rf"{REPLAYED}.*?replayed.*?bob.*?payload.total", ended, re.DOTALL)
    assert f"a test of {PERSON}" in user
    assert "a test of" not in viewer
    for offset, state in ((DISMISSED, "dismissed"), (REPLAYED, "replayed")):
        page = person("user").get(f"/sluice/tables/orders?letter={offset}").text
        assert f"Offset {offset}, {state}" in page
        assert "A replay" not in page[page.index('id="letter"') : page.index("</article>")]
    assert (
        'id="letter"' not in person("viewer").get(f"/sluice/tables/orders?letter={ACCEPTED}").text
    )


def test_nothing_is_loaded_from_elsewhere(kept: None, person: Person) -> None:
    for path in ("/sluice/", "/sluice/tables/orders", "/sluice/topics", "/sluice/docs"):
        for address in Shown(person("viewer").get(path).text).addresses:
            assert address.startswith(("/sluice/", "/dags/"))


@pytest.mark.parametrize("reach", ["30m", "1h", "6h", "24h", "7d", "30d"])
def test_trends_cover_their_range_to_the_present(kept: None, reach: str, person: Person) -> None:
    trends = person("viewer").get(f"/sluice/api/v1/trends?range={reach}").json()
    times, step = trends["times"], trends["step_s"]
    assert all(later - earlier == step for earlier, later in itertools.pairwise(times))
    events = next(one for one in trends["trends"] if one["name"] == "events")["lines"][0]["values"]
    assert len(events) == len(times)
    assert sum(events) * step / 60 == pytest.approx(1234570, rel=1e-6)


def test_the_slots_lag_is_drawn_as_the_minutes_checks_found_it(kept: None, person: Person) -> None:
    trends = person("viewer").get("/sluice/api/v1/trends").json()["trends"]
    (lag,) = (one for one in trends if one["name"] == "lag")
    assert [value for value in lag["lines"][0]["values"] if value is not None] == [1_500_000]
    shown = person("viewer").get("/sluice/").text
    assert 'aria-label="Slot lag, bytes. most: 1.50 MB to 1.50 MB, last 1.50 MB."' in shown
    assert "Slot lag" not in person("viewer").get("/sluice/tables/orders").text


def test_the_address_chooses_tables_and_keeps_what_it_chose(kept: None, person: Person) -> None:
    viewer = person("viewer")

    def chosen(query: str) -> list[str]:
        page = viewer.get(f"/sluice/?{query}").raise_for_status().text
        numbers = Shown(page).numbers
        return [name.split(".")[1] for name in numbers if name.endswith(".postgres_rows")]

    assert chosen("q=ORDER&sort=name&page=7") == ["order_items", "orders"]
    assert chosen("only=1") == ["orders"]
    assert chosen("sort=problems")[0] == "orders"
    assert chosen("q=nothing") == []
    text = viewer.get("/sluice/?q=%3Cscript%3E&range=6h&sort=pending").text
    assert "<script>" not in text.replace('<script src="', "")
    assert "/sluice/?range=24h&amp;q=%3Cscript%3E&amp;sort=pending" in text
    for wrong in ("sort=size", "page=0", "page=x", "only=maybe"):
        assert viewer.get(f"/sluice/?{wrong}").status_code == 422
    none = viewer.get("/sluice/metrics?tables=0").text
    assert "sluice_tables 4.0" in none
    assert 'table="orders"' not in none


def test_what_is_not_there_is_said(kept: None, person: Person) -> None:
    user = person("user")
    assert user.get("/sluice/tables/nothing").status_code == 404
    assert user.get("/sluice/api/v1/tables/nothing/runs").status_code == 404
    assert user.get("/sluice/static/app.py").status_code == 404
    assert user.get("/sluice/api/v1/trends?range=2y").status_code == 422
    for key in ("1,2", "1\r2", "1\n2"):
        asked = user.get("/sluice/api/v1/tables/orders/versions", params={"key": key})
        assert asked.status_code == 400
    assert user.get("/sluice/api/v1/tables/orders/versions?key=x").json() == []
    assert "not a key" in user.get("/sluice/tables/orders?key=1,2").text


@pytest.mark.parametrize(
    ("address", "status", "title"),
    [
        ("tables/<b>nothing", 404, "Not Found"),
        ("facts/nothing", 404, "Not Found"),
        ("olap/nothing", 404, "Not Found"),
        ("topics/nothing", 404, "Not Found"),
        ("nothing", 404, "Not Found"),
        ("?page=x", 422, "Unprocessable"),
    ],
)
def test_a_browser_gets_a_page_of_what_failed_and_others_json(
    address: str, status: int, title: str, kept: None, person: Person
) -> None:
    accepted = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = person("user").get(f"/sluice/{address}", headers=accepted)
    assert page.status_code == status
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert f"<h1>{title}" in page.text
    assert '<a href="/sluice/">CDC</a>' in page.text
    assert "<b>" not in page.text
    other = person("user").get(f"/sluice/{address}")
    assert (other.status_code, "detail" in other.json()) == (status, True)


def test_the_api_answers_a_browser_in_json_and_a_stranger_gets_a_page(person: Person) -> None:
    accepted = {"Accept": "text/html"}
    answer = person("user").get("/sluice/api/v1/tables/nothing/runs", headers=accepted)
    assert (answer.status_code, list(answer.json())) == (404, ["detail"])
    closed = person("nobody").get("/sluice/tables/orders", headers=accepted)
    assert (closed.status_code, "<h1>Unauthorized" in closed.text) == (401, True)


@pytest.mark.filterwarnings("ignore:Using `httpx` with")  # Airflow's security imports it
@pytest.mark.parametrize(
    ("error", "status", "remedy"),
    [
        (NotReady("no connection", remedy="create <it>"), 503, "create &lt;it&gt;"),
        (WrongUsage("no such key"), 400, ""),
        (Busy(), 503, "try again"),
    ],
    ids=["not ready", "wrong", "busy"],
)
def test_a_browser_is_told_what_to_do(error: Exception, status: int, remedy: str) -> None:
    from sluice_airflow.page.failures import add_handlers

    app = FastAPI()
    add_handlers(app)

    @app.get("/")
    def fail() -> None:
        raise error

    async def ask(accepted: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return await client.get("/", headers={"Accept": accepted})

    page, other = asyncio.run(ask("text/html")), asyncio.run(ask("*/*"))
    assert (page.status_code, other.status_code) == (status, status)
    assert remedy in page.text
    assert other.json().keys() == {"detail", "remedy"}
    assert ("retry-after" in page.headers) is isinstance(error, Busy)
    assert page.headers.get("retry-after") == other.headers.get("retry-after")
