"""Rows in bulk: COPY's text of a snapshot, into a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from psycopg2 import sql

from sluice.execution.failpoints import Reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The result of a load.

    Attributes:
        rows: number of rows that are in ClickHouse.
        others: condition of the selected rows that have to go through the topic; None for none.
    """

    rows: int
    others: sql.Composable | None


class Load(Protocol):
    """Copies rows of a table past the topic; see drain/bulk_load.py."""

    def run(
        self,
        cursor: Any,
        condition: sql.Composable,
        fence: int,
        offset: int | None,
        reached: Reached,
    ) -> Loaded:
        """Copy those of the selected rows that fit.

        Args:
            cursor: a session whose snapshot is as of the fence, and that holds the table.
            condition: the selected rows.
            fence, offset: those of resync.Reading.
            reached: called with failpoints of resync.POINTS.
        """


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
