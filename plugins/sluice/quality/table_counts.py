"""Counts the rows of ClickHouse's tables as of a fence, many tables in a statement.

Settled rows, whose newest version is at or below the fence, are counted first, then the rows that
changed since, by their history. A row that a change moves past the fence in between is counted
twice; if settled rows are counted last, not at all. So the true number is between both counts, and
a number outside of them is a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sluice.catalog import Table
from sluice.catalog.quality_options import Status
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import Fence
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.ports import Checkpoint
from sluice.events.event import RELAY
from sluice.events.positions import pack
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import key_expression, quoted
from sluice.quality.bulk import read_each

# The status of a comparison, and the rows of ClickHouse.
Counted = tuple[Status, int]


def version_at(checkpoint: Checkpoint | None, lsn: int) -> int | None:
    """Return the version below which a table's rows are as of the point; None for Connect."""
    if checkpoint is None or checkpoint.source != RELAY:
        return None
    return pack(checkpoint.epoch, lsn, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCounts:
    """Compares the counts of tables with those of a fence.

    Attributes:
        drained: returns the highest drained `_seq` by source table.
        outcomes: takes the errors by table.
    """

    clickhouse: ClickHouse
    drained: Callable[[], Mapping[str, int]]
    outcomes: Outcomes

    def run(
        self, tables: Sequence[Table], fence: Fence, drained: Mapping[str, int] | None
    ) -> dict[str, Counted]:
        """Compare tables; return the results by table.

        Args:
            drained: for an exact fence, the `_seq` drained before it, by table. A difference then
                is a finding, unless a change during the count can explain it.
        """
        checkpoints = ClickHouseStore(self.clickhouse).checkpoints()
        found = {t.name: version_at(checkpoints.get(t.name), fence.lsn) for t in tables}
        versions = {name: version for name, version in found.items() if version is not None}
        by_position = [table for table in tables if table.name in versions]
        present = [table for table in tables if table.name not in versions]
        results = self._as_of(by_position, fence.rows, versions, exact=drained is not None)
        return {**results, **self._now(present, fence.rows, drained)}

    def _as_of(
        self,
        tables: Sequence[Table],
        expected: Mapping[str, int],
        versions: Mapping[str, int],
        *,
        exact: bool,
    ) -> dict[str, Counted]:
        settled = {t.name: _settled(t, versions[t.name]) for t in tables}
        first = self._count(settled, expected)
        changed = {t.name: _changed(t, versions[t.name]) for t in tables if t.name in first}
        history = self._count(changed, expected)
        most = {name: first[name] + rows for name, rows in history.items()}
        unequal = [name for name, rows in most.items() if rows != expected[name]]
        last = self._count({name: settled[name] for name in unequal if exact}, expected)
        results = dict[str, Counted]()
        for name, rows in most.items():
            if rows == expected[name]:
                results[name] = Status.PASS, rows
            elif not exact:
                results[name] = Status.UNSETTLED, rows
            elif name in last:
                results[name] = _between(last[name] + history[name], expected[name], rows)
        return results

    def _now(
        self,
        tables: Sequence[Table],
        expected: Mapping[str, int],
        drained: Mapping[str, int] | None,
    ) -> dict[str, Counted]:
        """Compare current live rows: those of the fence if nothing was drained since before it."""
        live = {t.name: f"SELECT count() FROM cdc.{quoted(t.storage)} FINAL" for t in tables}
        rows = self._count(live, expected)
        unequal = {name for name, count in rows.items() if count != expected[name]}
        at_rest = set[str]()
        if drained is not None and unequal:
            now = self.drained()
            at_rest = {name for name in unequal if now.get(name) == drained.get(name)}
        statuses = {
            **dict.fromkeys(unequal, Status.UNSETTLED),
            **dict.fromkeys(at_rest, Status.FAIL),
        }
        return {name: (statuses.get(name, Status.PASS), count) for name, count in rows.items()}

    def _count(self, queries: Mapping[str, str], expected: Mapping[str, int]) -> dict[str, int]:
        rows = read_each(self.clickhouse, queries, self.outcomes, lambda name: expected[name])
        return {name: int(count) for name, (count,) in rows.items()}


def _between(least: int, expected: int, most: int) -> Counted:
    if least <= expected <= most:
        return (Status.PASS if least == expected else Status.UNSETTLED), least
    return Status.FAIL, most if expected > most else least


def _settled(table: Table, version: int) -> str:
    return (
        f"SELECT count() FROM cdc.{quoted(table.storage)} FINAL"
        f" WHERE _version <= toUInt128('{version}')"
    )


def _changed(table: Table, version: int) -> str:
    key = key_expression([column.name for column in table.key])
    return (
        "SELECT countIf(deleted = 0) FROM (\n"
        "    SELECT argMax(_is_deleted, _version) AS deleted\n"
        f"    FROM cdc.{quoted(table.history)}\n"
        f"    WHERE _version <= toUInt128('{version}') AND {key} IN (\n"
        f"        SELECT {key} FROM cdc.{quoted(table.storage)}\n"
        f"        WHERE _version > toUInt128('{version}')\n"
        f"    )\n    GROUP BY {key}\n)"
    )
