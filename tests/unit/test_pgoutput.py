from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.capture.pgoutput import (
    MISSING,
    Insert,
    MalformedMessage,
    Relation,
    Type,
    Update,
    decode,
)

VALUES = st.lists(st.one_of(st.none(), st.just(MISSING), st.binary(max_size=40)), max_size=6)


def encoded(values: list[bytes | None]) -> bytes:
    parts = [struct.pack(">h", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value == MISSING:
            parts.append(b"u")
        else:
            parts.append(b"t" + struct.pack(">i", len(value)) + value)
    return b"".join(parts)


@given(st.integers(0, 2**31 - 1), VALUES, VALUES)
def test_rows_come_out_as_they_went_in(
    relation: int, old: list[bytes | None], new: list[bytes | None]
) -> None:
    head = struct.pack(">i", relation)
    assert decode(b"I" + head + b"N" + encoded(new)) == Insert(relation_id=relation, new=new)
    message = b"U" + head + b"O" + encoded(old) + b"N" + encoded(new)
    assert decode(message) == Update(relation_id=relation, old=old, new=new)


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_raise_the_one_error(data: bytes) -> None:
    with suppress(MalformedMessage):
        decode(data)


@given(VALUES.filter(bool), st.data())
def test_a_truncated_row_is_malformed(values: list[bytes | None], data: st.DataObject) -> None:
    message = b"I" + struct.pack(">i", 1) + b"N" + encoded(values)
    cut = data.draw(st.integers(1, len(message) - 1))
    with pytest.raises(MalformedMessage):
        decode(message[:cut])


MESSAGES = (
    b"B" + struct.pack(">qqi", 1, 2, 3),
    b"C" + struct.pack(">bqqq", 0, 1, 2, 3),
    b"I" + struct.pack(">i", 1) + b"N" + encoded([b"1", None, MISSING]),
    b"U" + struct.pack(">i", 1) + b"N" + encoded([b"1"]),
    b"U" + struct.pack(">i", 1) + b"K" + encoded([b"1"]) + b"N" + encoded([b"2"]),
    b"D" + struct.pack(">i", 1) + b"O" + encoded([b"1", b"two"]),
    b"T" + struct.pack(">ibii", 2, 0, 1, 2),
    b"R" + struct.pack(">i", 5) + b"public\0t\0d\0\1\1id\0" + struct.pack(">ii", 23, -1),
    b"Y" + struct.pack(">I", 16_400) + b"\0int8\0",
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: chr(message[0]))
def test_a_message_that_is_cut_or_goes_on_is_malformed(message: bytes) -> None:
    decode(message)
    for cut in range(len(message)):
        with pytest.raises(MalformedMessage):
            decode(message[:cut])
    with pytest.raises(MalformedMessage):
        decode(message + b"x")


@given(st.sampled_from(MESSAGES), st.data())
def test_bytes_that_changed_on_the_way_decode_or_raise_the_one_error(
    message: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(message) - 1))
    changed = message[:at] + data.draw(st.binary(max_size=6)) + message[at + 1 :]
    with suppress(MalformedMessage):
        decode(changed)


@pytest.mark.parametrize(
    "message",
    [
        b"?" + struct.pack(">i", 1),
        b"I" + struct.pack(">i", 1) + b"O" + encoded([b"1"]),
        b"I" + struct.pack(">i", 1) + b"N" + struct.pack(">h", 1) + b"z",
        b"I"
        + struct.pack(">i", 1)
        + b"N"
        + struct.pack(">h", 1)
        + b"t"
        + struct.pack(">i", 9)
        + b"1",
        b"I" + struct.pack(">i", 1) + b"N" + struct.pack(">h", 1) + b"t" + struct.pack(">i", -1),
        b"R" + struct.pack(">i", 5) + b"public\0\xff\xfe\0d" + struct.pack(">h", 0),
    ],
    ids=["tag", "row", "kind", "too long", "negative length", "no UTF-8"],
)
def test_what_the_protocol_does_not_know_is_malformed(message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(message)


def test_a_relation_names_its_columns() -> None:
    column = b"\x01id\0" + struct.pack(">ii", 23, -1)
    message = b"R" + struct.pack(">i", 5) + b"public\0t\0d" + struct.pack(">h", 1) + column
    relation = decode(message)
    assert isinstance(relation, Relation)
    assert (relation.schema, relation.table, relation.columns[0].type_oid) == ("public", "t", 23)


def test_a_type_is_described_by_name_and_an_oid_has_no_sign() -> None:
    message = b"Y" + struct.pack(">I", 2**32 - 1) + b"\0int8\0"
    assert decode(message) == Type(oid=2**32 - 1, schema="pg_catalog", name="int8")
    columns = b"\0\1\0day\0" + struct.pack(">Ii", 2**32 - 1, -1)
    relation = decode(b"R" + struct.pack(">i", 5) + b"crm\0t\0d" + columns)
    assert isinstance(relation, Relation)
    assert relation.columns[0].type_oid == 2**32 - 1
