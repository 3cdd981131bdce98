from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import ARRAY, Boolean, Date, DateTime, Float, Integer, Numeric, Uuid
from sqlalchemy.types import TypeEngine

from sluice.data_types.mapping import column_type
from sluice.data_types.sqlalchemy_types import declared_type
from sluice.events.event import (
    UNCHANGED,
    FullRow,
    KeyDeleted,
    OutdatedRow,
    PartialRow,
    Record,
    Truncated,
)
from tests.support.decoding import DECODER, ROW, TABLE, changes, decode, event
from tests.unit.sample_events import ROW as SAMPLE
from tests.unit.sample_events import event as sample
from tests.unit.sample_events import pair


def test_a_row_is_stored_unaltered_with_ticks_before_1970() -> None:
    ((*values, version, deleted, seq, committed_at),) = zip(
        *decode(event("insert", ROW)).rows, strict=True
    )
    assert values == [1, "Lamp", "Garden", 990, -500_000]
    assert (version, deleted, seq, committed_at) == (1 << 112 | 16 << 48 | 3, 0, 108, 5)


def test_rows_are_the_same_whether_they_come_among_rows_or_beside_what_does_not_fit() -> None:
    late = event("update", {**ROW, "name": "late"}, ordinal=4)
    good = [event("insert", ROW), late, event("delete", {"id": 2})]
    plain = decode_all(good)
    beside = decode_all([*good, event("insert", ROW, commit_lsn="zz")])
    assert plain.changes == []
    assert beside.rows == []
    assert sorted(changes(TABLE, plain), key=lambda change: change.seq) == beside.changes
    assert [reject.record.offset for reject in beside.rejects] == [3]


def test_among_many_plain_events_the_one_that_does_not_fit_is_found() -> None:
    values = [event("insert", ROW, ordinal=number) for number in range(1000)]
    values[500] = event("insert", {**ROW, "created_at": "1850-01-01T00:00:00Z"})
    decoded = decode_all(values)
    assert [reject.record.offset for reject in decoded.rejects] == [500]
    assert len(decoded.rows[0]) + len(decoded.changes) == 999
    assert len(decoded.changes) < 20


def decode_all(values: list[bytes]) -> Any:
    records = [Record(offset=at, key=None, value=value) for at, value in enumerate(values)]
    return DECODER.decode(records, epoch=1, base_seq=100)


def test_a_key_change_writes_the_new_row_and_deletes_the_old_key() -> None:
    row, gone = decode(event("update", ROW, {"id": 9})).changes
    assert isinstance(row, FullRow)
    assert isinstance(gone, KeyDeleted)
    assert gone.key == (9,)


def test_a_value_that_was_left_out_makes_the_row_partial() -> None:
    (change,) = decode(event("update", {**ROW, "name": UNCHANGED})).changes
    assert isinstance(change, PartialRow)
    assert change.former_key == (1,)


def test_a_row_that_lacks_a_column_is_outdated() -> None:
    (change,) = decode(event("update", {"id": 8}, {"id": 1})).changes[:1]
    assert isinstance(change, OutdatedRow)
    assert (change.former_key, change.key, change.key_text) == ((1,), (8,), ("8",))


@pytest.mark.parametrize("operation", ["read", "insert", "update", "delete"])
@pytest.mark.parametrize("before", [None, {"id": 1}, {"id": 2}])
def test_columns_that_the_models_lack_are_left_out_of_rows(operation: str, before: Any) -> None:
    more: dict[str, Any] = {"colour": None, "größe": [1.10, {"id": 9}], 'a"b': UNCHANGED}
    with_more = before and {**before, **more}
    taken = decode(event(operation, {**ROW, **more}, with_more))
    assert changes(TABLE, taken) == changes(TABLE, decode(event(operation, ROW, before)))
    assert taken.rejects == []


def test_beside_a_column_that_the_models_lack_nothing_is_filled_with_null() -> None:
    """The column that is missing may have been renamed."""
    renamed = {**ROW, "kind": ROW["category"]}
    del renamed["category"]
    (change,) = decode(event("update", renamed)).changes
    assert isinstance(change, OutdatedRow)
    decoder = pair("lossless")[0]
    row = {name: value for name, value in SAMPLE.items() if name != "short"}
    for more, filled in (({}, None), ({"brief": '"x"'}, UNCHANGED)):
        value = sample({**row, **more})
        (change,) = changes(
            decoder.table, decoder.decode([Record(7, None, value)], epoch=1, base_seq=0)
        )
        assert isinstance(change, PartialRow if more else FullRow)
        names = [column.name for column in decoder.table.columns]
        assert change.values[names.index("short")] == filled


