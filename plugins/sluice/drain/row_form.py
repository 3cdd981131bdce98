"""Changes as rows of the current state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sluice.catalog import Table
from sluice.events.event import Change, FullRow, Key, KeyDeleted


class RowForm:
    """Converts changes of one table to stored rows; a deleted row has its key and zero values."""

    def __init__(self, table: Table) -> None:
        self._zeros = [None if column.nullable else column.type.zero for column in table.columns]
        names = [column.name for column in table.columns]
        self._key_at = [names.index(column.name) for column in table.key]

    def key_of(self, values: Sequence[Any]) -> Key:
        """Return the key of a row's values."""
        return tuple(values[index] for index in self._key_at)

    def stored(self, change: Change) -> tuple[Any, ...]:
        """Return the row: the columns, then version, deleted, seq, committed_at."""
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
