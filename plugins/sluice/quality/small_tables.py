"""Compares small tables as wholes, many in a statement: one count and one checksum on each side.

A small table costs about a millisecond this way. Nothing is noted of it, since an interrupted check
repeats it as fast. A table that differs, or cannot be read together with others, is left to the
comparison by ranges, which finds the rows and the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sluice.catalog import Table
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.ports import Checkpoint
from sluice.events.event import CONNECT
from sluice.events.positions import beyond, pack
from sluice.execution.batches import TABLES, batches
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import quoted
from sluice.generate.row_text import (
    clickhouse_as_of,
    clickhouse_checksum,
    postgres_checksum,
    same_sum,
)
from sluice.quality.bulk import read_each
from sluice.quality.differences import TableFindings
from sluice.quality.range_check import Snapshot

# Rows in a statement, which PostgreSQL reads in less than a second. A column of the text costs as
# much as some rows.
_ROWS, _ROWS_FOR_A_COLUMN = 200_000, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallTables:
    """Compares tables of few rows.

    Attributes:
        checkpoints: returns the current checkpoints by table.
        most_rows: the most row versions of a small table.
    """

    clickhouse: ClickHouse
    checkpoints: Callable[[], Mapping[str, Checkpoint]]
    most_rows: int

    def batches(self, tables: Sequence[Table]) -> Iterator[list[Table]]:
        """Yield the small tables in batches for `equal`.

        Positions of Redpanda Connect's tables are no points of the WAL; they are not among them.
        """
        by_position = {n for n, c in self.checkpoints().items() if c.source != CONNECT}
        known = [table for table in tables if table.name in by_position] if self.most_rows else []
        counts = {t.name: f"SELECT count() FROM cdc.{quoted(t.storage)}" for t in known}
        rows = {n: int(count) for n, (count,) in self._read(counts).items()}
        small = [table for table in known if rows.get(table.name, self.most_rows) < self.most_rows]
        yield from batches(
            small,
            lambda table: rows[table.name] + _ROWS_FOR_A_COLUMN * len(table.columns),
            TABLES,
            _ROWS,
        )

    def equal(self, snapshot: Snapshot, tables: Sequence[Table]) -> dict[str, TableFindings]:
        """Compare tables; return the findings of those that are equal, by table.

        Raises:
            SluiceError: PostgreSQL cannot read them together.
        """
        sources = snapshot.held(tables)
        held = [table for table in tables if table.name in sources]
        if not held:
            return {}
        sums = [
            f"SELECT {at}, count(*), coalesce(sum({postgres_checksum(table.columns)}), 0)"
            f" FROM {sources[table.name]}"
            for at, table in enumerate(held)
        ]
        postgres = {held[at].name: row for at, *row in snapshot.rows(" UNION ALL ".join(sums))}
        checkpoints = self.checkpoints()
        queries = {t.name: _sums(t, checkpoints[t.name].epoch, snapshot.point) for t in held}
        equal = {}
        for name, (count, total, ahead) in self._read(queries).items():
            rows, expected = postgres[name]
            if count == rows and same_sum(int(expected), int(total)) and not ahead:
                equal[name] = TableFindings(postgres=rows, clickhouse=rows, point=snapshot.point)
        return equal

    def _read(self, queries: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
        return read_each(self.clickhouse, queries, Outcomes())


def _sums(table: Table, epoch: int, point: int) -> str:
    """Return SQL of the number of rows, their checksum, and the versions beyond any change."""
    bounds = pack(epoch, point, 0), beyond(epoch, point)
    fence, last = (f"toUInt128('{bound}')" for bound in bounds)
    rows = clickhouse_as_of(table).replace("{fence:UInt128}", fence)
    return (
        f"SELECT count(), sum({clickhouse_checksum(table.columns)}), (\n"
        f"    SELECT count() FROM cdc.{quoted(table.storage)} WHERE _version > {last}\n)\n"
        f"FROM (\n{rows}\n)"
    )
