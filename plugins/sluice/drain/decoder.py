"""Decodes records to validated changes, or to rejects with a reason.

Pydantic validates strictly against the generated event schema. Columns that the models lack are
dropped. A value that its ClickHouse column cannot hold is rejected, because the driver would
alter it silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from sluice.catalog import Column, Table
from sluice.data_types.values import Unfit
from sluice.drain.fast_decoder import TOO_LATE, Columns, PlainReader
from sluice.drain.origin import UNBOUNDED, Horizon, Origin
from sluice.drain.reasons import explain, refusal
from sluice.errors import Rejected
from sluice.events.event import (
    DELETE,
    RELAY,
    TOO_LARGE,
    TRUNCATE,
    UNCHANGED,
    Change,
    FullRow,
    Key,
    KeyDeleted,
    OutdatedRow,
    PartialRow,
    Record,
    Reject,
    Truncated,
)
from sluice.events.positions import MOST_ORDINAL, before, pack, parse_lsn

_DELETE = (
    '{{"metadata":{{"source":"relay","table":"","operation":"delete","lsn":null,'
    '"commit_ts_ms":null}},"payload":{},"before":null}}'
)
# Characters: enough to diagnose, too few to carry a row into logs.
_REASON_LENGTH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A decoded chunk of records.

    Attributes:
        rows: the plain events, as columns for StateStore.append; may be empty.
        changes: all other changes, in the records' order. Versions order both.
    """

    rows: Columns
    changes: list[Change]
    rejects: list[Reject]


