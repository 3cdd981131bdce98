"""Plain events are read to what the event schema would make of them, whatever is in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluice.catalog import Table
from sluice.data_types.mapping import PROFILES
from sluice.drain.decoder import Decoded
from sluice.events.event import UNCHANGED, Record
from tests.support.decoding import changes
from tests.unit.sample_events import COMPACT_ROW, METADATA, PAIRS, ROW, event


def require_the_same(profile: str, values: list[bytes]) -> Decoded:
    """Both decoders make the same of the events; that of the first."""
    records = [Record(offset=at, key=None, value=value) for at, value in enumerate(values)]
    fast, slow = (one.decode(records, epoch=1, base_seq=9) for one in PAIRS[profile])
    table = PAIRS[profile][0].table
    assert repr(by_place(table, fast)) == repr(by_place(table, slow))
    assert fast.rejects == slow.rejects
    return fast


def test_rows_with_columns_that_the_models_lack_are_plain() -> None:
    strangers = {"stranger": '"\\u0000unchanged"', "größe": '{"id": [1.10, null]}'}
    decoded = require_the_same("lossless", [event(ROW), *[event({**ROW, **strangers})] * 9])
    assert decoded.changes == []
    assert len(decoded.rows[0]) == 10
    lacking = {name: value for name, value in ROW.items() if name != "short"}
    require_the_same("lossless", [event(lacking), event({**lacking, **strangers})])


def by_place(table: Table, decoded: Decoded) -> list[Any]:
    return sorted(changes(table, decoded), key=lambda change: (change.seq, type(change).__name__))


@pytest.mark.parametrize(("profile", "row"), [("lossless", ROW), ("compact", COMPACT_ROW)])
def test_what_the_relay_sends_is_plain_whatever_its_type(profile: str, row: dict[str, str]) -> None:
    nothing = {name: "null" if name in NULLABLE else value for name, value in row.items()}
    gone = event({"id": "7"}, {**METADATA, "operation": '"delete"'})
    decoded = require_the_same(profile, [event(row), event(nothing), event(row), gone])
    assert decoded.changes == []
    assert len(decoded.rows[0]) == 4


NULLABLE = {column.name for column in PAIRS["lossless"][0].table.columns if column.nullable}

DIGITS = st.text("0123456789.-+eE_ ", max_size=45)
TIMES = st.from_regex(r"\A\d{3,5}-\d\d-\d\d[T tZ]\d\d:\d\d(:\d\d(\.\d{1,8})?)?(Z|[+-]\d\d:\d\d)?\Z")
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
VALUES = st.one_of(
    st.sampled_from([*ROW.values(), *METADATA.values(), json.dumps(UNCHANGED), '"infinity"']),
    st.sampled_from(['"NaN"', "NaN", "1e400", "-0", "-0.0", "1.0", "1e2", "9007199254740993"]),
    st.sampled_from([str(sign * (1 << bits) - 1) for bits in (15, 31, 63, 64) for sign in (1, -1)]),
    st.sampled_from([r'"\ud800"', r'"\u0000"', '"\t"', '"a\\nb"', '"1.00\\n2.00"', '"1.00\\n"']),
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.decimals(places=2, allow_nan=False).map(lambda number: f'"{number}"'),
    DIGITS.map(json.dumps),
    TIMES.map(json.dumps),
    st.dates().map(lambda day: f'"{day}"'),
    st.datetimes().map(lambda moment: f'"{moment.isoformat()}Z"'),
    st.uuids().map(lambda number: f'"{number}"'),
    st.uuids().map(lambda number: f'"{number.hex}"'),
    JSONS.map(json.dumps),
)


@given(st.sampled_from(PROFILES), st.sampled_from(sorted(ROW)), VALUES)
@example("lossless", "cents", '"100000000.00"')
@example("lossless", "cents", '"-0.00"')
@example("compact", "cents", '"-0.00"')
@example("compact", "big", str(2**64 - 1))
@example("lossless", "moment", '"2026-01-01T00:00:00.1234567Z"')
@example("lossless", "moment", '"2026-02-30T00:00:00Z"')
@example("lossless", "moment", '"1899-12-31T23:59:59.999999Z"')
@example("lossless", "day", '"2300-01-01"')
@example("lossless", "whole", "2147483648")
@example("lossless", "identity", '"{12345678-1234-5678-1234-567812345678}"')
def test_any_value_is_what_the_schema_makes_of_it(profile: str, name: str, value: str) -> None:
    row = {**(ROW if profile == "lossless" else COMPACT_ROW), name: value}
    require_the_same(profile, [event(row)] * 2)


KINDS = ["plain", "metadata", "payload", "stranger", "before", "cut"]


@given(st.data())
def test_any_event_is_what_the_schema_makes_of_it(data: st.DataObject) -> None:
    """Fields that are missing, of others, twice there, of other kinds; among events like them."""
    events = []
    for _ in range(data.draw(st.integers(1, 40))):
        row, metadata, before = dict(ROW), dict(METADATA), "null"
        match data.draw(st.sampled_from(KINDS)):
            case "metadata":
                name = data.draw(st.sampled_from([*METADATA, "fence", "stranger"]))
                metadata[name] = data.draw(
                    VALUES | st.sampled_from(['"connect"', '"delete"', '"truncate"', '"read"'])
                )
            case "payload":
                row.pop(data.draw(st.sampled_from([*ROW])))
                row |= data.draw(st.sampled_from([{}, {"stranger": "1"}, {"id": "1"}]))
            case "stranger":
                row |= data.draw(st.dictionaries(st.text(), VALUES, max_size=2))
            case "before":
                befores = ['{"id":7}', '{"id":8}', '{"id":8,"stranger":1}', "{}", "1"]
                before = data.draw(st.sampled_from(befores))
            case "cut":
                whole = event(row)
                events.append(whole[: data.draw(st.integers(0, len(whole)))])
                continue
        events.append(event(row, metadata, before))
    require_the_same("lossless", events)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b" " + event(ROW) + b"\n",
        b"\xef\xbb\xbf" + event(ROW),
        event(ROW) + event(ROW),
        event(ROW).replace(b'"a"', b'"\xff"'),
        event(ROW).replace(b'"a"', b'"\xed\xa0\x80"'),
        event(ROW).replace(b'"id":7', b'"id":7,"id":8'),
        event(ROW).replace(b'"id":7', b'"id":"x","id":8'),
        event(ROW).replace(b'"id"', b'"\\u0069d"'),
        event(None),
        event({**ROW, "stranger": "1"}).replace(b'"stranger"', b'"\xff"'),
        *(
            event({**ROW, "stranger": "@"}).replace(b"@", value)
            for value in (
                b'"\xff"',
                b'"\xed\xa0\x80"',
                b'"\t"',
                b"01",
                b"1.",
                b"{",
                b"[1,]",
                b'"\\q"',
            )
        ),
    ],
)
def test_malformed_json_is_what_the_schema_makes_of_it(value: bytes) -> None:
    require_the_same("lossless", [event(ROW), value, event(ROW)])
