"""Rows in bulk: COPY's text of a snapshot, into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from psycopg2 import sql

from sluice.catalog import Table
from sluice.execution.failpoints import Reached

# Called often with the number of this call's rows that were sent so far.
Sent = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The result of a load.

    Attributes:
        rows: number of rows that are in ClickHouse.
        others: condition of the selected rows that have to go through the topic; None for none.
    """

    rows: int
    others: sql.Composable | None


class Copying(Protocol):
    """Copies rows of a table as of a fence."""

    def copy(
        self,
        cursor: Any,
        condition: sql.Composable,
        reached: Reached,
        sent: Sent,
    ) -> Loaded:
        """Copy those of the selected rows that fit.

        Args:
            cursor: a session whose snapshot is as of the fence, and that holds the table.
            condition: the selected rows.
            reached: called with the failpoints `rows sent` and `rows stored`.
            sent: reports progress, and ends the copy by raising.
        """

    def publish(self) -> None:
        """Let rebuilds see the copied rows, after the last call of `copy`."""


class Load(Protocol):
    """Copies rows of a table past the topic; see drain/bulk_load.py."""

    def begin(self, fence: int, offset: int | None = None) -> Copying:
        """Begin to copy rows; the arguments are those of resync.Reading."""


# Returns the load of a table; None where its rows have to go through the topic.
Loads = Callable[[Table], Load | None]
# Opens the loads of one snapshot.
OpenLoads = Callable[[], AbstractContextManager[Loads]]


@contextmanager
def no_loads() -> Iterator[Loads]:
    """Let all rows go through the topic."""
    yield lambda _: None


def copy_rows(
    cursor: Any,
    selected: sql.Composable,
    source: sql.Composable,
    condition: sql.Composable,
    to: BinaryIO,
) -> int:
    """Write the selected expressions of rows in COPY's text format; return the number of rows."""
    query = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT")
    text = query.format(selected, source, condition).as_string(cursor.connection)
    cursor.copy_expert(text, to)
    return int(cursor.rowcount)
