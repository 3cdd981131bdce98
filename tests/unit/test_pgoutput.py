from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.relay.pgoutput import MISSING, Insert, MalformedMessage, Relation, Update, decode

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


def test_a_relation_names_its_columns() -> None:
    column = b"\x01id\0" + struct.pack(">ii", 23, -1)
    message = b"R" + struct.pack(">i", 5) + b"public\0t\0d" + struct.pack(">h", 1) + column
    relation = decode(message)
    assert isinstance(relation, Relation)
    assert (relation.schema, relation.table, relation.columns[0].type_oid) == ("public", "t", 23)
