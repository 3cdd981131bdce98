"""Copies the tables of one snapshot: in bulk into ClickHouse, or onto their topics.

A table is read in ranges of pages, not of keys: PostgreSQL reads each page once, in disk order,
whatever the key is, and the number of pages is known. A row stays in its page during the snapshot.

Rows that do not fit ClickHouse's types follow on the topic when all others are stored, so that the
drain can compare their number with that of the stored rows. Their pages are read again for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from psycopg2 import sql

from sluice.capture.bulk import Copying, Load, Loads
from sluice.capture.metrics import Progress
from sluice.capture.publisher import Batch, Publisher
from sluice.capture.row_reader import RowReader, rows_on
from sluice.capture.shapes import Shape
from sluice.catalog import Table
from sluice.execution.failpoints import Reached
from sluice.execution.progress import Pace

log = logging.getLogger(__name__)

# 16 MB, at most a second of reading.
_PAGES_IN_A_RANGE = 2048
# 256 MB, which is stored before a time limit of ClickHouse's user may end the insert.
_RANGES_IN_AN_INSERT = 16
# 2 MB. Rows of a smaller table reach the topic sooner than an insert is prepared.
_FEWEST_PAGES = 256

PageRange = tuple[int, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCopies:
    """Copies the tables of one snapshot.

    Attributes:
        cursor: a session whose snapshot is as of the batch's end, and that holds the tables.
        check: called often; ends the copy by raising.
        loads: returns the load of a table, if its rows may go in bulk.
        reached: called with failpoints of initial_copy.POINTS.
    """

    cursor: Any
    publisher: Publisher
    batch: Batch
    check: Callable[[], None]
    progress: Progress
    loads: Loads
    reached: Reached

    def copy(self, table: Table, shape: Shape) -> Copying | None:
        """Copy a table, and publish the truncation of its older rows.

        Returns:
            The rows in bulk, which are to be published; None where all are on the topic.
        """
        ranges = page_ranges(shape.pages)
        tally = _Tally(table, len(ranges), self.progress, self.check)
        reader = RowReader(
            self.cursor,
            table,
            self.publisher,
            self.batch,
            lambda: tally.at(tally.stored + reader.rows),
            shape=shape,
        )
        load = self.loads(table) if shape.pages >= _FEWEST_PAGES else None
        copying = None
        if load is None:
            self._by_topic(ranges, reader, tally)
        else:
            copying = self._in_bulk(load, ranges, reader, tally)
        log.info(
            "snapshot: %s, %d rows%s",
            table.name,
            tally.stored + reader.rows,
            f", {tally.stored} of them in bulk" if load else "",
        )
        reader.truncate_below()
        self.reached("table copied")
        self.progress.snapshot_done += 1
        return copying

    def _by_topic(self, ranges: Sequence[PageRange], reader: RowReader, tally: _Tally) -> None:
        for first, below in ranges:
            reader.read_pages(first, below)
            tally.ranges_read(1, reader.rows)

    def _in_bulk(
        self, load: Load, ranges: Sequence[PageRange], reader: RowReader, tally: _Tally
    ) -> Copying:
        copying, later = load.begin(self.batch.end_lsn), list[sql.Composable]()
        for start in range(0, len(ranges), _RANGES_IN_AN_INSERT):
            some = ranges[start : start + _RANGES_IN_AN_INSERT]
            condition = rows_on(some[0][0], some[-1][1])
            sent = partial(tally.further, tally.stored)
            loaded = copying.copy(self.cursor, condition, self.reached, sent)
            tally.stored += loaded.rows
            if loaded.others is not None and reader.finds(loaded.others):
                later.append(loaded.others)
            tally.ranges_read(len(some), tally.stored)
        for condition in later:
            reader.read_rows(condition)
        return copying


def page_ranges(pages: int) -> list[PageRange]:
    """Return (first page, end page) of each range; the last has no end."""
    firsts = list(range(0, pages, _PAGES_IN_A_RANGE)) or [0]
    return list(zip(firsts, [*firsts[1:], None], strict=True))


class _Tally:
    """Counts a table's rows, and logs the rate every few seconds.

    Attributes:
        stored: number of rows that are stored in bulk.
    """

    def __init__(
        self, table: Table, ranges: int, progress: Progress, check: Callable[[], None]
    ) -> None:
        self.stored = 0
        self._progress, self._check = progress, check
        self._before, self._ranges, self._read = progress.snapshot_rows, ranges, 0
        self._pace, self._total = Pace(log, f"snapshot: {table.name}, {{}} rows"), 0

    def at(self, rows: int) -> None:
        """Take in the number of rows so far."""
        self._check()
        self._progress.snapshot_rows = self._before + rows
        self._pace.at(rows, self._total)

    def further(self, before: int, rows: int) -> None:
        """Take in the rows before an insert, and those that it was sent so far."""
        self.at(before + rows)

    def ranges_read(self, ranges: int, rows: int) -> None:
        """Take in that ranges are read, and the number of rows so far."""
        self._read += ranges
        self._progress.snapshot_ranges_done += ranges
        self._total = rows * self._ranges // self._read
        self.at(rows)
