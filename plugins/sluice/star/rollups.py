"""Maintains a fact's rollups while its rows are written.

A rebuild computes the difference of each group from the rows it replaces, and adds it to the
current sums. The groups are noted durably before the fact is written. If another rebuild has
unsettled notes (it was killed, runs concurrently, was a backfill or exchanges the fact), the sums
may or may not contain its rows. Then all noted groups are recomputed from the fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sluice.catalog import Fact, Rollup
from sluice.clients.clickhouse import ClickHouse
from sluice.execution.failpoints import Reached
from sluice.generate.clickhouse import quoted
from sluice.generate.rollups import changed
from sluice.generate.statements import FactStatements, RollupStatements

Seen = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The record of a rebuild.

    Attributes:
        seen: the highest `_seq` it had seen, by source table.
        rebuild: its id in the notes of groups.
    """

    seen: Seen
    rebuild: UUID

    @property
    def version(self) -> int:
        """Return the version of the rows that it writes."""
        return sum(self.seen.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupSums:
    """Updates the rollups of one fact."""

    clickhouse: ClickHouse
    fact: Fact
    star: FactStatements
    reached: Reached

    def note(self, now: Recorded) -> None:
        """Compute the change of each group from the staged rows, and note the groups."""
        for rollup, statements in self._rollups:
            self._drop_changed(rollup)
            self._execute(statements.change, fact=self.fact.name)
            self._execute(statements.note, version=now.version, rebuild=str(now.rebuild))
            self.reached("groups noted")

    def add(self, low: Recorded, now: Recorded) -> None:
        """Add the changes to the sums; recompute them if others noted groups since `low`."""
        for rollup, statements in self._rollups:
            version = self._version(now)
            self._execute(statements.read)
            self.reached("sums read")
            # Checked after the sums are read: a rebuild that notes groups later sees our notes.
            if self._unsettled(statements, low, now):
                self._sum(statements.sum_touched, now, self.fact.name, since=low.version)
            else:
                self._execute(statements.add, version=version)
                self.reached("rollups summed")
            self._drop_changed(rollup)

    def settle(self, low: Recorded, now: Recorded) -> None:
        """Recompute groups that other rebuilds have noted since `low`; this one changed none."""
        for _, statements in self._rollups:
            if self._unsettled(statements, low, now):
                self._sum(statements.sum_touched, now, self.fact.name, since=low.version)

    def sum_noted(self, low: Recorded, now: Recorded) -> None:
        """Recompute from the fact all groups noted since `low`."""
        for rollup, statements in self._rollups:
            self._sum(statements.sum_touched, now, self.fact.name, since=low.version)
            self._drop_changed(rollup)

    def sum_all(self, table: str, now: Recorded, *, once: bool = False) -> None:
        """Compute all sums from a table, the fact's or one about to be exchanged for it.

        Args:
            once: whether the table has each row once and needs no FINAL.
        """
        for _, statements in self._rollups:
            how = statements.sum_filled if once else statements.sum_all
            self._sum_table(statements, how, table, now)

    def sum_new(self, now: Recorded) -> None:
        """Compute all sums of rollups that are empty because they are new in the models."""
        for rollup, statements in self._rollups:
            rows = self._execute(f"SELECT count() FROM cdc.{quoted(rollup.name)}")
            if not rows[0][0]:
                self._sum_table(statements, statements.sum_all, self.fact.name, now)

    @property
    def _rollups(self) -> list[tuple[Rollup, RollupStatements]]:
        return [(rollup, self.star.rollups[rollup.name]) for rollup in self.fact.table.rollups]

    def _unsettled(self, statements: RollupStatements, low: Recorded, now: Recorded) -> bool:
        rows = self._execute(
            statements.unsettled,
            since=low.version,
            rebuild=str(now.rebuild),
            last=str(low.rebuild),
        )
        return bool(rows[0][0])

    def _sum_table(
        self, statements: RollupStatements, query: str, table: str, now: Recorded
    ) -> None:
        self._execute(statements.announce, version=now.version, rebuild=str(now.rebuild))
        self._sum(query, now, table)

    def _sum(self, query: str, now: Recorded, table: str, **since: Any) -> None:
        self._execute(query, fact=table, version=self._version(now), **since)
        self.reached("rollups summed")

    def _version(self, now: Recorded) -> int:
        """Return the version of sums: what they had seen, then the time of reading.

        Concurrent backfills have seen the same, and one may sum a group before another has written
        to it. The later reading has to win, so the server's clock is the version's lower half.
        """
        read_at: int = self.clickhouse.execute("SELECT toUnixTimestamp64Nano(now64(9))")[0][0]
        return now.version << 64 | read_at

    def _execute(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        return self.clickhouse.execute(statement, **values)

    def _drop_changed(self, rollup: Rollup) -> None:
        name = quoted(changed(rollup))
        self.clickhouse.execute(f"DROP TEMPORARY TABLE IF EXISTS {name}")
