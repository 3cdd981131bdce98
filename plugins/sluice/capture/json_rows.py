"""Conversion of rows in PostgreSQL's text form to envelope JSON, for the stream.

`json_sql` lets PostgreSQL write the same bytes for a snapshot: both start from the text of a type's
output function under the pinned session settings. Values stay bytes: most need no escape, and
checking that is cheaper than encoding the value.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import compress

from sluice.capture.pgoutput import MISSING, RelationColumn, Value
from sluice.data_types.masks import Mask
from sluice.errors import NeedsPerson
from sluice.events.event import RELAY, UNCHANGED, place_of

# Types of `pg_catalog` whose JSON is not their text as a string; a domain counts as its base type.
TYPE_OIDS = {
    "bool": 16,
    "bytea": 17,
    "int8": 20,
    "int2": 21,
    "int4": 23,
    "oid": 26,
    "float4": 700,
    "float8": 701,
    "date": 1082,
    "timestamp": 1114,
    "timestamptz": 1184,
    "numeric": 1700,
    "uuid": 2950,
}

_UNCHANGED_JSON = json.dumps(UNCHANGED).encode()
_quote = json.encoder.encode_basestring_ascii  # the C implementation if available
# Printable ASCII without what JSON escapes.
_UNESCAPED = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))
_NO_MASKS: Mapping[str, Mask] = {}
_SHORT = 64  # bytes; up to here quoting is cheaper than checking whether it is needed


class RowEncoder:
    """Encodes the rows of one table with its present columns.

    Args:
        excluded: names of columns that rows have and that are not sent. Default: none.
        masks: masks of columns by name. Default: none.

    Raises:
        NeedsPerson: a column of the key is not among the columns.
    """

    def __init__(
        self,
        table: str,
        columns: Sequence[RelationColumn],
        key: Sequence[str],
        source: str = RELAY,
        excluded: Collection[str] = (),
        masks: Mapping[str, Mask] = _NO_MASKS,
    ) -> None:
        self.table = table
        sent = [column.name not in excluded for column in columns]
        self._sent = None if all(sent) else sent
        head = f'{{"metadata":{{"source":"{source}","table":{_quote(table)},"operation":"'
        self.head = head.encode()
        self._columns = [
            (f"{_quote(column.name)}:".encode(), _encoder(column, masks.get(column.name)))
            for column in columns
        ]
        self._row_columns = list(compress(self._columns, sent))
        at = {column.name: index for index, column in enumerate(columns)}
        missing = [name for name in key if name not in at]
        if missing:
            raise NeedsPerson(
                f"table {table} has no column {', '.join(missing)}, its key in the models",
                remedy="fix the model or the table (sluice generate), then:"
                " sluice relay --snapshot",
            )
        self._key_at = [at[name] for name in key]

    def row(self, values: Sequence[Value]) -> bytes:
        """Encode the sent columns as a JSON object; ValueError for another number of values."""
        if self._sent is not None:
            values = [v for v, sent in zip(values, self._sent, strict=True) if sent]
        parts = [
            name
            + (
                b"null"
                if value is None
                else _UNCHANGED_JSON
                if value is MISSING
                else encode(value)
                if encode
                else value
            )
            for (name, encode), value in zip(self._row_columns, values, strict=True)
        ]
        return b"{%b}" % b",".join(parts)

    def key(self, values: Sequence[Value]) -> bytes:
        """Encode the key's columns as a JSON object; ValueError where one is NULL."""
        parts = []
        for index in self._key_at:
            value = values[index]
            if value is None:
                raise ValueError(f"table {self.table}: a key without a value")
            name, encode = self._columns[index]
            parts.append(name + (encode(value) if encode else value))
        return b"{%b}" % b",".join(parts)

    def same_key(self, one: Sequence[Value], other: Sequence[Value]) -> bool:
        """Whether two rows have the same key."""
        return all(one[index] == other[index] for index in self._key_at)


class Transaction:
    """The part of the envelope that is common to a transaction's changes.

    Args:
        commit_lsn: LSN of the commit, or a snapshot's consistent point.
        commit_ms: commit time, milliseconds since 1970.
        fence: offset that a resync's rows precede, where offsets order changes. Default: none.
    """

    __slots__ = ("_after", "_before")

    def __init__(self, commit_lsn: int, commit_ms: int, fence: int | None = None) -> None:
        self._before = f'",{place_of(commit_lsn, fence)},"ordinal":'.encode()
        self._after = f',"commit_ts_ms":{commit_ms}}},"payload":'.encode()

    def event(
        self,
        encoder: RowEncoder,
        operation: bytes,
        lsn: int,
        ordinal: int,
        payload: bytes,
        before: bytes,
    ) -> bytes:
        """Return the envelope of a change; payload and before are JSON texts, or `null`."""
        return b'%b%b","lsn":"%X/%X%b%d%b%b,"before":%b}' % (
            encoder.head,
            operation,
            lsn >> 32,
            lsn & 0xFFFFFFFF,
            self._before,
            ordinal,
            self._after,
            payload,
            before,
        )


def _encoder(column: RelationColumn, mask: Mask | None) -> Callable[[bytes], bytes] | None:
    if mask is None:
        return _ENCODERS.get(column.type_oid, _text)
    return lambda value: _plain(mask(value))


def _text(value: bytes) -> bytes:
    if len(value) > _SHORT and not value.translate(None, _UNESCAPED):
        return b'"%b"' % value
    # A database in SQL_ASCII can contain invalid UTF-8. It is sent escaped, and the drain rejects
    # it with a reason instead of the stream stopping.
    return _quote(value.decode(errors="surrogateescape")).encode()


def _plain(value: bytes) -> bytes:
    """Quote a text that needs no escapes."""
    return b'"%b"' % value


def _bool(value: bytes) -> bytes:
    return b"true" if value == b"t" else b"false"


def _float(value: bytes) -> bytes:
    if value == b"-0":  # as an integer it would lose the sign
        return b"-0.0"
    return b'"%b"' % value if value[-1] in b"Ny" else value  # NaN, Infinity, -Infinity


def _bytea(value: bytes) -> bytes:
    return b'"%b"' % b64encode(bytes.fromhex(value[2:].decode()))


def _timestamp(value: bytes) -> bytes:
    """Convert `2026-01-01 00:00:00.5[+00]` to RFC 3339; infinity and BC stay unchanged."""
    text = value.removesuffix(b"+00")
    if text[-1] in b"Cy":  # BC, infinity
        return b'"%b"' % text
    return b'"%bZ"' % text.replace(b" ", b"T", 1)


# None: the text of numbers is JSON already.
_BY_NAME: dict[str, Callable[[bytes], bytes] | None] = {
    "bool": _bool,
    "bytea": _bytea,
    **dict.fromkeys(("timestamp", "timestamptz"), _timestamp),
    **dict.fromkeys(("int8", "int2", "int4", "oid")),
    **dict.fromkeys(("float4", "float8"), _float),
    **dict.fromkeys(("date", "numeric", "uuid"), _plain),
}
_ENCODERS = {oid: _BY_NAME[name] for name, oid in TYPE_OIDS.items()}
