"""Records to validated changes, or to rejects with a reason.

Validation is Pydantic's on the generated event schema: strict, unknown columns refused. What
does not fit its ClickHouse column is a reject as well, because the driver would alter it silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sluice.catalog import Table
from sluice.errors import Rejected
from sluice.events import (
    DELETE,
    TRUNCATE,
    UNCHANGED,
    WRITES,
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
from sluice.positions import before, pack, parse_lsn

RELAY, CONNECT = "relay", "connect"
SOURCES = (RELAY, CONNECT)
Valid = tuple[Record, Mapping[str, Any]]
# Enough to see what is wrong, too little to carry a row into logs.
_REASON_LENGTH = 300


Columns = list[list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a chunk of records turned out to be.

    Attributes:
        rows: whole rows whose key did not change, as StateStore.append takes them; or nothing.
        changes: everything else, in the records' order. Versions order all of it.
    """

    rows: Columns
    changes: list[Change]
    rejects: list[Reject]
    sources: frozenset[str]

    def committed_at(self) -> list[int]:
        """When the changes were committed, milliseconds since 1970."""
        rows = self.rows[-1] if self.rows else []
        return rows + [change.committed_at for change in self.changes]


class Decoder:
    """Validates the events of one table.

    Args:
        table: the table.
        event_type: the generated `XEvent` of its model.
        former: columns that the table had once; events of that time are taken without them.
    """

    def __init__(self, table: Table, event_type: Any, former: Collection[str] = ()) -> None:
        self.table = table
        self._former = frozenset(former)
        adapter: TypeAdapter[Any] = TypeAdapter(event_type)
        self._validate = adapter.validator.validate_json
        self._names = [column.name for column in table.columns]
        self._values = _getter(self._names)
        self._key = _getter([column.name for column in table.key])
        self._added = {
            column.name: None
            for column in table.columns
            if column.nullable and column.type.nullable and not column.has_default
        }
        self._required = set(self._names) - self._added.keys()
        self._fits = [
            (index, column.name, column.type.to_driver)
            for index, column in enumerate(table.columns)
            if column.type.to_driver
        ]
        # Only values of varying size are ever left out; their zero is empty.
        self._left_out = [
            index for index, column in enumerate(table.columns) if column.type.zero in ("", b"", [])
        ]
        self._key_fits = [
            (index, column.name, column.type.to_driver)
            for index, column in enumerate(table.key)
            if column.type.to_driver
        ]
        schema = json.dumps(adapter.json_schema(), sort_keys=True)
        self.schema_version = hashlib.sha256(schema.encode()).hexdigest()[:12]

    def decode(self, records: Sequence[Record], *, epoch: int, base_seq: int) -> Decoded:
        """Validate records; `epoch` and `base_seq` are the checkpoint's."""
        valid, rejects = self._validated(records)
        rows, others = self._rows(valid, epoch, base_seq)
        changes: list[Change] = []
        for record, event in others:
            try:
                changes += self._changes(event, record, epoch, base_seq + record.offset + 1)
            except (Rejected, ValueError) as error:
                rejects.append(Reject(record=record, reason=str(error)[:_REASON_LENGTH]))
        refused = {reject.record.offset for reject in rejects}
        sources = {e["metadata"]["source"] for record, e in valid if record.offset not in refused}
        return Decoded(rows=rows, changes=changes, rejects=rejects, sources=frozenset(sources))

    def _validated(self, records: Sequence[Record]) -> tuple[list[Valid], list[Reject]]:
        validate, rejects = self._validate, []
        try:
            return [(record, validate(record.value or b"")) for record in records], []
        except ValidationError:
            valid = []
        for record in records:
            try:
                valid.append((record, self._event(record.value or b"")))
            except ValidationError as error:
                rejects.append(Reject(record=record, reason=_explain(error)))
        return valid, rejects

    def _rows(self, valid: list[Valid], epoch: int, base_seq: int) -> tuple[Columns, list[Valid]]:
        """The columns of plain rows, and the other events.

        Most events are plain rows, and columns are built several times as fast as changes. Where
        one event of the chunk does not fit, nothing is said about which: that is found out by
        going through all of them one by one.
        """
        plain: list[Valid] = []
        others: list[Valid] = []
        for pair in valid:
            event = pair[1]
            whole = event["before"] is None and event["metadata"]["operation"] in WRITES
            (plain if whole else others).append(pair)
        if any(UNCHANGED in (event["payload"] or {}).values() for _, event in others):
            return [], valid  # a value that was left out may be that of a row of this chunk
        try:
            return self._columns(plain, epoch, base_seq), others
        except (LookupError, TypeError, ValueError, Rejected):
            return [], valid

    def _columns(self, plain: list[Valid], epoch: int, base_seq: int) -> Columns:
        """The rows' columns; an error of any kind where they are not all plain."""
        if not plain:
            return []
        metadata = [event["metadata"] for _, event in plain]
        payloads = [event["payload"] for _, event in plain]
        if {one["table"] for one in metadata} != {self.table.name}:
            raise ValueError("events of another table")
        columns = [[payload[name] for payload in payloads] for name in self._names]
        if any(UNCHANGED in columns[index] for index in self._left_out):
            raise ValueError("values that were left out")
        for index, _, to_driver in self._fits:
            columns[index] = [
                None if value is None else to_driver(value) for value in columns[index]
            ]
        return [
            *columns,
            _versions(metadata, [record.offset for record, _ in plain], epoch),
            [0] * len(plain),
            [base_seq + record.offset + 1 for record, _ in plain],
            [one["commit_ts_ms"] or 0 for one in metadata],
        ]

    def _event(self, value: bytes) -> Any:
        try:
            return self._validate(value)
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False)
            if not self._former & {name for problem in problems for name in problem["loc"]}:
                raise
        event = json.loads(value)
        for row in filter(None, (event["payload"], event["before"])):
            for name in self._former & row.keys():
                del row[name]
        return self._validate(json.dumps(event))

    def _changes(
        self, event: Mapping[str, Any], record: Record, epoch: int, seq: int
    ) -> Iterator[Change]:
        metadata, payload, old = event["metadata"], event["payload"], event["before"]
        if metadata["table"] != self.table.name:
            raise Rejected(f"the event is of table {metadata['table']!r}")
        place = {
            "version": _version(metadata, record.offset, epoch),
            "seq": seq,
            "committed_at": metadata["commit_ts_ms"] or 0,
        }
        operation = metadata["operation"]
        if operation == TRUNCATE:
            yield Truncated(**place)
        elif payload is None:
            raise Rejected(f"an event of operation {operation!r} has no payload")
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
            text = tuple(map(str, self._key(payload)))
            known = {"former_key": former, "key": key, "key_text": text, "record": record, **place}
            yield PartialRow(values=values, **known) if values else OutdatedRow(**known)
        if former != key:
            yield KeyDeleted(key=former, **place)

    def _key_of(self, row: Mapping[str, Any]) -> Key:
        return _fitted(self._key(row), self._key_fits)

    def _stored(self, payload: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The row's values; None when it lacks a column that Postgres did not fill with NULL."""
        try:
            values = self._values(payload)
        except KeyError:
            if self._required - payload.keys():
                return None
            values = self._values({**self._added, **payload})
        return _fitted(values, self._fits)


Fit = tuple[int, str, Callable[[Any], Any]]


def _fitted(values: tuple[Any, ...], fits: list[Fit]) -> tuple[Any, ...]:
    """The values as the driver stores them unaltered; Rejected where one does not fit."""
    if not fits:
        return values
    fitted = list(values)
    for index, name, to_driver in fits:
        value = fitted[index]
        if value is not None and value != UNCHANGED:
            try:
                fitted[index] = to_driver(value)
            except ValueError as error:
                raise Rejected(f"payload.{name}: {error}") from None
    return tuple(fitted)


def _versions(metadata: list[Any], offsets: list[int], epoch: int) -> list[int]:
    """The versions of events; an error of any kind where one has none."""
    if {one["source"] for one in metadata} != {RELAY}:
        return [_version(*pair, epoch) for pair in zip(metadata, offsets, strict=True)]
    texts = [one["commit_lsn"] for one in metadata]
    if None in texts:
        raise ValueError("an event without commit_lsn")
    commits = {text: pack(epoch, parse_lsn(text), 0) for text in set(texts)}
    ordinals = [one["ordinal"] for one in metadata]
    if min(ordinals) < 0 or max(ordinals) >= 1 << 48:
        raise ValueError("an ordinal out of range")
    return [commits[text] | ordinal for text, ordinal in zip(texts, ordinals, strict=True)]


def _version(metadata: Mapping[str, Any], offset: int, epoch: int) -> int:
    """The relay's commit LSN and ordinal; of Connect the place in the topic, or a fence there."""
    ordinal, fence = metadata.get("ordinal"), metadata.get("fence")
    if metadata["source"] != RELAY:
        if fence is None:
            return pack(epoch, offset, 0)
        return before(epoch, fence, 0 if ordinal is None else ordinal)
    commit_lsn = metadata.get("commit_lsn")
    if commit_lsn is None or ordinal is None or not 0 <= ordinal < 1 << 48:
        raise Rejected("metadata: a relay's event needs commit_lsn and ordinal")
    return pack(epoch, parse_lsn(commit_lsn), ordinal)


def _getter(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        single = itemgetter(names[0])
        return lambda row: (single(row),)
    return itemgetter(*names)


def _explain(error: ValidationError) -> str:
    """Where and why, without the row's values."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    texts = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems]
    return "; ".join(text.removeprefix(": ") for text in texts)[:_REASON_LENGTH]
