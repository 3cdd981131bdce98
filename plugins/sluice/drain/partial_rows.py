"""Completes rows of partial events from the stored row, or by reading them from PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

from sluice.catalog import Table
from sluice.drain.blocks import rows_of
from sluice.drain.decoder import Decoded, Decoder
from sluice.drain.ports import StateStore
from sluice.drain.row_form import RowForm
from sluice.events.event import (
    TOO_LARGE,
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

# Returns the current rows of these keys in PostgreSQL as `read` events; missing keys are deleted
# rows. The value of a row that is too large for an event is None.
Reread = Callable[[Table, Sequence[KeyText]], Sequence[Record]]


def completed(
    decoder: Decoder, decoded: Decoded, store: StateStore, reread: Reread | None
) -> tuple[list[Change], list[Reject]]:
    """Return a chunk's changes with every row complete, and rejects for rows that cannot be.

    A row that PostgreSQL has deleted is left out, since its delete follows on the topic. So is a
    row of which a later version is stored, since the topic is being read again.
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
        elif row is not None:  # those of `rows` are written twice, which is harmless
            complete.append(row)
        if isinstance(row, FullRow):
            known[key_of(row.values)] = row.values
        elif isinstance(row, KeyDeleted):
            known.pop(row.key, None)
    return complete, rejects


def _whole(
    change: PartialRow | OutdatedRow, known: dict[Key, tuple[Any, ...]], present: _Present
) -> FullRow | Reject | None:
    base = known.get(change.former_key)
    if isinstance(change, PartialRow) and base is not None:
        return _filled(change, change.values, base)
    values = present.values(change)
    if isinstance(values, str):
        return Reject(record=change.record, reason=values)
    return None if values is None else _filled(change, values, base or (None,) * len(values))


def _filled(change: PartialRow | OutdatedRow, values: Key, base: Key) -> FullRow:
    """Return the change's row, with unchanged values taken from the previous row."""
    place = {"version": change.version, "seq": change.seq, "committed_at": change.committed_at}
    whole = tuple(old if new == UNCHANGED else new for new, old in zip(values, base, strict=True))
    return FullRow(values=whole, **place)


class _Present:
    """A chunk's incomplete rows as PostgreSQL has them now, read on first use.

    Such a row is at least as new as its event; later changes arrive as events of their own.
    """

    def __init__(self, decoder: Decoder, reread: Reread | None, keys: Sequence[KeyText]) -> None:
        self._decoder, self._reread, self._keys = decoder, reread, keys

    def values(self, change: PartialRow | OutdatedRow) -> Key | str | None:
        """Return the row's values, or why it cannot be stored; None when it is deleted."""
        if self._reread is None:
            return "the event is incomplete, and no version of its row is stored to complete it"
        return self._rows.get(change.key)

    @cached_property
    def _rows(self) -> dict[Key, Key | str]:
        """Return the rows' values, or why they cannot be stored, by key."""
        assert self._reread is not None
        decoder = self._decoder
        records = self._reread(decoder.table, list(dict.fromkeys(self._keys)))
        whole = [record for record in records if record.value is not None]
        decoded = decoder.decode(whole, epoch=0, base_seq=0)
        unstored = [(record, TOO_LARGE) for record in records if record.value is None]
        unstored += [(reject.record, reject.reason) for reject in decoded.rejects]
        rows: dict[Key, Key | str] = {}
        for record, reason in unstored:
            if (key := decoder.key(record.key or b"")) is not None:
                rows[key] = reason
        for change in decoded.changes:
            if isinstance(change, OutdatedRow):
                rows[change.key] = "PostgreSQL lacks columns of the models"
            elif isinstance(change, PartialRow):
                rows[change.key] = change.values
        key_of = RowForm(decoder.table).key_of
        width = len(decoder.table.columns)
        values = [change.values for change in decoded.changes if isinstance(change, FullRow)]
        for row in [*values, *zip(*decoded.rows[:width], strict=True)]:
            rows[key_of(row)] = row
        return rows
