"""A decoder of pgoutput messages, protocol version 1.

Source: PostgreSQL documentation, "Logical Replication Message Formats".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from sluice.errors import SluiceError

# A value in a tuple: its text, NULL, or MISSING (unchanged TOAST).
Value = bytes | None
MISSING: Final = b"\x00unchanged"  # PostgreSQL's text cannot contain NUL

_BEGIN = struct.Struct(">qqi")
_COMMIT = struct.Struct(">bqqq")
_INT16 = struct.Struct(">h").unpack_from
_INT32 = struct.Struct(">i").unpack_from
_UINT32 = struct.Struct(">I").unpack_from
_NEW = ord("N")
_CATALOG = "pg_catalog"  # sent as an empty name
_UNIX_EPOCH_OFFSET_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01


class MalformedMessage(SluiceError):
    """A replication message violates the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The begin of a transaction; `commit_lsn` is known because it has committed."""

    commit_lsn: int
    commit_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The end of a transaction; `end_lsn` can be confirmed."""

    commit_lsn: int
    end_lsn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationColumn:
    """A published column; `in_key` if it is part of the replica identity."""

    name: str
    type_oid: int
    in_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """The structure of a table's following rows."""

    relation_id: int
    schema: str
    table: str
    columns: tuple[RelationColumn, ...]


# Tuples, because they are created for every row and a frozen dataclass is slower.
class Insert(NamedTuple):
    """An inserted row."""

    relation_id: int
    new: list[Value]


class Update(NamedTuple):
    """An updated row; `old` is its old key or row, where PostgreSQL sends it."""

    relation_id: int
    old: list[Value] | None
    new: list[Value]


class Delete(NamedTuple):
    """A deleted row; `old` is its key or the whole row."""

    relation_id: int
    old: list[Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Truncated tables."""

    relation_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    """A type of a following Relation; a domain has the name and schema of its base type."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A message without a change: Origin, logical Message."""


Message = Begin | Commit | Relation | Type | Insert | Update | Delete | Truncate | Other


def decode(data: bytes) -> Message:
    """Decode a message; MalformedMessage where it violates the protocol."""
    try:
        message = _decode(data)
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedMessage(f"malformed pgoutput message {data[:1]!r}: {error}") from error
    return message


def _decode(data: bytes) -> Message:  # noqa: PLR0911 - one return a kind of message
    tag = data[:1]
    if tag == b"I":
        if data[5] != _NEW:
            raise ValueError("insert without a row")
        return Insert(_INT32(data, 1)[0], _whole(data, 6))
    if tag == b"U":
        return _update(data)
    if tag == b"D":
        if data[5:6] not in (b"K", b"O"):
            raise ValueError("delete without a key")
        return Delete(_int32(data, 1), _whole(data, 6))
    if tag == b"B":
        lsn, at, _ = _BEGIN.unpack(data[1:])
        return Begin(commit_lsn=lsn, commit_ms=(at + _UNIX_EPOCH_OFFSET_US) // 1000)
    if tag == b"C":
        _, lsn, end, _ = _COMMIT.unpack(data[1:])
        return Commit(commit_lsn=lsn, end_lsn=end)
    if tag == b"R":
        return _relation(data)
    if tag == b"T":
        count = _int32(data, 1)
        return Truncate(relation_ids=struct.unpack(f">{count}i", data[6:]))
    if tag == b"Y":
        return _type(data)
    if tag in (b"O", b"M"):
        return Other()
    raise ValueError("unknown tag")


def _update(data: bytes) -> Update:
    relation_id, tag = _int32(data, 1), data[5:6]
    if tag == b"N":
        return Update(relation_id, None, _whole(data, 6))
    if tag not in (b"K", b"O"):
        raise ValueError("update without a row")
    old, end = _tuple(data, 6)
    if data[end] != _NEW:
        raise ValueError("update without its new row")
    return Update(relation_id, old, _whole(data, end + 1))


def _relation(data: bytes) -> Relation:
    schema, at = _string(data, 5)
    table, at = _string(data, at)
    count, at = _int16(data, at + 1), at + 3
    columns = []
    for _ in range(count):
        in_key = bool(data[at] & 1)
        name, at = _string(data, at + 1)
        columns.append(RelationColumn(name=name, type_oid=_oid(data, at), in_key=in_key))
        at += 8
    if at != len(data):
        raise ValueError("wrong length")
    return Relation(
        relation_id=_int32(data, 1),
        schema=schema or _CATALOG,
        table=table,
        columns=tuple(columns),
    )


def _type(data: bytes) -> Type:
    schema, at = _string(data, 5)
    name, at = _string(data, at)
    if at != len(data):
        raise ValueError("wrong length")
    return Type(oid=_oid(data, 1), schema=schema or _CATALOG, name=name)


def _whole(data: bytes, at: int) -> list[Value]:
    values, end = _tuple(data, at)
    if end != len(data):
        raise ValueError("wrong length")
    return values


def _tuple(data: bytes, at: int) -> tuple[list[Value], int]:
    """Decode values, and return their end; lengths are checked once, as this is the hot loop."""
    count, at = _int16(data, at), at + 2
    values: list[Value] = []
    for _ in range(count):
        kind = data[at]
        if kind == 0x74:  # t: text
            start = at + 5
            at = start + _INT32(data, at + 1)[0]
            if at < start:
                raise ValueError("negative length")
            values.append(data[start:at])
        elif kind == 0x6E:  # n: NULL
            values.append(None)
            at += 1
        elif kind == 0x75:  # u: unchanged TOAST
            values.append(MISSING)
            at += 1
        else:
            raise ValueError("unknown kind of value")
    if at > len(data):
        raise ValueError("too short")
    return values, at


def _int16(data: bytes, at: int) -> int:
    value: int = _INT16(data, at)[0]
    return value


def _int32(data: bytes, at: int) -> int:
    value: int = _INT32(data, at)[0]
    return value


def _oid(data: bytes, at: int) -> int:
    value: int = _UINT32(data, at)[0]
    return value


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1
