"""Rows in Postgres' text form as envelope JSON; one path for snapshot and stream.

Both give the text that a type's output function writes under the pinned session settings, so a
value is the same whichever way it came.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice.events import UNCHANGED
from sluice.positions import format_lsn
from sluice.relay.pgoutput import MISSING, RelationColumn, Value

SOURCE = "relay"
# Every session of the relay: a role's own settings would change the text of values.
SESSION_OPTIONS = (
    "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3"
    " -c bytea_output=hex -c timezone=UTC"
)

_BOOL, _BYTEA, _JSON, _JSONB = 16, 17, 114, 3802
_NUMBERS = frozenset({20, 21, 23, 26})
_FLOATS = frozenset({700, 701})
_TIMESTAMP, _TIMESTAMPTZ = 1114, 1184

_UNCHANGED_JSON = json.dumps(UNCHANGED)
_quote = json.encoder.encode_basestring_ascii  # the C implementation where there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a change stands; `commit_ms` is milliseconds since 1970."""

    lsn: int
    commit_lsn: int
    ordinal: int
    commit_ms: int


class RowEncoder:
    """Encodes the rows of one table, as its columns are at present."""

    def __init__(self, table: str, columns: Sequence[RelationColumn], key: Sequence[str]) -> None:
        self.table = table
        self._encoders = [_encoder(column.type_oid) for column in columns]
        self._names = [f"{_quote(column.name)}:" for column in columns]
        at = {column.name: index for index, column in enumerate(columns)}
        self._key_at = [at[name] for name in key]

    def row(self, values: Sequence[Value]) -> str:
        """All columns as a JSON object."""
        parts = [
            name + ("null" if value is None else encode(value))
            for name, encode, value in zip(self._names, self._encoders, values, strict=True)
        ]
        return "{" + ",".join(parts) + "}"

    def key(self, values: Sequence[Value]) -> str:
        """The key's columns as a JSON object."""
        parts = [
            self._names[index] + self._encoders[index](values[index] or b"")
            for index in self._key_at
        ]
        return "{" + ",".join(parts) + "}"

    def same_key(self, one: Sequence[Value], other: Sequence[Value]) -> bool:
        """Whether two rows have the same key."""
        return all(one[index] == other[index] for index in self._key_at)


def event(table: str, operation: str, place: Place, payload: str, before: str) -> bytes:
    """A whole envelope; payload and before are JSON texts, `null` included."""
    return (
        f'{{"metadata":{{"source":"{SOURCE}","table":{_quote(table)},"operation":"{operation}",'
        f'"lsn":"{format_lsn(place.lsn)}","commit_lsn":"{format_lsn(place.commit_lsn)}",'
        f'"ordinal":{place.ordinal},"commit_ts_ms":{place.commit_ms}}},'
        f'"payload":{payload},"before":{before}}}'
    ).encode()


def _encoder(type_oid: int) -> Callable[[bytes], str]:
    plain = _PLAIN.get(type_oid, _text)
    return lambda value: _UNCHANGED_JSON if value == MISSING else plain(value)


def _text(value: bytes) -> str:
    # A database in SQL_ASCII can hold bytes that are no UTF-8; they arrive escaped and are
    # rejected with a reason instead of stopping the stream.
    return _quote(value.decode(errors="surrogateescape"))


def _bare(value: bytes) -> str:
    return value.decode()


def _bool(value: bytes) -> str:
    return "true" if value == b"t" else "false"


def _float(value: bytes) -> str:
    text = value.decode()
    return _quote(text) if text in {"NaN", "Infinity", "-Infinity"} else text


def _bytea(value: bytes) -> str:
    return _quote(b64encode(bytes.fromhex(value[2:].decode())).decode())


def _timestamp(value: bytes) -> str:
    """`2026-01-01 00:00:00.5[+00]` as RFC 3339; infinity and BC stay as they are."""
    text = value.decode().removesuffix("+00")
    if text[-2:] == "BC" or text.endswith("infinity"):
        return _quote(text)
    return f'"{text.replace(" ", "T", 1)}Z"'


_PLAIN: dict[int, Callable[[bytes], str]] = {
    _BOOL: _bool,
    _BYTEA: _bytea,
    _JSON: _bare,
    _JSONB: _bare,
    _TIMESTAMP: _timestamp,
    _TIMESTAMPTZ: _timestamp,
    **dict.fromkeys(_NUMBERS, _bare),
    **dict.fromkeys(_FLOATS, _float),
}
