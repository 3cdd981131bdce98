"""Rows that their event has not whole: filled from the row before, or read again from Postgres."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

from sluice.catalog import Table
from sluice.chunks import rows_of
from sluice.decoding import Decoded, Decoder
from sluice.events import (
    UNCHANGED,
    Change,
    FullRow,
    Key,
    KeyDeleted,
    KeyText,
    OutdatedRow,
    PartialRow,
    Record,
    Reject,
)
from sluice.ports import StateStore
from sluice.row_form import RowForm

# The rows of these keys as Postgres has them now, as `read` events; without those that are gone.
Reread = Callable[[Table, Sequence[KeyText]], Sequence[bytes]]


def completed(
    decoder: Decoder, decoded: Decoded, store: StateStore, reread: Reread | None
) -> tuple[list[Change], list[Reject]]:
    """A chunk's changes with every row whole, and the rejects of what could not be made so.

    A row that Postgres has no more is left out: its end is further on in the topic. So is one
    whose table has what came later, because the topic is read again.
    """
    changes = decoded.changes
    partial = [change for change in changes if isinstance(change, PartialRow | OutdatedRow)]
    if not partial:
        return changes, []
    current = store.current(decoder.table, [change.former_key for change in partial])
    known = {key: row for key, (_, row) in current.items() if row is not None}
    key_of = RowForm(decoder.table).key_of
    present = _Present(decoder, reread, [change.key_text for change in partial])
    complete: list[Change] = []
    rejects: list[Reject] = []
    rows = rows_of(decoder.table, decoded.rows, {change.former_key for change in partial})
    for change in sorted([*rows, *changes], key=attrgetter("seq")):
        row: Change | Reject | None = change
        if isinstance(change, PartialRow | OutdatedRow):
            later = current.get(change.former_key, (0, None))[0] >= change.version
            row = None if later else _whole(change, known, present)
        if isinstance(row, Reject):
            rejects.append(row)
        elif row is not None:  # one of `rows` is written twice, which changes nothing
            complete.append(row)
        if isinstance(row, FullRow):
            known[key_of(row.values)] = row.values
        elif isinstance(row, KeyDeleted):
            known.pop(row.key, None)
    return complete, rejects


def _whole(
    change: PartialRow | OutdatedRow, known: dict[Key, tuple[Any, ...]], present: _Present
) -> FullRow | Reject | None:
    if isinstance(change, OutdatedRow) or change.former_key not in known:
        return present.row(change)
    base = known[change.former_key]
    values = tuple(
        old if new == UNCHANGED else new for new, old in zip(change.values, base, strict=True)
    )
    return _at(change, values)


def _at(change: PartialRow | OutdatedRow, values: Key) -> FullRow:
    return FullRow(
        values=values, version=change.version, seq=change.seq, committed_at=change.committed_at
    )


class _Present:
    """A chunk's incomplete rows as Postgres has them now, read when the first is asked for.

    Such a row is at least as new as its event; what changed it since comes as an event of its own.
    """

    def __init__(self, decoder: Decoder, reread: Reread | None, keys: Sequence[KeyText]) -> None:
        self._decoder, self._reread, self._keys = decoder, reread, keys

    def row(self, change: PartialRow | OutdatedRow) -> FullRow | Reject | None:
        """The whole row; None when it is gone."""
        if self._reread is None:
            reason = f"the row is not whole, and no row has key {change.former_key}"
            return Reject(record=change.record, reason=reason)
        rows, reasons = self._rows
        if values := rows.get(change.key):
            return _at(change, values)
        return Reject(record=change.record, reason=reasons[0]) if reasons else None

    @cached_property
    def _rows(self) -> tuple[dict[Key, Key], list[str]]:
        """Rows' values by key, and why others are not among them."""
        assert self._reread is not None
        values = self._reread(self._decoder.table, list(dict.fromkeys(self._keys)))
        records = [Record(offset=0, key=None, value=value) for value in values]
        decoded = self._decoder.decode(records, epoch=0, base_seq=0)
        key_of = RowForm(self._decoder.table).key_of
        width = len(self._decoder.table.columns)
        rows = [row.values for row in decoded.changes if isinstance(row, FullRow)]
        rows += zip(*decoded.rows[:width], strict=True)
        return {key_of(row): row for row in rows}, [one.reason for one in decoded.rejects]
