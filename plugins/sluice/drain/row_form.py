"""What a change is as a row of the current state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sluice.catalog import Table
from sluice.events.event import Change, FullRow, Key, KeyDeleted


class RowForm:
    """Changes of one table as stored rows; a deleted key stands among zero values."""

    def __init__(self, table: Table) -> None:
        self._zeros = [None if column.nullable else column.type.zero for column in table.columns]
        names = [column.name for column in table.columns]
        self._key_at = [names.index(column.name) for column in table.key]

    def key_of(self, values: Sequence[Any]) -> Key:
        """The key among a row's values."""
        return tuple(values[index] for index in self._key_at)

    def stored(self, change: Change) -> tuple[Any, ...]:
        """The columns, then version, deleted, seq, committed_at."""
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
