"""Plain events, which nearly all are: whole rows and deletes, read without Pydantic.

msgspec reads them in a fifth of the time, and stricter: what it takes, the event schema takes with
the same values, and what it does not take is for the schema to judge (ADR 16). Values become
columns, never rows.
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
# So few events among which one does not fit are left to the schema rather than looked through.
_FEW = 16
_PIECE = 4_000  # events at a time: so many, and what they become, a processor's cache holds
TOO_LATE = 1 << 53  # milliseconds since 1970; no commit's time, and ClickHouse cannot hold all
# A struct that takes no other fields, and that the cycle collector need not look at.
_struct = partial(msgspec.defstruct, forbid_unknown_fields=True, gc=False)
_Decode = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """What of a chunk was plain.

    Attributes:
        rows: its columns, as StateStore.append takes them; or nothing.
        others: the records that were not, in their order.
    """

    rows: Columns
    others: list[Record]


class PlainReader:
    """Reads the plain events of one table."""

    def __init__(self, table: Table) -> None:
        self._columns = [_Reading(column, f"c{at}") for at, column in enumerate(table.columns)]
        self._decoders = _decoders(table)

    def read(self, records: Sequence[Record], origin: Origin) -> Plain:
        """Part the plain events from the others."""
        found = []
        for start in range(0, len(records), _PIECE):
            decoded, events, others = self._decoded(records[start : start + _PIECE])
            found.append(self._plain(decoded, events, origin))
            found.append(Plain(rows=[], others=others))
        return _joined(found)

    def _decoded(
        self, records: Sequence[Record]
    ) -> tuple[Sequence[Record], list[Any], list[Record]]:
        """The records that have the form of plain events, those events, and the other records."""
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
        """The events that fit their columns.

        Where one does not, nothing is said about which: it is found by halves.
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
        """Writes, then deletes, as columns; ValueError where one is not plain after all."""
        metadata = [event.metadata for event in events]
        place = [
            _versions(metadata, offsets, origin),
            [origin.base_seq + offset + 1 for offset in offsets],
            [one.commit_ts_ms or 0 for one in metadata],
        ]
        rows = [event.payload for event in events]
        gone = [one.operation == DELETE for one in metadata]
        if True not in gone:
            return Plain(rows=self._columns_of(rows, place, 0), others=[])
        kept = [not one for one in gone]
        parts = [
            self._columns_of(
                list(compress(rows, chosen)),
                [list(compress(column, chosen)) for column in place],
                deleted,
            )
            for deleted, chosen in enumerate((kept, gone))
        ]
        return Plain(rows=below(*parts), others=[])

    def _columns_of(self, rows: list[Any], place: Columns, deleted: int) -> Columns:
        if not rows:
            return []
        versions, seqs, committed_at = place
        read = [column.deleted(rows) if deleted else column.read(rows) for column in self._columns]
        return [*read, versions, [deleted] * len(rows), seqs, committed_at]


def _joined(found: Sequence[Plain]) -> Plain:
    rows: Columns = []
    for plain in found:
        rows = below(rows, plain.rows)
    others = sorted(chain.from_iterable(plain.others for plain in found))
    return Plain(rows=rows, others=others)


def below(columns: Columns, more: Columns) -> Columns:
    """The columns with others put below."""
    if not columns or not more:
        return columns or more
    for column, values in zip(columns, more, strict=True):
        column.extend(values)
    return columns


class _Reading:
    """One column's values out of events."""

    def __init__(self, column: Column, field: str) -> None:
        self._column, self._field = column, attrgetter(field)
        # Only values of varying size are ever left out; their zero is empty.
        varying = column.type.zero in ("", b"", [])
        self._never = (msgspec.UNSET, UNCHANGED) if varying else (msgspec.UNSET,)

    def read(self, rows: Sequence[Any]) -> list[Any]:
        """As they are stored; ValueError where one is not there or does not fit."""
        values = list(map(self._field, rows))
        if any(never in values for never in self._never):
            raise Unfit("a value that was left out")
        if None not in values:
            return self._converted(values)
        present = iter(self._converted([value for value in values if value is not None]))
        return [None if value is None else next(present) for value in values]

    def deleted(self, rows: Sequence[Any]) -> list[Any]:
        """The key's values, or what stands beside them in deleted rows."""
        if self._column.primary_key:
            return self.read(rows)
        return [None if self._column.nullable else self._column.type.zero] * len(rows)

    def _converted(self, values: list[Any]) -> list[Any]:
        kind = self._column.type
        if kind.whole and values:
            return kind.whole(values)
        return list(map(kind.to_driver, values)) if kind.to_driver else values


def _decoders(table: Table) -> list[_Decode]:
    """What reads plain events, each with ValueError where it is not for it.

    First rows of the model's columns alone; then rows with others beside them, which have all of
    the model's: where one is missing as well, it may have been renamed.
    """
    if any(json.dumps(column.name) != f'"{column.name}"' for column in table.columns):
        return []  # msgspec knows no name that JSON writes in another way
    exact, wider = (
        msgspec.json.Decoder(_event_type(table, strangers=strangers)).decode
        for strangers in (False, True)
    )

    def beside(value: bytes) -> Any:
        if not value.isascii():
            value.decode()  # msgspec does not look into what it leaves out
        return wider(value)

    return [exact, beside]


def _event_type(table: Table, *, strangers: bool) -> Any:
    """The plain event of a table, its columns named c0, c1, ...

    Args:
        strangers: whether rows may have columns that the models lack.
    """
    names = {f"c{at}": column.name for at, column in enumerate(table.columns)}
    fields = [_field(f"c{at}", c, strangers) for at, c in enumerate(table.columns)]
    row = _struct("Row", fields, rename=names, forbid_unknown_fields=not strangers)
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


def _field(name: str, column: Column, strangers: bool) -> tuple[Any, ...]:
    kind = column.type.plain | None if column.nullable else column.type.plain
    if column.primary_key:
        return (name, kind)
    if column.filled_with_null and not strangers:
        return (name, kind, None)
    return (name, kind | msgspec.UnsetType, msgspec.UNSET)


def _versions(metadata: Sequence[Any], offsets: Sequence[int], origin: Origin) -> list[int]:
    """Of the relay's events commit LSN and ordinal, of Connect's their offset."""
    sources = {one.source for one in metadata}
    if len(sources | ({origin.source} - {""})) > 1:
        raise Unfit("not all of them are of one source")
    if sources == {CONNECT}:
        return [pack(origin.epoch, offset, 0) for offset in offsets]
    texts = [one.commit_lsn for one in metadata]
    ordinals = [one.ordinal for one in metadata]
    if sources != {RELAY} or None in texts or None in ordinals:
        raise Unfit("not all of them have a position in the WAL")
    lsns = {text: parse_lsn(text) for text in set(texts)}
    origin.horizon.require(max(lsns.values()))
    commits = {text: pack(origin.epoch, lsn, 0) for text, lsn in lsns.items()}
    return list(map(or_, map(commits.__getitem__, texts), ordinals))