def test_a_delete_needs_the_key_alone_and_a_truncate_nothing() -> None:
    (gone,) = changes(TABLE, decode(event("delete", {"id": 4})))
    assert isinstance(gone, KeyDeleted)
    assert gone.key == (4,)
    assert isinstance(decode(event("truncate", None)).changes[0], Truncated)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "JSON"),
        (b"{", "JSON"),
        (event("insert", {**ROW, "colour": "red", "id": "1"}), "payload.id"),
        (event("insert", {**ROW, "id": 2**31}), "payload.id"),
        (event("insert", {**ROW, "id": "1"}), "payload.id"),
        (event("insert", {**ROW, "price": "1.999"}), "payload.price"),
        (event("insert", {**ROW, "price": "NaN"}), "payload.price"),
        (event("insert", {**ROW, "created_at": "infinity"}), "payload.created_at"),
        (event("insert", {**ROW, "created_at": "1850-01-01T00:00:00Z"}), "payload.created_at"),
        (event("insert", None), "the row is too large"),
        (event("delete", None), "a delete without a key"),
        (event("insert", ROW, table="orders"), "orders"),
        (event("insert", ROW, source="stranger"), "metadata.source"),
        (event("insert", ROW, commit_lsn=None), "commit_lsn"),
        (event("insert", ROW, commit_lsn="zz"), ""),
        (event("insert", ROW, commit_ts_ms=10**30), "commit_ts_ms"),
        (event("insert", ROW, commit_ts_ms=-1), "commit_ts_ms"),
    ],
)
def test_what_does_not_fit_is_rejected_with_its_place_and_reason(
    value: bytes | None, reason: str
) -> None:
    decoded = decode(value)
    assert not decoded.changes
    assert not decoded.rows
    (reject,) = decoded.rejects
    assert reject.record.offset == 7
    assert reason in reject.reason or reject.reason.startswith("payload.name")


NESTED = '{"a":' * 20_000 + "1" + "}" * 20_000


@pytest.mark.parametrize("cut", [0, 20_000], ids=["whole", "cut"])
@pytest.mark.parametrize("name", [*ROW, "colour"])
@pytest.mark.parametrize("part", ["payload", "before", "metadata", None])
def test_an_event_nested_deeper_than_any_parser_follows_is_rejected(
    part: str | None, name: str, cut: int
) -> None:
    whole = json.loads(event("update", ROW, {"id": 1}))
    (whole[part] if part else whole)[name] = "here"
    value = json.dumps(whole).replace('"here"', NESTED).encode()
    values = [event("insert", ROW), value[: len(value) - cut], event("delete", {"id": 4})]
    records = [Record(offset=at, key=None, value=one) for at, one in enumerate(values)]
    decoded = DECODER.decode(records, epoch=1, base_seq=0)
    assert [reject.record.offset for reject in decoded.rejects] == [1]
    assert len(changes(TABLE, decoded)) == 2


def test_a_resyncs_rows_among_connects_events_stand_before_their_fence() -> None:
    def version(**metadata: Any) -> int:
        place = {"source": "connect", "commit_lsn": None, "ordinal": None, **metadata}
        (change,) = changes(TABLE, decode(event("read", ROW, **place)))
        return change.version

    at_offset_7 = version()
    assert at_offset_7 == 1 << 112 | 7 << 48
    assert version(fence=7, ordinal=0) < version(fence=7, ordinal=1) < at_offset_7
    assert version(fence=6, ordinal=1) < version(fence=7, ordinal=0)


@pytest.mark.parametrize("place", [{"fence": -1}, {"fence": 8}, {"fence": 3, "ordinal": 2}])
def test_a_fence_that_is_no_place_is_rejected(place: dict[str, Any]) -> None:
    metadata = {"source": "connect", "ordinal": 0, **place}
    (reject,) = decode(event("read", ROW, **metadata)).rejects
    assert "no position" in reject.reason


SECRETS = ("geheim", "geheim'\\", "geheim" * 100)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("column", ["id", "price", "created_at", "category"])
def test_a_reason_names_the_column_and_does_not_repeat_its_value(column: str, secret: str) -> None:
    """Dead letters are personal data; their reasons stand in logs and findings."""
    for value in (secret, [secret], {secret: 1}):
        for reject in decode(event("insert", {**ROW, column: value})).rejects:
            assert column in reject.reason
            assert "geheim" not in reject.reason


def test_a_reason_is_cut_where_its_columns_fill_it() -> None:
    value = sample(dict.fromkeys(SAMPLE, "{}"))
    (reject,) = pair("lossless")[0].decode([Record(7, None, value)], epoch=1, base_seq=0).rejects
    assert len(reject.reason) == 300


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "column", [Integer(), Float(), Numeric(9, 2), Boolean(), Date(), DateTime(), Uuid()], ids=repr
)
def test_a_reason_does_not_repeat_an_arrays_element(column: TypeEngine[Any], secret: str) -> None:
    declared = declared_type(ARRAY(column))
    assert declared is not None
    kind = column_type(declared)
    assert kind.to_driver is not None
    with pytest.raises(ValueError, match=r"element|number|boolean") as caught:
        kind.to_driver(f"{{{json.dumps(secret)}}}")
    assert "geheim" not in str(caught.value)
