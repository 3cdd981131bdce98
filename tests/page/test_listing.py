"""Many tables: which of them page, metrics and status list, and in which order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from sluice.cli.status import print_tables
from sluice.operate.overview import Overview, Severity, TableState, severities
from sluice.operate.topic_overview import TopicOverview, TopicSummary
from sluice.operate.trends import Line, Trend, Trends, latest
from sluice_airflow.page.listing import (
    PROBLEMS,
    SIZE,
    Choice,
    Listing,
    Sort,
    TopicChoice,
    listed,
)
from sluice_airflow.page.metrics import SERIES_OF, exposition
from tests.page.overviews import COUNT, NOW, many

pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with")


def pages(of: Overview, choice: Choice) -> Iterator[Listing[TableState]]:
    for page in range(1, listed(of.tables, of, choice).pages + 1):
        yield listed(of.tables, of, replace(choice, page=page))


@pytest.mark.parametrize("only", [False, True])
@pytest.mark.parametrize("q", ["", "order", "NOTHING"])
@pytest.mark.parametrize("sort", [one.value for one in Sort])
def test_all_pages_together_are_what_matches_each_once_in_order(
    sort: str, q: str, only: bool
) -> None:
    of = many(1)
    shown = list(pages(of, Choice(period=latest("1h"), q=q, only=only, sort=sort)))
    names = [state.name for page in shown for state in page.states]
    grave = severities(of)
    wanted = [
        state
        for state in of.tables
        if q.lower() in state.name.lower() and (not only or state.name in grave)
    ]
    assert sorted(names) == sorted(state.name for state in wanted)
    assert all(len(page.states) <= SIZE for page in shown)
    assert {page.matching for page in shown} == {len(wanted)}
    by_name = {state.name: state for state in wanted}
    if sort == PROBLEMS:
        ranks = [grave.get(name, 2) for name in names]
        assert ranks == sorted(ranks)
    elif sort == "name":
        assert names == sorted(names)
    else:
        field = {"rows": "clickhouse_rows", "pending": "pending_events"}.get(sort, sort)
        field = {"freshness": "freshness_s"}.get(field, field)
        values = [getattr(by_name[name], field) for name in names]
        known = [value for value in values if value is not None]
        assert values == [*sorted(known, reverse=True), *[None] * (len(values) - len(known))]


def test_a_page_beyond_the_last_is_the_last() -> None:
    of = many(1)
    last = listed(of.tables, of, Choice(period=latest("1h"), page=6))
    assert (last.page, last.pages, last.first, len(last.states)) == (6, 6, 251, 50)
    assert listed(of.tables, of, Choice(period=latest("1h"), page=99)) == last
    assert listed((), of, Choice(period=latest("1h"))).first == 0


def test_an_address_keeps_the_choice_and_a_new_list_begins_at_its_first_page() -> None:
    choice = Choice(period=latest("6h"), q="a&b", only=True, sort="pending", page=3)
    kept = {"range": ["6h"], "q": ["a&b"], "only": ["1"], "sort": ["pending"], "page": ["3"]}
    assert parse_qs(choice.address()) == kept
    assert parse_qs(choice.address(range="1h")) == {**kept, "range": ["1h"]}
    kept.pop("page")
    assert parse_qs(choice.address(sort="name")) == {**kept, "sort": ["name"]}
    assert Choice(period=latest("1h")).address() == "range=1h"


def test_a_page_of_many_tables_lists_some_and_has_each_value_of_a_chart_once() -> None:
    from sluice_airflow.page import charts
    from sluice_airflow.page.pages import overview_values, render

    period = latest("30d")
    values = tuple(1234.5 + at for at in range(len(period.times)))
    lines = tuple(Line(name=name, values=values) for name in ("pass", "fail", "other"))
    names = ("freshness", "events", "backlog", "lag", "rebuilds", "checks")
    trends = tuple(Trend(name=name, title=name, unit="seconds", lines=lines) for name in names)
    drawn = charts.draw(Trends(range="30d", step_s=period.step, times=period.times, trends=trends))
    shared = {"root": "/sluice", "airflow": "", "period": period, "ranges": ["30d"]}
    values_of = overview_values(many(1), Choice(period=period), drawn)
    html = render("overview.html", {**shared, **values_of})
    assert html.count('.clickhouse_rows"') == SIZE
    moment = f'data-at="{period.times[1]}" data-form="moment"'
    assert html.count(moment) == len(names)
    assert len(html) < 200_000


def topics_page(state: TopicOverview, query: str) -> str:
    """The page of the topics at an address."""
    from sluice_airflow.page.pages import render
    from sluice_airflow.page.topics import overview_values

    given = parse_qs(query)
    choice = TopicChoice(q=given.get("q", [""])[0], page=int(given.get("page", ["1"])[0]))
    shared = {"root": "/sluice", "airflow": "", "period": latest("1h")}
    return unescape(render("topics.html", {**shared, **overview_values(state, choice)}))


@pytest.mark.parametrize(("q", "pages"), [("", 6), ("7", 2), ("299", 1), ("NOTHING", 1)])
def test_all_pages_of_topics_together_are_what_matches_each_once_in_order(
    q: str, pages: int
) -> None:
    names = [f"cdc.t{number}" for number in range(COUNT)]
    topics = tuple(TopicSummary(name=name, role="table", table=name[4:]) for name in names)
    state = TopicOverview(at=NOW, window_s=300, topics=topics, errors={})
    first = urlencode({"q": q})
    links = re.findall(r'"/sluice/topics\?([^"]*)#topics-title"', topics_page(state, first))
    assert len(links) == (pages if pages > 1 else 0)
    shown: list[str] = []
    for address in links or [first]:
        page = re.findall(r'href="/sluice/topics/([^"]+)"', topics_page(state, address))
        assert len(page) <= SIZE
        shown += page
    assert shown == [name for name in names if q in name]


@pytest.mark.parametrize("most", [0, 7, SERIES_OF, COUNT])
def test_metrics_have_series_of_so_many_tables_first_those_with_problems(most: int) -> None:
    of = many(2)
    text = exposition(of, most)
    grave = severities(of)
    order = sorted(of.tables, key=lambda one: (grave.get(one.name, 2), -(one.clickhouse_rows or 0)))
    exported = set(re.findall(r'\{table="([^"]+)"\}', text))
    assert exported == {state.name for state in order[:most]}
    checked = set(re.findall(r'check_passed\{check="\w+",table="([^"]+)"\}', text))
    assert checked <= exported
    found = dict(re.findall(r"^(sluice_\w+) (\S+)$", text, flags=re.MULTILINE))
    assert float(found["sluice_tables"]) == COUNT
    known = [state.pending_events or 0 for state in of.tables]
    assert float(found["sluice_pending_events"]) == sum(known)
    assert float(found["sluice_freshness_seconds"]) == 400.0
    late = [state for state in of.tables if state.freshness_s == 400.0]
    assert float(found["sluice_tables_late"]) == len(late)
    assert float(found["sluice_checks_not_passed"]) == len(of.findings)


def status_of(of: Overview) -> dict[str, Any]:
    """What read_status makes of an overview, without services."""
    tables = {
        state.name: {
            "postgres_rows": state.postgres_rows,
            "clickhouse_rows": state.clickhouse_rows,
            "pending_events": state.pending_events,
            "dead_letters": state.dead_letters,
            "freshness_s": state.freshness_s,
        }
        for state in of.tables
    }
    facts = {"fact_order": {"rows": 5, "expected_rows": 5, "last_rebuild_at": None}}
    told = [{"severity": one.severity, "table": one.table} for one in of.concerns]
    return {"tables": tables, "facts": facts, "concerns": told, "troubles": {}}


def test_status_prints_of_many_tables_the_gravest_and_the_sums(
    capsys: pytest.CaptureFixture[str],
) -> None:
    of = many(3)
    state = status_of(of)
    tables = list(state["tables"])
    state["troubles"] = {tables[-1]: "cannot be counted"}
    state["tables"][tables[-2]]["clickhouse_rows"] += 1
    print_tables(state)
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    bad = [
        one.table for one in of.concerns if one.severity == Severity.BAD and one.table != tables[-1]
    ]
    wanted = list(dict.fromkeys([tables[-1], *bad, tables[-2]]))[:20]
    assert listed[: len(wanted)] == wanted
    assert len(listed) == 22
    assert listed[20:] == ["all 300 tables", "all 1 facts"]
    assert f"with problems: {len(severities(of) | dict.fromkeys(tables[-2:], 0))}" in "\n".join(
        lines
    )
    rows = sum(one["postgres_rows"] for one in state["tables"].values())
    assert re.search(rf"all 300 tables +│ +{rows} │", "\n".join(lines))


def test_status_prints_every_table_of_few_or_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = status_of(many(4))
    print_tables(state, every=True)
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(listed) == COUNT + 1
    state["tables"] = dict(list(state["tables"].items())[:19])
    print_tables(state)
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in listed] == [*state["tables"], "fact_order"]
