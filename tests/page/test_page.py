"""The page says what the API says, and nothing that came from a row is markup."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from sluice.catalog import load_catalog
from sluice.catalog.quality_options import Status
from sluice.operate.overview import CheckResult
from sluice_airflow.page.repairs import repair
from tests.page.history import CUSTOMER, FAKED, PERSON

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
LIVE = ("freshness_s", "slot.lag_bytes")  # go on between two requests


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
    assert f"sluice resync orders --key 5 --key {PERSON}" in [
        one["remedy"] for one in trusted["concerns"]
    ]


def test_a_finding_offers_the_resync_of_its_keys(kept: None, person: Person) -> None:
    page = person("user").get("/sluice/tables/orders").text
    assert page.index('<form class="run" data-dag="sluice_resync">') < page.index("<textarea")
    form = page[page.index("<textarea") : page.index("</textarea>")]
    conf = (
        form[form.index(">") + 1 :].replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">")
    )
    assert json.loads(conf) == {
        "tables": ["orders"],
        "keys": ["5", FAKED, PERSON],
        "from_key": None,
        "to_key": None,
    }


@pytest.mark.parametrize("check", ["dead_letters", "freshness", "schema", "caught_up"])
def test_a_finding_that_rows_read_again_do_not_mend_offers_no_resync(check: str) -> None:
    found = CheckResult(
        table="orders",
        check=check,
        status=Status.FAIL,
        checked_at=datetime.now(timezone.utc),
        postgres=0,
        clickhouse=6,
        fence="0/1",
        keys=(),
        repair="",
    )
    assert repair(found, load_catalog("models"))["conf"] is None
    assert repair(replace(found, check="row_count"), load_catalog("models"))["conf"]


def test_rejected_events_are_shortened_and_never_markup(kept: None, person: Person) -> None:
    page = person("user").get("/sluice/tables/orders")
    assert Shown(page.text).tags.count("script") == 1
    assert "&lt;script&gt;alert(1)" in page.text
    assert "x" * 250 not in page.text
    (rejected,) = person("user").get("/sluice/api/v1/dead-letters?table=orders").json()
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
    form = page[page.index('<form class="run" data-dag="sluice_replay">') :]
    assert "{&#34;table&#34;: &#34;orders&#34;, &#34;where&#34;: null}</textarea>" in form
    other = person("viewer").get("/sluice/tables/products").text
    assert "sluice_replay" not in other
    form = page[page.index('<form class="run" data-dag="sluice_dismiss">') :]
    assert "&#34;where&#34;: null, &#34;reason&#34;: &#34;&#34;}</textarea>" in form
    assert "sluice_dismiss" not in other


def test_nothing_is_loaded_from_elsewhere(kept: None, person: Person) -> None:
    for path in ("/sluice/", "/sluice/tables/orders", "/sluice/docs"):
        for address in Shown(person("viewer").get(path).text).addresses:
            assert address.startswith(("/sluice/", "/dags/"))


@pytest.mark.parametrize("reach", ["1h", "6h", "24h", "7d", "30d"])
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
