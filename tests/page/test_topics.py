"""The pages of the topics: figures for everybody, messages' contents for those who may see rows."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from sluice.settings import PROJECT, Settings
from tests.page.history import FAKED, PERSON
from tests.page.messages import TOPIC, send_hostile
from tests.support.browser import PHONE, barriers, chromium, too_wide

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
PAGE, API = f"/sluice/topics/{TOPIC}", f"/sluice/api/v1/topics/{TOPIC}/messages"


@pytest.fixture(scope="module")
def sent(services: Settings) -> int:
    """The number of hostile messages at the end of the topic."""
    return send_hostile(services)


def test_the_overview_has_every_topic_and_the_api_has_the_same(
    services: Settings, person: Person
) -> None:
    page = person("viewer").get("/sluice/topics").raise_for_status().text
    state = person("viewer").get("/sluice/api/v1/topics").raise_for_status().json()
    assert state["errors"] == {}
    assert {topic["role"] for topic in state["topics"]} == {
        "table",
        "dead letters",
        "control",
        "epoch",
    }
    for topic in state["topics"]:
        assert f'href="/sluice/topics/{topic["name"]}"' in page
        assert isinstance(topic["messages"], int)
        assert (topic["backlog"] is None) == (topic["table"] is None)
    found = person("viewer").get("/sluice/topics?q=ORDER").text
    assert "cdc.orders" in found
    assert "cdc.products" not in found
    assert "<script>alert" not in person("viewer").get(f"/sluice/topics?q={FAKED}").text


def test_the_flow_and_a_tables_page_lead_there(person: Person) -> None:
    assert 'href="/sluice/topics"><strong>topics' in person("viewer").get("/sluice/").text
    table = person("viewer").get("/sluice/tables/products").text
    assert 'href="/sluice/topics/cdc.products"' in table
    page = person("viewer").get("/sluice/topics/cdc.products").text
    assert 'href="/sluice/tables/products"' in page
    assert 'href="/sluice/topics"' in page


def test_contents_of_messages_are_shown_to_those_who_may_see_rows(
    sent: int, person: Person
) -> None:
    shown = {role: person(role).get(f"{PAGE}?last={sent}").text for role in ("viewer", "user")}
    for page in shown.values():
        assert page.count("<article") == sent
        assert ": insert</h3>" in page
        assert page.count("<script") == 1
    assert PERSON in unescape(shown["user"])
    assert "payload.name" in shown["user"]
    assert FAKED in unescape(shown["user"])
    assert PERSON not in unescape(shown["viewer"])
    assert "to users who may run the DAG sluice_resync" in shown["viewer"]
    assert person("viewer").get(API).status_code == 403


def test_the_api_has_the_messages_of_the_page(sent: int, person: Person) -> None:
    document = person("user").get(API, params={"last": sent}).raise_for_status().json()
    messages = document["messages"]
    assert len(messages) == sent
    page = person("user").get(f"{PAGE}?last={sent}").text
    for message in messages:
        assert f'id="offset-{message["offset"]}"' in page
    first = messages[0]["offset"]
    begun = person("user").get(API, params={"offset": first, "last": 2}).json()["messages"]
    assert begun == messages[:2]
    assert f'id="offset-{first}"' in person("user").get(f"{PAGE}?offset={first}&last=1").text


def test_no_active_character_of_a_message_is_on_the_page(sent: int, person: Person) -> None:
    page = person("user").get(f"{PAGE}?last={sent}").text
    for character in ("\x1b", "\u202e", "\x7f", "\x00"):
        assert character not in page
    assert r"\u202e" in page


def test_what_is_not_there_is_said(person: Person) -> None:
    user = person("user")
    assert user.get("/sluice/topics/nothing").status_code == 404
    assert user.get("/sluice/topics/orders").status_code == 404  # a table's name
    assert user.get("/sluice/api/v1/topics/nothing/messages").status_code == 404
    far = {"offset": 1 << 40}
    refused = user.get(API, params=far)
    assert (refused.status_code, "has no offset" in refused.json()["detail"]) == (400, True)
    page = user.get(PAGE, params=far)
    assert (page.status_code, "has no offset" in page.text) == (200, True)
    for wrong in ("offset=-1", f"offset={1 << 63}", "offset=x", "last=0", "last=51"):
        assert user.get(f"{PAGE}?{wrong}").status_code == 422
        assert user.get(f"{API}?{wrong}").status_code == 422


@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_messages_keep_nobody_out(
    sent: int, person: Person, scheme: Any, size: Any
) -> None:
    html = person("user").get(f"{PAGE}?last={sent}").text
    with chromium() as browser:
        page = opened(browser, html, color_scheme=scheme, viewport=size)
        assert barriers(page) == []
        assert too_wide(page) <= 0


def opened(browser: Browser, html: str, **context: Any) -> Any:
    page = browser.new_context(**context).new_page()
    page.set_content(html)
    page.add_style_tag(path=PROJECT / "plugins/sluice_airflow/page/static/page.css")
    return page
