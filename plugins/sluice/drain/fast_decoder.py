"""Decodes plain events (complete rows and deletes, nearly all events) without Pydantic.

msgspec is faster and stricter: whatever it accepts, the event schema accepts with the same values;
whatever it rejects, the schema decides (ADR 16). Values become columns, never rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from operator import attrgetter, or_
from typing import Annotated, Any, Literal

import msgspec

from sluice.catalog import Column, Table
from sluice.data_types.values import Unfit
from sluice.drain.origin import Origin
from sluice.events.event import CONNECT, DELETE, RELAY, UNCHANGED, Record
from sluice.events.positions import MOST_ORDINAL, pack, parse_lsn

Columns = list[list[Any]]
# A group of at most this many events goes to the schema as a whole if one of them does not fit.
_FEW = 16
_PIECE = 4_000  # events decoded at a time: these and their columns fit a processor's cache
TOO_LATE = 1 << 53  # milliseconds since 1970; later times exceed what ClickHouse can hold
# A struct that rejects unknown fields and that the cycle collector skips.
_struct = partial(msgspec.defstruct, forbid_unknown_fields=True, gc=False, kw_only=True)
_Decode = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """The plain events of a chunk.

    Attributes:
        rows: their columns for StateStore.append; may be empty.
        others: all other records, in their order.
    """

    rows: Columns
    others: list[Record]


class PlainReader:
    """Decodes the plain events of one table."""

    def __init__(self, table: Table) -> None:
        self._columns = [_Reading(column, f"c{at}") for at, column in enumerate(table.columns)]
        self._decoders = _decoders(table)

    def read(self, records: Sequence[Record], origin: Origin) -> Plain:
        """Decode the plain events and return the other records beside them."""
        parts = []
        for start in range(0, len(records), _PIECE):
            decoded, events, others = self._decoded(records[start : start + _PIECE])
            parts.append(self._plain(decoded, events, origin))
            parts.append(Plain(rows=[], others=others))
        return _joined(parts)

    def _decoded(
        self, records: Sequence[Record]
    ) -> tuple[Sequence[Record], list[Any], list[Record]]:
        """Return the records in the form of plain events, their events, and the other records."""
        for decode in self._decoders:
            with suppress(ValueError, RecursionError):
                return records, [decode(record.value or b"") for record in records], []
        decoded, events, others = [], [], []
        for record in records:
            event = self._event(record.value or b"")
            if event is None:
                others.append(record)
            else:
                events.append(event)
                decoded.append(record)
        return decoded, events, others

    def _event(self, value: bytes) -> Any:
        for decode in self._decoders:
            with suppress(ValueError, RecursionError):
                return decode(value)
        return None

    def _plain(self, records: Sequence[Record], events: list[Any], origin: Origin) -> Plain:
        """Return the events whose values fit their columns.

        The error does not name the event that does not fit, so it is found by halving.
        """
        try:
            return self._stored([record.offset for record in records], events, origin)
        except ValueError:
            if len(events) <= _FEW:
                return Plain(rows=[], others=list(records))
        half = len(events) // 2
        return _joined(
            [
                self._plain(records[part], events[part], origin)
                for part in (slice(half), slice(half, None))
            ]
        )

    def _stored(self, offsets: Sequence[int], events: list[Any], origin: Origin) -> Plain:
        """Return writes, then deletes, as columns; raise ValueError where a value does not fit."""
        metadata = [event.metadata for event in events]
        place = [
            _versions(metadata, offsets, origin),
            [origin.base_seq + offset + 1 for offset in offsets],
            [entry.commit_ts_ms or 0 for entry in metadata],
        ]
        rows = [event.payload for event in events]
        deletes = [entry.operation == DELETE for entry in metadata]
        if True not in deletes:
            return Plain(rows=self._columns_of(rows, place, 0), others=[])
        writes = [not is_delete for is_delete in deletes]
        parts = [
            self._columns_of(
                list(compress(rows, chosen)),
                [list(compress(column, chosen)) for column in place],
                deleted,
            )
            for deleted, chosen in enumerate((writes, deletes))
        ]
        return Plain(rows=below(*parts), others=[])

    def _columns_of(self, rows: list[Any], place: Columns, deleted: int) -> Columns:
        if not rows:
            return []
        versions, seqs, committed_at = place
        read = [column.deleted(rows) if deleted else column.read(rows) for column in self._columns]
        return [*read, versions, [deleted] * len(rows), seqs, committed_at]


def _joined(parts: Sequence[Plain]) -> Plain:
    rows: Columns = []
    for plain in parts:
        rows = below(rows, plain.rows)
    others = sorted(chain.from_iterable(plain.others for plain in parts))
    return Plain(rows=rows, others=others)


def below(columns: Columns, more: Columns) -> Columns:
    """Return the columns extended by others, in place."""
    if not columns or not more:
        return columns or more
    for column, values in zip(columns, more, strict=True):
        column.extend(values)
    return columns


class _Reading:
    """Extracts one column's values from events."""

    def __init__(self, column: Column, field: str) -> None:
        self._column, self._field = column, attrgetter(field)
        # PostgreSQL omits only unchanged values of variable size; their zero is empty.
        varying = column.type.zero in ("", b"", [])
        self._never = (msgspec.UNSET, UNCHANGED) if varying else (msgspec.UNSET,)

    def read(self, rows: Sequence[Any]) -> list[Any]:
        """Return the values as stored; raise ValueError where one is missing or does not fit."""
        values = list(map(self._field, rows))
        if any(never in values for never in self._never):
            raise Unfit("a value is missing")
        if None not in values:
            return self._converted(values)
        present = iter(self._converted([value for value in values if value is not None]))
        return [None if value is None else next(present) for value in values]

    def deleted(self, rows: Sequence[Any]) -> list[Any]:
        """Return a deleted row's values: those of the key, and zeros elsewhere."""
        if self._column.primary_key:
            return self.read(rows)
        return [None if self._column.nullable else self._column.type.zero] * len(rows)

    def _converted(self, values: list[Any]) -> list[Any]:
        kind = self._column.type
        if kind.whole and values:
            return kind.whole(values)
        return list(map(kind.to_driver, values)) if kind.to_driver else values