class Decoder:
    """Validates the events of one table.

    Args:
        table: the table.
        event_type: the generated `XEvent` of its model.
    """

    def __init__(self, table: Table, event_type: Any) -> None:
        self.table = table
        adapter: TypeAdapter[Any] = TypeAdapter(event_type)
        self._validate = adapter.validator.validate_json
        self._plain = PlainReader(table)
        self._names = [column.name for column in table.columns]
        self._values = _getter(self._names)
        self._key = _getter([column.name for column in table.key])
        self._added = {column.name: None for column in table.columns if column.filled_with_null}
        self._columns = {column.name: column for column in table.columns}
        self._known = frozenset(self._names)
        self._required = self._known - self._added.keys()
        self._unchanged = dict.fromkeys(self._added, UNCHANGED)
        self._fits = _fits(table.columns)
        self._key_fits = _fits(table.key)
        schema = json.dumps(adapter.json_schema(), sort_keys=True)
        self.schema_version = hashlib.sha256(schema.encode()).hexdigest()[:12]

    def decode(
        self,
        records: Sequence[Record],
        *,
        epoch: int,
        base_seq: int,
        source: str = "",
        horizon: Horizon = UNBOUNDED,
    ) -> Decoded:
        """Validate records; the arguments are those of Origin."""
        origin = Origin(epoch=epoch, base_seq=base_seq, source=source, horizon=horizon)
        plain = self._plain.read(records, origin)
        changes: list[Change] = []
        rejects: list[Reject] = []
        for record in plain.others:
            try:
                event = self._event(record.value or b"")
                changes += self._changes(event, record, origin)
            except ValidationError as error:
                reason = explain(error, self._columns)[:_REASON_LENGTH]
                rejects.append(Reject(record=record, reason=reason))
            except (Rejected, ValueError) as error:
                rejects.append(Reject(record=record, reason=str(error)[:_REASON_LENGTH]))
        return Decoded(rows=plain.rows, changes=changes, rejects=rejects)

    def place(self, key: bytes, metadata: bytes, offset: int, epoch: int) -> tuple[Key, int] | None:
        """Return key and version of an event whose row may be invalid.

        Args:
            key, metadata: of the event, as JSON.
            epoch: the epoch of positions when the event arrived.

        Returns:
            None where key or metadata are invalid themselves.
        """
        try:
            event = {"metadata": {**json.loads(metadata), "operation": DELETE}, "before": None}
            value = json.dumps({**event, "payload": json.loads(key)}).encode()
            record = Record(offset=offset, key=key, value=value)
            origin = Origin(epoch=epoch, base_seq=0)
            (change,) = self._changes(self._event(value), record, origin)
        except (ValidationError, Rejected, ValueError, TypeError, KeyError, RecursionError):
            return None
        assert isinstance(change, KeyDeleted)
        return change.key, change.version

    def key(self, text: bytes) -> Key | None:
        """Return the row key in a message's key; None where it cannot be stored."""
        with suppress(ValidationError, Rejected):
            event = self._validate(_DELETE.format(text.decode(errors="replace")))
            return self._key_of(event["payload"])
        return None

    def _event(self, value: bytes) -> Any:
        """Return the validated event, its rows without columns that the models lack.

        A row that has an unknown column and lacks a known one is not filled with NULL: the column
        may have been renamed, so the previous value stays.
        """
        try:
            return self._validate(value)
        except ValidationError:
            envelope = _envelope(value)
            if envelope is None or not self._has_unknown(envelope.payload, envelope.before):
                raise
        rows = [
            row and {name: text for name, text in row.items() if name in self._known}
            for row in (envelope.payload, envelope.before)
        ]
        event = self._validate(msgspec.json.encode(_Envelope(envelope.metadata, *rows)))
        if self._has_unknown(envelope.payload):
            event["payload"] = {**self._unchanged, **event["payload"]}
        return event

    def _has_unknown(self, *rows: Mapping[str, Any] | None) -> bool:
        return any(row.keys() - self._known for row in rows if row)

    def _changes(
        self, event: Mapping[str, Any], record: Record, origin: Origin
    ) -> Iterator[Change]:
        metadata, payload, old = event["metadata"], event["payload"], event["before"]
        if metadata["table"] != self.table.name:
            raise Rejected(f"the event is of table {metadata['table']!r}")
        if not 0 <= (metadata["commit_ts_ms"] or 0) < TOO_LATE:
            raise Rejected("metadata.commit_ts_ms is out of range")
        place = {
            "version": _version(metadata, record.offset, origin),
            "seq": origin.base_seq + record.offset + 1,
            "committed_at": metadata["commit_ts_ms"] or 0,
        }
        operation = metadata["operation"]
        if operation == TRUNCATE:
            yield Truncated(**place)
        elif payload is None:
            raise Rejected("a delete without a key" if operation == DELETE else TOO_LARGE)
        elif operation == DELETE:
            yield KeyDeleted(key=self._key_of(payload), **place)
        else:
            yield from self._row(payload, old, record, place)

    def _row(
        self,
        payload: Mapping[str, Any],
        old: Mapping[str, Any] | None,
        record: Record,
        place: Mapping[str, Any],
    ) -> Iterator[Change]:
        key = self._key_of(payload)
        former = key if old is None else self._key_of(old)
        values = self._stored(payload)
        if values is not None and UNCHANGED not in values:
            yield FullRow(values=values, **place)
        else:
            text = tuple(map(_text, self._key(payload), key))
            known = {"former_key": former, "key": key, "key_text": text, "record": record, **place}
            yield PartialRow(values=values, **known) if values else OutdatedRow(**known)
        if former != key:
            yield KeyDeleted(key=former, **place)

    def _key_of(self, row: Mapping[str, Any]) -> Key:
        return _fitted(self._key(row), self._key_fits)

    def _stored(self, payload: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Return the row's values; None when a column is missing that is not NULL by default."""
        try:
            values = self._values(payload)
        except KeyError:
            if self._required - payload.keys():
                return None
            values = self._values({**self._added, **payload})
        return _fitted(values, self._fits)


class _Envelope(msgspec.Struct):
    """An event whose values are not parsed."""

    metadata: msgspec.Raw
    payload: dict[str, msgspec.Raw] | None
    before: dict[str, msgspec.Raw] | None


def _envelope(value: bytes) -> _Envelope | None:
    """Return the event; None where the value does not have the form of an event."""
    with suppress(ValueError, RecursionError):
        value.decode()  # msgspec does not validate what it leaves raw
        return msgspec.json.decode(value, type=_Envelope)
    return None


def _text(value: Any, stored: Any) -> str:
    """Return a part of a key as PostgreSQL reads it."""
    return f"\\x{stored.hex()}" if isinstance(stored, bytes) else str(value)


Fit = tuple[int, Column, Callable[[Any], Any]]


def _fits(columns: Sequence[Column]) -> list[Fit]:
    return [
        (index, column, column.type.to_driver)
        for index, column in enumerate(columns)
        if column.type.to_driver
    ]


def _fitted(values: tuple[Any, ...], fits: list[Fit]) -> tuple[Any, ...]:
    """Return the values as the driver stores them unaltered; raise Rejected where one cannot be."""
    if not fits:
        return values
    fitted = list(values)
    for index, column, to_driver in fits:
        value = fitted[index]
        if value is not None and value != UNCHANGED:
            try:
                fitted[index] = to_driver(value)
            except Unfit as error:
                raise Rejected(f"payload.{column.name}: {error}") from None
            except (ValueError, OverflowError):  # whose messages repeat the value
                raise Rejected(f"payload.{column.name}: {refusal(column, value)}") from None
    return tuple(fitted)


def _version(metadata: Mapping[str, Any], offset: int, origin: Origin) -> int:
    """Return the version: the relay's commit LSN and ordinal, or Connect's offset or fence."""
    source, ordinal = metadata["source"], metadata.get("ordinal")
    if origin.source not in {"", source}:
        raise Rejected(
            f"metadata.source is {source}, but the changes of this table come from {origin.source};"
            f" to change the source see: sluice source {source}"
        )
    if source != RELAY:
        return _version_by_offset(metadata.get("fence"), ordinal, offset, origin.epoch)
    commit_lsn = metadata.get("commit_lsn")
    if commit_lsn is None or ordinal is None or not 0 <= ordinal <= MOST_ORDINAL:
        raise Rejected("metadata: a relay's event needs commit_lsn and ordinal")
    lsn = parse_lsn(commit_lsn)
    origin.horizon.require(lsn)
    return pack(origin.epoch, lsn, ordinal)


def _version_by_offset(fence: int | None, ordinal: int | None, offset: int, epoch: int) -> int:
    """Return a version by offset; that of a resynced row is its fence, an earlier offset."""
    if fence is None:
        return pack(epoch, offset, 0)
    if not 0 <= fence <= offset:
        raise Rejected("metadata.fence is no position before the event's own")
    return before(epoch, fence, 0 if ordinal is None else ordinal)


def _getter(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        single = itemgetter(names[0])
        return lambda row: (single(row),)
    return itemgetter(*names)
