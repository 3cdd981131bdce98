"""Rows in Postgres' text form as envelope JSON, for the stream.

`expressions` has PostgreSQL write the same bytes for a snapshot: both begin with the text that a
type's output function writes under the pinned session settings.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence

from sluice.errors import NeedsPerson
from sluice.events import RELAY, UNCHANGED
from sluice.positions import format_lsn
from sluice.relay.pgoutput import MISSING, RelationColumn, Value

_BOOL, _BYTEA = 16, 17
_NUMBERS = frozenset({20, 21, 23, 26})
_FLOATS = frozenset({700, 701})
_TIMESTAMP, _TIMESTAMPTZ = 1114, 1184
_DATE, _NUMERIC, _UUID = 1082, 1700, 2950

_UNCHANGED_JSON = json.dumps(UNCHANGED)
_quote = json.encoder.encode_basestring_ascii  # the C implementation where there is one


class RowEncoder:
    """Encodes the rows of one table, as its columns are at present.

    Raises:
        NeedsPerson: a column of the key is not among the columns.
    """

    def __init__(
        self,
        table: str,
        columns: Sequence[RelationColumn],
        key: Sequence[str],
        source: str = RELAY,
    ) -> None:
        self.table = table
        self.head = f'{{"metadata":{{"source":"{source}","table":{_quote(table)},"operation":"'
        self._encoders = [_ENCODERS.get(column.type_oid, _text) for column in columns]
        self._names = [f"{_quote(column.name)}:" for column in columns]
        at = {column.name: index for index, column in enumerate(columns)}
        lost = [name for name in key if name not in at]
        if lost:
            raise NeedsPerson(
                f"table {table} has no column {', '.join(lost)}, its key in the models",
                remedy="mend the model or the table (make generate), then: sluice relay --snapshot",
            )
        self._key_at = [at[name] for name in key]

    def row(self, values: Sequence[Value]) -> str:
        """All columns as a JSON object; ValueError when there are more or fewer values."""
        parts = []
        for name, encode, value in zip(self._names, self._encoders, values, strict=True):
            if value is None:
                parts.append(name + "null")
            elif value is MISSING:
                parts.append(name + _UNCHANGED_JSON)
            else:
                parts.append(name + encode(value))
        return "{" + ",".join(parts) + "}"

    def key(self, values: Sequence[Value]) -> str:
        """The key's columns as a JSON object; ValueError when one is NULL."""
        parts = []
        for index in self._key_at:
            value = values[index]
            if value is None:
                raise ValueError(f"table {self.table}: a key without a value")
            parts.append(self._names[index] + self._encoders[index](value))
        return "{" + ",".join(parts) + "}"

    def same_key(self, one: Sequence[Value], other: Sequence[Value]) -> bool:
        """Whether two rows have the same key."""
        return all(one[index] == other[index] for index in self._key_at)


class Transaction:
    """The part of an envelope that all changes of a transaction share.

    Args:
        commit_lsn: where it committed; of a snapshot its consistent point.
        commit_ms: when, milliseconds since 1970.
        fence: the offset that a resync's rows stand before, where offsets are the order.
    """

    __slots__ = ("_after", "_before")

    def __init__(self, commit_lsn: int, commit_ms: int, fence: int | None = None) -> None:
        place = f'"commit_lsn":"{format_lsn(commit_lsn)}"' if fence is None else f'"fence":{fence}'
        self._before = f'",{place},"ordinal":'
        self._after = f',"commit_ts_ms":{commit_ms}}},"payload":'

    def event(
        self, encoder: RowEncoder, operation: str, lsn: int, ordinal: int, payload: str, before: str
    ) -> bytes:
        """A whole envelope; payload and before are JSON texts, `null` included."""
        return (
            f'{encoder.head}{operation}","lsn":"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}{self._before}'
            f'{ordinal}{self._after}{payload},"before":{before}}}'
        ).encode()


def _text(value: bytes) -> str:
    # A database in SQL_ASCII can hold bytes that are no UTF-8; they arrive escaped and are
    # rejected with a reason instead of stopping the stream.
    return _quote(value.decode(errors="surrogateescape"))


def _bare(value: bytes) -> str:
    return value.decode()


def _plain(value: bytes) -> str:
    """A text in which nothing needs an escape."""
    return f'"{value.decode()}"'


def _bool(value: bytes) -> str:
    return "true" if value == b"t" else "false"


def _float(value: bytes) -> str:
    text = value.decode()
    if text == "-0":  # as an integer it would lose its sign
        return "-0.0"
    return _quote(text) if text[-1] in "Ny" else text  # NaN, Infinity, -Infinity


def _bytea(value: bytes) -> str:
    return _quote(b64encode(bytes.fromhex(value[2:].decode())).decode())


def _timestamp(value: bytes) -> str:
    """`2026-01-01 00:00:00.5[+00]` as RFC 3339; infinity and BC stay as they are."""
    text = value.decode().removesuffix("+00")
    if text[-1] in "Cy":  # BC, infinity
        return _quote(text)
    return f'"{text.replace(" ", "T", 1)}Z"'


_ENCODERS: dict[int, Callable[[bytes], str]] = {
    _BOOL: _bool,
    _BYTEA: _bytea,
    _TIMESTAMP: _timestamp,
    _TIMESTAMPTZ: _timestamp,
    **dict.fromkeys(_NUMBERS, _bare),
    **dict.fromkeys(_FLOATS, _float),
    **dict.fromkeys((_DATE, _NUMERIC, _UUID), _plain),
}
