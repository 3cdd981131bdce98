"""Converts a decoded chunk to columns of the current state."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sluice.catalog import Table
from sluice.drain.decoder import Decoded
from sluice.drain.fast_decoder import Columns, below
from sluice.events.event import FullRow, Key, KeyDeleted

# Indexes of the machine columns, from the end; see StateStore.append.
_VERSION, _DELETED, _SEQ = -4, -3, -2


def rows_of(table: Table, columns: Columns, keys: Collection[Key]) -> list[FullRow | KeyDeleted]:
    """Return the rows with these keys as changes."""
    if not columns:
        return []
    places = [at for at, column in enumerate(table.columns) if column.primary_key]
    changes: list[FullRow | KeyDeleted] = []
    for at, key in enumerate(zip(*(columns[place] for place in places), strict=True)):
        if key in keys:
            *values, version, deleted, seq, committed_at = (column[at] for column in columns)
            place = {"version": version, "seq": seq, "committed_at": committed_at}
            change = (
                KeyDeleted(key=key, **place) if deleted else FullRow(values=tuple(values), **place)
            )
            changes.append(change)
    return changes


def joined(columns: Columns, rows: list[tuple[Any, ...]]) -> Columns:
    """Return the columns extended by rows."""
    if not rows:
        return columns
    return below([*map(list, columns)], [*map(list, zip(*rows, strict=True))])


def mark_truncated(columns: Columns, truncated: int) -> None:
    """Mark rows older than a truncation as deleted, however late they arrive."""
    versions = columns[_VERSION]
    if min(versions) < truncated:
        pairs = zip(columns[_DELETED], versions, strict=True)
        columns[_DELETED] = [int(deleted or version < truncated) for deleted, version in pairs]


def renumbered(decoded: Decoded, seq: int) -> Decoded:
    """Return the chunk with one `_seq` for all its rows and changes."""
    rows = list(decoded.rows)
    if rows:
        rows[_SEQ] = [seq] * len(rows[_SEQ])
    changes = [replace(change, seq=seq) for change in decoded.changes]
    return replace(decoded, rows=rows, changes=changes)
