"""The picture of the flow: the state of each stage, its figures, and where it leads."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sluice.operate.flow import stages
from sluice.operate.health import concerns
from sluice.operate.overview import (
    BROKER,
    CLICKHOUSE,
    POSTGRESQL,
    DrainRun,
    FactState,
    Overview,
    Service,
    Slot,
)
from sluice.operate.trends import latest
from sluice_airflow.page.flow import figure_value, figure_words, stage_places
from tests.page.overviews import COUNT, NOW, many, pipeline, result, table

FACT = FactState(
    name="fact_order",
    rows=4020,
    expected_rows=4020,
    counted_at=NOW,
    last_rebuild=None,
    last_check=replace(result("pass"), table="fact_order"),
)
SLOT_GONE = Slot(name="sluice", wal_status=None)
UNREAD = Slot(name="sluice", wal_status="extended", active=False, lag_bytes=9)
WRONG = replace(result("fail"), check="rows")


def services(*silent: str) -> tuple[Service, ...]:
    return tuple(
        Service(name=name, answers=name not in silent, error="")
        for name in (POSTGRESQL, BROKER, CLICKHOUSE)
    )


def state(*tables: Any, **changes: Any) -> Overview:
    of = pipeline(*tables, **{"services": services(), "facts": (FACT,), **changes})
    of = replace(of, concerns=tuple(concerns(of)))
    return replace(of, flow=stages(of))


def drained(seconds: float, events: int) -> DrainRun:
    at = NOW - timedelta(seconds=seconds)
    return DrainRun(finished_at=at, events=events, rejected=0, seconds=events / 10, freshness_s=1)


def figures(of: Overview) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stage in of.flow:
        every = (*stage.holds, *filter(None, [stage.arriving]))
        found |= {f"{stage.name}.{figure.name}": figure.value for figure in every}
    return found


WELL = {
    "PostgreSQL": ("good", "answers"),
    "relay": ("good", "follows"),
    "topics": ("good", "answers"),
    "drain": ("good", "keeps up"),
    "current state": ("good", "no problem"),
    "facts": ("good", "no problem"),
    "checks": ("good", "passed"),
}


@pytest.mark.parametrize(
    ("of", "unlike"),
    [
        (state(), {}),
        (
            state(services=services(POSTGRESQL), slot=Slot(name="sluice")),
            {"PostgreSQL": ("bad", "does not answer"), "relay": ("warn", "unknown")},
        ),
        (
            state(services=services(BROKER)),
            {"topics": ("bad", "does not answer"), "drain": ("warn", "unknown")},
        ),
        (
            state(services=services(CLICKHOUSE)),
            {
                "drain": ("warn", "unknown"),
                "current state": ("bad", "does not answer"),
                "facts": ("warn", "unknown"),
                "checks": ("warn", "unknown"),
            },
        ),
        (state(slot=SLOT_GONE), {"relay": ("bad", "has no slot")}),
        # The relay stands still, and what it has sent is drained: the drain is not at fault.
        (
            state(table(freshness_s=2000.0, pending_events=0), slot=UNREAD),
            {
                "relay": ("bad", "reads no WAL"),
                "current state": ("bad", "1 table with problems"),
            },
        ),
        (
            state(table(freshness_s=400.0), table(name="items", freshness_s=2000.0)),
            {
                "drain": ("bad", "2 tables late"),
                "current state": ("bad", "2 tables with problems"),
            },
        ),
        (
            state(table(dead_letters=1)),
            {
                "drain": ("warn", "1 dead letter"),
                "current state": ("warn", "1 table with problems"),
            },
        ),
        (
            state(table(last_check=WRONG), findings=(WRONG,)),
            {"current state": ("bad", "1 table with problems"), "checks": ("bad", "1 failed")},
        ),
        (
            state(findings=(replace(WRONG, table="fact_order", check="fact_rows"),)),
            {"facts": ("bad", "1 fact with problems"), "checks": ("bad", "1 failed")},
        ),
        (
            state(findings=(replace(result("warn"), table="sluice", check="slot_lag"),)),
            {"checks": ("warn", "1 not passed")},
        ),
        (state(at=NOW + timedelta(minutes=6)), {"checks": ("warn", "have stopped")}),
        (
            state(
                table(last_check=None, counted_at=None),
                facts=(replace(FACT, last_check=None, counted_at=None),),
            ),
            {"checks": ("warn", "none yet")},
        ),
    ],
)
def test_a_fault_is_shown_at_its_stage_and_where_it_is_felt(
    of: Overview, unlike: dict[str, tuple[str, str]]
) -> None:
    assert {stage.name: (stage.status, stage.word) for stage in of.flow} == {**WELL, **unlike}


def test_a_pipeline_without_facts_has_no_stage_of_them() -> None:
    assert [stage.name for stage in state(facts=()).flow] == [n for n in WELL if n != "facts"]


def test_rates_are_those_of_the_last_minutes_and_the_drain_took_as_long_as_a_recent_one() -> None:
    busy = state(
        table(last_drain=drained(70, 40)),
        table(name="items", last_drain=drained(20, 2)),
        table(name="idle", last_drain=drained(1000, 500)),
        table(name="new", pending_events=None, clickhouse_rows=None, freshness_s=None),
        drained_per_minute=42.4,
        rebuilt_per_minute=130.0,
        sent=1234,
    )
    assert figures(busy) == {
        "PostgreSQL.rows": 4,
        "relay.unconfirmed": 1_500_000,
        "topics.sent": 1234,
        "topics.topics": 4,
        "drain.pending": 6,
        "drain.took": 4.0,
        "current state.drained": 42.4,
        "current state.rows": 3,
        "current state.freshness": 5.0,
        "facts.rebuilt": 130,
        "facts.rows": 4020,
        "checks.findings": 0,
        "checks.last_check": 0.0,
    }
    assert figures(state(table(last_drain=drained(1000, 500))))["drain.took"] is None
    assert figures(state())["current state.drained"] is None


def test_every_figure_has_its_unit_in_words() -> None:
    last = table(last_drain=drained(20, 1), pending_events=1)
    of = state(last, drained_per_minute=1.0, sent=1)
    texts = {
        f"{figure_value(figure)} {figure_words(figure)}"
        for stage in of.flow
        for figure in (*stage.holds, *filter(None, [stage.arriving]))
        if figure.value is not None
    }
    assert texts == {
        "1 row",
        "1 topic",
        "1.50 MB unconfirmed",
        "1 event so far",
        "1 event pending",
        "0.10 s a run",
        "1 event/min",
        "5 s behind",
        "4,020 rows",
        "0 findings",
        "0.00 s ago",
    }


@pytest.mark.filterwarnings("ignore:Using `httpx` with")  # Airflow's security imports it
@pytest.mark.parametrize(
    "of", [state(), state(table(dead_letters=1, last_check=WRONG), findings=(WRONG,)), many(1)]
)
def test_every_stage_leads_to_what_the_page_has(of: Overview) -> None:
    from sluice_airflow.page.listing import Choice
    from sluice_airflow.page.pages import overview_values, render

    shared = {"root": "/sluice", "airflow": "", "period": latest("1h"), "ranges": ["1h"]}
    html = render(
        "overview.html", {**shared, **overview_values(of, Choice(period=latest("1h")), None)}
    )
    stations = re.findall(r'class="station \w+" href="/sluice/([^"]*)"', html)
    assert stations == [stage_places(of)[stage.name].replace("&", "&amp;") for stage in of.flow]
    for address in stations:
        page, _, part = address.partition("#")
        if part:
            assert f'id="{part}"' in html
        else:
            assert page in {"topics", "tables/orders", "facts/fact_order"}
    flow = html[html.index('id="flow"') : html.index('id="tables-title"')]
    assert len(flow) < 6000  # however many of the COUNT tables have problems
    assert len(of.tables) in {1, COUNT}


def test_a_stage_leads_to_the_page_of_the_only_table_that_is_wrong() -> None:
    places = stage_places(state(table(pending_events=0, last_check=WRONG), findings=(WRONG,)))
    assert places["current state"] == "tables/orders"
    assert places["checks"] == "#concerns"
    both = (table(name="items", dead_letters=1), table(dead_letters=1))
    assert stage_places(state(*both))["current state"] == "#tables-title"
