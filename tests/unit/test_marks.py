"""Quality marks: read as they are written, refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sluice.catalog.quality_options import (
    Expectation,
    Limit,
    Status,
    expectations,
    quality_marks,
)
from sluice.errors import WrongUsage


def test_a_table_without_marks_has_the_usual_limits() -> None:
    marks = quality_marks("t", {})
    assert marks.limit("freshness") == Limit(warn=300, fail=1800)
    assert marks.severity("row_count") == "fail"
    assert marks.severity("orphans") == "warn"


def test_a_marked_limit_and_severity_replace_the_usual_ones() -> None:
    marks = quality_marks(
        "t", {"freshness": {"fail": 5}, "dead_letters": "off", "row_count": "warn"}
    )
    assert [marks.limit("freshness").status(value) for value in (5, 6)] == ["pass", "fail"]
    assert marks.limit("dead_letters").status(10_000) == "pass"
    assert marks.severity("row_count") == "warn"


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ({"freshnes": {"warn": 1}}, "no check is named 'freshnes'"),
        ({"freshness": {"worn": 1}}, "no limit"),
        ({"freshness": {"warn": "1"}}, "no limit"),
        ({"row_count": "error"}, "no severity"),
        ("fail", "not a dictionary"),
    ],
)
def test_a_mark_that_is_not_known_is_refused_with_what_is(mark: Any, said: str) -> None:
    with pytest.raises(WrongUsage, match=f"quality mark of t.*{said}") as caught:
        quality_marks("t", mark)
    assert caught.value.remedy


def test_every_kind_of_expectation_is_read_with_its_severity() -> None:
    mark = {
        "not_null": True,
        "range": [0, None],
        "values": ["a"],
        "unique": True,
        "relationship": "crm.people.id",
        "severity": "warn",
    }
    assert list(expectations("t.c", mark)) == [
        Expectation(kind="not_null", severity=Status.WARN),
        Expectation(kind="range", argument=(0, None), severity=Status.WARN),
        Expectation(kind="values", argument=("a",), severity=Status.WARN),
        Expectation(kind="unique", severity=Status.WARN),
        Expectation(kind="relationship", argument=("crm.people", "id"), severity=Status.WARN),
    ]


@pytest.mark.parametrize(
    "mark",
    [
        {"notnull": True},
        {"not_null": False},
        {"range": [1]},
        {"range": [None, None]},
        {"values": []},
        {"relationship": "customers"},
        {"unique": True, "severity": "loud"},
        ["unique"],
    ],
)
def test_an_expectation_of_another_form_is_refused(mark: Any) -> None:
    with pytest.raises(WrongUsage, match=r"quality mark of t\.c"):
        list(expectations("t.c", mark))


def test_a_status_is_read_and_written_as_its_word() -> None:
    words = ["pass", "warn", "fail", "unsettled"]
    assert json.loads(json.dumps(list(Status))) == [f"{one}" for one in Status] == words
    assert set(words) == set(Status)
