"""A dead letter for people: its fields, those that its reason names, and what a replay would do."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from sluice.drain.dead_letters import DeadLetter
from sluice.operate.rejected import Message, message_of
from tests.support.decoding import DECODER, ROW, decode, event


def message(value: bytes, reason: str, size: int = 0) -> Message:
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    letter = DeadLetter(
        source_table="products",
        broker_epoch="e",
        epoch=1,
        offset=7,
        key=b"",
        value=value,
        reason=reason,
        schema_version="s",
        rejected_at=at,
        state="open",
        size=size,
        replayed_at=None,
        resolved_at=None,
        dismissed_at=None,
    )
    return message_of(DECODER, letter)


def wrong(of: Message) -> dict[str, str | None]:
    return {field.place: field.value for field in of.fields if field.wrong}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (event("insert", {**ROW, "price": "NaN"}), {"payload.price": '"NaN"'}),
        (event("insert", {**ROW, "price": True}), {"payload.price": "true"}),
        (event("insert", {**ROW, "name": None}), {"payload.name": "null"}),
        (
            event("insert", {**ROW, "price": "x", "created_at": "y"}),
            {"payload.price": '"x"', "payload.created_at": '"y"'},
        ),
        (
            event("insert", {name: ROW[name] for name in ROW if name != "id"}),
            {"payload.id": None},
        ),
        (event("update", ROW, {**ROW, "id": None}), {"before.id": "null"}),
        (event("insert", ROW, commit_ts_ms=-1), {"metadata.commit_ts_ms": "-1"}),
        (event("upsert", ROW), {"metadata.operation": '"upsert"'}),
        (event("insert", ROW, table="orders"), {}),
    ],
)
def test_the_fields_that_the_reason_names_come_first_and_are_marked(
    value: bytes, named: dict[str, str | None]
) -> None:
    (reject,) = decode(value).rejects
    of = message(value, reject.reason)
    assert wrong(of) == named
    assert [field.place for field in of.fields][: len(named)] == list(wrong(of))
    assert of.refusal == reject.reason  # the same models reject it again
    sent = json.loads(value)
    places = {f"{part}.{name}" for part in sent for name in sent[part] or ()}
    assert places <= {field.place for field in of.fields}


def test_a_field_is_the_text_that_was_sent_with_its_type_in_postgresql() -> None:
    value = event("insert", ROW).replace(b'"9.90"', b"9.90")
    of = message(value, "payload.price: this number has no value in ClickHouse's Decimal(10, 2)")
    (field,) = [one for one in of.fields if one.wrong]
    assert (field.value, field.postgres_type.lower()) == ("9.90", "numeric(10, 2)")


def test_what_the_models_accept_now_has_no_refusal() -> None:
    assert message(event("insert", ROW), "payload.price is missing").refusal == ""


@pytest.mark.parametrize("value", [b"", b"[1]", b'{"payload": ', b"\xff{}", b"[" * 100_000])
def test_what_is_no_object_is_shown_as_it_came(value: bytes) -> None:
    of = message(value, "the event is not JSON")
    assert of.fields == ()
    assert of.text.startswith(value[:10].decode("utf-8", "backslashreplace"))
    assert of.refusal


def test_what_is_not_kept_whole_cannot_be_replayed() -> None:
    assert "5000" in message(event("insert", ROW), "too large", size=5000).refusal


def test_of_columns_that_begin_alike_the_one_that_is_meant_is_marked() -> None:
    sent: dict[str, Any] = {**ROW, "name ": 1, "name is": 2}
    of = message(event("insert", sent), "payload.name is is not a column of the model")
    assert wrong(of) == {"payload.name is": "2"}
