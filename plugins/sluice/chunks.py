"""A decoded chunk as columns of the current state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sluice.decoding import Columns, Decoded

# Where the machine columns stand, from the end; see StateStore.append.
_VERSION, _DELETED, _SEQ = -4, -3, -2


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
