"""A decoded chunk on its way into the current state: completed, in columns, in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sluice.catalog import Table
from sluice.decoding import Columns, Decoded
from sluice.events import UNCHANGED, Change, FullRow, Key, KeyDeleted, PartialRow, Reject
from sluice.ports import StateStore

# Where the machine columns stand, from the end; see StateStore.append.
_VERSION, _DELETED, _SEQ = -4, -3, -2


def complete(
    store: StateStore, table: Table, changes: Sequence[Change]
) -> tuple[list[Change], list[Reject]]:
    """Fill in values that Postgres left out because an update did not change them."""
    partial = [change for change in changes if isinstance(change, PartialRow)]
    current = store.current(table, [change.former_key for change in partial])
    known = {key: row for key, (_, row) in current.items() if row is not None}
    key_of = Blank(table).key_of
    complete: list[Change] = []
    rejects: list[Reject] = []
    for change in changes:
        row = change
        if isinstance(change, PartialRow):
            version, _ = current.get(change.former_key, (0, None))
            if version >= change.version:
                continue  # read again: what came later is in the table already
            if change.former_key not in known:
                rejects.append(_without_base(change))
                continue
            row = _filled(change, known[change.former_key])
        if isinstance(row, FullRow):
            known[key_of(row.values)] = row.values
        elif isinstance(row, KeyDeleted):
            known.pop(row.key, None)
        complete.append(row)
    return complete, rejects


class Blank:
    """Changes as stored rows: a deleted key stands among zero values."""

    def __init__(self, table: Table) -> None:
        self._zeros = [None if column.nullable else column.type.zero for column in table.columns]
        names = [column.name for column in table.columns]
        self._key_at = [names.index(column.name) for column in table.key]

    def key_of(self, values: Sequence[Any]) -> Key:
        """The key of a row's values."""
        return tuple(values[index] for index in self._key_at)

    def stored(self, change: Change) -> tuple[Any, ...]:
        """The row of a change: values, version, deleted, seq, committed_at."""
        deleted = int(isinstance(change, KeyDeleted))
        if isinstance(change, FullRow):
            values = change.values
        else:
            assert isinstance(change, KeyDeleted)
            zeros = list(self._zeros)
            for index, value in zip(self._key_at, change.key, strict=True):
                zeros[index] = value
            values = tuple(zeros)
        return (*values, change.version, deleted, change.seq, change.committed_at)


def joined(columns: Columns, rows: list[tuple[Any, ...]]) -> Columns:
    """The columns with these rows below."""
    if not rows:
        return columns
    more = map(list, zip(*rows, strict=True))
    return [one + other for one, other in zip(columns, more, strict=True)] if columns else [*more]


def mark_truncated(columns: Columns, truncated: int) -> None:
    """Rows that a truncation came after are gone, however late they arrive."""
    versions = columns[_VERSION]
    if min(versions) < truncated:
        pairs = zip(columns[_DELETED], versions, strict=True)
        columns[_DELETED] = [int(deleted or version < truncated) for deleted, version in pairs]


def renumbered(decoded: Decoded, seq: int) -> Decoded:
    """The same with one `_seq` for all of it."""
    rows = list(decoded.rows)
    if rows:
        rows[_SEQ] = [seq] * len(rows[_SEQ])
    changes = [replace(change, seq=seq) for change in decoded.changes]
    return replace(decoded, rows=rows, changes=changes)


def _filled(change: PartialRow, base: tuple[Any, ...]) -> FullRow:
    values = tuple(
        old if new == UNCHANGED else new for new, old in zip(change.values, base, strict=True)
    )
    return FullRow(
        values=values,
        version=change.version,
        seq=change.seq,
        committed_at=change.committed_at,
    )


def _without_base(change: PartialRow) -> Reject:
    return Reject(
        record=change.record,
        reason=f"an unchanged large value was left out and no row has key {change.former_key}",
    )
