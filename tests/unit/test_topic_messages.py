"""How messages are shown: any bytes, bounded, and events in fields."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.clients.topic_reader import Message, TopicOffsets, Unreadable
from sluice.operate.topic_messages import SHOWN_BYTES, ShownMessage, shown
from sluice.operate.topic_overview import WINDOW, _rate

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def message(value: bytes | None, key: bytes | None = None, *headers: tuple[str, Any]) -> Message:
    return Message(offset=7, at=NOW, key=key, headers=headers, value=value)


BYTES = st.binary(max_size=200) | st.none()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.dictionaries(st.text(max_size=9), inner, max_size=4) | st.lists(inner),
    max_leaves=9,
)


@given(BYTES, BYTES, st.lists(st.tuples(st.text(max_size=9), BYTES), max_size=30))
def test_any_bytes_are_shown_with_their_lengths(
    value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    found = shown(message(value, key, *headers))
    assert (found.value_bytes, found.key_bytes) == (len(value or b""), len(key or b""))
    assert (found.value is None, found.key is None) == (value is None, key is None)
    assert (found.header_count, len(found.headers)) == (len(headers), min(20, len(headers)))
    json.dumps(found.value).encode()


@given(st.dictionaries(st.text(max_size=9), JSON, min_size=1, max_size=4))
def test_the_fields_of_an_object_are_its_own_texts(document: dict[str, Any]) -> None:
    found = shown(message(json.dumps(document, ensure_ascii=False).encode("utf-8", "ignore")))
    sections = {name: of for name, of in document.items() if name in {"payload", "before"}}
    if not sections and all(name.isascii() for name in document):
        assert {name: json.loads(text) for name, text in found.fields} == document


@pytest.mark.parametrize("size", [SHOWN_BYTES - 1, SHOWN_BYTES, SHOWN_BYTES + 1, 5_000_000])
def test_a_large_value_is_cut_between_characters(size: int) -> None:
    found = shown(message(("é" * size).encode()))
    assert found.value_bytes == 2 * size
    assert found.value == "é" * (SHOWN_BYTES // 2)


def test_what_is_not_for_viewers_is_left_out() -> None:
    value = b'{"metadata": {"operation": "insert"}, "payload": {"name": "jo@example.com"}}'
    found = shown(message(value, b"jo@example.com", ("jo@example.com", b"jo@example.com")))
    assert (found.operation, found.fields[-1]) == ("insert", ("payload.name", '"jo@example.com"'))
    assert "jo@" not in repr(found.without_values())
    forged = value.replace(b'"insert"', b'"jo@example.com"')
    assert "jo@" not in repr(shown(message(forged)).without_values())


def test_messages_that_cannot_be_read_have_their_offsets_and_the_reason() -> None:
    found = shown(Unreadable(offset=3, next_offset=9, reason="Local: Bad compression"))
    assert found == ShownMessage(
        offset=3, next_offset=9, kind="unreadable", problem="Local: Bad compression"
    )


@pytest.mark.parametrize(
    ("beginning", "since", "age", "rate"),
    [
        (0, 0, 9.0, 1.0),  # a new topic: 300 messages in five minutes
        (0, 150, 900.0, 0.5),
        (0, None, 900.0, 0.0),  # nothing arrived lately
        (0, None, None, 0.0),
        (100, 150, 900.0, 0.5),
        (150, 150, 10.0, 15.0),  # older messages were deleted: 150 in ten seconds
        (300, None, None, None),  # all were deleted
    ],
)
def test_the_rate_is_that_of_the_time_whose_messages_the_broker_has(
    beginning: int, since: int | None, age: float | None, rate: float | None
) -> None:
    assert timedelta(seconds=300) == WINDOW
    known = TopicOffsets(
        partitions=1, beginning=beginning, end=300, oldest_at=None, since=since, options={}
    )
    assert _rate(known, age) == rate
