"""What the four answers say of a pipeline in each state, and how figures are written."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from sluice.catalog.quality_options import MEASURES, Limit
from sluice.operate.health import concerns
from sluice.operate.overview import Concern, Overview, Severity, Slot
from sluice_airflow.page.figures import UNKNOWN, amount, duration
from sluice_airflow.page.glance import answers
from sluice_airflow.page.metrics import exposition
from tests.page.overviews import NOW, pipeline, result, table


def looks(of: Overview) -> list[tuple[str, str, str]]:
    return [(one.status, one.word, one.figure) for one in answers(of)]


def test_a_pipeline_that_is_well_is_green_in_all_four() -> None:
    assert looks(pipeline()) == [
        ("good", "", "Healthy"),
        ("good", "fresh", "5 s"),
        ("good", "following", "2 events"),
        ("good", "matches", "1 of 1"),
    ]
    assert "1.50 MB of WAL" in answers(pipeline())[2].more


def test_a_table_whose_rows_differ_is_not_called_fresh_without_a_word() -> None:
    wrong = replace(result("fail"), check="rows")
    state = replace(pipeline(table(last_check=wrong)), findings=(wrong,))
    assert looks(state)[1] == ("warn", "fresh, but differs", "5 s")
    assert answers(state)[1].more.endswith("; rows of orders are wrong")
    late = replace(pipeline(table(freshness_s=600.0)), findings=(wrong,))
    assert looks(late)[1][1] == "orders is late"


def test_counts_that_match_do_not_hide_when_values_were_compared() -> None:
    hour = table(name="items", compared_at=NOW - timedelta(hours=1))
    assert answers(pipeline(table(), hour))[3].more.endswith("; values compared 60 min ago")
    never = table(name="new", compared_at=None)
    more = answers(pipeline(table(), never))[3].more
    assert more.endswith("; the values of 1 of 2 tables not compared yet")


def test_the_table_that_is_late_is_named() -> None:
    late = table(name="items", freshness_s=600.0)
    _, fresh, behind, _ = looks(pipeline(table(), late))
    assert fresh == ("warn", "items is late", "10 min")
    assert behind[2] == "4 events"
    slow = table(freshness_s=900.0, freshness_limit=Limit(fail=3600))
    assert looks(pipeline(slow, late))[1] == fresh
    assert looks(pipeline(late, replace(slow, freshness_s=4000.0)))[1][:2] == (
        "bad",
        "orders is late",
    )


@pytest.mark.parametrize("limit", [MEASURES["freshness"], Limit(warn=5, fail=60), Limit(fail=7)])
def test_late_is_the_same_to_page_health_and_metrics_as_to_the_check(limit: Limit) -> None:
    """The check's own limits, at them and a second beyond."""
    for at in filter(None, (limit.warn, limit.fail)):
        for seconds in (at, at + 1):
            state = table(freshness_s=seconds, freshness_limit=limit)
            status = limit.status(seconds)
            grave = {"pass": [], "warn": ["warn"], "fail": ["bad"]}[status]
            assert [one.severity for one in concerns(pipeline(state))] == grave
            assert looks(pipeline(state))[1][0] == (grave or ["good"])[0]
            exported = exposition(pipeline(state))
            (bound,) = re.findall(r"freshness_limit_seconds{table=.orders.} (\S+)", exported)
            assert (seconds > float(bound)) == (status != "pass")


def test_what_is_not_known_is_neither_good_nor_bad() -> None:
    blank = table(pending_events=None, freshness_s=None, last_check=None)
    assert looks(pipeline(blank))[1:] == [
        ("warn", "unknown", UNKNOWN),
        ("warn", "unknown", UNKNOWN),
        ("warn", "not settled", UNKNOWN),
    ]
    assert looks(pipeline(table(), blank))[1] == ("warn", "unknown", "5 s")


@pytest.mark.parametrize(
    ("status", "wanted", "word"),
    [
        ("fail", "bad", "differs"),
        ("warn", "warn", "with warnings"),
        ("unsettled", "warn", "not settled"),
    ],
)
def test_a_check_that_did_not_pass_is_no_match(status: str, wanted: str, word: str) -> None:
    found = looks(pipeline(table(), table(last_check=result(status))))[3]
    assert found == (wanted, word, "1 of 2")


def test_what_is_measured_now_is_told_once_and_as_gravely_as_its_check_found_it() -> None:
    state = pipeline(table(dead_letters=1, freshness_s=2000.0))
    told = [("bad", "orders: 33 minutes behind"), ("warn", "orders: 1 open dead letter")]
    assert [(one.severity, one.what) for one in concerns(state)] == told
    found = replace(result("fail"), check="dead_letters")
    told = [(Severity.BAD, what) for _, what in told]
    again = [(one.severity, one.what) for one in concerns(replace(state, findings=(found,)))]
    assert again == told
    elsewhere = replace(state, findings=(replace(found, table="items"),))
    assert (Severity.BAD, "items: dead_letters fail") in [
        (one.severity, one.what) for one in concerns(elsewhere)
    ]


@pytest.mark.parametrize(
    "slot",
    [
        Slot(name="sluice", wal_status="lost", active=False, lag_bytes=None),
        Slot(name="sluice", wal_status="reserved", active=False, lag_bytes=1),
        Slot(name="sluice", wal_status=None, active=None, lag_bytes=None),
    ],
)
def test_a_slot_that_nobody_can_read_is_stuck_whatever_waits(slot: Slot) -> None:
    assert looks(pipeline(slot=slot))[2][:2] == ("bad", "stuck")


def test_problems_are_counted_and_warnings_are_not_among_them() -> None:
    kinds = (Severity.BAD, Severity.BAD, Severity.WARN)
    concerns = [Concern(severity=kind, what="w", remedy="") for kind in kinds]
    assert looks(pipeline(concerns=tuple(concerns), healthy=False))[0][2] == "2 problems"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, UNKNOWN),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_000_000, "1 MB"),
        (1_500_000, "1.50 MB"),
        (57_930, "57.9 kB"),
        (12_000_000_000_000, "12,000 GB"),
    ],
)
def test_bytes_are_short(value: int | None, text: str) -> None:
    assert amount(value, "bytes") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, UNKNOWN), (0.25, "0.25 s"), (119, "119 s"), (7200, "2 h")]
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
