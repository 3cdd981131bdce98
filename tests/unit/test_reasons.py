"""Reasons of rejects: PostgreSQL's and ClickHouse's words, the column, and nothing of the row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.data_types.mapping import PROFILES
from sluice.events.event import Record
from tests.unit.sample_events import COMPACT_ROW, METADATA, PAIRS, ROW, event

SECRET = "geheim"
ROWS = {"lossless": ROW, "compact": COMPACT_ROW}
# Words of Pydantic, msgspec and the standard library, which know neither database.
FOREIGN = (
    "input",
    "Input",
    "required",
    " valid",
    "literal",
    "convert",
    "padding",
    "isoformat",
    "unpack",
    "Expected",
    "codec",
    "compliant",
)
HOSTILE = st.sampled_from(
    [
        *("null", "true", "-1", "1.5", "NaN", "1" * 400, "1e400", "[]", "{}", f'["{SECRET}"]'),
        *(f'{{"{SECRET}": 1}}', f'"{SECRET}"', f'"{{{SECRET}}}"', f'"{{{{{SECRET}}}}}"', '""'),
        *('"infinity"', '"-infinity"', '"NaN"', '"{infinity}"', '"{NaN}"', '"{1,2"', '"[0:0]={1}"'),
        *('"0044-03-15 BC"', '"294276-12-31T00:00:00Z"', '"1899-12-31"', '"2300-01-01T00:00:00Z"'),
        *('"1.2345678901234567890123456789012345678901"', r'"\ud800"', '"\x00"', '"{1e400}"'),
    ]
)


def reasons(profile: str, value: bytes) -> list[str]:
    decoder = PAIRS[profile][0]
    decoded = decoder.decode([Record(offset=0, key=None, value=value)], epoch=1, base_seq=0)
    return [reject.reason for reject in decoded.rejects]


def require_ours(found: list[str]) -> None:
    for reason in found:
        assert not [word for word in FOREIGN if word in reason], reason


@given(st.sampled_from(PROFILES), st.sampled_from(sorted(ROW)), HOSTILE)
def test_a_value_that_is_refused_is_named_by_its_column_and_what_that_holds(
    profile: str, name: str, value: str
) -> None:
    found = reasons(profile, event({**ROWS[profile], name: value}))
    require_ours(found)
    for reason in found:
        assert SECRET not in reason
        assert reason.startswith((f"payload.{name}: ", "the event holds", "the event is not JSON"))


@given(st.sampled_from([*METADATA, "fence"]), st.one_of(HOSTILE, st.just("")))
def test_what_an_event_says_of_itself_is_refused_by_name(name: str, value: str) -> None:
    metadata = {key: text for key, text in METADATA.items() if key != name}
    require_ours(reasons("lossless", event(ROW, {**metadata, name: value} if value else metadata)))


@given(
    st.binary(max_size=60) | st.integers(0, len(event(ROW)) - 1).map(lambda size: event(ROW)[:size])
)
def test_what_is_no_event_is_refused_in_our_words(value: bytes) -> None:
    found = reasons("lossless", value)
    require_ours(found)
    assert found


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (
            "moment",
            "infinity",
            "infinity has no value in ClickHouse's DateTime64 (1900-01-01 to 2299-12-31)",
        ),
        (
            "day",
            "-infinity",
            "-infinity has no value in ClickHouse's Date32 (1900-01-01 to 2299-12-31)",
        ),
        ("cents", "NaN", "NaN has no value in ClickHouse's Decimal(10, 2)"),
        (
            "day",
            "0044-03-15 BC",
            "a date BC has no value in ClickHouse's Date32 (1900-01-01 to 2299-12-31)",
        ),
        (
            "moment",
            "294276-12-31T00:00:00Z",
            "a year beyond 9999 has no value in ClickHouse's DateTime64 (1900-01-01 to 2299-12-31)",
        ),
        (
            "instant",
            "2300-01-01T00:00:00Z",
            "this timestamp has no value in ClickHouse's DateTime64 (1900-01-01 to 2299-12-31)",
        ),
        (
            "instants",
            "{infinity}",
            "infinity of the array has no value in ClickHouse's"
            " DateTime64 (1900-01-01 to 2299-12-31)",
        ),
        (
            "amounts",
            "{1.0001}",
            "an element of the array has no value in ClickHouse's Decimal(12, 3)",
        ),
        ("numbers", "{{1}}", "an array of 2 dimensions has no value in a column of 1"),
        (
            "numbers",
            "[0:1]={1,2}",
            "an array whose subscripts do not begin at 1 has no value in ClickHouse",
        ),
        (
            "small",
            40_000,
            "this number has no value in ClickHouse's Int16 (-32768 to 32767)",
        ),
        ("words", None, "NULL in a column that is NOT NULL in the model"),
    ],
)
def test_a_reason_says_what_was_there_and_what_the_column_holds(
    name: str, value: Any, reason: str
) -> None:
    found = reasons("lossless", event({**ROW, name: json.dumps(value)}))
    assert found == [f"payload.{name}: {reason}"]