def _decoders(table: Table) -> list[_Decode]:
    """Return the decoders of plain events, to try in order; each raises ValueError for others.

    The first takes rows of the model's columns only. The second takes rows with unknown columns as
    well, if none of the model's is missing: a missing one may have been renamed.
    """
    if any(json.dumps(column.name) != f'"{column.name}"' for column in table.columns):
        return []  # msgspec cannot match names that JSON escapes
    exact, wider = (
        msgspec.json.Decoder(_event_type(table, unknown=unknown)).decode
        for unknown in (False, True)
    )

    def with_unknown(value: bytes) -> Any:
        if not value.isascii():
            value.decode()  # msgspec does not validate what it skips
        return wider(value)

    return [exact, with_unknown]


def _event_type(table: Table, *, unknown: bool) -> Any:
    """Return the type of a table's plain event, its columns named c0, c1, ...

    Args:
        unknown: whether rows may have columns that the models lack.
    """
    names = {f"c{at}": column.name for at, column in enumerate(table.columns)}
    fields = [_field(f"c{at}", c, unknown) for at, c in enumerate(table.columns)]
    row = _struct("Row", fields, rename=names, forbid_unknown_fields=not unknown)
    metadata = _struct(
        "Metadata",
        [
            ("source", Literal["relay", "connect"]),
            ("table", Literal[table.name]),
            ("operation", Literal["read", "insert", "update", "delete"]),
            ("lsn", str | None),
            ("commit_ts_ms", Annotated[int, msgspec.Meta(ge=0, lt=TOO_LATE)] | None),
            ("commit_lsn", str | None, None),
            ("ordinal", Annotated[int, msgspec.Meta(ge=0, le=MOST_ORDINAL)] | None, None),
        ],
    )
    return _struct("Event", [("metadata", metadata), ("payload", row), ("before", None)])


def _field(name: str, column: Column, unknown: bool) -> tuple[Any, ...]:
    kind = column.type.plain | None if column.nullable else column.type.plain
    if column.primary_key:
        return (name, kind)
    if column.filled_with_null and not unknown:
        return (name, kind, None)
    return (name, kind | msgspec.UnsetType, msgspec.UNSET)


def _versions(metadata: Sequence[Any], offsets: Sequence[int], origin: Origin) -> list[int]:
    """Return versions: the relay's commit LSN and ordinal, or Connect's offset."""
    sources = {entry.source for entry in metadata}
    if len(sources | ({origin.source} - {""})) > 1:
        raise Unfit("the events come from several sources")
    if sources == {CONNECT}:
        return [pack(origin.epoch, offset, 0) for offset in offsets]
    texts = [entry.commit_lsn for entry in metadata]
    ordinals = [entry.ordinal for entry in metadata]
    if sources != {RELAY} or None in texts or None in ordinals:
        raise Unfit("an event has no position in the WAL")
    lsns = {text: parse_lsn(text) for text in set(texts)}
    origin.horizon.require(max(lsns.values()))
    commits = {text: pack(origin.epoch, lsn, 0) for text, lsn in lsns.items()}
    return list(map(or_, map(commits.__getitem__, texts), ordinals))
